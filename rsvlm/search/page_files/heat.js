// Which parts of a chip fit what is searched for: what each adds to the chip's cosine, laid over its picture.

import { colour, element } from "./dom.js";
import { addressOf } from "./site.js";

// What each part adds; the mean over the parts is the cosine. `data` are the bytes of a file of rsvlm/search/page_heat.py.
export function heatOf(direction, data, parts) {
  const width = direction.length;
  if (data.byteLength !== 4 + parts * width) throw new Error(`it has ${data.byteLength} bytes, expected ${4 + parts * width}`);
  const scale = new DataView(data).getFloat32(0, true);
  const steps = new Int8Array(data, 4);
  return Float32Array.from({ length: parts }, (_, part) => {
    let sum = 0;
    for (let i = 0, j = part * width; i < width; i++, j++) sum += direction[i] * steps[j];
    return sum * scale;
  });
}

// Where the greatest value lies, in words
export function strongest(heat, [h, w]) {
  const at = heat.indexOf(Math.max(...heat));
  const third = (place, all, names) => names[Math.min(Math.floor((3 * place) / all), 2)];
  return `${third(Math.floor(at / w), h, ["top", "middle", "bottom"])} ${third(at % w, w, ["left", "centre", "right"])}`;
}

export async function loadHeat({ facts }, direction, row) {
  const number = String(row).padStart(6, "0");
  const address = addressOf(`../heat/${number.slice(0, -3)}/${number}.bin?${facts.fingerprint}`);
  const answer = await fetch(address);
  if (!answer.ok) return null; // its picture could not be read
  return heatOf(direction, await answer.arrayBuffer(), facts.grid[0] * facts.grid[1]);
}

export function drawHeat(canvas, heat, [h, w]) {
  const [low, high] = [Math.min(...heat), Math.max(...heat)];
  const small = element("canvas", { width: w, height: h });
  const pixels = new ImageData(w, h);
  heat.forEach((value, part) => pixels.data.set([...colour((value - low) / (high - low || 1)), 255], 4 * part));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `Heat map over the chip: it fits best at the ${strongest(heat, [h, w])}.`);
  return [low, high];
}
