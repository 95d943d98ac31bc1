"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const test = require("node:test");

// The script is a module, which its name does not say: every node takes a copy that is named like one.
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "search-"));
const copy = path.join(folder, "search.mjs");
fs.copyFileSync(path.join(__dirname, "..", "..", "book", "_static", "search.js"), copy);
const search = import(pathToFileURL(copy));
test.after(() => fs.rmSync(folder, { recursive: true }));

// The letters of the bytes that these tests use: "Ġ" is a blank, "Ã" and "©" are the two bytes of "é".
const LETTERS = ["<pad>", "<bos>", "<eos>", ..."Ġlandse'Ã©"];
const MERGES = [["l", "a"], ["n", "d"], ["Ġ", "la"], ["Ġla", "nd"]];
const TOKENS = [...LETTERS, ...MERGES.map((pair) => pair.join(""))];
const vocab = Object.fromEntries(TOKENS.map((token, id) => [token, id]));
const model = (merges) => ({ model: { vocab, merges } });
const facts = { context: 8, bos: 1, eos: 2 };

test("a word becomes the fewest pieces, in the order in which they were learned", async () => {
  const { makeTokenizer } = await search;
  const named = (text, merges = MERGES) => makeTokenizer(model(merges), facts)(text).ids.map((id) => TOKENS[id]);
  assert.deepEqual(named("land"), ["<bos>", "Ġland", "<eos>"]);
  assert.deepEqual(named(" land"), named("land"));
  assert.deepEqual(named("land's"), ["<bos>", "Ġland", "'", "s", "<eos>"]);
  assert.deepEqual(named("and"), ["<bos>", "Ġ", "a", "nd", "<eos>"]);
  assert.deepEqual(named("é"), ["<bos>", "Ġ", "Ã", "©", "<eos>"]);
  assert.deepEqual(named("land", MERGES.map((pair) => pair.join(" "))), ["<bos>", "Ġland", "<eos>"]); // as older files write them
});

test("CLIP's words are in lower case, letter by letter, and end in a mark", async () => {
  const { makeTokenizer } = await search;
  const letters = [..."lands's1Ã©<|>eotx"].flatMap((letter) => [letter, `${letter}</w>`]);
  const pairs = [["l", "a"], ["n", "d</w>"], ["la", "nd</w>"], ["'", "s</w>"]];
  const tokens = [...new Set([...letters, ...pairs.map((pair) => pair.join("")), "<start>", "<end>"])];
  const ids = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const json = { model: { vocab: ids, merges: pairs, end_of_word_suffix: "</w>" } };
  const limits = { context: 12, bos: ids["<start>"], eos: ids["<end>"] };
  const named = (text) => makeTokenizer(json, limits)(text).ids.slice(1, -1).map((id) => tokens[id]);
  assert.deepEqual(named(" LAND  land's "), ["land</w>", "land</w>", "'s</w>"]);
  assert.deepEqual(named("11\u00a0É"), ["1</w>", "1</w>", "Ã", "©</w>"]);
  assert.deepEqual(named("e\u0301"), ["Ã", "©</w>"]);
  assert.deepEqual(named("<|>e"), ["<", "|", "></w>", "e</w>"]);
});

test("a long text is cut, and said to be", async () => {
  const { makeTokenizer } = await search;
  const tokenize = makeTokenizer(model(MERGES), facts);
  assert.deepEqual(tokenize("land ".repeat(6).trim()), { ids: [1, ...Array(6).fill(vocab["Ġland"]), 2], cut: false });
  const { ids, cut } = tokenize("land ".repeat(7).trim());
  assert.deepEqual([ids.length, ids.at(-1), cut], [8, 2, true]);
  assert.equal(tokenize("s".repeat(50)).ids.length, 8);
});

test("the best come first, and of equals the lower row", async () => {
  const { best, scoresOf } = await search;
  const scores = scoresOf(Float32Array.of(1, 2), Float32Array.of(1, 0, 0, 1, 1, 0, 3, 3));
  assert.deepEqual([...scores], [1, 2, 1, 9]);
  assert.deepEqual(best(scores, 3), [3, 1, 0]);
  assert.deepEqual(best(scores, 10), [3, 1, 0, 2]);
});

test("what the parts of a chip add is in the mean its score", async () => {
  const { heatOf } = await search;
  const patches = Int8Array.of(9, 9, 9, 9, 1, 2, 3, -4); // two chips of two parts each
  const heat = heatOf(Float32Array.of(1, 0.5), patches, 1, 2, 0.5);
  assert.deepEqual([...heat], [1, 0.5]);
});

test("colours go from violet to yellow, and no further", async () => {
  const { colour } = await search;
  assert.deepEqual([colour(0), colour(1)], [[68, 1, 84], [253, 231, 37]]);
  assert.deepEqual([colour(-3), colour(7)], [colour(0), colour(1)]);
  assert.deepEqual(colour(0.5), [0x21, 0x91, 0x8c]);
});

test("a place is said in degrees, and nothing where there is none", async () => {
  const { place } = await search;
  assert.equal(place(-12.34, 5), "5.0° N, 12.3° W");
  assert.equal(place(12, -0.06), "0.1° S, 12.0° E");
  assert.equal(place(null, 3), "");
});
