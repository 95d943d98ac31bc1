// The modules of the page of an index, as node imports them: copied into a folder whose package says that they are modules.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { pathToFileURL } = require("node:url");

const FROM = path.join(__dirname, "..", "..", "rsvlm", "search", "page_files");

function copied() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "page-files-"));
  for (const name of fs.readdirSync(FROM)) if (name.endsWith(".js")) fs.copyFileSync(path.join(FROM, name), path.join(folder, name));
  fs.writeFileSync(path.join(folder, "package.json"), '{"type": "module"}');
  process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
  return (name) => import(pathToFileURL(path.join(folder, name)));
}

module.exports = { load: copied() };
