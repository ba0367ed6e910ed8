// Runs: learning curves while training goes on, the recipe, the figures, and sample answers.

import { useEffect, useRef, useState } from "preact/hooks";
import { json, query, type Found, type Rows } from "./api";
import type { Screen } from "./app";
import { asCsv, asJson, asPng, asSvg, Save } from "./save";
import { PALETTE } from "./scatter";

interface About {
  run: string;
  config: Record<string, unknown>;
  plan: { planned: number } | null;
  metrics: Record<string, number | string>[];
  results: unknown;
  comparison: { columns: string[]; rows: string[][] } | null;
  training: boolean;
}

export function Runs({ state, change, runs }: Screen) {
  const [all, setAll] = useState<About[]>([]);
  const [error, setError] = useState("");
  const names = runs.map((run) => run.name).join(",");
  useEffect(() => {
    let timer = 0;
    let current = true;
    const ask = async (): Promise<void> => {
      try {
        const found = await Promise.all(runs.map((run) => json<About>(`/api/run?${query({ run: run.name })}`)));
        if (!current) return;
        setAll(found);
        setError("");
        timer = window.setTimeout(ask, found.some((one) => one.training) ? 3000 : 20_000);
      } catch (problem) {
        if (current) setError((problem as Error).message);
      }
    };
    void ask();
    return () => { current = false; clearTimeout(timer); };
  }, [names]);
  const series = [...new Set(all.flatMap((one) => one.metrics.flatMap((line) => Object.keys(line).filter((key) => key !== "step" && typeof line[key] === "number"))))];
  const shown = series.includes(state.curve ?? "") ? state.curve! : (series.find((name) => name === "loss") ?? series[0] ?? "");
  return (
    <section aria-label="Runs" class="runs">
      {error && <p class="error" role="alert">{error}</p>}
      {!all.length && !error && <p class="empty" role="status">reading…</p>}
      {series.length > 0 && (
        <div class="box curves">
          <label class="soft">curve <select id="curve" value={shown} onChange={(e) => change({ curve: e.currentTarget.value })}>{series.map((name) => <option key={name} value={name}>{name}</option>)}</select></label>
          <Curves all={all} name={shown} />
        </div>
      )}
      <div class="runs">{all.map((one) => <One key={one.run} about={one} change={change} />)}</div>
    </section>
  );
}

