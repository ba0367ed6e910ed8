// Alignment maps over a picture: decoding, choosing, scaling, drawing. No framework; used by the server's pages, by the
// page that stands alone and by the notebook's widget.

export interface Said {
  words: string[];
  method: string;
  methods: string[];
  kind: "grid" | "boxes" | "moments";
  grid: [number, number] | null;
  boxes: [number, number, number, number][] | null;
  box: [number, number, number, number];
  layers: number;
  heads: number;
  places: number;
  shares?: number[][] | null;
  layer_names?: string[];
  times?: [number, number][] | null;
}

export interface Maps extends Said {
  scales: Float32Array; // [rows, 2]: least and greatest value of each row
  levels: Uint8Array; // [rows, places]
}

// layer and head: -1 is the method's own map, or the mean over all heads of a layer. No words: the whole sentence.
export interface Choice {
  layer: number;
  head: number;
  words: number[];
}

export interface Scale {
  low: number;
  high: number;
}

export function decode(said: Said, bytes: ArrayBuffer): Maps {
  const rows = said.words.length * (1 + said.layers * said.heads);
  if (bytes.byteLength !== rows * (8 + said.places)) {
    throw new Error(`${bytes.byteLength} bytes are not ${rows} rows of ${said.places} places`);
  }
  return { ...said, scales: new Float32Array(bytes, 0, 2 * rows), levels: new Uint8Array(bytes, 8 * rows) };
}

// The rows that a choice is the mean of.
export function rowsOf(maps: Maps, choice: Choice): number[] {
  const count = maps.words.length;
  const words = choice.words.length ? choice.words.filter((word) => word < count) : [...Array(count).keys()];
  if (choice.layer < 0 || choice.layer >= maps.layers) return words;
  const heads = choice.head < 0 ? [...Array(maps.heads).keys()] : [choice.head];
  return heads.flatMap((head) => words.map((word) => count * (1 + choice.layer * maps.heads + head) + word));
}

// A choice in maps that may have fewer layers and heads than those it was made in: the last layer, all heads.
export function fitted(maps: Said, choice: Choice): Choice {
  return { ...choice, layer: Math.min(choice.layer, maps.layers - 1), head: choice.head < maps.heads ? choice.head : -1 };
}

// Where each word begins and ends in a text, as far as it is found there, in order.
function spans(text: string, words: string[]): ([number, number] | null)[] {
  const whole = text.toLowerCase();
  let from = 0;
  return words.map((word) => {
    const at = whole.indexOf(word.toLowerCase(), from);
    return at < 0 || !word ? null : [at, (from = at + word.length)];
  });
}

// Which of the words `to` are those chosen of `from`, where two systems divide one text differently, or leave words out.
export function sameWords(text: string, from: string[], to: string[], chosen: number[]): number[] {
  if (from.length === to.length && from.every((word, i) => word === to[i])) return chosen;
  const [a, b] = [spans(text, from), spans(text, to)];
  return [...to.keys()].filter((j) => chosen.some((i) => a[i] && b[j] && a[i][0] < b[j][1] && b[j][0] < a[i][1]));
}

// [places] the values of a choice.
export function values(maps: Maps, choice: Choice): Float32Array {
  const found = new Float32Array(maps.places);
  const rows = rowsOf(maps, choice);
  for (const row of rows) {
    const low = maps.scales[2 * row]!;
    const step = (maps.scales[2 * row + 1]! - low) / 255;
    const start = row * maps.places;
    for (let i = 0; i < maps.places; i++) found[i]! += low + step * maps.levels[start + i]!;
  }
  for (let i = 0; i < found.length; i++) found[i]! /= rows.length || 1;
  return found;
}

