// The streams of an utterance with arcs of attention between them: hover a row, and see which rows it draws on.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { bytes, json, query } from "./api";
import type { Screen } from "./app";
import { css } from "./heat";
import { asJson, asPng, asSvg, Save } from "./save";

interface Direction { target: string; source: string; layers: number; heads: number; most: number; }
interface Said { run: string; item: number; count: number; id: string; words: string[]; streams: Record<string, number>; directions: Direction[]; bytes: string; }

// [rows of the target, rows of the source], the mean over layers and heads, or one of them
export function weightsOf(said: Pick<Said, "streams" | "directions">, data: Uint8Array, number: number, layer: number, head: number): Float32Array {
  let start = 0;
  for (const before of said.directions.slice(0, number)) {
    start += before.layers * before.heads * said.streams[before.target]! * said.streams[before.source]!;
  }
  const own = said.directions[number]!;
  const size = said.streams[own.target]! * said.streams[own.source]!;
  const found = new Float32Array(size);
  let count = 0;
  for (let l = 0; l < own.layers; l++) {
    for (let h = 0; h < own.heads; h++) {
      if ((layer >= 0 && l !== layer) || (head >= 0 && h !== head)) continue;
      const at = start + (l * own.heads + h) * size;
      for (let i = 0; i < size; i++) found[i]! += (data[at + i]! * own.most) / 255;
      count++;
    }
  }
  return found.map((value) => value / (count || 1));
}

export function Streams({ state, change, run }: Pick<Screen, "state" | "change"> & { run: string }) {
  const item = Number(state.item ?? 0);
  const [said, setSaid] = useState<Said | null>(null);
  const [data, setData] = useState<Uint8Array | null>(null);
  const [error, setError] = useState("");
  const [row, setRow] = useState<number | null>(null);
  const drawing = useRef<SVGSVGElement>(null);
  useEffect(() => {
    let current = true;
    void (async () => {
      try {
        const next = await json<Said>(`/api/streams?${query({ run, item })}`);
        const values = new Uint8Array(await bytes(next.bytes));
        if (current) [setSaid(next), setData(values), setError("")];
      } catch (problem) {
        if (current) setError((problem as Error).message);
      }
    })();
    return () => void (current = false);
  }, [run, item]);
  const number = Math.min(Number(state.direction ?? 0), (said?.directions.length ?? 1) - 1);
  const layer = Number(state.layer ?? -1), head = Number(state.head ?? -1);
  const weights = useMemo(() => (said && data ? weightsOf(said, data, number, layer, head) : null), [said, data, number, layer, head]);
  if (error) return <p class="error" role="alert">{error}</p>;
  if (!said || !weights) return <p role="status">reading…</p>;
  const own = said.directions[number]!;
  const [rows, columns] = [said.streams[own.target]!, said.streams[own.source]!];
  const most = Math.max(...weights);
  const shown = row ?? (state.pin ? Number(state.pin) : null);
  const x = (i: number, n: number): number => 40 + ((i + 0.5) / n) * 920;
  const arcs: { q: number; k: number; w: number }[] = [];
  for (let q = 0; q < rows; q++) {
    for (let k = 0; k < columns; k++) {
      const w = weights[q * columns + k]!;
      if (shown === q ? w > most * 0.02 : shown === null && w > most * 0.5) arcs.push({ q, k, w });
    }
  }
  const name = (stream: string, i: number): string => (stream === "text" && said.words.length === said.streams.text ? said.words[i]! : String(i + 1));
  return (
    <section aria-label="Streams">
      <div class="options">
        <label>utterance <input type="number" min="0" max={said.count - 1} value={item} onChange={(e) => change({ item: e.currentTarget.value, pin: "" }, true)} /> of {said.count}</label>
        <label>direction <select id="direction" value={number} onChange={(e) => change({ direction: e.currentTarget.value, pin: "" })}>
          {said.directions.map((one, i) => <option key={i} value={i}>{one.target} draws on {one.source}</option>)}
        </select></label>
        <label>layer <input type="range" min="-1" max={own.layers - 1} value={layer} onInput={(e) => change({ layer: e.currentTarget.value === "-1" ? "" : e.currentTarget.value })} /> <output>{layer < 0 ? "all" : layer + 1}</output></label>
        <label>head <input type="range" min="-1" max={own.heads - 1} value={head} onInput={(e) => change({ head: e.currentTarget.value === "-1" ? "" : e.currentTarget.value })} /> <output>{head < 0 ? "all" : head + 1}</output></label>
      </div>
      <svg class="arcs" ref={drawing} viewBox="0 0 1000 300" role="img" aria-label={`which rows of ${own.source} the rows of ${own.target} draw on`}>
        {arcs.map(({ q, k, w }) => <path key={`${q} ${k}`} d={`M${x(q, rows)} 70 C${x(q, rows)} 160 ${x(k, columns)} 140 ${x(k, columns)} 230`} fill="none" stroke={css(w / most)} stroke-width={1 + (3 * w) / most} data-arc={`${q},${k}`} />)}
        {[...Array(rows).keys()].map((i) => (
          <g key={i} class="row" onMouseEnter={() => setRow(i)} onMouseLeave={() => setRow(null)} onClick={() => change({ pin: state.pin === String(i) ? "" : String(i) })}>
            <rect x={x(i, rows) - 460 / rows} y="46" width={920 / rows} height="24" fill={shown === i ? "#4c0f5c" : "#8884"} data-row={i} />
            {rows <= 40 && <text x={x(i, rows)} y="38" text-anchor="middle">{name(own.target, i)}</text>}
          </g>
        ))}
        {[...Array(columns).keys()].map((i) => (
          <g key={i}><rect x={x(i, columns) - 460 / columns} y="230" width={920 / columns} height="24" fill={shown === null ? "#8884" : css(weights[shown * columns + i]! / most)} />
            {columns <= 40 && <text x={x(i, columns)} y="272" text-anchor="middle">{name(own.source, i)}</text>}</g>
        ))}
        <text x="0" y="16">{own.target}</text><text x="0" y="294">{own.source}</text>
      </svg>
      <p class="count" role="status">{said.id}: {shown === null ? "the strongest arcs of all rows" : `row ${shown + 1} (${name(own.target, shown)})`}</p>
      <p class="actions"><Save of="the streams" name={`${run} ${said.id} ${own.target} ${own.source}`} kinds={{
        PNG: () => asPng(drawing.current!),
        SVG: () => asSvg(drawing.current!),
        JSON: () => asJson({ run, id: said.id, target: own.target, source: own.source, words: said.words, layer, head, weights: [...Array(rows).keys()].map((q) => [...weights.subarray(q * columns, (q + 1) * columns)]) }),
      }} /></p>
      <label>row <input id="stream-row" type="range" min="-1" max={rows - 1} value={shown ?? -1} onInput={(e) => change({ pin: e.currentTarget.value === "-1" ? "" : e.currentTarget.value })} /></label>
    </section>
  );
}
