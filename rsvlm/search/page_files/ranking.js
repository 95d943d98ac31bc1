// Scores of all chips for a direction, and the best of them.

// Unit length; of a direction of no length, itself
export function unit(vector) {
  let sum = 0;
  for (const value of vector) sum += value * value;
  const length = Math.sqrt(sum) || 1;
  return Float32Array.from(vector, (value) => value / length);
}

export function rowOf({ vectors, middles, steps, width }, row) {
  return Float32Array.from(steps, (step, i) => middles[i] + step * vectors[row * width + i]);
}

// The product of a direction with every row. What the bytes of a column are multiplied with is rounded to 15 bits, so that sums are those
// of whole numbers: exact, in any order, and below 2^31 for up to 512 values; of longer rows the parts are added as floats.
const PART = 512;

export function scoresOf({ vectors, middles, steps, width, count }, direction) {
  let [most, common] = [0, 0];
  for (let i = 0; i < width; i++) {
    most = Math.max(most, Math.abs(direction[i] * steps[i]));
    common += direction[i] * middles[i];
  }
  const unitOf = most / 32767 || 1;
  const whole = Int16Array.from(direction, (value, i) => Math.round((value * steps[i]) / unitOf));
  const scores = new Float32Array(count);
  for (let row = 0; row < count; row++) {
    let sum = 0;
    for (let from = 0; from < width; from += PART) {
      const to = Math.min(from + PART, width);
      let [a, b, c, d] = [0, 0, 0, 0];
      let i = from;
      let j = row * width + from;
      for (; i + 3 < to; i += 4, j += 4) {
        a = (a + whole[i] * vectors[j]) | 0;
        b = (b + whole[i + 1] * vectors[j + 1]) | 0;
        c = (c + whole[i + 2] * vectors[j + 2]) | 0;
        d = (d + whole[i + 3] * vectors[j + 3]) | 0;
      }
      for (; i < to; i++, j++) a = (a + whole[i] * vectors[j]) | 0;
      sum += a + b + c + d;
    }
    scores[row] = common + sum * unitOf;
  }
  return scores;
}

// Rows of the k best, best first; of equal scores the lower row comes first, as in rsvlm.evaluation.embeddings.search
export function best(scores, k) {
  const least = k < scores.length ? scores.slice().sort()[scores.length - k] : -Infinity;
  const rows = [];
  for (let row = 0; row < scores.length; row++) if (scores[row] >= least) rows.push(row);
  return rows.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, k);
}

// Where the scores of all chips lie: the middle one and the highest, for colours
export function spread(scores) {
  const sorted = scores.slice().sort();
  return { middle: sorted[sorted.length >> 1], high: sorted[sorted.length - 1] };
}
