// Builds ../pages and the viewer's files in analysis/runs/pages of src/. With --tests, build/tests.mjs of tests/ instead.
import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";

const shared = { bundle: true, target: "es2022", jsx: "automatic", jsxImportSource: "preact", logLevel: "warning" };

if (process.argv.includes("--tests")) {
  await build({ ...shared, entryPoints: ["tests/all.ts"], outfile: "build/tests.mjs", platform: "node", format: "esm" });
} else {
  const pages = "../pages";
  const viewer = "../../analysis/runs/pages"; // what reports, pages that stand alone and notebooks draw with
  for (const folder of [pages, viewer]) await mkdir(folder, { recursive: true });
  const minified = { ...shared, minify: true, legalComments: "none", charset: "utf8" };
  await build({ ...minified, entryPoints: ["src/app.tsx"], outfile: `${pages}/app.js`, format: "iife" });
  await build({ ...minified, entryPoints: ["src/app.css"], outfile: `${pages}/app.css` });
  await build({ ...minified, entryPoints: ["src/alone.ts"], outfile: `${viewer}/alone.js`, format: "iife" });
  await build({ ...minified, entryPoints: ["src/widget.ts"], outfile: `${viewer}/widget.js`, format: "esm" });
  for (const name of ["alone.css", "heat.css"]) await build({ ...minified, entryPoints: [`src/${name}`], outfile: `${viewer}/${name}` });
  for (const file of ["index.html", "icon.svg"]) await copyFile(`src/${file}`, `${pages}/${file}`);
}
