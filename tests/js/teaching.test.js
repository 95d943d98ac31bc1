// The page learns as Python does: tests/search/teaching_cases.json has what that gave.
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const test = require("node:test");
const { load } = require("./page_files.js");

const FILE = path.join(__dirname, "..", "search", "teaching_cases.json");
const CASES = JSON.parse(fs.readFileSync(FILE, "utf8"));

const vectors = {
  count: CASES.vectors.length,
  width: CASES.direction.length,
  row: (i) => Float64Array.from(CASES.vectors[i]),
  products: (weights) => Float64Array.from(CASES.vectors, (x) => x.reduce((sum, value, i) => sum + value * weights[i], 0)),
  addTo: (sum, i) => CASES.vectors[i].forEach((value, j) => (sum[j] += value)),
};

function near(given, wanted, what) {
  const all = ArrayBuffer.isView(given) || Array.isArray(given) ? [...given].flat() : [given];
  const theirs = [wanted].flat(2);
  assert.strictEqual(all.length, theirs.length, what);
  all.forEach((value, i) => {
    const off = Math.abs(value - theirs[i]);
    assert.ok(off <= 1e-4 * Math.max(1, Math.abs(theirs[i])), `${what} ${i}: ${value}, expected ${theirs[i]}`);
  });
}

function nearInterval(given, wanted, what) {
  near([given.value, given.ciLow, given.ciHigh], [wanted.value, wanted.ci_low, wanted.ci_high], what);
}

test("draws are those of Python", async () => {
  const { uniforms } = await load("algebra.js");
  near(uniforms(2, 3, 5).map((row) => [...row]), CASES.uniforms, "draw");
});

test("groups of ranks end where Python's do", async () => {
  const { groups } = await load("certainty.js");
  for (const { n, ks, edges } of CASES.last_edges_of_groups) assert.deepStrictEqual([...groups(n, ks).slice(-12)], edges);
});

for (const { name, rows, yes, count, lesson, on_labels: onLabels, expectations: expected, history, enough } of CASES.cases) {
  test(`it learns as Python does from ${name}`, async () => {
    const [teaching, certainty, ranking] = await Promise.all(["teaching.js", "certainty.js", "ranking.js"].map(load));
    const space = teaching.spaceOf(vectors, teaching.middleOf(vectors), CASES.direction);
    near([space.mean, space.deviation, space.spread], [CASES.space.mean, CASES.space.deviation, CASES.space.spread], "space");
    const learnt = teaching.teach(vectors, space, rows, yes);
    assert.strictEqual(learnt.method, lesson.method);
    near(learnt.scores, lesson.scores, "score");
    if (lesson.probabilities) near(learnt.probabilities, lesson.probabilities, "probability");
    const order = ranking.best(learnt.scores, vectors.count);
    assert.deepStrictEqual(order, lesson.order);
    const chances = yes.some(Boolean) ? learnt.probabilities : null;
    assert.deepStrictEqual(teaching.propose(vectors, space, order, rows, count, chances), lesson.proposals);
    if (!lesson.classifier) {
      assert.strictEqual(learnt.classifier, null);
      return;
    }
    const { classifier } = learnt;
    near(classifier.weights, lesson.classifier.weights, "weight");
    near(classifier.leftOut, lesson.classifier.left_out, "left out");
    near(classifier.doubt, lesson.classifier.doubt, "doubt");
    near([classifier.freedom, classifier.slope, classifier.shift, classifier.offset], ["freedom", "slope", "shift", "offset"].map((key) => lesson.classifier[key]), "number");
    const own = certainty.precisionOnLabels(classifier, yes);
    const whole = certainty.expectations(learnt, rows, yes, [10, 50]);
    assert.strictEqual(own === null, onLabels === null);
    assert.strictEqual(whole === null, expected === null);
    if (own) nearInterval(own, onLabels, "precision on labels");
    if (whole) {
      nearInterval(whole.averagePrecision, expected.average_precision, "average precision");
      nearInterval(whole.yes, expected.yes, "number of yes");
      for (const [k, told] of whole.first) nearInterval(told, expected.first[k], `first ${k}`);
    }
    assert.strictEqual(certainty.enough(history), enough);
  });
}
