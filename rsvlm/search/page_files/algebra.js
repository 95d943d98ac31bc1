// The numbers that teaching needs: a little linear algebra in rows of Float64Array, percentiles, draws.

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

export const logistic = (value) => 1 / (1 + Math.exp(-Math.min(Math.max(value, -40), 40)));

// ln(exp(a) + exp(b)) for a = 0
export const softplus = (value) => Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));

// Lower half L of a symmetric positive matrix S = L Lᵀ
export function cholesky(matrix) {
  const lower = matrix.map((row) => new Float64Array(row.length));
  for (let i = 0; i < matrix.length; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i][j];
      const [a, b] = [lower[i], lower[j]];
      for (let k = 0; k < j; k++) sum -= a[k] * b[k];
      lower[i][j] = i === j ? Math.sqrt(Math.max(sum, 1e-300)) : sum / b[j];
    }
  }
  return lower;
}

// y of L y = b
export function forward(lower, b) {
  const y = Float64Array.from(b);
  for (let i = 0; i < y.length; i++) {
    const row = lower[i];
    for (let k = 0; k < i; k++) y[i] -= row[k] * y[k];
    y[i] /= row[i];
  }
  return y;
}

// x of L Lᵀ x = b
export function solve(lower, b) {
  const x = forward(lower, b);
  for (let i = x.length - 1; i >= 0; i--) {
    x[i] /= lower[i][i];
    for (let k = 0; k < i; k++) x[k] -= lower[i][k] * x[i];
  }
  return x;
}

// As numpy.percentile: between ranks along a straight line; NaN is passed over
export function percentile(values, percent) {
  const sorted = Float64Array.from([...values].filter((value) => !Number.isNaN(value))).sort();
  if (!sorted.length) return NaN;
  const at = (percent / 100) * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

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
