// Elements, whose texts are only ever set as text.

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const part = (root, name) => root.querySelector(`[data-part="${name}"]`);

export function download(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// A place whose longitude is in -180…180
export const inTurn = ([lon, lat]) => [((((lon + 180) % 360) + 360) % 360) - 180, lat];

export function degrees(lon, lat, digits = 4) {
  const [turned] = inTurn([lon, lat]);
  const side = (value, positive, negative) => `${Math.abs(value).toFixed(digits)}° ${value < 0 ? negative : positive}`;
  return `${side(lat, "N", "S")}, ${side(turned, "E", "W")}`;
}

// Viridis, by its values at equal steps
const RAMP = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((hex) =>
  [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)),
);

export function colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((value, i) => Math.round(value + (at - low) * (RAMP[low + 1][i] - value)));
}
