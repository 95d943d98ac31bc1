// The page: what is asked, what it finds, what is said of it.

import { makeChosen } from "./chosen.js";
import { download, element, part } from "./dom.js";
import { labelled, labelsGeojson, makeHistory, MOST_BYTES, readLabels } from "./labels.js";
import { makeLearner } from "./learning.js";
import { makeMap } from "./map.js";
import { best, rowOf, unit } from "./ranking.js";
import { resultsCsv, resultsGeojson } from "./results.js";
import { openSite } from "./site.js";
import { makeStrip } from "./strip.js";
import { openTexts } from "./texts.js";

const root = document.getElementById("rsvlm-search");
const of = (name) => part(root, name);
const say = (message) => (of("status").textContent = message);

const served = "“rsvlm search serve” shows it with a model that reads them.";

// A page of the book that shows this one as a part of itself has the text in its address.
const shell = globalThis.rsvlmShell ?? window;

const EMPTY = { text: "", like: [], labels: new Map() };

async function start() {
  say("Loading …"); // until now the page said what to do where its scripts may not run
  let site;
  try {
    site = await openSite();
  } catch (error) {
    root.dataset.state = "failed";
    say(`The search could not be loaded: ${error.message}. Below are answers made in advance.`);
    return;
  }
  of("live").hidden = false;
  run(site);
}

