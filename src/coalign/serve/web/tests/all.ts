// What is computed without a browser: decoding, choosing, scales, places, lassos, addresses.
import assert from "node:assert/strict";
import { test } from "node:test";
import { query } from "../src/api";
import { asMultiples, colour, css, decode, extent, fitted, placeAt, placeBox, rowsOf, sameWords, strength, svg, values, wordsAt, type Said } from "../src/heat";
import { inSight } from "../src/grid";
import { csv } from "../src/save";
import { cloudSvg, drawSquares, inside, nearest, parseCloud, toMap, toScreen } from "../src/scatter";
import { parse } from "../src/state";
import { weightsOf } from "../src/streams";
import { fromBase64 } from "../src/viewer";

const said: Said = {
  words: ["red", "boat"], method: "cross_attention", methods: ["cross_attention"], kind: "grid", grid: [1, 3], boxes: null,
  box: [0, 0, 1, 1], layers: 1, heads: 2, places: 3,
};

// rows: 2 words of the method's own map, then 2 heads of 2 words
function packed(rows: number[][]): ArrayBuffer {
  const bytes = new ArrayBuffer(rows.length * (8 + rows[0]!.length));
  rows.forEach((row, i) => {
    const [low, high] = [Math.min(...row), Math.max(...row)];
    new Float32Array(bytes, 8 * i, 2).set([low, high]);
    new Uint8Array(bytes, 8 * rows.length + i * row.length).set(row.map((v) => Math.round(((v - low) / (high - low || 1)) * 255)));
  });
  return bytes;
}

const ROWS = [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]];
const maps = decode(said, packed(ROWS));
const near = (a: ArrayLike<number>, b: number[]): void =>
  b.forEach((value, i) => assert.ok(Math.abs(a[i]! - value) < 0.004, `${Array.from(a)} is not ${b}`));

test("a choice is the mean of its rows", () => {
  near(values(maps, { layer: -1, head: -1, words: [0] }), [0, 1, 0]);
  near(values(maps, { layer: -1, head: -1, words: [] }), [0, 0.5, 0.5]);
  near(values(maps, { layer: 0, head: 1, words: [0] }), [0, 0, 1]);
  near(values(maps, { layer: 0, head: -1, words: [1] }), [0.25, 0.75, 0.25]);
  assert.deepEqual(rowsOf(maps, { layer: 0, head: 1, words: [1] }), [5]);
  assert.deepEqual(rowsOf(maps, { layer: 7, head: 0, words: [1] }), [1]); // no such layer: the method's own
});

test("a flat row keeps its value", () => near(values(maps, { layer: 0, head: 1, words: [1] }), [0.5, 0.5, 0.5]));
test("a place says which words draw on it", () => near(wordsAt(maps, { layer: -1, head: -1, words: [1] }, 1), [1, 0]));
test("bytes of another size are refused", () => assert.throws(() => decode(said, new ArrayBuffer(5))));

test("1,024 patches by 40 words by 144 heads are drawn from in less than 16 ms a hover", () => {
  const large: Said = { ...said, words: Array(40).fill("word"), grid: [32, 32], layers: 12, heads: 12, places: 1024 };
  const rows = 40 * 145;
  const whole = decode(large, new ArrayBuffer(rows * (8 + 1024)));
  assert.equal(whole.levels.length, rows * 1024);
  values(whole, { layer: 3, head: -1, words: [7] });
  const start = performance.now();
  for (let i = 0; i < 20; i++) values(whole, { layer: i % 12, head: -1, words: [i] });
  assert.ok((performance.now() - start) / 20 < 16);
});

test("multiples are of an even share, whatever the unit", () => {
  const multiples = asMultiples(Float32Array.from([1, 3]));
  near(multiples, [0.5, 1.5]);
  near(asMultiples(Float32Array.from([10, 30])), [0.5, 1.5]);
  near(asMultiples(Float32Array.from([0, 0])), [1, 1]);
});