// [words] how much each word draws on one place, in the map of a choice (its words are not regarded).
export function wordsAt(maps: Maps, choice: Choice, place: number): Float32Array {
  return Float32Array.from(maps.words, (_, word) => {
    const rows = rowsOf(maps, { ...choice, words: [word] });
    const sum = rows.reduce((total, row) => {
      const low = maps.scales[2 * row]!;
      const level = maps.levels[row * maps.places + place] ?? 0;
      return total + low + ((maps.scales[2 * row + 1]! - low) * level) / 255;
    }, 0);
    return sum / (rows.length || 1);
  });
}

// As multiples of what each place would have if all had the same: maps of several runs can then share a scale.
export function asMultiples(own: Float32Array): Float32Array {
  const least = Math.min(0, ...own);
  const sum = own.reduce((total, value) => total + value - least, 0);
  return sum > 0 ? own.map((value) => ((value - least) * own.length) / sum) : own.map(() => 1);
}

export function extent(several: Float32Array[]): Scale {
  let low = Infinity;
  let high = -Infinity;
  for (const own of several) {
    for (const value of own) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? { low, high } : { low: 0, high: 1 };
}

export function strength(value: number, scale: Scale): number {
  return scale.high > scale.low ? Math.min(Math.max((value - scale.low) / (scale.high - scale.low), 0), 1) : 0;
}

// Lightness falls evenly, so strength reads without colour too.
const STOPS: [number, number, number][] = [
  [255, 243, 214],
  [253, 187, 90],
  [238, 108, 59],
  [192, 38, 93],
  [76, 15, 92],
];

export function colour(level: number): [number, number, number] {
  const at = Math.min(Math.max(level, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(at), STOPS.length - 2);
  const [from, to] = [STOPS[i]!, STOPS[i + 1]!];
  return [0, 1, 2].map((part) => Math.round(from[part]! + (at - i) * (to[part]! - from[part]!))) as [
    number,
    number,
    number,
  ];
}

export function css(level: number): string {
  return `rgb(${colour(level).join(",")})`;
}

export type Picture = CanvasImageSource & { width: number; height: number };

// Draws the picture, paled, and the values over it. `mark` is a place that is framed; `opacity` 0 leaves the picture.
export function draw(
  canvas: HTMLCanvasElement,
  picture: Picture | null,
  maps: Maps,
  own: Float32Array | null,
  scale: Scale,
  mark = -1,
  opacity = 1,
): void {
  const context = canvas.getContext("2d")!;
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = true;
  if (picture) context.drawImage(picture, 0, 0, width, height);
  if (own && opacity > 0) {
    // most of the picture's own colour goes, so that colour stands for the map
    context.globalCompositeOperation = "saturation";
    context.fillStyle = `rgba(128,128,128,${0.8 * opacity})`;
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = `rgba(255,255,255,${0.4 * opacity})`;
    context.fillRect(0, 0, width, height);
    context.globalAlpha = opacity;
    if (maps.kind === "boxes") drawBoxes(context, picture, maps, own, scale, opacity);
    else drawGrid(context, maps, own, scale);
    context.globalAlpha = 1;
  }
  if (mark >= 0) {
    const [x1, y1, x2, y2] = placeBox(maps, mark);
    context.lineWidth = Math.max(width / 150, 2);
    context.strokeStyle = "#0a58ca";
    context.strokeRect(x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height);
  }
}

function drawGrid(context: CanvasRenderingContext2D, maps: Maps, own: Float32Array, scale: Scale): void {
  const [rows, columns] = maps.grid!;
  const { width, height } = context.canvas;
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  const pixels = small.getContext("2d")!.createImageData(columns, rows);
  for (let i = 0; i < own.length; i++) {
    const level = strength(own[i]!, scale);
    pixels.data.set([...colour(level), Math.round(204 * level ** 0.8)], 4 * i);
  }
  small.getContext("2d")!.putImageData(pixels, 0, 0);
  const [x1, y1, x2, y2] = maps.box;
  context.imageSmoothingEnabled = false; // a place is one number: smooth transitions would be made up
  context.drawImage(small, x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height);
}

function drawBoxes(
  context: CanvasRenderingContext2D,
  picture: Picture | null,
  maps: Maps,
  own: Float32Array,
  scale: Scale,
  opacity: number,
): void {
  const { width, height } = context.canvas;
  const order = [...own.keys()].sort((a, b) => own[a]! - own[b]!); // the strongest last, over the others
  for (const place of order) {
    const [x1, y1, x2, y2] = maps.boxes![place]!;
    const [x, y, w, h] = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height];
    const level = strength(own[place]!, scale);
    if (picture && place === order[order.length - 1] && w >= 1 && h >= 1) {
      const [sx, sy] = [picture.width / width, picture.height / height];
      context.globalAlpha = 1;
      context.drawImage(picture, x * sx, y * sy, w * sx, h * sy, x, y, w, h);
    }
    context.globalAlpha = opacity * (0.3 + 0.7 * level); // weak boxes are thin and pale, so that the strong ones are seen
    context.lineWidth = (Math.min(width, height) / 60) * (0.35 + 0.65 * level);
    context.strokeStyle = css(level);
    context.strokeRect(x, y, w, h);
  }
}

// x1, y1, x2, y2 of a place in fractions of the picture.
export function placeBox(maps: Said, place: number): [number, number, number, number] {
  if (maps.kind === "boxes") return maps.boxes![place]!;
  const [rows, columns] = maps.grid!;
  const [x1, y1, x2, y2] = maps.box;
  const [row, column] = [Math.floor(place / columns), place % columns];
  const [w, h] = [(x2 - x1) / columns, (y2 - y1) / rows];
  return [x1 + column * w, y1 + row * h, x1 + (column + 1) * w, y1 + (row + 1) * h];
}

// The place under a point (fractions of the picture), -1 where there is none; of boxes the smallest.
export function placeAt(maps: Said, x: number, y: number): number {
  if (maps.kind === "boxes") {
    let best = -1;
    let least = Infinity;
    maps.boxes!.forEach(([x1, y1, x2, y2], place) => {
      const area = (x2 - x1) * (y2 - y1);
      if (x >= x1 && x <= x2 && y >= y1 && y <= y2 && area < least) [best, least] = [place, area];
    });
    return best;
  }
  const [rows, columns] = maps.grid!;
  const [x1, y1, x2, y2] = maps.box;
  const [column, row] = [Math.floor(((x - x1) / (x2 - x1)) * columns), Math.floor(((y - y1) / (y2 - y1)) * rows)];
  return column >= 0 && column < columns && row >= 0 && row < rows ? row * columns + column : -1;
}

// The drawing as SVG: the picture as it is given (an address or a data: URI), a rectangle a place.
export function svg(maps: Maps, own: Float32Array, scale: Scale, picture: string, width: number, height: number): string {
  const parts = [...own.keys()].map((place) => {
    const [x1, y1, x2, y2] = placeBox(maps, place);
    const at = `x="${f(x1 * width)}" y="${f(y1 * height)}" width="${f((x2 - x1) * width)}" height="${f((y2 - y1) * height)}"`;
    const level = strength(own[place]!, scale);
    return maps.kind === "boxes"
      ? `<rect ${at} fill="none" stroke="${css(level)}" stroke-opacity="${f(0.3 + 0.7 * level)}" stroke-width="${f((width / 60) * (0.35 + 0.65 * level))}"/>`
      : `<rect ${at} fill="${css(level)}" fill-opacity="${f(0.8 * level ** 0.8)}"/>`;
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">` +
    `<filter id="pale"><feColorMatrix type="saturate" values="0.2"/></filter>` +
    `<image href="${escaped(picture)}" width="${width}" height="${height}" filter="url(#pale)"/>` +
    `<rect width="${width}" height="${height}" fill="#fff" fill-opacity="0.4"/>${parts.join("")}</svg>`
  );
}

function f(value: number): string {
  return String(Math.round(value * 100) / 100);
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
}
