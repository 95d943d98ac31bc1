// Paths are seen from the root of the repository, where `make lint` starts it.
import js from "@eslint/js";
import globals from "globals";

const rules = {
  ...js.configs.recommended.rules,
  curly: ["error", "multi-line"],
  eqeqeq: "error",
  "no-implicit-globals": "off", // a script of a figure is put into a function of its own
  "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
  "no-var": "error",
  "prefer-const": "error",
};

export default [
  { ignores: ["book/_static/search/**", "**/node_modules/**"] }, // not ours
  { linterOptions: { reportUnusedDisableDirectives: "error" }, rules },
  {
    files: ["rsvlm/**/*.js"],
    languageOptions: { sourceType: "script", globals: { ...globals.browser, L: "readonly", module: "writable" } },
  },
  { files: ["rsvlm/search/page_files/*.js"], languageOptions: { sourceType: "module", globals: globals.browser } },
  { files: ["book/_static/book.js"], languageOptions: { sourceType: "script", globals: globals.browser } },
  { files: ["tests/js/*.js"], languageOptions: { sourceType: "commonjs", globals: globals.node } },
  { files: ["tests/js/*.mjs"], languageOptions: { sourceType: "module", globals: globals.node } },
];
