// The files of the index: chips, their places and their vectors. No other host is asked: every address is relative to this file.

const HERE = new URL("../data/", import.meta.url);

export const addressOf = (name, entry) => new URL(entry ? `${name}?${entry.sha256.slice(0, 12)}` : name, HERE).href;

// The hash in the address: a file that changed is never taken from a cache.
export async function file(name, files) {
  const entry = files[name];
  const answer = await fetch(addressOf(name, entry));
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status})`);
  const data = new Uint8Array(await answer.arrayBuffer());
  const inflated = name.endsWith(".gz") && data[0] !== 0x1f; // by a server that says so in a header
  if (data.length !== entry.bytes && !inflated) throw new Error(`${name} has ${data.length} bytes, expected ${entry.bytes}`);
  if (!name.endsWith(".gz") || inflated) return data;
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export const json = async (name, files) => JSON.parse(new TextDecoder().decode(await file(name, files)));

export async function openSite() {
  const answer = await fetch(new URL("manifest.json", HERE), { cache: "no-cache" });
  if (!answer.ok) throw new Error(`data/manifest.json could not be loaded (${answer.status})`);
  const manifest = await answer.json();
  const { files } = manifest;
  const [facts, names, vectors, columns, places] = await Promise.all([
    json("index.json", files),
    json("chips.json.gz", files),
    file("vectors.bin", files),
    file("columns.bin", files),
    file("places.bin", files),
  ]);
  return siteOf(manifest, facts, names, vectors, columns, places);
}

// From the bytes of the files; what tests begin with
export function siteOf(manifest, facts, names, vectors, columns, places) {
  const { files } = manifest;
  const { chips: count, width, points, origin, unit } = facts;
  const marks = new Uint32Array(places.buffer, places.byteOffset, count * points * 2);
  const at = (row, point, axis) => origin[axis] + unit[axis] * marks[(row * points + point) * 2 + axis];
  const rows = new Map(names.key.map((key, row) => [key, row]));
  return {
    manifest,
    facts,
    count,
    width,
    vectors: new Int8Array(vectors.buffer, vectors.byteOffset, count * width),
    middles: new Float32Array(columns.buffer, columns.byteOffset, width),
    steps: new Float32Array(columns.buffer, columns.byteOffset + 4 * width, width),
    key: (row) => names.key[row],
    file: (row) => names.files[names.file[row]] ?? "",
    rowOf: (key) => rows.get(key) ?? -1,
    placed: facts.placed,
    captions: (row) => names.captions?.[row] ?? [],
    extent: (row) => (names.gsd_m ? extentOf(names.gsd_m[row], names.size_px[row]) : ""),
    digits: digitsOf(at(0, 0, 1) - at(0, points >> 1, 1)),
    // Points of the outline, as in the index: clockwise from the upper left corner
    outline: (row) => Array.from({ length: points }, (_, point) => [at(row, point, 0), at(row, point, 1)]),
    centre(row) {
      let [lon, lat] = [0, 0];
      for (let point = 0; point < points; point++) {
        lon += at(row, point, 0) / points;
        lat += at(row, point, 1) / points;
      }
      return [lon, lat];
    },
    picture(row) {
      const number = String(row).padStart(6, "0");
      return new URL(`../pictures/${number.slice(0, -3)}/${number}.webp?${facts.fingerprint}`, HERE).href;
    },
    // The chip at its full resolution, where a server with the imagery is behind the page
    window: (row) => (manifest.server?.windows ? new URL(`../window/${row}`, HERE).href : null),
    overview: facts.overview ? addressOf("overview.webp", files["overview.webp"]) : null,
  };
}

// Digits of a degree that tell chips of this height apart
export const digitsOf = (height) => Math.min(Math.max(2 - Math.floor(Math.log10(Math.abs(height) || 1)), 1), 6);

// How much ground a chip shows, from its resolution and its side in pixels
export function extentOf(gsd, side) {
  return gsd > 0 && side > 0 ? `${length(gsd * side)} wide, ${length(gsd)} to a pixel` : "";
}

function length(metres) {
  const [size, unit] = metres >= 999.5 ? [1000, "km"] : metres >= 0.9995 ? [1, "m"] : [0.01, "cm"];
  const value = metres / size;
  return `${value < 9.95 ? Number(value.toFixed(1)) : Math.round(value).toLocaleString("en")} ${unit}`;
}
