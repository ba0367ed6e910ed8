// Builds ../pages of src/. With --tests, build/tests.mjs of tests/ instead.
import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";

const shared = { bundle: true, target: "es2022", jsx: "automatic", jsxImportSource: "preact", logLevel: "warning" };

if (process.argv.includes("--tests")) {
  await build({ ...shared, entryPoints: ["tests/all.ts"], outfile: "build/tests.mjs", platform: "node", format: "esm" });
} else {
  const pages = "../pages";
  await mkdir(pages, { recursive: true });
  const minified = { ...shared, minify: true, legalComments: "none", charset: "utf8" };
  await build({ ...minified, entryPoints: ["src/app.tsx"], outfile: `${pages}/app.js`, format: "iife" });
  await build({ ...minified, entryPoints: ["src/alone.ts"], outfile: `${pages}/alone.js`, format: "iife" });
  await build({ ...minified, entryPoints: ["src/widget.ts"], outfile: `${pages}/widget.js`, format: "esm" });
  for (const name of ["app.css", "heat.css"]) await build({ ...minified, entryPoints: [`src/${name}`], outfile: `${pages}/${name}` });
  for (const file of ["index.html", "icon.svg"]) await copyFile(`src/${file}`, `${pages}/${file}`);
}