function run(site) {
  const { facts } = site;
  const texts = openTexts(site);
  const learner = makeLearner(site);
  const history = makeHistory(EMPTY);
  const input = of("query");
  const page = Math.min(facts.shown, site.count);
  let shown = page;
  let answer = null; // {scores, order, probabilities, labels, next, start, question, …} of the state that is shown
  let chosen = -1;
  let from = null; // the strip in which it was chosen
  let asked = 0;
  let saying = 0;

  const acts = { onLike: like, onChoose: choose, onLabel: (row, label) => setLabel(row, label, false) };
  const strip = makeStrip(of("strip"), site, acts);
  const next = makeStrip(of("next"), site, acts);
  const panel = makeChosen(root, site);
  const map = site.placed ? makeMap(of("canvas"), site, (row) => choose(row)) : (of("map").remove(), null);

  // What is searched for: the mean of the text's direction and of the examples', each of length 1

  async function direction(state) {
    const parts = [];
    let cut = 0;
    if (state.text) {
      const embedded = await texts.embed(state.text);
      parts.push(unit(embedded.vector));
      cut = embedded.cut;
    }
    if (state.like.length) parts.push(meanOf(state.like));
    if (!parts.length) return { start: null, cut };
    return { start: unit(parts.reduce((sum, one) => sum.map((value, i) => value + one[i]))), cut };
  }

  function meanOf(rows) {
    const sum = new Float32Array(site.width);
    for (const row of rows) unit(rowOf(site, row)).forEach((value, i) => (sum[i] += value));
    return unit(sum);
  }

  // Answer the state as it is now, and draw it

  async function update(moved = false) {
    const mine = ++asked;
    const state = history.now;
    const begun = performance.now();
    let begins;
    try {
      begins = await direction(state);
    } catch (error) {
      if (mine === asked) say(`The text could not be read: ${error.message}.`);
      drawQuestion();
      root.dataset.state = "ready";
      return;
    }
    if (mine !== asked) return; // a newer question is on its way
    const key = JSON.stringify([state.text, state.like]);
    answer = { ...learner.answer(begins.start, key, state.labels, shown), labels: state.labels, ...begins, question: key };
    if (!moved || chosen < 0) chosen = answer.order[0];
    draw();
    const took = performance.now() - begun;
    Object.assign(root.dataset, { took, hits: answer.order.slice(0, page).join(" "), text: state.text, state: "answered" });
    root.dataset.changes = asked;
    root.dataset.first ??= performance.now(); // since the page was asked for
    told(took);
  }

  function told(took) {
    const cut = answer.cut ? ` The text is longer than the model reads: it was cut to ${answer.cut} tokens.` : "";
    const what = answer.scores ? "ranked" : "shown as they lie; type a text, or click one";
    say(`${site.count.toLocaleString("en")} chips, ${what}, in ${Math.max(1, Math.round(took))} ms.${cut}`);
  }

  // Drawing

  function draw() {
    const held = document.activeElement?.closest?.("ol.strip"); // its elements may be laid out anew
    drawQuestion();
    drawStrips();
    if (held) focus();
    map?.show({ scores: answer.scores, hits: answer.scores ? answer.order : [], labels: answer.labels, chosen });
    drawChosen();
    drawLearned();
  }

  function drawStrips() {
    const { scores, probabilities, labels } = answer;
    const value = (row) => (probabilities ? `${Math.round(100 * probabilities[row])} %` : scores ? scores[row].toFixed(3) : "");
    const cosine = labels.size ? "score, moved by your labels" : "cosine of the search and the chip";
    const title = probabilities ? "confidence, learned from your labels" : cosine;
    strip.show(answer.order.slice(0, shown), { value, title, labels, chosen });
    next.show(answer.next, { value, title, labels, chosen });
    of("next").hidden = of("next-title").hidden = !answer.next.length;
    of("more").hidden = shown >= site.count;
  }

  function drawQuestion() {
    const { text, like } = history.now;
    const pills = text ? [pill(`“${text}”`, null, () => ask(""))] : [];
    for (const row of like) {
      pills.push(pill(`like ${site.key(row)}`, site.picture(row), () => change({ like: like.filter((one) => one !== row) })));
    }
    of("question").replaceChildren(...(pills.length ? [element("span", { textContent: "Searched for: " }), ...pills] : []));
    of("undo").disabled = !history.length;
    if (document.activeElement !== input) input.value = text;
  }

  function pill(name, picture, remove) {
    const button = element("button", { type: "button", textContent: "✕" });
    button.setAttribute("aria-label", `Remove ${name}`);
    button.addEventListener("click", remove);
    const image = picture ? [element("img", { src: picture, alt: "", width: 24, height: 24 })] : [];
    return element("span", { className: "pill" }, ...image, element("span", { className: "name", textContent: name }), button);
  }

  function drawChosen() {
    panel.show(chosen, answer);
    if (chosen >= 0) root.dataset.chosen = chosen;
  }

  // The sentences cost more than the answer: the page shows that first.
  function drawLearned() {
    const { labels } = answer;
    const mine = answer;
    of("save").disabled = of("clear").disabled = !labels.size;
    if (!labels.size) {
      of("learned").textContent = "Say yes or no to chips, and the order learns from it. Five of each are a good beginning.";
      return;
    }
    clearTimeout(saying);
    saying = setTimeout(() => mine === answer && (of("learned").textContent = learner.said(mine)), 60);
  }

  // Acts

  function change(values, moved = false) {
    history.change(values);
    if ("labels" in values) keep();
    return update(moved);
  }

  function ask(text) {
    shown = page;
    if (text && text.length < 500) shell.history.replaceState(null, "", `?q=${encodeURIComponent(text)}`);
    return change({ text: text.trim() });
  }

  function like(row) {
    const { like: rows } = history.now;
    chosen = row;
    from = strip;
    change({ like: rows.includes(row) ? rows : [...rows, row] }, true);
  }

  function choose(row, list = null) {
    if (list) from = list === of("next") ? next : strip;
    if (row === chosen) return;
    chosen = row;
    if (!answer) return;
    drawStrips();
    drawChosen();
    map?.show({ chosen });
  }

  // With `onwards`, the next chip without a label is chosen: of those to look at next where it was one, else of the ranked ones.
  async function setLabel(row, label, onwards) {
    if (row < 0) return;
    const rows = [...(from === next && next.rows.includes(row) ? next : strip).rows];
    const labels = labelled(history.now.labels, row, label);
    chosen = row;
    if (onwards && labels.has(row)) {
      const at = rows.indexOf(row);
      chosen = [...rows.slice(at + 1), ...rows.slice(0, Math.max(at, 0))].find((one) => !labels.has(one)) ?? row;
    }
    await change({ labels }, true);
  }

  function undo() {
    if (!history.length) return;
    const { labels } = history.now;
    history.undo();
    if (labels !== history.now.labels) keep();
    update(true);
  }

  function step(by) {
    const rows = from === next && next.rows.includes(chosen) ? next.rows : strip.rows;
    const at = rows.indexOf(chosen);
    const row = rows[Math.min(Math.max(at + by, 0), rows.length - 1)];
    if (row === undefined) return;
    choose(row);
    focus();
  }

  const focus = () => (from === next && next.focus(chosen)) || strip.focus(chosen);

  // Labels outlive the page: at the server where there is one, else in this browser.

  const place = `rsvlm labels ${facts.fingerprint}`;

  function keep() {
    const { labels, text } = history.now;
    const saved = labelsGeojson(site, labels, text);
    if (site.manifest.server?.labels) {
      fetch(new URL("../labels", import.meta.url), { method: "PUT", headers: { "content-type": "application/geo+json" }, body: saved })
        .then((told) => told.ok || say(`The labels could not be kept by the server (${told.status}): save them to a file.`))
        .catch(() => say("The server does not answer: save the labels to a file."));
    }
    try {
      localStorage.setItem(place, saved);
    } catch {
      // a browser that keeps nothing: the button still saves
    }
  }

  async function kept() {
    try {
      const server = site.manifest.server?.labels && (await fetch(new URL("../labels", import.meta.url)));
      const saved = server ? await server.text() : localStorage.getItem(place);
      return saved ? readLabels(site, saved).labels : new Map();
    } catch {
      return new Map();
    }
  }

  async function load(chosenFile) {
    try {
      if (chosenFile.size > MOST_BYTES) throw new Error(`it has more than ${MOST_BYTES / 1e6} MB`);
      const { labels, problems } = readLabels(site, await chosenFile.text());
      await change({ labels: new Map([...history.now.labels, ...labels]) }, true);
      const left = [...problems].map(([what, count]) => `; ${count} ${what}`).join("");
      say(`${labels.size} labels of ${chosenFile.name}${left}.`);
    } catch (error) {
      say(`${chosenFile.name} holds no labels: ${error.message}.`);
    }
  }

  function results(kind) {
    const count = Math.min(Math.max(Math.round(Number(of("count").value)) || 1, 1), site.count);
    const scored = answer.scores ? answer : { ...answer, scores: new Float32Array(site.count) };
    const rows = best(scored.scores, count);
    if (kind === "csv") download("results.csv", "text/csv", resultsCsv(site, scored, rows));
    else download("results.geojson", "application/geo+json", resultsGeojson(site, scored, rows));
  }

  // Buttons and keys

  const onClick = (name, act) => of(name).addEventListener("click", act);
  onClick("yes", () => setLabel(chosen, "yes", true));
  onClick("no", () => setLabel(chosen, "no", true));
  onClick("like", () => chosen >= 0 && like(chosen));
  onClick("undo", undo);
  onClick("save", () => download("labels.geojson", "application/geo+json", labelsGeojson(site, history.now.labels, history.now.text)));
  onClick("clear", () => change({ labels: new Map() }, true));
  onClick("geojson", () => results("geojson"));
  onClick("csv", () => results("csv"));
  onClick("in", () => map.zoom(1.6));
  onClick("out", () => map.zoom(1 / 1.6));
  onClick("whole", () => map.whole());
  onClick("more", () => {
    shown = Math.min(shown + 2 * page, site.count);
    update(true);
  });
  of("load").addEventListener("change", async (event) => {
    const [chosenFile] = event.target.files;
    if (chosenFile) await load(chosenFile);
    event.target.value = ""; // the same file can be loaded again
  });

  const KEYS = { y: () => setLabel(chosen, "yes", true), n: () => setLabel(chosen, "no", true), u: undo };
  Object.assign(KEYS, { ArrowRight: () => step(1), ArrowLeft: () => step(-1) });
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input:not([type=checkbox]), select, textarea");
    if (writing || event.altKey || !answer) return;
    const back = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    const act = back ? undo : event.ctrlKey || event.metaKey || !of("keys").checked ? null : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => ask(input.value), 250);
  });
  input.addEventListener("focus", () => texts.warm());
  of("form").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    ask(input.value);
  });
  for (const { text } of facts.examples) {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", () => {
      input.value = text;
      ask(text);
    });
    of("examples").append(button);
  }
  of("form").hidden = !texts.any;
  of("mute").hidden = texts.any;
  if (!texts.any) of("mute").textContent = `This page reads no texts (${facts.no_texts}): take an example or a chip. ${served}`;

  // The first answer: the text of the address, else the first example, whose vector lies in the index

  async function first() {
    const wanted = new URLSearchParams(shell.location.search).get("q")?.trim() || facts.examples[0]?.text || "";
    history.begin({ text: wanted, labels: await kept() });
    input.value = wanted;
    root.dataset.state = "ready";
    await update();
    document.getElementById("search-static").hidden = true;
    if (texts.any) setTimeout(() => texts.warm(), 50);
  }

  first();
}

start();
