// What labels teach, as rsvlm/search/teaching.py does it; the steps are numbered there, and its letters stand here.
//
// `vectors` has `count`, `width`, `row(i)` as Float64Array and `products(weights)`, the product of every row with these weights.

import { cholesky, dot, forward, logistic, softplus, solve, uniforms } from "./algebra.js";

export const FEW = 5; // labels from which on the classifier decides
const ROCCHIO = [1, 0.75, 0.15];
const FREEDOMS = [0.3, 1, 3, 10, 30];
const [TEXT, OFFSET] = [[1, 1], [-2, 2]]; // mean and deviation of the priors of A and B
const FREEDOM = [3, 1]; // middle, and deviation of the logarithm, of the prior of c
const [SLOPE, SHIFT] = [[0.7, 0.7], [0, 2]]; // of k and l
const DOUBT = 2; // factor of their covariance
const AT_RANDOM = 5; // one of so many proposals
const SHORTLIST = 20;

// The mean of all vectors; once for an index
export function middleOf(vectors) {
  const middle = new Float64Array(vectors.width);
  for (let i = 0; i < vectors.count; i++) vectors.addTo(middle, i);
  return middle.map((value) => value / vectors.count);
}

// Step 1, for a direction of any length; null where all vectors are alike
export function spaceOf(vectors, middle, given) {
  const length = Math.sqrt(dot(given, given));
  const direction = Float64Array.from(given, (value) => value / length);
  const cosines = vectors.products(direction);
  let [mean, square] = [0, 0];
  for (const value of cosines) mean += value / cosines.length;
  for (const value of cosines) square += (value - mean) ** 2 / cosines.length;
  const [spread, deviation] = [Math.sqrt(Math.max(1 - dot(middle, middle), 0)), Math.sqrt(square)];
  if (!(spread >= 1e-3 && deviation >= 1e-9)) return null;
  return { direction, middle, spread, mean, deviation, cosines };
}

const centred = (space, x) => x.map((value, i) => (value - space.middle[i]) / space.spread);

// Step 2
export function rocchio(direction, labelled, yes) {
  const result = Float64Array.from(direction, (value) => ROCCHIO[0] * value);
  for (const [weight, wanted] of [[ROCCHIO[1], true], [-ROCCHIO[2], false]]) {
    const part = labelled.filter((_, i) => yes[i] === wanted);
    for (const x of part) x.forEach((value, i) => (result[i] += (weight * value) / part.length));
  }
  return result;
}

// Steps 3 to 5: {weights, offset, freedom, leftOut, slope, shift, doubt}
export function fit(space, labelled, yes) {
  const y = Float64Array.from(yes, Number);
  const h = labelled.map((x) => centred(space, x));
  const z = Float64Array.from(labelled, (x) => (dot(x, space.direction) - space.mean) / space.deviation);
  const alike = h.map((one) => Float64Array.from(h, (other) => dot(one, other)));
  const prior = z.map((value) => TEXT[0] * value + OFFSET[0]);
  let best = null;
  for (const freedom of FREEDOMS) {
    const kernel = alike.map((row, i) => row.map((value, j) => freedom * value + TEXT[1] ** 2 * z[i] * z[j] + OFFSET[1] ** 2));
    const { a, leftOut } = newton(kernel, prior, y);
    let loss = (Math.log(freedom / FREEDOM[0]) / FREEDOM[1]) ** 2 / 2;
    leftOut.forEach((g, i) => (loss += softplus(-(2 * y[i] - 1) * g)));
    if (!best || loss < best.loss) best = { loss, freedom, a, leftOut };
  }
  const { freedom, a, leftOut } = best;
  const ofText = (TEXT[0] + TEXT[1] ** 2 * dot(a, z)) / space.deviation;
  const ofVector = new Float64Array(space.direction.length);
  h.forEach((one, i) => one.forEach((value, j) => (ofVector[j] += (freedom * a[i] * value) / space.spread)));
  const sum = a.reduce((total, value) => total + value, 0);
  const offset = OFFSET[0] + OFFSET[1] ** 2 * sum - ofText * space.mean - dot(ofVector, space.middle);
  const { logSlope, shift, doubt } = scaled(leftOut, y);
  const weights = ofVector.map((value, i) => value + ofText * space.direction[i]);
  return { weights, offset, freedom, leftOut, slope: Math.exp(logSlope), shift, doubt };
}

