"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./page_files.js");

test("the best come first, and of equals the lower row", async () => {
  const { best, scoresOf } = await load("ranking.js");
  const site = { vectors: Int8Array.of(100, 0, 0, 100, 100, 0, 127, 127), middles: Float32Array.of(0, 1), steps: Float32Array.of(0.01, 0.01), width: 2, count: 4 };
  const scores = scoresOf(site, Float32Array.of(1, 2));
  [3, 4, 3, 5.81].forEach((value, i) => assert.ok(Math.abs(scores[i] - value) < 1e-3, `${scores[i]}, expected ${value}`));
  assert.deepEqual(best(scores, 3), [3, 1, 0]);
  assert.deepEqual(best(scores, 10), [3, 1, 0, 2]);
});

test("what the parts of a chip add is in the mean its cosine", async () => {
  const { heatOf, strongest } = await load("heat.js");
  const data = new ArrayBuffer(8);
  new DataView(data).setFloat32(0, 0.5, true);
  new Int8Array(data).set([1, 2, 3, -4], 4); // two parts of two values
  const heat = heatOf(Float32Array.of(1, 0.5), data, 2);
  assert.deepEqual([...heat], [1, 0.5]);
  assert.throws(() => heatOf(Float32Array.of(1, 0.5), data, 3), /8 bytes, expected 10/);
  assert.equal(strongest(heat, [1, 2]), "top left");
  assert.equal(strongest(Float32Array.of(0, 0, 0, 0, 0, 0, 0, 0, 1), [3, 3]), "bottom right");
});

test("colours go from violet to yellow, and no further", async () => {
  const { colour } = await load("dom.js");
  assert.deepEqual([colour(0), colour(1)], [[68, 1, 84], [253, 231, 37]]);
  assert.deepEqual([colour(-3), colour(7)], [colour(0), colour(1)]);
  assert.deepEqual(colour(0.5), [0x21, 0x91, 0x8c]);
});

test("a place is said in as many digits as chips are small, and the ground in its unit", async () => {
  const [{ degrees }, { digitsOf, extentOf }] = await Promise.all(["dom.js", "site.js"].map(load));
  assert.equal(degrees(-12.34, 5, 1), "5.0° N, 12.3° W");
  assert.equal(degrees(192, -0.06, 1), "0.1° S, 168.0° W");
  assert.deepEqual([digitsOf(4.3), digitsOf(0.02), digitsOf(0), digitsOf(1e-9)], [2, 4, 2, 6]);
  assert.equal(extentOf(7413.005, 64), "474 km wide, 7.4 km to a pixel");
  assert.equal(extentOf(0.5, 256), "128 m wide, 50 cm to a pixel");
  assert.equal(extentOf(undefined, 64), "");
});
