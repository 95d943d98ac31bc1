"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { mapAt } = require("../../rsvlm/book/figures/attention.js");

test("views follow each other, then texts, then pictures", () => {
  const counts = { texts: 3, views: 2 };
  const all = [0, 1].flatMap((p) => [0, 1, 2].flatMap((t) => [0, 1].map((v) => mapAt(p, t, v, counts))));
  assert.deepEqual(all, Array.from({ length: 12 }, (_, k) => k));
});
