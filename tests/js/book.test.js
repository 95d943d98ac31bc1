"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");

function box(scrollWidth, clientWidth, link = null) {
  return {
    scrollWidth, clientWidth, dataset: {}, querySelector: () => link,
    removeAttribute(name) { if (name === "tabindex") delete this.tabIndex; },
  };
}

test("what scrolls inside itself can be reached with the keyboard, as long as it scrolls", () => {
  const [wide, narrow, linked] = [box(500, 300), box(300, 300), box(500, 300, {})];
  const handlers = {};
  globalThis.document = { querySelectorAll: () => [wide, narrow, linked] };
  globalThis.addEventListener = (name, handler) => { handlers[name] = handler; };
  require("../../book/_static/book.js");
  handlers.DOMContentLoaded();
  assert.deepEqual([wide.tabIndex, narrow.tabIndex, linked.tabIndex], [0, undefined, undefined]);
  wide.clientWidth = 500;
  narrow.clientWidth = 200;
  handlers.resize();
  assert.deepEqual([wide.tabIndex, narrow.tabIndex], [undefined, 0]);
});