function Curves({ all, name }: { all: About[]; name: string }) {
  const [at, setAt] = useState<number | null>(null);
  const drawing = useRef<SVGSVGElement>(null);
  const lines = all.map((one) => one.metrics.filter((line) => typeof line[name] === "number" && typeof line.step === "number").map((line) => [line.step as number, line[name] as number] as const));
  const points = lines.flat();
  if (!points.length) return <p class="soft">nothing is logged yet</p>;
  const [width, height, left, right, top, bottom] = [innerWidth < 700 ? 480 : 1100, 300, 58, 14, 12, 30];
  const [x1, x2] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  const rows = ticks(Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1])), 5);
  const columns = ticks(x1, x2, width / 140).filter((v) => v >= x1 && v <= x2 && Number.isInteger(v));
  const [y1, y2] = [rows[0]!, rows[rows.length - 1]!];
  const x = (v: number): number => left + ((v - x1) / (x2 - x1 || 1)) * (width - left - right);
  const y = (v: number): number => height - bottom - ((v - y1) / (y2 - y1 || 1)) * (height - top - bottom);
  const near = (line: (readonly [number, number])[]): readonly [number, number] | undefined =>
    at === null ? line[line.length - 1] : line.reduce<readonly [number, number] | undefined>((best, p) => (!best || Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best), undefined);
  const colour = (i: number): string => PALETTE[i % PALETTE.length]!;
  return (
    <figure>
      <svg class="chart" ref={drawing} viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`${name} by step, from ${y1} to ${y2}`}
        onMouseMove={(e) => { const box = e.currentTarget.getBoundingClientRect(); setAt(x1 + ((((e.clientX - box.left) / box.width) * width - left) / (width - left - right)) * (x2 - x1)); }} onMouseLeave={() => setAt(null)}>
        {rows.map((v) => <g key={v}><line class="gridline" x1={left} x2={width - right} y1={y(v)} y2={y(v)} /><text x={left - 8} y={y(v) + 4} text-anchor="end">{short(v)}</text></g>)}
        {columns.map((v) => <text key={v} x={x(v)} y={height - 10} text-anchor="middle">{short(v)}</text>)}
        {lines.map((line, i) => <polyline key={i} data-run={all[i]!.run} fill="none" stroke={colour(i)} stroke-width="2" stroke-linejoin="round" points={line.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ")} />)}
        {lines.map((line, i) => line.length <= 30 && line.map(([a, b]) => <circle key={`${i} ${a}`} cx={x(a)} cy={y(b)} r="3" fill={colour(i)} />))}
        {at !== null && lines.map((line, i) => { const p = near(line); return p && <g key={`at ${i}`}><line class="hairline" x1={x(p[0])} x2={x(p[0])} y1={top} y2={height - bottom} /><circle cx={x(p[0])} cy={y(p[1])} r="4.5" fill={colour(i)} /></g>; })}
      </svg>
      <figcaption><ul class="legend">{all.map((one, i) => {
        const p = near(lines[i]!);
        return <li key={one.run}><svg viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="5" fill={colour(i)} /></svg>{one.run}{p && <output class="soft"> {p[1].toPrecision(4)} at step {p[0].toLocaleString("en")}</output>}{one.training && <span class="live">training</span>}</li>;
      })}</ul>
      <p class="actions"><Save of="the curves" name={`curves ${name}`} kinds={{
        PNG: () => asPng(drawing.current!),
        SVG: () => asSvg(drawing.current!),
        JSON: () => asJson({ curve: name, runs: Object.fromEntries(all.map((one, i) => [one.run, lines[i]!.map(([step, value]) => ({ step, value }))])) }),
      }} /></p></figcaption>
    </figure>
  );
}

// Round numbers that enclose a range, about `count` of them.
export function ticks(low: number, high: number, count: number): number[] {
  const raw = (high - low || Math.abs(low) || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999)!;
  const [from, to] = [Math.floor(low / step + 1e-9), Math.max(Math.ceil(high / step - 1e-9), Math.floor(low / step + 1e-9) + 1)];
  return [...Array(to - from + 1).keys()].map((i) => Number(((from + i) * step).toPrecision(12)));
}

function short(value: number): string {
  return Math.abs(value) >= 1e6 ? `${value / 1e6}M` : Math.abs(value) >= 1e4 ? `${value / 1e3}k` : String(value);
}

type Value = string | number | boolean | null | Value[] | { [name: string]: Value };

function isGroup(value: Value): value is { [name: string]: Value } {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

export function flat(value: unknown, prefix = ""): [string, string][] {
  if (value !== null && typeof value === "object") return Object.entries(value).flatMap(([name, own]) => flat(own, prefix ? `${prefix}.${name}` : name));
  return [[prefix, typeof value === "number" ? String(Math.round(value * 1e5) / 1e5) : String(value)]];
}

// Figures that are nested as {split: {model: {direction: {measure: number}}}}: a row for each innermost group, a column for
// each measure that most of them have. Numbers that stand alone are left to `flat`.
export function tabled(value: unknown): { columns: string[]; rows: [string, (number | null)[]][] } {
  const rows: [string, Record<string, number>][] = [];
  const walk = (own: Value, path: string[]): void => {
    if (!isGroup(own)) return;
    const numbers = Object.entries(own).filter((entry): entry is [string, number] => typeof entry[1] === "number");
    if (numbers.length > 1 && path.length) rows.push([path.join(" · "), Object.fromEntries(numbers)]);
    for (const [name, inner] of Object.entries(own)) walk(inner, [...path, name.replaceAll("_", " ")]);
  };
  walk(value as Value, []);
  const columns = [...new Set(rows.flatMap(([, own]) => Object.keys(own)))].slice(0, 12);
  return { columns, rows: rows.map(([name, own]) => [name.replace(/^splits · /, ""), columns.map((column) => own[column] ?? null)]) };
}

function facts(about: About): [string, string][] {
  const { config, plan } = about;
  const training = (config.training ?? {}) as Record<string, unknown>;
  const said: [string, unknown][] = [
    ["system", [config.system, config.head].filter(Boolean).join(", ")], ["recipe", config.recipe], ["steps", (isGroup(about.results as Value) && (about.results as Record<string, unknown>).steps) || (plan?.planned ?? training.steps)],
    ...Object.entries(isGroup(about.results as Value) ? (about.results as Record<string, unknown>) : {}).filter(([, v]) => typeof v === "number").map(([k, v]): [string, unknown] => [k.replaceAll("_", " "), v]).filter(([k]) => k !== "steps" && k !== "seed"),
    ["learning rate", training.lr ?? training.learning_rate], ["optimiser", training.optimiser], ["batch", training.batch_size ?? config.batch_size], ["seed", config.seed ?? training.seed],
  ];
  return said.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => [name, typeof value === "number" ? value.toLocaleString("en", Number.isInteger(value) ? {} : { maximumSignificantDigits: 4 }) : String(value)]);
}

function One({ about, change }: { about: About; change: Screen["change"] }) {
  const { run, config, results, comparison } = about;
  const figures = tabled(results);
  return (
    <article class="run">
      <h2>{run}{about.training && <span class="live">training</span>}</h2>
      <dl class="facts">{facts(about).map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
      {results !== null && <details open><summary>results</summary>
        {figures.rows.length ? <Table of={`results of ${run}`} names={["", ...figures.columns]} rows={figures.rows.map(([name, own]) => [name, ...own.map((v) => (v === null ? "" : Number.isInteger(v) ? v.toLocaleString("en") : v.toFixed(3)))])} /> : <Table of={`results of ${run}`} rows={flat(results)} names={["figure", "value"]} />}
      </details>}
      {comparison && <details open><summary>comparison</summary><Table of={`the comparison of ${run}`} rows={comparison.rows} names={comparison.columns} /></details>}
      <details><summary>recipe and settings</summary><Table of={`settings of ${run}`} rows={flat(config)} names={["field", "value"]} /></details>
      <Samples run={run} change={change} />
    </article>
  );
}

function Table({ of, rows, names }: { of: string; rows: string[][]; names: string[] }) {
  return (
    <><div class="scroll" tabIndex={0} role="region" aria-label={of}><table><thead><tr>{names.map((name, j) => (name || j ? <th key={j} scope="col" class={number(rows, j) ? "number" : ""}>{name}</th> : <td key={j} />))}</tr></thead>
      <tbody>{rows.map((row, i) => <tr key={i}>{row.map((cell, j) => <td key={j} class={number(rows, j) ? "number" : ""}>{cell}</td>)}</tr>)}</tbody></table></div>
    <p class="actions"><Save of={of} kinds={{ CSV: () => asCsv(names, rows), JSON: () => asJson(rows.map((row) => Object.fromEntries(row.map((cell, i) => [names[i] || "name", cell])))) }} /></p></>
  );
}

function number(rows: string[][], column: number): boolean {
  return column > 0 && rows.some((row) => row[column]) && rows.every((row) => /^[-+]?[\d.,]*( ?[%±].*)?$/.test(row[column] ?? ""));
}

function Samples({ run, change }: { run: string; change: Screen["change"] }) {
  const [found, setFound] = useState<{ text: string; said: Found }[]>([]);
  const [error, setError] = useState("");
  const [drawn, setDrawn] = useState(0);
  async function draw(): Promise<void> {
    try {
      const about = await json<Rows>(`/api/rows?${query({ run, k: 1 })}`);
      const offset = (Math.floor(about.total / 3) + 7 * drawn) % Math.max(about.total - 2, 1);
      setDrawn(drawn + 1);
      const rows = (await json<Rows>(`/api/rows?${query({ run, offset, k: 3 })}`)).rows.filter((row) => row.text);
      setFound(await Promise.all(rows.map(async (row) => ({ text: row.text, said: await json<Found>(`/api/search?${query({ run, text: row.text, k: 6 })}`) }))));
      setError("");
    } catch (problem) {
      setError((problem as Error).message);
    }
  }
  return (
    <div class="samples">
      <button type="button" onClick={() => void draw()}>{found.length ? "others" : "sample answers"}</button>
      {error && <p class="error" role="alert">{error}</p>}
      {found.map(({ text, said }) => (
        <figure key={text}>
          <figcaption><button type="button" class="link" onClick={() => change({ screen: "search", run, text }, true)}>{text}</button></figcaption>
          <div class="strip">{said.answers.map((answer) => <img key={answer.row} src={`${answer.image}${answer.image.includes("?") ? "&" : "?"}side=128`} alt={answer.text} class={answer.text === text ? "right" : ""} />)}</div>
        </figure>
      ))}
    </div>
  );
}
