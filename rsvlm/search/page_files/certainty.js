// How sure the answer is, as rsvlm/search/confidence.py says it: on the labels by leaving each out, and of the whole order.

import { logistic, percentile, uniforms } from "./algebra.js";

const DRAWS = 64;
const SINGLE = 2000; // ranks that are drawn one by one

// Average precision of groups of ranks from the best on, by how many chips are in each and how many yes among them; precision is the
// best at that recall or a higher one
function averagePrecision(sizes, hits) {
  const precision = new Float64Array(sizes.length);
  let [seen, total] = [0, 0];
  for (let i = 0; i < sizes.length; i++) {
    seen += sizes[i];
    total += hits[i];
    precision[i] = total / Math.max(seen, 1);
  }
  if (total <= 0) return 0;
  let [sum, highest] = [0, 0];
  for (let i = sizes.length - 1; i >= 0; i--) {
    highest = Math.max(highest, precision[i]);
    sum += highest * hits[i];
  }
  return sum / total;
}

// Average precision on the labels alone, each left out in turn; null if not both kinds are there
export function precisionOnLabels({ leftOut }, yes) {
  const n = yes.length;
  if (yes.every(Boolean) || !yes.some(Boolean)) return null;
  const order = [...yes.keys()].sort((a, b) => leftOut[b] - leftOut[a] || yes[a] - yes[b] || a - b);
  const draws = uniforms(DRAWS, n, 1).map((row) => {
    const times = new Float64Array(n);
    for (const value of row) times[Math.floor(value * n)]++;
    return times;
  });
  const [value, ...values] = [new Float64Array(n).fill(1), ...draws]
    .filter((times) => times.some((count, i) => count && yes[i]))
    .map((times) => {
      const sizes = order.map((i) => times[i]);
      return averagePrecision(sizes, sizes.map((count, at) => count * yes[order[at]]));
    });
  return { value, ciLow: percentile(values, 2.5), ciHigh: percentile(values, 97.5) };
}

export function groups(n, ks) {
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
  // By group of ranks: the labelled yes, and how many others with which mean of f
  const [sizes, given, others, middle] = Array.from({ length: 4 }, () => new Float64Array(many));
  for (let group = 0; group < many; group++) {
    sizes[group] = edges[group + 1] - edges[group];
    for (let at = edges[group]; at < edges[group + 1]; at++) {
      const row = order[at];
      if (known[row] === 1) given[group]++;
      if (known[row] < 0) {
        others[group]++;
        middle[group] += scores[row];
      }
    }
    middle[group] /= Math.max(others[group], 1);
  }
  const coins = uniforms(DRAWS, many, 3);
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
    let total = 0;
    const hits = new Float64Array(many);
    for (let group = 0; group < many; group++) {
      const chance = logistic(slope * middle[group] + shift);
      hits[group] = given[group] + (others[group] === 1 ? Number(coins[draw][group] < chance) : others[group] * chance);
      total += hits[group];
      first.get(edges[group + 1])?.push(total);
    }
    precision.push(averagePrecision(sizes, hits));
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
