// What was said of chips, with a way back, and as GeoJSON: out, and in again from files that anybody may have edited.

export const MOST_BYTES = 20_000_000;

// The state of a search: text, example chips and labels; each change can be undone
export function makeHistory(begun) {
  let now = begun;
  const before = [];
  return {
    get now() {
      return now;
    },
    get length() {
      return before.length;
    },
    change(values) {
      before.push(now);
      if (before.length > 500) before.shift();
      now = Object.freeze({ ...now, ...values });
      return now;
    },
    undo() {
      if (before.length) now = before.pop();
      return now;
    },
  };
}

// Labels with one more, or one less where it is given again; a Map of row to "yes" or "no"
export function labelled(labels, row, label) {
  const changed = new Map(labels);
  if (changed.get(row) === label) changed.delete(row);
  else changed.set(row, label);
  return changed;
}

export const rowsOf = (labels, label) => [...labels].filter(([, one]) => one === label).map(([row]) => row);

// A polygon of GeoJSON: closed, counter-clockwise
export function polygon(site, row) {
  const ring = site.outline(row).map((point) => point.map((value) => Number(value.toFixed(8))));
  return { type: "Polygon", coordinates: [[ring[0], ...ring.slice(1).reverse(), ring[0]]] };
}

export function labelsGeojson(site, labels, text) {
  const features = [...labels].map(([row, label]) => ({
    type: "Feature",
    properties: { label, key: site.key(row), file: site.file(row), ...(text ? { text } : {}) },
    geometry: site.placed ? polygon(site, row) : null,
  }));
  return JSON.stringify({ type: "FeatureCollection", features }, null, 1);
}

// Labels of a file, matched by key, else by the place of its middle: {labels, problems}, problems counted by what they are
export function readLabels(site, source) {
  const problems = new Map();
  const count = (what) => problems.set(what, (problems.get(what) ?? 0) + 1);
  let features;
  try {
    features = JSON.parse(source).features;
  } catch {
    throw new Error("it is no JSON");
  }
  if (!Array.isArray(features)) throw new Error("it is no GeoJSON FeatureCollection");
  const said = new Map(); // row → set of labels
  for (const feature of features) {
    const properties = feature?.properties ?? {};
    const label = labelOf(properties);
    if (!label) {
      count("have no label “yes” or “no”");
      continue;
    }
    const rows = rowsAt(site, properties, feature.geometry);
    if (!rows.length) count("lie at no chip of this index");
    for (const row of rows) said.set(row, (said.get(row) ?? new Set()).add(label));
  }
  const labels = new Map();
  for (const [row, both] of said) {
    if (both.size > 1) count("chips had both yes and no, and have no label now");
    else labels.set(row, [...both][0]);
  }
  return { labels, problems };
}

const WORDS = new Map([["yes", "yes"], ["no", "no"], ["true", "yes"], ["false", "no"], ["1", "yes"], ["0", "no"]]);

const labelOf = ({ label }) => WORDS.get(String(label ?? "").trim().toLowerCase());

function rowsAt(site, { key }, geometry) {
  const known = typeof key === "string" ? site.rowOf(key) : -1;
  if (known >= 0) return [known];
  const middle = site.placed && middleOf(geometry);
  if (!middle) return [];
  const rows = [];
  for (let row = 0; row < site.count; row++) if (holds(site.outline(row), middle)) rows.push(row);
  return rows;
}

// The middle of a point's, or a polygon's, box
function middleOf(geometry) {
  const points = [];
  const collect = (value, depth) => {
    if (!Array.isArray(value) || depth > 5) return;
    if (typeof value[0] === "number") points.push(value);
    else for (const one of value) collect(one, depth + 1);
  };
  collect(geometry?.coordinates, 0);
  const usable = points.filter(([lon, lat]) => Number.isFinite(lon) && Number.isFinite(lat));
  if (!usable.length) return null;
  return [0, 1].map((axis) => {
    let [low, high] = [Infinity, -Infinity];
    for (const point of usable) [low, high] = [Math.min(low, point[axis]), Math.max(high, point[axis])];
    return (low + high) / 2;
  });
}

export function holds(outline, [lon, lat]) {
  const first = outline[0][0];
  const x = lon + 360 * Math.round((first - lon) / 360); // in the turn of the outline
  let inside = false;
  outline.forEach(([x1, y1], i) => {
    const [x2, y2] = outline[(i + 1) % outline.length];
    if (y1 > lat !== y2 > lat && x < x1 + ((lat - y1) / (y2 - y1)) * (x2 - x1)) inside = !inside;
  });
  return inside;
}