test("strength lies within 0 and 1", () => {
  const scale = extent([Float32Array.from([1, 2]), Float32Array.from([3])]);
  assert.deepEqual(scale, { low: 1, high: 3 });
  assert.deepEqual([0, 1, 2, 3, 9].map((v) => strength(v, scale)), [0, 0, 0.5, 1, 1]);
  assert.equal(strength(5, { low: 5, high: 5 }), 0);
});

test("colours get darker", () => {
  const light = [0, 0.25, 0.5, 0.75, 1].map((level) => colour(level).reduce((a, b) => a + b));
  assert.deepEqual(light, [...light].sort((a, b) => b - a));
  assert.equal(css(0), "rgb(255,243,214)");
});

test("places of grids and boxes", () => {
  const grid: Said = { ...said, grid: [2, 2], places: 4, box: [0.5, 0, 1, 1] };
  assert.deepEqual(placeBox(grid, 3), [0.75, 0.5, 1, 1]);
  assert.equal(placeAt(grid, 0.8, 0.6), 3);
  assert.equal(placeAt(grid, 0.2, 0.6), -1);
  const boxes: Said = { ...said, kind: "boxes", boxes: [[0, 0, 1, 1], [0.4, 0.4, 0.6, 0.6]], grid: null };
  assert.equal(placeAt(boxes, 0.5, 0.5), 1);
  assert.equal(placeAt(boxes, 0.1, 0.5), 0);
});

test("SVG holds a rectangle a place and nothing that was not escaped", () => {
  const drawn = svg(maps, Float32Array.from([0, 1, 0]), { low: 0, high: 1 }, 'x"<script>', 30, 10);
  assert.equal(drawn.match(/<rect /g)!.length, 4);
  assert.ok(!drawn.includes("<script") && drawn.includes("&quot;&lt;script&gt;"));
});

test("a lasso takes the points within it", () => {
  const bytes = new ArrayBuffer(4 * 12);
  new Int32Array(bytes, 0, 4).set([7, 8, 9, 10]);
  new Float32Array(bytes, 16).set([0.1, 0.1, 0.5, 0.5, 0.9, 0.9, 0.5, 0.9]);
  const cloud = parseCloud(bytes, 4);
  assert.deepEqual(inside(cloud, [[0, 0], [0.6, 0], [0.6, 0.6], [0, 0.6]]), [7, 8]);
  assert.deepEqual(inside(cloud, [[0, 0], [1, 1]]), []);
  const view = { x: 0.2, y: 0.1, scale: 3 };
  const [x, y] = toScreen(view, 700, 0.5, 0.5);
  const back = toMap(view, 700, x, y);
  assert.ok(Math.abs(back[0] - 0.5) < 1e-6 && Math.abs(back[1] - 0.5) < 1e-6);
  assert.equal(nearest(cloud, view, 700, x + 3, y, 12), 1);
  assert.equal(nearest(cloud, view, 700, x + 300, y, 12), -1);
});

test("many points are squares of pixels, the pale ones under the others, those outside not at all", () => {
  const cloud = { rows: Int32Array.from([7, 8, 9]), places: Float32Array.from([0.5, 0.5, 0.5, 0.5, 5, 5]) };
  const pixels = new Uint32Array(100 * 100);
  const whole = { x: 0, y: 0, scale: 1 };
  drawSquares(pixels, 100, cloud, whole, Uint8Array.from([1, 0, 0]), new Set([7]), 2);
  const drawn = [...pixels.keys()].filter((i) => pixels[i]);
  assert.deepEqual(drawn, [4949, 4950, 5049, 5050]);
  assert.ok(drawn.every((i) => pixels[i] === 0xe62e77e8)); // the second colour, though row 8 comes later: it is not chosen
});

