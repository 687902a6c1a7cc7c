// `wasm-tools component embed` and `component new`, as far as the examples use them: the program
// itself is built from Rust's registry in minutes, and these are its parts as modules of npm's.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const place = process.env.WASM_TOOLS; // where scripts/tools.sh has put them
const { $init, tools } = await import(
  pathToFileURL(`${place}/node_modules/@bytecodealliance/jco-transpile/vendor/wasm-tools.js`)
);
await $init;

const [, verb, ...words] = process.argv.slice(2); // component embed|new
const files = [];
const options = {};
while (words.length) {
  const word = words.shift();
  if (word.startsWith("-")) options[word.replace(/^-+/, "")] = words.shift();
  else files.push(word);
}
const made =
  verb === "embed"
    ? tools.componentEmbed({
        binary: readFileSync(files[1]),
        witSource: readFileSync(files[0], "utf8"),
        world: options.world,
      })
    : tools.componentNew(readFileSync(files[0]), []);
writeFileSync(options.o, made);
