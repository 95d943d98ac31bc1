// A text as {vector, cut}: by the tower in this page, or by the server behind it. `cut` is to how many tokens it was cut, or 0.
// Vectors of the examples lie in the index.

import { addressOf, file, json } from "./site.js";

// What BERT makes of a text before it cuts words: the library leaves accents of some scripts, and knows fewer signs
const SIGNS = "\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b81f}\\u{2b920}-\\u{2ceaf}\\u{2f800}-\\u{2fa1f}";
function ofBert(text) {
  const clean = text.replace(/(?![\t\n\r])[\p{C}\ufffd]/gu, "").replace(/\p{White_Space}/gu, " ");
  const apart = clean.replace(new RegExp(`[${SIGNS}]`, "gu"), " $& ");
  const plain = apart.normalize("NFD").replace(/\p{Mn}/gu, "");
  return Array.from(plain, (letter) => letter.toLowerCase()).join("");
}

// The tokenizer of the model, by the library; what is cut is told
export function makeTokenizer(Tokenizer, rules, { context, bos, eos }) {
  // A text that spells a special token is text, and both ends are put on here.
  const isBert = rules.normalizer?.type === "BertNormalizer";
  const own = isBert ? { normalizer: null } : {};
  const inner = new Tokenizer({ ...rules, ...own, added_tokens: [], post_processor: null, truncation: null, padding: null }, {});
  const lowers = JSON.stringify(rules.normalizer ?? null).includes('"Lowercase"');
  return (text) => {
    const short = text.slice(0, 20_000); // far more than any model reads
    // Letter by letter, as in Python: JavaScript lowers a Σ at the end of a word to another letter.
    const written = isBert ? ofBert(short) : lowers ? Array.from(short.normalize("NFC"), (letter) => letter.toLowerCase()).join("") : short;
    const { ids } = inner.encode(written, { add_special_tokens: false });
    return { ids: [bos, ...ids.slice(0, context - 2), eos], cut: ids.length > context - 2 ? context : 0 };
  };
}

export function openTexts({ manifest, facts }) {
  const known = new Map(facts.examples.map(({ text, vector, cut = 0 }) => [text, { vector: Float32Array.from(vector), cut }]));
  let tower = null;
  const open = manifest.server?.texts ? server : manifest.tower ? browser : null;
  return {
    any: open !== null,
    // The tower is fetched once, when the first text asks for it, or earlier.
    warm: () => open && (tower ??= open(manifest, facts)).catch(() => {}),
    async embed(text) {
      if (known.has(text)) return known.get(text);
      if (!open) throw new Error("this page has no text half of the model");
      tower ??= open(manifest, facts);
      tower.catch(() => (tower = null)); // the next text tries again
      const answer = await (await tower)(text);
      if (known.size > 500) known.clear();
      known.set(text, answer);
      return answer;
    },
  };
}

async function browser({ files }, facts) {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly, or it is switched off");
  const [ort, { Tokenizer }, wasm, graph, rules] = await Promise.all([
    import(addressOf("ort.js", files["ort.js"])),
    import(addressOf("tokenizers.js", files["tokenizers.js"])),
    file("ort.wasm.gz", files),
    file("text.onnx", files),
    json("tokenizer.json", files),
  ]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const tokenize = makeTokenizer(Tokenizer, rules, facts.tower);
  return async (text) => {
    const { ids, cut } = tokenize(text);
    const given = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    return { vector: Float32Array.from((await session.run({ tokens: given })).text_embeddings.data), cut };
  };
}

async function server() {
  return async (text) => {
    const asked = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ text }) };
    const answer = await fetch(new URL("../ask", import.meta.url), asked);
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.error ?? `the server answered ${answer.status}`);
    return { vector: Float32Array.from(told.vector), cut: told.cut ?? 0 };
  };
}
