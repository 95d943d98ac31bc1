// node tokenize.mjs FOLDER: ids of the texts in its given.json, and whether they were cut, by the page's script and the library, both there.
import { readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const at = (name) => path.resolve(process.argv[2], name);
const [{ makeTokenizer }, { Tokenizer }] = await Promise.all(["texts.js", "tokenizers.js"].map((name) => import(pathToFileURL(at(name)))));
const { tokenizer, facts, texts } = JSON.parse(readFileSync(at("given.json"), "utf8"));
const tokenize = makeTokenizer(Tokenizer, tokenizer, facts);
process.stdout.write(JSON.stringify(texts.map((text) => Object.values(tokenize(text)))));
