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

// `codes` [n] number each point's colour (255: none); `faded` says which are drawn pale.
export function drawCloud(
  canvas: HTMLCanvasElement,
  cloud: Cloud,
  view: View,
  codes: Uint8Array | null,
  chosen: Set<number> | null,
): void {
  const context = canvas.getContext("2d")!;
  const side = canvas.width;
  context.clearRect(0, 0, side, side);
  const count = cloud.rows.length;
  const size = Math.max(side / 350, Math.min(side / 70, (side / Math.sqrt(count)) * 0.45 * Math.sqrt(view.scale)));
  const round = count <= 20_000; // discs cost ten times what squares do
  context.globalAlpha = 0.8;
  const groups = new Map<number, number[]>(); // one fill style a group: changing it is what costs
  for (let i = 0; i < count; i++) {
    const pale = chosen && chosen.size > 0 && !chosen.has(cloud.rows[i]!);
    const code = pale ? 1000 : (codes?.[i] ?? 0);
    let group = groups.get(code);
    if (!group) groups.set(code, (group = []));
    group.push(i);
  }
  for (const [code, members] of [...groups].sort((a, b) => b[0] - a[0])) {
    context.fillStyle = code >= 255 ? "#9995" : PALETTE[code % PALETTE.length]!;
    if (round) context.beginPath();
    for (const i of members) {
      const [x, y] = toScreen(view, side, cloud.places[2 * i]!, cloud.places[2 * i + 1]!);
      const own = chosen?.has(cloud.rows[i]!) ? 1.8 * size : size;
      if (x < -own || y < -own || x > side + own || y > side + own) continue;
      if (!round) context.fillRect(x - own / 2, y - own / 2, own, own);
      else {
        context.moveTo(x + own / 2, y);
        context.arc(x, y, own / 2, 0, 2 * Math.PI);
      }
    }
    if (round) context.fill();
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
