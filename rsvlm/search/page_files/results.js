// The best chips as files: GeoJSON for a GIS, CSV for a table.

import { inTurn } from "./dom.js";
import { polygon } from "./labels.js";

function recordOf(site, { scores, probabilities, labels }, row, rank) {
  const record = { rank, score: Number(scores[row].toFixed(4)) };
  if (probabilities) record.confidence = Number(probabilities[row].toFixed(4));
  record.label = labels.get(row) ?? "";
  return { ...record, key: site.key(row), file: site.file(row), model: site.facts.model };
}

export function resultsGeojson(site, answer, rows) {
  const features = rows.map((row, i) => ({
    type: "Feature",
    properties: recordOf(site, answer, row, i + 1),
    geometry: site.placed ? polygon(site, row) : null,
  }));
  return JSON.stringify({ type: "FeatureCollection", features }, null, 1);
}

// A spreadsheet takes a cell that begins with one of these for a formula.
const FORMULA = /^[=+\-@\t\r]/;

function cell(value) {
  const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function resultsCsv(site, answer, rows) {
  const records = rows.map((row, i) => {
    const [lon, lat] = site.placed ? inTurn(site.centre(row)).map((value) => Number(value.toFixed(7))) : ["", ""];
    return { ...recordOf(site, answer, row, i + 1), lon, lat };
  });
  const names = Object.keys(records[0] ?? {});
  const lines = [names, ...records.map(Object.values)].map((values) => values.map(cell).join(","));
  return `${lines.join("\r\n")}\r\n`;
}
