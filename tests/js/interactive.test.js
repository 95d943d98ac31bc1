"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { Element } = require("./fakes.js");
const { choose, frameAt } = require("../../rsvlm/book/figures/slider.js");

// A block as `interactive.slider` writes it: a label with its input for each slider, then the frames.
function block(steps, drop = false) {
  const made = new Element("div");
  for (const names of steps) {
    const input = Object.assign(new Element(drop ? "select" : "input"), { value: "0", dataset: { names: JSON.stringify(names) } });
    const row = new Element("div").append(new Element("label").append(input));
    if (!drop) row.append(new Element("b", names[0]));
    made.append(row);
  }
  const count = steps.reduce((product, names) => product * names.length, 1);
  const frames = Array.from({ length: count }, (_, k) => Object.assign(new Element("div", `frame ${k}`), { hidden: k !== 0 }));
  return made.append(new Element("noscript"), new Element("div").append(...frames));
}

const shown = (made) => made.lastElementChild.children.flatMap((frame, k) => (frame.hidden ? [] : [k]));
const inputs = (made) => made.querySelectorAll("[data-names]");

test("places of the last slider follow each other", () => {
  assert.equal(frameAt([1, 2], [2, 3]), 5);
  assert.equal(frameAt([1, 0, 1], [2, 2, 2]), 5);
  const all = [0, 1].flatMap((a) => [0, 1, 2].map((b) => frameAt([a, b], [2, 3])));
  assert.deepEqual(all, [0, 1, 2, 3, 4, 5]);
});

test("a slider shows one frame, and says the name of its place", () => {
  const made = block([["1", "2"], ["a", "b", "<b>c</b>"]]);
  const [first, second] = inputs(made);
  [first.value, second.value] = ["1", "2"];
  choose(made);
  assert.deepEqual(shown(made), [5]);
  assert.deepEqual([first, second].map((input) => input.attributes["aria-valuetext"]), ["2", "<b>c</b>"]);
  assert.deepEqual(made.all("b").map((said) => [said.textContent, said.children.length]), [["2", 0], ["<b>c</b>", 0]]);
  second.value = "0";
  choose(made);
  assert.deepEqual(shown(made), [3]);
});

test("a list says by itself where it stands", () => {
  const made = block([["first", "second", "third"]], true);
  const [list] = inputs(made);
  list.value = "2";
  choose(made);
  assert.deepEqual(shown(made), [2]);
  assert.deepEqual(list.attributes, {});
});
