// Runs: learning curves while training goes on, the recipe, the figures, and sample answers.

import { useEffect, useState } from "preact/hooks";
import { json, query, type Found, type Rows } from "./api";
import type { Screen } from "./app";

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
        if (found.some((one) => one.training)) timer = window.setTimeout(ask, 3000);
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
    <section aria-label="Runs">
      {error && <p class="error" role="alert">{error}</p>}
      {series.length > 0 && (
        <>
          <label>curve <select id="curve" value={shown} onChange={(e) => change({ curve: e.currentTarget.value })}>{series.map((name) => <option key={name} value={name}>{name}</option>)}</select></label>
          <Curves all={all} name={shown} />
        </>
      )}
      {all.map((one) => <One key={one.run} about={one} change={change} />)}
    </section>
  );
}

const COLOURS = ["#3366cc", "#dc3912", "#109618", "#990099", "#ff9900", "#0099c6"];

function Curves({ all, name }: { all: About[]; name: string }) {
  const lines = all.map((one) => one.metrics.filter((line) => typeof line[name] === "number" && typeof line.step === "number").map((line) => [line.step as number, line[name] as number] as const));
  const points = lines.flat();
  if (!points.length) return <p>nothing is logged yet</p>;
  const [width, height, margin] = [720, 260, 46];
  const [x1, x2] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]), 1)];
  const [y1, y2] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  const x = (v: number): number => margin + ((v - x1) / (x2 - x1 || 1)) * (width - margin - 10);
  const y = (v: number): number => height - 30 - ((v - y1) / (y2 - y1 || 1)) * (height - 42);
  return (
    <figure class="curves">
      <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`${name} by step, from ${y1.toPrecision(3)} to ${y2.toPrecision(3)}`}>
        <line class="axis" x1={margin} y1={height - 30} x2={width - 10} y2={height - 30} /><line class="axis" x1={margin} y1="8" x2={margin} y2={height - 30} />
        {[y1, (y1 + y2) / 2, y2].map((v) => <text key={v} x={margin - 4} y={y(v) + 4} text-anchor="end">{v.toPrecision(3)}</text>)}
        {[x1, (x1 + x2) / 2, x2].map((v) => <text key={v} x={x(v)} y={height - 12} text-anchor="middle">{Math.round(v)}</text>)}
        {lines.map((line, i) => <polyline key={i} data-run={all[i]!.run} fill="none" stroke={COLOURS[i % COLOURS.length]} stroke-width="1.6" points={line.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ")} />)}
      </svg>
      <figcaption><ul class="legend">{all.map((one, i) => <li key={one.run}><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" fill={COLOURS[i % COLOURS.length]} /></svg>{one.run}{one.training ? " (training)" : ""}</li>)}</ul></figcaption>
    </figure>
  );
}

function flat(value: unknown, prefix = ""): [string, string][] {
  if (value !== null && typeof value === "object") return Object.entries(value).flatMap(([name, own]) => flat(own, prefix ? `${prefix}.${name}` : name));
  return [[prefix, typeof value === "number" ? String(Math.round(value * 1e5) / 1e5) : String(value)]];
}

function One({ about, change }: { about: About; change: Screen["change"] }) {
  const { run, config, results, comparison } = about;
  return (
    <article class="run">
      <h2>{run}</h2>
      <p>{String(config.system ?? "")}{config.head ? `, ${String(config.head)}` : ""}{about.plan ? `; ${about.plan.planned} steps planned` : ""}</p>
      <details><summary>recipe and settings</summary><Table rows={flat(config)} names={["field", "value"]} /></details>
      {results !== null && <details open><summary>results</summary><Table rows={flat(results)} names={["figure", "value"]} /></details>}
      {comparison && <details open><summary>comparison</summary><Table rows={comparison.rows} names={comparison.columns} /></details>}
      <Samples run={run} change={change} />
    </article>
  );
}

function Table({ rows, names }: { rows: string[][]; names: string[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="table"><table><thead><tr>{names.map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead>
      <tbody>{rows.map((row, i) => <tr key={i}>{row.map((cell, j) => <td key={j}>{cell}</td>)}</tr>)}</tbody></table></div>
  );
}

function Samples({ run, change }: { run: string; change: Screen["change"] }) {
  const [found, setFound] = useState<{ text: string; said: Found }[]>([]);
  const [error, setError] = useState("");
  async function draw(): Promise<void> {
    try {
      const about = await json<Rows>(`/api/rows?${query({ run, k: 1 })}`);
      const offset = Math.max(Math.floor(about.total / 3) - 1, 0);
      const rows = (await json<Rows>(`/api/rows?${query({ run, offset, k: 3 })}`)).rows.filter((row) => row.text);
      setFound(await Promise.all(rows.map(async (row) => ({ text: row.text, said: await json<Found>(`/api/search?${query({ run, text: row.text, k: 6 })}`) }))));
      setError("");
    } catch (problem) {
      setError((problem as Error).message);
    }
  }
  return (
    <div class="samples">
      <button type="button" onClick={() => void draw()}>sample answers</button>
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
