// What was said of chips, with a way back, and as GeoJSON: out, and in again from files that anybody may have edited.
// Files are those of rsvlm/search/label_files.py.

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
    // What there is before anybody does anything: no undo goes back behind it
    begin(values) {
      before.length = 0;
      now = Object.freeze({ ...now, ...values });
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

// A polygon of GeoJSON: closed, counter-clockwise; its west in -180…180, whichever turn the map has it in
export function polygon(site, row) {
  const points = site.outline(row);
  const west = Math.min(...points.map(([lon]) => lon));
  const turn = 360 * Math.floor((west + 180 + 1e-7) / 360);
  const ring = points.map(([lon, lat]) => [lon - turn, lat].map((value) => Number(value.toFixed(8))));
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
    if (label === null) continue; // nobody has said yet
    if (!label) {
      count("have another label than yes or no");
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

const WORDS = new Map(["yes", "y", "true", "1"].map((word) => [word, "yes"]));
for (const word of ["no", "n", "false", "0"]) WORDS.set(word, "no");

function labelOf({ label }) {
  const word = typeof label === "object" && label ? "?" : String(label ?? "").trim().toLowerCase();
  return word ? WORDS.get(word) : null;
}

// As rsvlm/search/label_files.py: a key names a chip, if the shape is there too; else a polygon labels the chips whose middles lie in it,
// and a point, or a polygon without any, the one around it whose middle is nearest.
function rowsAt(site, { key }, geometry) {
  const rings = site.placed ? ringsOf(geometry) : [];
  const box = boxOf(rings.flat());
  const known = typeof key === "string" ? site.rowOf(key) : -1;
  if (known >= 0) return !box || touches(boxOf(site.outline(known)), box) ? [known] : [];
  if (!box) return [];
  const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const inside = [];
  let [nearest, least] = [-1, Infinity];
  for (let row = 0; row < site.count; row++) {
    const centre = site.centre(row);
    if (rings.some((ring) => ring.length > 2) && crossings(rings, centre) % 2) inside.push(row);
    const away = Math.hypot(turned(centre[0] - middle[0]) * Math.cos((middle[1] * Math.PI) / 180), centre[1] - middle[1]);
    if (away < least && holds(site.outline(row), middle)) [nearest, least] = [row, away];
  }
  return inside.length ? inside : nearest >= 0 ? [nearest] : [];
}

const turned = (degrees) => degrees - 360 * Math.round(degrees / 360);

// All rings of a geometry, whatever its depth; a point is a ring of one
function ringsOf(geometry) {
  const rings = [];
  const usable = (point) => Array.isArray(point) && Number.isFinite(point[0]) && Number.isFinite(point[1]);
  const collect = (value, depth) => {
    if (!Array.isArray(value) || depth > 4) return;
    if (usable(value)) rings.push([value]);
    else if (value.length && value.every(usable)) rings.push(value);
    else for (const one of value) collect(one, depth + 1);
  };
  collect(geometry?.coordinates, 0);
  return rings;
}

function boxOf(points) {
  if (!points.length) return null;
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [lon, lat] of points) {
    [box[0], box[2]] = [Math.min(box[0], lon), Math.max(box[2], lon)];
    [box[1], box[3]] = [Math.min(box[1], lat), Math.max(box[3], lat)];
  }
  return box;
}

function touches(one, other) {
  const turn = 360 * Math.round(((one[0] + one[2]) / 2 - (other[0] + other[2]) / 2) / 360);
  const [wide, high] = [1e-6, 1e-6];
  return (
    other[0] + turn <= one[2] + wide && other[2] + turn >= one[0] - wide && other[1] <= one[3] + high && other[3] >= one[1] - high
  );
}

export const holds = (outline, point) => crossings([outline], point) % 2 === 1;

// How often a ray to the east crosses the rings
function crossings(rings, [lon, lat]) {
  const x = lon + 360 * Math.round((rings[0][0][0] - lon) / 360); // in the turn of the rings
  let count = 0;
  for (const ring of rings) {
    ring.forEach(([x1, y1], i) => {
      const [x2, y2] = ring[(i + 1) % ring.length];
      if (y1 > lat !== y2 > lat && x < x1 + ((lat - y1) / (y2 - y1)) * (x2 - x1)) count++;
    });
  }
  return count;
}