export const probabilityOf = ({ slope, shift }, f) => logistic(slope * f + shift);

function newton(kernel, prior, y) {
  const n = y.length;
  let [f, a] = [Float64Array.from(prior), new Float64Array(n)];
  let root, lower;
  const heightOf = (a, f) => f.reduce((sum, value, i) => sum - softplus(-(2 * y[i] - 1) * value) - (a[i] * (value - prior[i])) / 2, 0);
  let height = heightOf(a, f);
  for (let turn = 0; turn < 50; turn++) {
    const p = f.map(logistic);
    root = p.map((value) => Math.sqrt(Math.max(value * (1 - value), 1e-9)));
    lower = cholesky(kernel.map((row, i) => row.map((value, j) => root[i] * value * root[j] + (i === j ? 1 : 0))));
    const b = f.map((value, i) => root[i] ** 2 * (value - prior[i]) + y[i] - p[i]);
    const inner = solve(lower, kernel.map((row, i) => root[i] * dot(row, b)));
    const move = b.map((value, i) => value - root[i] * inner[i] - a[i]);
    const along = f.map((_, i) => dot(kernel[i], move));
    // A whole step may go too far, and then back and forth: half of it, until the posterior is no lower
    let share = 1;
    let next;
    for (let halving = 0; halving <= 30; halving++, share /= 2) {
      next = [a.map((value, i) => value + share * move[i]), f.map((value, i) => value + share * along[i])];
      if (heightOf(...next) >= height || halving === 30) break;
    }
    [a, f] = next;
    height = heightOf(a, f);
    if (along.every((step) => Math.abs(share * step) < 1e-6)) break;
  }
  const leftOut = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    const column = forward(lower, kernel.map((row, i) => root[i] * row[j]));
    const own = kernel[j][j] - dot(column, column);
    const p = logistic(f[j]);
    leftOut[j] = f[j] - (own * (y[j] - p)) / Math.max(1 - p * (1 - p) * own, 1e-3);
  }
  return { a, leftOut };
}

function scaled(f, y) {
  const weights = [SLOPE[1] ** -2, SHIFT[1] ** -2];
  let [k, l] = [SLOPE[0], SHIFT[0]];
  let curvature;
  for (let turn = 0; turn < 50; turn++) {
    const slope = Math.exp(k);
    let [g0, g1] = [-weights[0] * (k - SLOPE[0]), -weights[1] * (l - SHIFT[0])];
    curvature = [weights[0], 0, weights[1]];
    f.forEach((value, i) => {
      const p = logistic(slope * value + l);
      const move = slope * value;
      g0 += move * (y[i] - p);
      g1 += y[i] - p;
      curvature[0] += move * move * p * (1 - p);
      curvature[1] += move * p * (1 - p);
      curvature[2] += p * (1 - p);
    });
    const [c00, c01, c11] = curvature;
    const whole = c00 * c11 - c01 * c01;
    const steps = [(c11 * g0 - c01 * g1) / whole, (c00 * g1 - c01 * g0) / whole].map((s) => Math.min(Math.max(s, -0.5), 0.5));
    k += steps[0];
    l += steps[1];
    if (Math.max(...steps.map(Math.abs)) < 1e-8) break;
  }
  const [c00, c01, c11] = curvature;
  const whole = c00 * c11 - c01 * c01;
  return { logSlope: k, shift: l, doubt: [[c11, -c01], [-c01, c00]].map((row) => row.map((value) => (DOUBT * value) / whole)) };
}

