// The map of one run: the picture, what is drawn on it in words and figures, how true it is, and its downloads.

import { useEffect, useRef, useState } from "preact/hooks";
import { json, type Aligned } from "./api";
import { asMultiples, draw, placeAt, svg, values, wordsAt, type Choice, type Maps, type Scale } from "./heat";
import { Bar } from "./heads";
import { asJson, canvasPng, Save } from "./save";

export interface Shown { run: string; said?: Aligned; maps?: Maps; error?: string; }

export function named(method: string): string {
  return method.replaceAll("_", " ");
}

export function Panel({ one, picture, image, of, own, scale, many, multiples, opacity, mark, setPlace, choice, wanted, pinned, curve, setCurve }: {
  one: Shown; picture: ImageBitmap | null; image: string | null; of: string; own: Float32Array | null; scale: Scale; many: boolean; multiples: boolean; opacity: number;
  mark: number; setPlace: (at: number) => void; choice: Choice; wanted: string[]; pinned: number[]; curve: boolean; setCurve: (on: boolean) => void;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { maps, said } = one;
  const longer = picture ? Math.max(picture.width, picture.height) : 1;
  const side = maps?.kind === "moments" ? 1024 : 640;
  const width = picture ? Math.round((picture.width * side) / longer) : side;
  const height = picture ? Math.round((picture.height * side) / longer) : side;
  useEffect(() => {
    if (!canvas.current || !maps) return;
    const start = performance.now();
    draw(canvas.current, picture, maps, own, scale, mark, opacity);
    canvas.current.dataset.milliseconds = (performance.now() - start).toFixed(2);
    // for programs: what is drawn, as the heat map has it
    canvas.current.dataset.values = own && own.length <= 4096 ? JSON.stringify([...own].map((v) => Number(v.toPrecision(5)))) : "";
  }, [maps, picture, own, scale.low, scale.high, mark, width, height, opacity]);
  if (one.error || !maps || !said) return <article class="panel"><h3>{one.run}</h3><p class="error" role="alert">{one.error}</p></article>;
  const at = (event: MouseEvent): number => {
    const box = canvas.current!.getBoundingClientRect();
    return placeAt(maps, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  const phrase = choice.words.length ? choice.words.map((i) => maps.words[i]).join(" ") : wanted.length ? wanted.join(" ") : "the whole text";
  const by = `${named(maps.method)}${choice.layer >= 0 && maps.layers ? `, ${maps.layer_names?.[choice.layer] ?? `layer ${choice.layer + 1}`}${choice.head >= 0 ? `, head ${choice.head + 1}` : ""}` : ""}`;
  const name = `${one.run} ${said.row ?? "picture"} ${phrase}`;
  return (
    <article class={`panel${maps.kind === "moments" ? " wide" : ""}`}>
      <div class="panel-head">
        <h3>{many ? one.run : said.row === null ? "your picture" : `row ${said.row}`}</h3>
        {typeof said.p_match === "number" && <span class="badge" title="The share of right answers at the score of this text and this picture">P(match) {said.p_match.toFixed(2)}</span>}
      </div>
      <canvas ref={canvas} width={width} height={height} role="img" aria-label={`${said.text}: where ${phrase} draws on the picture, by ${by}`}
        onMouseMove={(e) => setPlace(at(e))} onMouseLeave={() => setPlace(-1)} />
      <p class="reading"><strong>{wanted.length ? `“${phrase}”` : phrase}</strong> by {by}.{" "}
        <span class="soft">{!own ? "This system does not read these words." : mark >= 0 ? looking(maps, choice, mark) : strongest(own)}</span></p>
      <p class="scale" aria-hidden="true"><span>{figure(scale.low)}</span><Bar /><span>{figure(scale.high)}{multiples ? " × even" : ""}</span></p>
      <p class="actions">
        <Save of={one.run} name={name} kinds={{
          PNG: () => canvasPng(canvas.current!),
          SVG: () => {
            const plain = document.createElement("canvas");
            [plain.width, plain.height] = [width, height];
            if (picture) plain.getContext("2d")!.drawImage(picture, 0, 0, width, height);
            return own && new Blob([svg(maps, own, scale, plain.toDataURL("image/png"), width, height)], { type: "image/svg+xml" });
          },
          JSON: () => {
            const each = maps.words.map((_, i) => [...values(maps, { ...choice, words: [i] })]);
            const { bytes: _, ...rest } = said;
            return asJson({ ...rest, layer: choice.layer, head: choice.head, values: each });
          },
        }} />
        <button type="button" class="quiet" aria-pressed={curve} title="How the score falls as the places of the map are hidden" onClick={() => setCurve(!curve)}>deletion curve</button>
      </p>
      {curve && own && <Deletion key={`${said.bytes} ${pinned.join()}`} said={said} words={pinned} image={image} of={of} />}
    </article>
  );
}

function figure(value: number): string {
  return value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e4) ? value.toExponential(1) : value.toPrecision(2);
}

function strongest(own: Float32Array): string {
  const most = Math.max(...asMultiples(own));
  return most < 1.15 ? "Nearly even: no place stands out." : `Its strongest place has ${most.toFixed(1)} times an even share.`;
}

function looking(maps: Maps, choice: Choice, place: number): string {
  const own = [...wordsAt(maps, choice, place)].map((value, i) => [value, maps.words[i]!] as const).sort((a, b) => b[0] - a[0]);
  const moment = maps.times?.[place];
  return `${moment ? `${moment[0].toFixed(1)}–${moment[1].toFixed(1)} s: ` : "Here: "}${own.slice(0, 3).map(([value, word]) => `${word} ${figure(value)}`).join(", ")}`;
}

type Curves = Record<"deletion" | "insertion" | "random_deletion" | "random_insertion", number[]>;

// The model's score as the places that the map shows as strong are hidden first: the faster it falls, the truer the map.
function Deletion({ said, words, image, of }: { said: Aligned; words: number[]; image: string | null; of: string }) {
  const [found, setFound] = useState<Curves | null>(null);
  const [error, setError] = useState("");
  useEffect(() => {
    let current = true;
    const body = { run: said.run, text: said.text, method: said.method, words, ...(said.row === null ? { image } : { row: said.row, of }) };
    json<Curves>("/api/deletion", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })
      .then((own) => current && setFound(own), (e: Error) => current && setError(e.message));
    return () => void (current = false);
  }, []);
  if (error) return <p class="error" role="alert">{error}</p>;
  if (!found) return <p class="deletion soft small" role="status">measuring the deletion curve…</p>;
  const all = [...found.deletion, ...found.random_deletion];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const ends = [2, 3, 4, 5].map((digits) => [low.toPrecision(digits), high.toPrecision(digits)]).find(([a, b]) => a !== b) ?? [figure(low), figure(high)];
  const line = (curve: number[]): string => curve.map((v, i) => `${(48 + (i / (curve.length - 1)) * 346).toFixed(1)},${(10 + (1 - (v - low) / (high - low || 1)) * 90).toFixed(1)}`).join(" ");
  const area = (curve: number[]): number => curve.reduce((sum, v) => sum + v, 0) / curve.length;
  return (
    <figure class="deletion">
      <svg viewBox="0 0 400 118" role="img" aria-label={`score as places are hidden: ${found.deletion.map((v) => v.toPrecision(2)).join(", ")}`}>
        <line class="gridline" x1="48" x2="394" y1="10" y2="10" /><line class="gridline" x1="48" x2="394" y1="100" y2="100" />
        <polyline class="random" points={line(found.random_deletion)} /><polyline class="own" data-curve={found.deletion.join(",")} points={line(found.deletion)} />
        <text x="0" y="14">{ends[1]}</text><text x="0" y="104">{ends[0]}</text><text x="48" y="116">none hidden</text><text x="394" y="116" text-anchor="end">all hidden</text>
      </svg>
      <figcaption class="soft small">The score as the map's strongest places are hidden first (mean {figure(area(found.deletion))}), and in a random order (dotted, {figure(area(found.random_deletion))}): the lower, the truer the map.</figcaption>
    </figure>
  );
}
