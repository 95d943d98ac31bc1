"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");

function box(scrollWidth, clientWidth, link = null, last = ["4 (1 to 9)"]) {
  const made = {
    querySelectorAll: () => last.map(textContent => ({ textContent })),
    scrollWidth, clientWidth, scrollLeft: 0, dataset: {}, querySelector: () => link, goesOn: false, handlers: [],
    matches: kind => kind === "table", classes: new Set(),
    addEventListener(name, handler) { this.handlers.push([name, handler]); },
    removeAttribute(name) { if (name === "tabindex") delete this.tabIndex; },
  };
  made.classList = {
    remove: name => made.classes.delete(name),
    toggle(name, on) { if (name === "goes-on") made.goesOn = on; made.classes[on ? "add" : "delete"](name); },
  };
  return made;
}

test("what scrolls inside itself can be reached with the keyboard, as long as it scrolls", () => {
  const [wide, narrow, linked] = [box(500, 300), box(300, 300), box(500, 300, {}, ["9", "no interval was measured"])];
  const ready = [];
  let changed = null;
  globalThis.document = { querySelectorAll: () => [wide, narrow, linked], querySelector: () => null, body: {} };
  globalThis.addEventListener = (name, handler) => { if (name === "DOMContentLoaded") ready.push(handler); };
  globalThis.ResizeObserver = class { constructor(handler) { changed = handler; } observe() {} };
  globalThis.requestAnimationFrame = handler => handler();
  require("../../book/_static/book.js");
  for (const handler of ready) handler();
  assert.deepEqual([wide.tabIndex, narrow.tabIndex, linked.tabIndex], [0, undefined, undefined]);
  assert.deepEqual([wide.goesOn, narrow.goesOn, linked.goesOn], [true, false, true]);
  wide.scrollLeft = 200;
  for (const [name, handler] of wide.handlers) if (name === "scroll") handler();
  assert.equal(wide.goesOn, false); // scrolled to its end
  wide.clientWidth = 500;
  narrow.clientWidth = 200;
  changed([{ contentRect: { width: 200 } }]);
  assert.deepEqual([wide.tabIndex, narrow.tabIndex], [undefined, 0]);
  assert.deepEqual([wide.classes.has("tight"), narrow.classes.has("tight")], [false, true]); // its intervals may break
  assert.equal(wide.handlers.length, 1);
  assert.deepEqual([wide.classes.has("brief"), linked.classes.has("brief")], [true, false]); // a last column of numbers, and one of words
});
