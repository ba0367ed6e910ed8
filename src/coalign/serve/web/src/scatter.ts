// A map of many points on a canvas: where each is drawn, which one is under the pointer, which lie in a lasso.

export interface Cloud {
  rows: Int32Array;
  places: Float32Array; // [n, 2] in 0 to 1
}

export interface View {
  x: number; // left edge, in the map's units
  y: number;
  scale: number; // 1 shows all
}

export function parseCloud(bytes: ArrayBuffer, count: number): Cloud {
  return { rows: new Int32Array(bytes, 0, count), places: new Float32Array(bytes, 4 * count, 2 * count) };
}

export function toScreen(view: View, side: number, x: number, y: number): [number, number] {
  const margin = 0.03 * side;
  const inner = side - 2 * margin;
  return [margin + (x - view.x) * view.scale * inner, margin + (y - view.y) * view.scale * inner];
}

export function toMap(view: View, side: number, x: number, y: number): [number, number] {
  const margin = 0.03 * side;
  const inner = side - 2 * margin;
  return [(x - margin) / inner / view.scale + view.x, (y - margin) / inner / view.scale + view.y];
}

// Told apart on a light and on a dark ground; the first five also without red and green.
export const PALETTE = ["#3b73c9", "#e8772e", "#7b4fb5", "#2a9d8f", "#d1477a", "#b8901f", "#5aa02c", "#c0392b", "#4aa8d8", "#8b6f4e", "#7a8190", "#a05fbf"];

const PALE = "#9d9da8";
const NONE = 255; // the code of a point that has no value
const SQUARES = 20_000; // points above which they are drawn as squares, pixel by pixel: discs cost a hundred times that

const images = new WeakMap<HTMLCanvasElement, ImageData>();

// The side of a point in pixels.
export function pointSize(side: number, count: number, scale: number): number {
  return Math.max(side / 350, Math.min(side / 70, (side / Math.sqrt(count)) * 0.45 * Math.sqrt(scale)));
}

// `codes` [n] number each point's colour (255: none); of `chosen` rows all others are drawn pale.
export function drawCloud(canvas: HTMLCanvasElement, cloud: Cloud, view: View, codes: Uint8Array | null, chosen: Set<number>): void {
  const context = canvas.getContext("2d")!;
  const side = canvas.width;
  const count = cloud.rows.length;
  const size = pointSize(side, count, view.scale);
  if (count > SQUARES) {
    const image = images.get(canvas) ?? context.createImageData(side, side);
    images.set(canvas, image);
    const pixels = new Uint32Array(image.data.buffer);
    pixels.fill(0);
    drawSquares(pixels, side, cloud, view, codes, chosen, Math.max(Math.round(size), 2));
    context.putImageData(image, 0, 0);
    return;
  }
  context.clearRect(0, 0, side, side);
  context.globalAlpha = 0.8;
  const groups = new Map<number, number[]>(); // one fill style a group: changing it is what costs
  for (let i = 0; i < count; i++) {
    const pale = chosen.size > 0 && !chosen.has(cloud.rows[i]!);
    const code = pale ? 1000 : (codes?.[i] ?? 0);
    let group = groups.get(code);
    if (!group) groups.set(code, (group = []));
    group.push(i);
  }
  for (const [code, members] of [...groups].sort((a, b) => b[0] - a[0])) {
    context.fillStyle = code >= 255 ? `${PALE}99` : PALETTE[code % PALETTE.length]!;
    context.beginPath();
    for (const i of members) {
      const [x, y] = toScreen(view, side, cloud.places[2 * i]!, cloud.places[2 * i + 1]!);
      const own = chosen.has(cloud.rows[i]!) ? 1.8 * size : size;
      if (x < -own || y < -own || x > side + own || y > side + own) continue;
      context.moveTo(x + own / 2, y);
      context.arc(x, y, own / 2, 0, 2 * Math.PI);
    }
    context.fill();
  }
}

