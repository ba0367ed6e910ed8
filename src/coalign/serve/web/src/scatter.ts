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

export const PALETTE = ["#3366cc", "#dc3912", "#ff9900", "#109618", "#990099", "#0099c6", "#dd4477", "#66aa00", "#8b5a2b", "#6b7280", "#316395", "#22aa99"];

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
  const size = Math.max(side / 350, Math.min(side / 90, (side / Math.sqrt(count)) * 0.35 * Math.sqrt(view.scale)));
  const groups = new Map<number, number[]>(); // one fill style a group: changing it is what costs
  for (let i = 0; i < count; i++) {
    const pale = chosen && chosen.size > 0 && !chosen.has(cloud.rows[i]!);
    const code = pale ? 1000 : (codes?.[i] ?? 0);
    let group = groups.get(code);
    if (!group) groups.set(code, (group = []));
    group.push(i);
  }
  for (const [code, members] of [...groups].sort((a, b) => b[0] - a[0])) {
    context.fillStyle = code >= 255 ? "#9996" : PALETTE[code % PALETTE.length]!;
    for (const i of members) {
      const [x, y] = toScreen(view, side, cloud.places[2 * i]!, cloud.places[2 * i + 1]!);
      const own = chosen?.has(cloud.rows[i]!) ? 1.8 * size : size;
      if (x >= -own && y >= -own && x <= side + own && y <= side + own) context.fillRect(x - own / 2, y - own / 2, own, own);
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
