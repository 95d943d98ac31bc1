// node tokenize.mjs SCRIPT GIVEN: ids of the texts in a JSON file, and whether they were cut, by the tokenizer of the search page.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [script, given] = process.argv.slice(2);
const { makeTokenizer } = await import(pathToFileURL(script));
const { tokenizer, facts, texts } = JSON.parse(readFileSync(given, "utf8"));
const tokenize = makeTokenizer(tokenizer, facts);
process.stdout.write(JSON.stringify(texts.map((text) => Object.values(tokenize(text)))));