// The same as SVG.
export function cloudSvg(cloud: Cloud, view: View, side: number, codes: Uint8Array | null, chosen: Set<number>): string {
  const size = pointSize(side, cloud.rows.length, view.scale);
  const groups = new Map<string, string[]>();
  cloud.rows.forEach((row, i) => {
    const [x, y] = toScreen(view, side, cloud.places[2 * i]!, cloud.places[2 * i + 1]!);
    if (x < -size || y < -size || x > side + size || y > side + size) return;
    const code = chosen.size > 0 && !chosen.has(row) ? NONE : (codes?.[i] ?? 0);
    const colour = code === NONE ? PALE : PALETTE[code % PALETTE.length]!;
    const at = `M${x.toFixed(1)} ${y.toFixed(1)}h0`; // a line without length, whose round end is the point
    const group = groups.get(colour);
    if (group) group.push(at);
    else groups.set(colour, [at]);
  });
  const paths = [...groups].sort(([a], [b]) => Number(b === PALE) - Number(a === PALE)).map(([colour, own]) => `<path stroke="${colour}" d="${own.join("")}"/>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${side} ${side}" width="${side}" height="${side}"><g fill="none" stroke-linecap="round" stroke-opacity="0.8" stroke-width="${size.toFixed(2)}">${paths.join("")}</g></svg>`;
}

const masks = new WeakMap<Set<number>, { cloud: Cloud; mask: Uint8Array }>(); // a set is asked for at each redrawing

// [n] 1 where a point is not of the chosen rows
function notChosen(cloud: Cloud, chosen: Set<number>): Uint8Array {
  const known = masks.get(chosen);
  if (known?.cloud === cloud) return known.mask;
  const mask = Uint8Array.from(cloud.rows, (row) => (chosen.has(row) ? 0 : 1));
  masks.set(chosen, { cloud, mask });
  return mask;
}

// Points as squares into the pixels [side, side] of an image (RGBA, little-endian); the pale ones first, under the others.
export function drawSquares(pixels: Uint32Array, side: number, cloud: Cloud, view: View, codes: Uint8Array | null, chosen: Set<number>, size: number): void {
  const pack = (hex: string, alpha: number): number => ((alpha << 24) | (parseInt(hex.slice(5, 7), 16) << 16) | (parseInt(hex.slice(3, 5), 16) << 8) | parseInt(hex.slice(1, 3), 16)) >>> 0;
  const colours = PALETTE.map((hex) => pack(hex, 230));
  const pale = pack(PALE, 150);
  const [dx, dy] = toScreen(view, side, 0, 0);
  const unit = toScreen(view, side, 1, 0)[0] - dx;
  const { rows, places } = cloud;
  const [x0, y0] = [dx - size / 2 + 0.5, dy - size / 2 + 0.5];
  const others = chosen.size > 0 ? notChosen(cloud, chosen) : null;
  const rounds = others || codes?.includes(255) ? 2 : 1; // alone where nothing is pale
  for (let round = 1; round <= rounds; round++) {
    for (let i = 0; i < rows.length; i++) {
      const left = Math.floor(x0 + places[2 * i]! * unit), top = Math.floor(y0 + places[2 * i + 1]! * unit);
      if (left <= -size || top <= -size || left >= side || top >= side) continue;
      const code = codes ? codes[i]! : 0;
      const isPale = rounds === 2 && (code === 255 || others?.[i] === 1);
      if (rounds === 2 && isPale !== (round === 1)) continue;
      const colour = isPale ? pale : colours[code % colours.length]!;
      const x1 = left < 0 ? 0 : left, x2 = left + size > side ? side : left + size, y2 = top + size > side ? side : top + size;
      for (let y = top < 0 ? 0 : top; y < y2; y++) {
        for (let x = x1; x < x2; x++) pixels[y * side + x] = colour;
      }
    }
  }
}

// The number of the point nearest to a place on the screen, within `reach` pixels; -1 without one.
export function nearest(cloud: Cloud, view: View, side: number, x: number, y: number, reach: number): number {
  const [mx, my] = toMap(view, side, x, y);
  let least = (reach / (side * 0.94 * view.scale)) ** 2;
  let best = -1;
  for (let i = 0; i < cloud.rows.length; i++) {
    const distance = (cloud.places[2 * i]! - mx) ** 2 + (cloud.places[2 * i + 1]! - my) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

// The rows whose points lie within a polygon [[x, y], …] in the map's units (even-odd rule).
export function inside(cloud: Cloud, polygon: [number, number][]): number[] {
  const found: number[] = [];
  if (polygon.length < 3) return found;
  const [left, right] = [Math.min(...polygon.map((p) => p[0])), Math.max(...polygon.map((p) => p[0]))];
  for (let i = 0; i < cloud.rows.length; i++) {
    const [x, y] = [cloud.places[2 * i]!, cloud.places[2 * i + 1]!];
    if (x < left || x > right) continue;
    let is = false;
    for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
      const [[ax, ay], [bx, by]] = [polygon[a]!, polygon[b]!];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) is = !is;
    }
    if (is) found.push(cloud.rows[i]!);
  }
  return found;
}