test("of many cards those in sight are there, and room for the others", () => {
  assert.deepEqual(inSight(100_000, 5, 300, 0, 900), { first: 0, last: 25, before: 0, after: 300 * 19_995 });
  assert.deepEqual(inSight(100_000, 5, 300, 300_000, 300_900), { first: 4990, last: 5025, before: 299_400, after: 300 * 18_995 });
  assert.deepEqual(inSight(7, 5, 300, -200, 700), { first: 0, last: 7, before: 0, after: 0 });
  assert.deepEqual(inSight(7, 5, 300, 5000, 6000), { first: 5, last: 7, before: 300, after: 0 });
  assert.deepEqual(inSight(0, 5, 300, 0, 900), { first: 0, last: 0, before: 0, after: 0 });
  assert.equal(inSight(10 ** 8, 2, 300, 0, 900).after, 300 * 49_995); // as far as a browser lays out
});

test("addresses", () => {
  assert.equal(query({ a: "x y", b: "", c: null, d: true, e: false, f: ["1", "2"] }), "a=x+y&d=1&f=1&f=2");
  assert.deepEqual(parse("?screen=why&text=a%26b"), { screen: "why", text: "a&b" });
  assert.deepEqual([...new Uint8Array(fromBase64("AQL/"))], [1, 2, 255]);
});

test("attention between streams, direction by direction", () => {
  const said = {
    streams: { text: 1, audio: 2 },
    directions: [
      { target: "text", source: "audio", layers: 1, heads: 2, most: 1 },
      { target: "audio", source: "text", layers: 1, heads: 1, most: 0.5 },
    ],
  };
  const data = Uint8Array.from([255, 0, 0, 255, 255, 51]);
  near(weightsOf(said, data, 0, -1, -1), [0.5, 0.5]);
  near(weightsOf(said, data, 0, 0, 1), [0, 1]);
  near(weightsOf(said, data, 1, -1, -1), [0.5, 0.1]);
});

test("answers as CSV: nothing that a spreadsheet computes", () => {
  assert.equal(csv(["=a"], [["=HYPERLINK(1)"], ["@SUM(A1)"], ["-1.5"], [-2], ["+49 1"]]), "'=a\r\n'=HYPERLINK(1)\r\n'@SUM(A1)\r\n-1.5\r\n-2\r\n'+49 1\r\n");
});

test("answers as CSV: quotes where a value needs them", () => {
  assert.equal(csv(["row", "text"], [[1, 'a "b", c'], [2, null], [3, "two\nlines"]]), 'row,text\r\n1,"a ""b"", c"\r\n2,\r\n3,"two\nlines"\r\n');
});

test("the map as SVG: a path a colour, the pale ones first", () => {
  const cloud = { rows: Int32Array.from([7, 8, 9]), places: Float32Array.from([0.5, 0.5, 0.25, 0.5, 5, 5]) };
  const drawn = cloudSvg(cloud, { x: 0, y: 0, scale: 1 }, 100, Uint8Array.from([1, 0, 0]), new Set([7]));
  assert.deepEqual([...drawn.matchAll(/stroke="(#\w+)" d="([^"]+)"/g)].map((found) => found.slice(1)), [["#9d9da8", "M26.5 50.0h0"], ["#e8772e", "M50.0 50.0h0"]]);
});

test("a word of one system is found among another's, which divides or leaves out", () => {
  const [whole, parts, known] = [["a", "red-haired", "cat", "."], ["a", "red", "-", "haired", "cat", "."], ["cat"]];
  const text = "A red-haired cat.";
  assert.deepEqual(sameWords(text, whole, parts, [1]), [1, 2, 3]);
  assert.deepEqual(sameWords(text, parts, whole, [2, 4]), [1, 2]);
  assert.deepEqual(sameWords(text, whole, known, [2]), [0]);
  assert.deepEqual(sameWords(text, whole, known, [1]), []);
  assert.deepEqual(sameWords(text, parts, [...parts], [5]), [5]);
});

test("maps of fewer layers and heads are shown at their last layer, over all heads", () => {
  assert.deepEqual(fitted(maps, { layer: 5, head: 7, words: [1] }), { layer: 0, head: -1, words: [1] });
  assert.deepEqual(fitted(maps, { layer: 0, head: 1, words: [] }), { layer: 0, head: 1, words: [] });
});
