// Search by text in the browser: tokenizer, text tower, exact ranking, and where in a chip the query is.
// No other host is asked; every address is relative to this file. Text from files is only ever set as text.

// Tokenizer: byte-level BPE, as rsvlm.model.tokenizer trains it, or CLIP's

// The bytes as letters, as tokenizer.json writes them: those that print stand for themselves, the others follow from 256 on.
function byteLetters() {
  const prints = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(prints(b) ? b : next++));
}

// Python's \s is Unicode's White_Space; JavaScript's is not.
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

// CLIP's words: in lower case, letter by letter as the tokenizers library does it, and each cut once more by the rule above.
const CLIP_WORDS =
  /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

function clipWords(text) {
  const letters = Array.from(text.normalize("NFC").replace(/\p{White_Space}+/gu, " "), (letter) => letter.toLowerCase());
  return letters.join("").match(CLIP_WORDS)?.flatMap((part) => part.match(WORDS)) ?? [];
}

// From the parsed tokenizer.json: a function from text to {ids, cut}, at most `context` ids with `bos` and `eos`.
export function makeTokenizer(json, { context, bos, eos }) {
  const vocabulary = json.model.vocab;
  const size = Object.keys(vocabulary).length;
  const end = json.model.end_of_word_suffix ?? ""; // CLIP's words end in it
  const ofByte = byteLetters().map((letter) => vocabulary[letter]);
  const ofLast = byteLetters().map((letter) => vocabulary[letter + end]);
  const wordsOf = end ? clipWords : (text) => (text.startsWith(" ") ? text : " " + text).match(WORDS) ?? [];
  const merges = new Map(); // left · size + right → [rank, id]
  json.model.merges.forEach((merge, rank) => {
    const [left, right] = typeof merge === "string" ? merge.split(" ") : merge;
    merges.set(vocabulary[left] * size + vocabulary[right], [rank, vocabulary[left + right]]);
  });
  const bytes = new TextEncoder();
  const known = new Map();

  function pieces(word) {
    const given = bytes.encode(word);
    let ids = Array.from(given, (b, i) => (i + 1 < given.length ? ofByte : ofLast)[b]);
    for (;;) {
      let best = null;
      let pair = -1;
      for (let i = 0; i + 1 < ids.length; i++) {
        const merge = merges.get(ids[i] * size + ids[i + 1]);
        if (merge && (!best || merge[0] < best[0])) [best, pair] = [merge, ids[i] * size + ids[i + 1]];
      }
      if (!best) return ids;
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        const joins = i + 1 < ids.length && ids[i] * size + ids[i + 1] === pair;
        merged.push(joins ? best[1] : ids[i]);
        if (joins) i++;
      }
      ids = merged;
    }
  }

  return (text) => {
    const ids = [bos];
    let cut = false;
    for (const word of wordsOf(text)) {
      if (!known.has(word)) known.set(word, pieces(word));
      ids.push(...known.get(word).slice(0, context));
      cut = ids.length > context - 1;
      if (cut) break;
    }
    if (known.size > 5000) known.clear();
    return { ids: [...ids.slice(0, context - 1), eos], cut };
  };
}

// Ranking: the exact product with every row; of equal scores the lower row comes first, as in rsvlm.evaluation.embeddings.search

export function scoresOf(query, vectors) {
  const width = query.length;
  return Float32Array.from({ length: vectors.length / width }, (_, row) => {
    let sum = 0;
    for (let i = 0, j = row * width; i < width; i++, j++) sum += query[i] * vectors[j];
    return sum;
  });
}

export function best(scores, k) {
  const rows = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  return rows.slice(0, k);
}

