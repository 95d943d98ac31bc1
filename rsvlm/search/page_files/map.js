// The chips on a map: their footprints, coloured by how well they fit, ranks and labels upon them.

import { colour } from "./dom.js";
import { spread } from "./ranking.js";

const LEVELS = 24; // of colour, so that chips of one colour are drawn together
const NUMBERED = 12;

// Boxes of all chips in degrees: west, south, east, north
function boxesOf(site) {
  const boxes = new Float64Array(4 * site.count);
  for (let row = 0; row < site.count; row++) {
    let [west, south, east, north] = [Infinity, Infinity, -Infinity, -Infinity];
    for (const [lon, lat] of site.outline(row)) {
      [west, east] = [Math.min(west, lon), Math.max(east, lon)];
      [south, north] = [Math.min(south, lat), Math.max(north, lat)];
    }
    boxes.set([west, south, east, north], 4 * row);
  }
  return boxes;
}

export function makeMap(canvas, site, onChoose) {
  const boxes = boxesOf(site);
  const all = site.facts.bounds;
  const middle = (all[1] + all[3]) / 2;
  const narrow = Math.max(Math.cos((middle * Math.PI) / 180), 0.2); // a degree of longitude, in degrees of latitude
  const view = { lon: 0, lat: 0, zoom: 1 }; // pixels of the screen per degree of latitude
  let drawn = { scores: null, hits: [], labels: new Map(), chosen: -1 };
  let waiting = false;
  let picture = null;
  if (site.overview) {
    picture = new Image();
    picture.addEventListener("load", draw);
    picture.src = site.overview;
  }

  // Asked once for a picture, and not for each of its chips: the browser counts anew whenever it is asked.
  let sides = [1, 1];
  const size = () => (sides = [canvas.clientWidth || 1, canvas.clientHeight || 1]);
  const x = (lon) => sides[0] / 2 + (lon - view.lon) * narrow * view.zoom;
  const y = (lat) => sides[1] / 2 - (lat - view.lat) * view.zoom;

  function whole() {
    const [width, height] = size();
    view.lon = (all[0] + all[2]) / 2;
    view.lat = middle;
    view.zoom = 0.94 * Math.min(width / ((all[2] - all[0]) * narrow || 1e-6), height / (all[3] - all[1] || 1e-6));
    draw();
  }

  function zoom(factor, at = size().map((side) => side / 2)) {
    const [width, height] = size();
    const lon = view.lon + (at[0] - width / 2) / narrow / view.zoom;
    const lat = view.lat - (at[1] - height / 2) / view.zoom;
    view.zoom *= factor;
    view.lon = lon - (at[0] - width / 2) / narrow / view.zoom;
    view.lat = lat + (at[1] - height / 2) / view.zoom;
    draw();
  }

  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      paint();
    });
  }

  function paint() {
    const [width, height] = size();
    const dense = globalThis.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(width * dense), Math.round(height * dense)];
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    if (picture?.naturalWidth) {
      const [west, south, east, north] = site.facts.overview;
      pen.drawImage(picture, x(west), y(north), x(east) - x(west), y(south) - y(north));
    }
    paintChips(pen, width, height);
    if (drawn.chosen >= 0) {
      const [west, south, east, north] = boxes.subarray(4 * drawn.chosen, 4 * drawn.chosen + 4);
      const grown = Math.max(0, 12 - (x(east) - x(west))) / 2;
      for (const [style, wide] of [["#000", 5], ["#fff", 2.5]]) {
        [pen.strokeStyle, pen.lineWidth] = [style, wide];
        pen.strokeRect(x(west) - grown, y(north) - grown, x(east) - x(west) + 2 * grown, y(south) - y(north) + 2 * grown);
      }
    }
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let i = Math.min(NUMBERED, drawn.hits.length) - 1; i >= 0; i--) mark(pen, drawn.hits[i], i + 1, "#fff", "#111");
    for (const [row, label] of drawn.labels) mark(pen, row, label === "yes" ? "✓" : "✕", label === "yes" ? "#0a6b3d" : "#a3261b", "#fff");
  }

  function paintChips(pen, width, height) {
    const { scores } = drawn;
    const buckets = Array.from({ length: LEVELS }, () => []);
    const { middle: low, high } = scores ? spread(scores) : { middle: 0, high: 1 };
    for (let row = 0; row < site.count; row++) {
      if (x(boxes[4 * row + 2]) < 0 || x(boxes[4 * row]) > width || y(boxes[4 * row + 1]) < 0 || y(boxes[4 * row + 3]) > height) continue;
      const share = scores ? Math.max(0, (scores[row] - low) / (high - low || 1)) : 0;
      buckets[Math.min(LEVELS - 1, Math.floor(share * LEVELS))].push(row);
    }
    buckets.forEach((rows, level) => {
      const share = level / (LEVELS - 1);
      pen.fillStyle = `rgb(${colour(share)})`;
      pen.globalAlpha = picture ? 0.08 + 0.72 * share * share : 0.3 + 0.7 * share;
      for (const row of rows) {
        const [left, top] = [x(boxes[4 * row]), y(boxes[4 * row + 3])];
        const [wide, high] = [x(boxes[4 * row + 2]) - left, y(boxes[4 * row + 1]) - top];
        const grown = Math.max(0, 2.5 - wide) / 2;
        pen.fillRect(left - grown, top - grown, wide + 2 * grown, high + 2 * grown);
      }
    });
    pen.globalAlpha = 1;
  }

  function mark(pen, row, text, ground, ink) {
    const [west, south, east, north] = boxes.subarray(4 * row, 4 * row + 4);
    const [across, down] = [x((west + east) / 2), y((south + north) / 2)];
    pen.beginPath();
    pen.arc(across, down, 9, 0, 7);
    [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [ground, ink, 1];
    pen.fill();
    pen.stroke();
    pen.fillStyle = ink;
    pen.font = "bold 11px sans-serif";
    pen.fillText(text, across, down + 0.5);
  }

  // The chip under a place of the screen: the best of several
  function chipAt(across, down) {
    let found = -1;
    let least = Infinity;
    for (let row = 0; row < site.count; row++) {
      const [west, south, east, north] = boxes.subarray(4 * row, 4 * row + 4);
      const away = Math.hypot(
        Math.max(x(west) - across, 0, across - x(east)),
        Math.max(y(north) - down, 0, down - y(south)),
      );
      const better = away < least || (away === least && drawn.scores && drawn.scores[row] > drawn.scores[found]);
      if (away <= 12 && better) [found, least] = [row, away];
    }
    return found;
  }

  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = { x: event.offsetX, y: event.offsetY, lon: view.lon, lat: view.lat, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [across, down] = [event.offsetX - held.x, event.offsetY - held.y];
    held.moved ||= Math.hypot(across, down) > 4;
    if (!held.moved) return;
    view.lon = held.lon - across / narrow / view.zoom;
    view.lat = held.lat + down / view.zoom;
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    const row = held && !held.moved ? chipAt(event.offsetX, event.offsetY) : -1;
    held = null;
    if (row >= 0) onChoose(row);
  });
  canvas.addEventListener("pointercancel", () => (held = null));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return; // the page scrolls
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, [event.offsetX, event.offsetY]);
    },
    { passive: false },
  );
  new ResizeObserver(draw).observe(canvas);
  whole();
  return {
    whole,
    zoom,
    show(values) {
      drawn = { ...drawn, ...values };
      draw();
    },
  };
}
