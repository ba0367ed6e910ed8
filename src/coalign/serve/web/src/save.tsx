// Downloads: what a screen shows, as files.

import { useState } from "preact/hooks";
import { download } from "./api";

type Content = Blob | null | Promise<Blob | null>;

// A button for each kind of file; what is made when it is pressed is saved as `name` with that ending.
export function Save({ of, name = of, kinds }: { of: string; name?: string; kinds: Record<string, () => Content> }) {
  const [error, setError] = useState("");
  async function save(kind: string): Promise<void> {
    try {
      const content = await kinds[kind]!();
      if (content) download(`${name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80)}.${kind.toLowerCase()}`, content);
      setError(content ? "" : "this could not be drawn");
    } catch (problem) {
      setError((problem as Error).message);
    }
  }
  return (
    <>
      {Object.keys(kinds).map((kind) => <button type="button" key={kind} class="quiet" title={`save as ${kind}`} aria-label={`${kind} of ${of}`} onClick={() => void save(kind)}>{kind}</button>)}
      {error && <span class="error" role="alert">{error}</span>}
    </>
  );
}

export function asJson(value: unknown): Blob {
  return new Blob([JSON.stringify(value)], { type: "application/json" });
}

// RFC 4180: a line a row, quotes where a value needs them. A text that a spreadsheet would compute begins with an
// apostrophe, as in the tables that commands write.
export function csv(names: string[], rows: unknown[][]): string {
  const cell = (value: unknown): string => {
    const plain = value === null || value === undefined ? "" : String(value);
    const text = /^[=+\-@\t\r]/.test(plain) && Number.isNaN(Number(plain)) ? `'${plain}` : plain;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [names, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

export function asCsv(names: string[], rows: unknown[][]): Blob {
  return new Blob([csv(names, rows)], { type: "text/csv" });
}

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "font-size", "font-family", "text-anchor", "opacity"];

// A drawing of the page as a file of its own: what the page's style sheet says of it is written into it.
export function asSvg(drawing: SVGSVGElement): Blob {
  const copy = drawing.cloneNode(true) as SVGSVGElement;
  const own = drawing.querySelectorAll<SVGElement>("*");
  copy.querySelectorAll<SVGElement>("*").forEach((one, i) => {
    const style = getComputedStyle(own[i]!);
    for (const name of DRAWN) one.setAttribute(name, style.getPropertyValue(name));
    one.removeAttribute("class");
  });
  const { width, height } = drawing.viewBox.baseVal;
  copy.removeAttribute("class");
  for (const [name, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", width, height })) copy.setAttribute(name, String(value));
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

// The same as pixels, twice as many as units, on the page's ground.
export async function asPng(drawing: SVGSVGElement): Promise<Blob | null> {
  const address = URL.createObjectURL(asSvg(drawing));
  const image = new Image();
  image.src = address;
  await image.decode().finally(() => URL.revokeObjectURL(address));
  const canvas = document.createElement("canvas");
  const { width, height } = drawing.viewBox.baseVal;
  [canvas.width, canvas.height] = [2 * width, 2 * height];
  const context = canvas.getContext("2d")!;
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvasPng(canvas);
}

export function canvasPng(canvas: HTMLCanvasElement): Promise<Blob | null> {
  return new Promise((resolve) => canvas.toBlob(resolve));
}