// What each patch of a chip adds to its score; the mean over the patches is the score
export function heatOf(query, patches, row, patchCount, scale) {
  const width = query.length;
  return Float32Array.from({ length: patchCount }, (_, p) => {
    let sum = 0;
    for (let i = 0, j = (row * patchCount + p) * width; i < width; i++, j++) sum += query[i] * patches[j];
    return sum * scale;
  });
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

export function place(lon, lat) {
  if (lon === null || lat === null) return "";
  const part = (value, positive, negative) => `${Math.abs(value).toFixed(1)}° ${value < 0 ? negative : positive}`;
  return `${part(lat, "N", "S")}, ${part(lon, "E", "W")}`;
}

// How much ground a chip shows, from its own resolution and side in pixels.
function length(metres) {
  const [size, unit] = metres >= 999.5 ? [1000, "km"] : metres >= 0.9995 ? [1, "m"] : [0.01, "cm"];
  const value = metres / size;
  return `${value < 9.95 ? Number(value.toFixed(1)) : Math.round(value).toLocaleString("en")} ${unit}`;
}

export function extent(chip) {
  return chip.gsd_m && chip.size_px ? `${length(chip.gsd_m * chip.size_px)} wide, ${length(chip.gsd_m)} to a pixel` : "";
}

// Files

const HERE = new URL("search/", import.meta.url);

async function file(name, files) {
  const entry = files[name];
  // The hash in the address: a file that changed is never taken from a cache.
  const answer = await fetch(new URL(`${name}?${entry.sha256.slice(0, 12)}`, HERE));
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status})`);
  const data = new Uint8Array(await answer.arrayBuffer());
  const inflated = name.endsWith(".gz") && data[0] !== 0x1f; // by a server that says so in a header
  if (data.length !== entry.bytes && !inflated) throw new Error(`${name} has ${data.length} bytes, expected ${entry.bytes}`);
  if (!name.endsWith(".gz") || inflated) return data;
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const text = async (name, files) => JSON.parse(new TextDecoder().decode(await file(name, files)));

// The engine: everything between a query and its scores; it knows nothing of the page

export async function open() {
  const manifest = await (await fetch(new URL("manifest.json", HERE), { cache: "no-cache" })).json();
  const files = manifest.files;
  if (!manifest.runtime) throw new Error("no runtime");
  if (typeof WebAssembly !== "object") throw new Error("no WebAssembly");
  const [ort, wasm, tower, tokens, facts, chips, vectors, pictures] = await Promise.all([
    import(new URL(`ort.js?${files["ort.js"].sha256.slice(0, 12)}`, HERE).href),
    file("ort.wasm.gz", files),
    file("text.onnx", files),
    text("tokenizer.json", files),
    text("gallery.json", files),
    text("chips.json", files),
    file("vectors.bin", files),
    file("pictures.bin", files),
  ]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(tower, { executionProviders: ["wasm"] });
  const tokenize = makeTokenizer(tokens, facts);
  const rows = new Float32Array(vectors.buffer);
  let patches = null;

  return {
    facts,
    chips,
    map: facts.map ? new URL(`map.webp?${files["map.webp"].sha256.slice(0, 12)}`, HERE).href : null,
    async search(query) {
      const { ids, cut } = tokenize(query);
      const given = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
      const vector = (await session.run({ tokens: given })).text_embeddings.data;
      const scores = scoresOf(vector, rows);
      return { vector, scores, hits: best(scores, facts.shown), cut };
    },
    picture(row) {
      const start = row ? chips[row - 1].end : 0;
      return URL.createObjectURL(new Blob([pictures.subarray(start, chips[row].end)], { type: "image/webp" }));
    },
    async heat(vector, row) {
      patches ??= file("patches.bin", files).then((data) => new Int8Array(data.buffer));
      return heatOf(vector, await patches, row, facts.grid[0] * facts.grid[1], chips[row].scale);
    },
  };
}

// The page

const SVG = "http://www.w3.org/2000/svg";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function start(root) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const status = part("status");
  const say = (message) => (status.textContent = message);
  let engine;
  try {
    engine = await open();
  } catch (error) {
    const reasons = {
      "no runtime": "This copy of the book was built without a network, so it holds no engine to search with.",
      "no WebAssembly": "This browser has no WebAssembly, or it is switched off, so the model cannot run here.",
    };
    say(`${reasons[error.message] ?? `The search could not be loaded: ${error.message}.`} Below are answers made in advance.`);
    root.dataset.state = "failed";
    return;
  }
  const { facts, chips } = engine;
  const pictures = new Map();
  const picture = (row) => pictures.get(row) ?? pictures.set(row, engine.picture(row)).get(row);
  const input = part("query");
  let answer = null;
  let asked = 0;
  let chosen = -1;

  // World map: a dot per chip, brighter the better it fits; the hits carry their rank.
  const figure = part("map");
  const dots = [];
  const world = shape("svg", { viewBox: "-180 -90 360 180", role: "img" });
  const marks = shape("g", {});
  if (engine.map) {
    world.append(shape("image", { href: engine.map, x: -180, y: -90, width: 360, height: 180, preserveAspectRatio: "none" }));
    for (const chip of chips) dots.push(chip.lon === null ? null : shape("circle", { cx: chip.lon, cy: -chip.lat, r: 1 }));
    world.append(...dots.filter(Boolean), marks);
    figure.prepend(world);
    new ResizeObserver(drawMap).observe(figure);
  } else figure.remove();

  function drawMap() {
    const unit = 360 / Math.max(world.clientWidth, 1); // a pixel, in degrees
    const low = answer ? Math.min(...answer.scores) : 0;
    const high = answer ? Math.max(...answer.scores) : 1;
    dots.forEach((dot, row) => {
      if (!dot) return;
      const share = answer ? (answer.scores[row] - low) / (high - low || 1) : 0;
      dot.setAttribute("r", unit * (1.4 + 1.6 * share));
      dot.setAttribute("fill", answer ? `rgb(${colour(share)})` : "#fff");
      dot.setAttribute("fill-opacity", answer ? 0.35 + 0.65 * share : 0.6);
    });
    marks.replaceChildren();
    if (!answer) return;
    const places = answer.hits.map((row, i) => `${i + 1}: ${place(chips[row].lon, chips[row].lat)}`);
    world.setAttribute("aria-label", `Map of the world. Where the answers lie: ${places.join("; ")}.`);
    [...answer.hits.entries()].reverse().forEach(([i, row]) => {
      if (!dots[row]) return;
      const { lon, lat } = chips[row];
      const mark = shape("g", { class: row === chosen ? "mark chosen" : "mark", transform: `translate(${lon} ${-lat}) scale(${unit})` });
      const rank = shape("text", { "text-anchor": "middle", dy: "0.35em" });
      rank.textContent = i + 1;
      mark.append(shape("circle", { r: 9 }), rank);
      mark.addEventListener("click", () => choose(row));
      marks.append(mark);
    });
  }

  // Answers
  function drawAnswers() {
    const items = answer.hits.map((row, i) => {
      const where = place(chips[row].lon, chips[row].lat);
      const image = element("img", { src: picture(row), alt: `Chip${where ? ` at ${where}` : ` ${chips[row].key}`}`, width: 64, height: 64 });
      const facts = element(
        "span",
        { className: "facts" },
        element("span", { className: "rank", textContent: i + 1 }),
        element("span", { className: "score", textContent: answer.scores[row].toFixed(3), title: "cosine of query and chip" }),
      );
      const button = element("button", { type: "button" }, image, facts, element("span", { className: "caption", textContent: chips[row].captions[0] ?? "" }));
      button.setAttribute("aria-pressed", row === chosen);
      button.dataset.row = row;
      button.addEventListener("click", () => choose(row, true));
      return element("li", {}, button);
    });
    part("answers").replaceChildren(...items);
  }

  // The chosen chip, and what each of its patches adds to the score
  async function choose(row, show = false) {
    chosen = row;
    const now = asked;
    for (const button of part("answers").querySelectorAll("button")) button.setAttribute("aria-pressed", Number(button.dataset.row) === row);
    if (engine.map) drawMap();
    const { vector, scores, hits } = answer;
    const heat = facts.grid && (await engine.heat(vector, row));
    if (now !== asked || chosen !== row) return;
    if (heat) drawHeat(heat);
    const where = place(chips[row].lon, chips[row].lat);
    const photo = part("photo");
    photo.src = picture(row);
    photo.alt = `Chip${where ? ` at ${where}` : ` ${chips[row].key}`}`;
    const told = [where, extent(chips[row])].filter(Boolean).join("; ");
    part("title").textContent = `Answer ${hits.indexOf(row) + 1}${told ? `: ${told}` : ""}`;
    part("sum").textContent = scores[row].toFixed(3);
    const [first, ...others] = chips[row].captions;
    part("caption").textContent = first ?? "";
    part("captions").replaceChildren(...others.map((caption) => element("li", { textContent: caption })));
    part("captions").parentElement.hidden = !others.length;
    part("chip").hidden = false;
    if (show) {
      part("chip").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      say(`${part("title").textContent}. ${heat ? part("heat").getAttribute("aria-label") : ""}`);
    }
  }

  function drawHeat(heat) {
    const [h, w] = facts.grid;
    const low = Math.min(...heat);
    const high = Math.max(...heat);
    const small = element("canvas", { width: w, height: h });
    const pixels = new ImageData(w, h);
    heat.forEach((value, p) => pixels.data.set([...colour((value - low) / (high - low || 1)), 255], 4 * p));
    small.getContext("2d").putImageData(pixels, 0, 0);
    const canvas = part("heat");
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    const [y, x] = [Math.floor(heat.indexOf(high) / w), heat.indexOf(high) % w];
    const third = (at, all, names) => names[Math.min(Math.floor((3 * at) / all), 2)];
    const corner = `${third(y, h, ["top", "middle", "bottom"])} ${third(x, w, ["left", "centre", "right"])}`;
    canvas.setAttribute("aria-label", `Heat map over the chip: the query is strongest at the ${corner}.`);
    part("low").textContent = low.toFixed(2);
    part("high").textContent = high.toFixed(2);
  }

  // Where patches add up to nothing, as in a CLIP, there is no heat map, nor what explains it.
  for (const name of facts.grid ? [] : ["sum", "low", "opacity"]) part(name).parentElement.hidden = true;
  part("heat").hidden = !facts.grid;
  part("opacity").addEventListener("input", (event) => (part("heat").style.opacity = event.target.value / 100));

  async function ask(query) {
    const mine = ++asked;
    if (!query.trim()) {
      say("Type what you are looking for, or take one of the examples.");
      return;
    }
    const begun = performance.now();
    try {
      const found = await engine.search(query);
      if (mine !== asked) return; // a newer query is on its way
      answer = found;
    } catch (error) {
      say(`The query could not be answered: ${error.message}`);
      return;
    }
    chosen = answer.hits[0];
    drawAnswers();
    if (engine.map) drawMap();
    const took = performance.now() - begun;
    root.dataset.took = took;
    root.dataset.first ??= performance.now(); // since the page was asked for
    root.dataset.hits = answer.hits.join(" ");
    root.dataset.query = query;
    const cut = answer.cut ? ` The text was cut to ${facts.context} tokens.` : "";
    say(`The best ${answer.hits.length} of ${facts.images} chips, found in ${Math.max(1, Math.round(took))} ms.${cut}`);
    if (query.length < 500) history.replaceState(null, "", `?q=${encodeURIComponent(query)}`);
    await choose(chosen);
    root.dataset.state = "answered";
  }

  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => ask(input.value), 180);
  });
  part("form").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    ask(input.value);
  });
  for (const example of facts.examples) {
    const button = element("button", { type: "button", textContent: example });
    button.addEventListener("click", () => {
      input.value = example;
      ask(example);
    });
    part("examples").append(button);
  }
  part("form").hidden = part("live").hidden = false;
  root.dataset.state = "ready";
  input.value = new URLSearchParams(location.search).get("q") || input.value || facts.examples[0] || "";
  await ask(input.value);
}

const page = globalThis.document?.getElementById("rsvlm-search");
if (page) start(page);
