// How sure the answer is, as rsvlm/search/teaching.py says it: on the labels by leaving each out, and of the whole order.

import { logistic, percentile } from "./algebra.js";

const DRAWS = 64;
const SINGLE = 2000; // ranks that are drawn one by one; later ones count by their means, in growing groups

// (rows, columns) numbers below 1, those of Python: mulberry32
export function uniforms(rows, columns, seed) {
  return Array.from({ length: rows }, (_, row) =>
    Float64Array.from({ length: columns }, (_, column) => {
      const state = (Math.imul(row * columns + column + 1, 0x6d2b79f5) + (seed << 20)) | 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    }),
  );
}

function averagePrecision(times, hits) {
  let [seen, found, sum] = [0, 0, 0];
  for (let i = 0; i < times.length; i++) {
    seen += times[i];
    found += hits[i];
    if (seen > 0) sum += (found / seen) * hits[i];
  }
  return found ? sum / found : NaN;
}

// Average precision on the labels alone, each left out in turn; null if not both kinds are there
export function precisionOnLabels({ leftOut }, yes) {
  const n = yes.length;
  if (yes.every(Boolean) || !yes.some(Boolean)) return null;
  const order = [...yes.keys()].sort((a, b) => leftOut[b] - leftOut[a] || yes[a] - yes[b] || a - b);
  const valueOf = (times) => {
    const sorted = order.map((i) => times[i]);
    return averagePrecision(sorted, sorted.map((count, at) => count * yes[order[at]]));
  };
  const values = uniforms(DRAWS, n, 1).map((row) => {
    const times = new Float64Array(n);
    for (const value of row) times[Math.floor(value * n)]++;
    return valueOf(times);
  });
  return { value: valueOf(new Float64Array(n).fill(1)), ciLow: percentile(values, 2.5), ciHigh: percentile(values, 97.5) };
}

function groups(n, ks) {
  const edges = new Set(Array.from({ length: Math.min(n, SINGLE) + 1 }, (_, i) => i));
  for (let at = Math.min(n, SINGLE); at < n; ) edges.add((at = Math.min(n, at + Math.max(1, Math.floor(at / 200)))));
  for (const k of ks) if (k > 0 && k < n) edges.add(k);
  return Float64Array.from(edges).sort();
}

const told = (values) => ({
  value: values.reduce((sum, value) => sum + value, 0) / values.length,
  ciLow: percentile(values, 2.5),
  ciHigh: percentile(values, 97.5),
});

// How good the whole order should be; null without a classifier, or with one kind of label alone
export function expectations({ classifier, scores }, rows, yes, ks = [10, 50, 100]) {
  if (!classifier || yes.every(Boolean) || !yes.some(Boolean)) return null;
  const n = scores.length;
  const order = new Uint32Array(n).map((_, row) => row).sort((a, b) => scores[b] - scores[a] || a - b);
  const known = new Int8Array(n).fill(-1);
  rows.forEach((row, i) => (known[row] = yes[i]));
  const edges = groups(n, ks);
  const many = edges.length - 1;
  let single = 0;
  while (single < many && edges[single + 1] - edges[single] === 1) single++;
  const coins = uniforms(DRAWS, single, 3);
  const normal = uniforms(DRAWS, 2, 2).map(([first, second]) => {
    const radius = Math.sqrt(-2 * Math.log(1 - first));
    return [radius * Math.cos(2 * Math.PI * second), radius * Math.sin(2 * Math.PI * second)];
  });
  const [[d00, d10], [, d11]] = classifier.doubt; // symmetric
  const l00 = Math.sqrt(d00);
  const l10 = d10 / l00;
  const l11 = Math.sqrt(d11 - l10 * l10);
  const [precision, count] = [[], []];
  const first = new Map(ks.filter((k) => k <= n).map((k) => [k, []]));
  for (let draw = 0; draw < DRAWS; draw++) {
    const [a, b] = normal[draw];
    const slope = Math.exp(Math.log(classifier.slope) + l00 * a);
    const shift = classifier.shift + l10 * a + l11 * b;
    let [total, sum] = [0, 0];
    for (let group = 0; group < many; group++) {
      let chance = 0;
      for (let at = edges[group]; at < edges[group + 1]; at++) {
        const row = order[at];
        chance += known[row] < 0 ? logistic(slope * scores[row] + shift) : known[row];
      }
      const hits = group < single ? (coins[draw][group] < chance ? 1 : 0) : chance;
      total += hits;
      sum += (hits * total) / edges[group + 1];
      first.get(edges[group + 1])?.push(total);
    }
    precision.push(sum / Math.max(total, 1e-9));
    count.push(total);
  }
  return {
    averagePrecision: told(precision),
    yes: told(count),
    first: new Map([...first].map(([k, counts]) => [k, told(counts)])),
  };
}

const PATIENCE = 10;
const RISE = 0.01;

// Whether more labels are likely to add little: `history` are pairs of the number of labels and the expected average precision
export function enough(history) {
  if (!history.length) return false;
  const [count, last] = history.at(-1);
  const before = history.filter(([n]) => n <= count - PATIENCE).map(([, value]) => value);
  return before.length > 0 && last < Math.max(...before) + RISE;
}