// Step 6; `order` are chips from the best on, as many as 20 · `count` and `rows` together at least
export function propose(vectors, space, order, rows, count, probabilities) {
  const taken = new Set(rows);
  const known = [...rows].sort((a, b) => a - b).map((row) => centred(space, vectors.row(row)));
  const among = (left) => left.map((row) => centred(space, vectors.row(row)));
  if (!probabilities) {
    const left = [...order].filter((row) => !taken.has(row)).slice(0, SHORTLIST * count);
    return spread(among(left), known, left.map((_, place) => 1 / (1 + place / count)), count).map((i) => left[i]);
  }
  const blind = Math.floor(count / AT_RANDOM);
  const left = doubtful(probabilities, taken, SHORTLIST * (count - blind));
  const worth = left.map((row) => probabilities[row] * (1 - probabilities[row]));
  const chosen = spread(among(left), known, worth, count - blind).map((i) => left[i]);
  for (const row of chosen) taken.add(row);
  return [...chosen, ...atRandom(vectors.count, taken, blind, rows.length)];
}

// One after another that with the most worth times the least squared distance to one known or taken; 1 where there is none
function spread(h, known, worth, count) {
  const lengths = h.map((one) => dot(one, one));
  const ofKnown = known.map((one) => dot(one, one));
  const distance = h.map((one, i) => Math.min(...known.map((other, j) => lengths[i] + ofKnown[j] - 2 * dot(one, other))));
  const taken = [];
  while (taken.length < Math.min(count, h.length)) {
    let [at, most] = [-1, -Infinity];
    h.forEach((_, i) => {
      const gain = taken.includes(i) ? -1 : worth[i] * Math.max(distance[i] === Infinity ? 1 : distance[i], 0);
      if (gain > most) [at, most] = [i, gain];
    });
    taken.push(at);
    h.forEach((one, i) => (distance[i] = Math.min(distance[i], lengths[i] + lengths[at] - 2 * dot(one, h[at]))));
  }
  return taken;
}

// Unlabelled chips, the most doubtful first
function doubtful(probabilities, labelled, most) {
  const doubts = Float64Array.from(probabilities, (p) => p * (1 - p));
  for (const row of labelled) doubts[row] = -1;
  const short = Math.min(most, doubts.length - labelled.size);
  if (short <= 0) return [];
  const bound = Math.max(doubts.slice().sort()[doubts.length - short], 0);
  const rows = [];
  doubts.forEach((doubt, row) => doubt >= bound && rows.push(row));
  return rows.sort((a, b) => doubts[b] - doubts[a] || a - b).slice(0, short);
}

// Some of those that are left, in rising order, none twice
function atRandom(count, taken, wanted, seed) {
  const rest = count - taken.size;
  const ranks = uniforms(1, rest ? wanted : 0, seed)[0].map((value) => Math.floor(value * rest));
  const chosen = [];
  const sorted = [...taken].sort((a, b) => a - b);
  for (let rank of [...new Set(ranks)].sort((a, b) => a - b)) {
    for (const row of sorted) if (row <= rank) rank++;
    chosen.push(rank);
  }
  return chosen;
}

// All that a click asks for: {method, scores, probabilities, classifier}. Rows are in the order in which labels were given.
export function teach(vectors, space, rows, yes) {
  const labelled = rows.map((row) => vectors.row(row));
  if (!rows.length) return { method: "text", scores: space.cosines, probabilities: null, classifier: null };
  if (rows.length < FEW) {
    const scores = vectors.products(rocchio(space.direction, labelled, yes));
    return { method: "rocchio", scores, probabilities: null, classifier: null };
  }
  const classifier = fit(space, labelled, yes);
  const scores = vectors.products(classifier.weights).map((value) => value + classifier.offset);
  return { method: "classifier", scores, probabilities: scores.map((f) => probabilityOf(classifier, f)), classifier };
}
