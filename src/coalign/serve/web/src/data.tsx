// Data: the set as a map, its findings, and marks of pairs that are not as they should be.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { bytes, json, query, type Answer, type Rows } from "./api";
import type { Screen } from "./app";
import { Grid } from "./grid";
import { asJson, canvasPng, Save } from "./save";
import { cloudSvg, drawCloud, inside, nearest, PALETTE, parseCloud, toMap, type Cloud, type View } from "./scatter";

interface MapSaid { run: string; of: string; method: string; pending: boolean; count: number; bytes: string; choices: string[]; columns: Record<string, { values: string[]; codes: string }>; }
interface Finding { kind: string; severity: number; title: string; detail: string; rows: number[]; subject: string; }
interface Findings { state: "none" | "pending" | "done" | "failed"; error?: string; findings: Finding[]; }
interface Mark { row: number; mark: string; text: string; }
interface Marks { file: string | null; marks: Mark[]; }

const SIDE = 720;
const OF: Record<string, string> = { image: "pictures", text: "texts", both: "both" };
const SEVERITY: Record<number, string> = { 3: "mend", 2: "know", 1: "note" };

export function Data({ state, change, runs }: Screen) {
  const run = state.run ?? runs[0]?.name ?? "";
  const of = state.of ?? "";
  const [said, setSaid] = useState<MapSaid | null>(null);
  const [cloud, setCloud] = useState<Cloud | null>(null);
  const [codes, setCodes] = useState<Record<string, Uint8Array>>({});
  const [error, setError] = useState("");
  const [findings, setFindings] = useState<Findings | null>(null);
  const [chosen, setChosen] = useState<number[]>(() => (state.rows ?? "").split(",").filter(Boolean).map(Number));
  const [answers, setAnswers] = useState<Answer[]>([]);
  const [marks, setMarks] = useState<Marks>({ file: null, marks: [] });
  const columns = said?.columns ?? {};
  const colour = state.colour ?? suggested(columns);

  useEffect(() => {
    let current = true;
    let timer = 0;
    let had = "";
    const ask = async (): Promise<void> => {
      try {
        const next = await json<MapSaid>(`/api/map?${query({ run, of })}`);
        if (!current) return;
        if (next.pending) timer = window.setTimeout(ask, 2000);
        setSaid(next);
        if (next.bytes === had) return; // what is drawn already
        had = next.bytes;
        const data = await bytes(next.bytes);
        const found: Record<string, Uint8Array> = {};
        for (const [name, column] of Object.entries(next.columns)) found[name] = new Uint8Array(await bytes(column.codes));
        if (!current) return;
        setCloud(parseCloud(data, next.count));
        setCodes(found);
        setError("");
      } catch (problem) {
        if (current) setError((problem as Error).message);
      }
    };
    void ask();
    return () => { current = false; clearTimeout(timer); };
  }, [run, of]);

  useEffect(() => {
    json<Marks>(`/api/marks?${query({ run })}`).then(setMarks, () => undefined);
    json<Findings>(`/api/findings?${query({ run })}`).then(setFindings, () => undefined);
  }, [run]);
  useEffect(() => {
    if (findings?.state !== "pending") return;
    const timer = setTimeout(() => json<Findings>(`/api/findings?${query({ run })}`).then(setFindings, () => undefined), 2000);
    return () => clearTimeout(timer);
  }, [findings]);

  useEffect(() => {
    let current = true;
    if (!chosen.length) return setAnswers([]);
    json<Rows>(`/api/rows?${query({ run, k: 200, row: chosen.slice(0, 200).map(String) })}`).then((found) => current && setAnswers(found.rows), (e: Error) => setError(e.message));
    return () => void (current = false);
  }, [run, chosen]);

  const choose = (rows: number[]): void => {
    setChosen(rows);
    change({ rows: rows.length <= 200 ? rows.join(",") : "" });
  };
  const marked = useMemo(() => new Set(marks.marks.map((mark) => mark.row)), [marks]);
  const mark = (row: number): void => {
    const body = JSON.stringify({ run, row, mark: marked.has(row) ? "" : "wrong" });
    json<Marks>("/api/marks", { method: "POST", headers: { "Content-Type": "application/json" }, body }).then(setMarks, (e: Error) => setError(e.message));
  };

  return (
    <section aria-label="Data">
      <div class="options">
        {said && said.choices.length > 1 && <label>map of <select id="of" value={said.of} onChange={(e) => change({ of: e.currentTarget.value })}>
          {said.choices.map((one) => <option key={one} value={one}>{OF[one]}</option>)}
        </select></label>}
        <label>colour by <select id="colour" value={colour} onChange={(e) => change({ colour: e.currentTarget.value || "none" })}>
          <option value="none">nothing</option>
          {Object.keys(columns).map((name) => <option key={name} value={name}>{name}</option>)}
        </select></label>
        {said && <span role="status" class="end-of-line">{said.count.toLocaleString("en")} points, {said.method}{said.pending ? "; UMAP is being computed…" : ""}</span>}
      </div>
      {error && <p class="error" role="alert">{error}</p>}
      {!cloud && !error && <p class="empty" role="status">laying out the map…</p>}
      {cloud && (
        <div class="data">
          <Points cloud={cloud} codes={codes[colour] ?? null} chosen={chosen} choose={choose} run={run} values={columns[colour]?.values ?? []} />
          <div class="side">
            {columns[colour] && codes[colour] && (
              <ul class="legend" aria-label={`colours by ${colour}`}>
                {columns[colour].values.map((value, i) => (
                  <li key={value}><button type="button" title={`choose the points of ${value}`} onClick={() => choose([...cloud.rows].filter((_, at) => codes[colour]![at] === i))}>
                    <svg viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="5" fill={PALETTE[i % PALETTE.length]} /></svg>{value}
                  </button></li>
                ))}
              </ul>
            )}
            <div class="box">
              <h2>Findings</h2>
              {said && said.choices.length < 2 ? <p class="soft">Findings are of an index of pictures with their texts, which this is not.</p> : !findings || findings.state === "none" ? (
                <>
                  <p class="soft">Likely mismatches, duplicates, leaks, hubs, words that no picture shows: what stands out in this set.</p>
                  <button type="button" id="analyze" onClick={() => json<Findings>(`/api/findings?${query({ run })}`, { method: "POST" }).then(setFindings, (e: Error) => setError(e.message))}>analyse this set</button>
                </>
              ) : findings.state === "pending" ? <p role="status" class="soft">analysing; this takes a minute or more…</p> : findings.state === "failed" ? <p class="error">{findings.error}</p> : !findings.findings.length ? <p class="soft">Nothing stands out.</p> : (
                <ul class="findings">
                  {findings.findings.map((one, i) => (
                    <li key={i}><span class={`severity s${one.severity}`}>{SEVERITY[one.severity]}</span>
                      <button type="button" disabled={!one.rows.length} title={one.rows.length ? "choose its rows" : ""} onClick={() => choose(one.rows)}>{one.title}{one.rows.length > 0 && <span class="soft"> · {one.rows.length} rows</span>}</button>
                      <p>{one.detail}</p></li>
                  ))}
                </ul>
              )}
            </div>
            <div class="box">
              <h2>Marks</h2>
              <p role="status" class="soft">{marks.marks.length} marked as wrong{marks.file ? `, in ${marks.file.split(/[\\/]/).slice(-2).join("/")}` : ". Draw a line around points, then mark the pairs that are not as they should be."}</p>
              {marks.marks.length > 0 && (
                <p class="actions">
                  <a class="button" href={`/api/marks/table?${query({ run, of: "kept" })}`} download>the pairs without them</a>
                  <a class="button" href={`/api/marks/table?${query({ run, of: "marked" })}`} download>the marked ones</a>
                </p>
              )}
            </div>
          </div>
        </div>
      )}
      {chosen.length > 0 && (
        <>
          <p class="count" role="status">{chosen.length.toLocaleString("en")} chosen{chosen.length > 200 ? ", the first 200 shown" : ""} <button type="button" class="quiet" onClick={() => choose([])}>none</button></p>
          <Grid answers={answers} run={run} change={change} chosen={marked} choose={mark} />
        </>
      )}
    </section>
  );
}

// The column that a map is coloured by unasked: the one with most values that can still be told apart.
export function suggested(columns: Record<string, { values: string[] }>): string {
  const few = Object.entries(columns).filter(([, column]) => column.values.length <= PALETTE.length);
  return few.sort((a, b) => b[1].values.length - a[1].values.length)[0]?.[0] ?? "none";
}

function Points({ cloud, codes, chosen, choose, run, values }: { cloud: Cloud; codes: Uint8Array | null; chosen: number[]; choose: (rows: number[]) => void; run: string; values: string[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const over = useRef<SVGPolylineElement>(null);
  const [view, setView] = useState<View>({ x: 0, y: 0, scale: 1 });
  const [tip, setTip] = useState<{ x: number; y: number; row: number } | null>(null);
  const [texts, setTexts] = useState<Record<number, string>>({});
  const [pan, setPan] = useState(false);
  const drag = useRef<{ from: [number, number]; view: View; line: [number, number][] } | null>(null);
  const set = useMemo(() => new Set(chosen), [chosen]);

  useEffect(() => {
    const frame = requestAnimationFrame(() => {
      if (!canvas.current) return;
      const start = performance.now();
      drawCloud(canvas.current, cloud, view, codes, set);
      canvas.current.dataset.milliseconds = (performance.now() - start).toFixed(1);
    });
    return () => cancelAnimationFrame(frame);
  }, [cloud, view, codes, set]);

  useEffect(() => {
    if (!tip || texts[tip.row] !== undefined) return;
    const { row } = tip;
    const timer = setTimeout(() => json<Rows>(`/api/rows?${query({ run, row })}`).then((said) => setTexts((known) => ({ ...known, [row]: said.rows[0]?.text ?? "" })), () => undefined), 80);
    return () => clearTimeout(timer);
  }, [tip?.row]);
  useEffect(() => setTexts({}), [run]);

  const at = (event: PointerEvent | WheelEvent | MouseEvent): [number, number] => {
    const box = canvas.current!.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  const show = (line: [number, number][]): void => over.current?.setAttribute("points", line.map((p) => p.join(",")).join(" "));

  return (
    <div class="map">
      <canvas ref={canvas} width={SIDE} height={SIDE} tabIndex={0} role="application"
        aria-label={`a map of ${cloud.rows.length} points; drag a line around some to choose them; plus and minus zoom, arrows move`}
        onPointerDown={(e) => {
          canvas.current!.setPointerCapture(e.pointerId);
          drag.current = { from: at(e), view, line: [at(e)] };
          setTip(null);
        }}
        onPointerMove={(e) => {
          const [x, y] = at(e);
          if (!drag.current) {
            const found = nearest(cloud, view, SIDE, x, y, 12);
            setTip(found < 0 ? null : { x, y, row: cloud.rows[found]! });
          } else if (pan || e.shiftKey) {
            const [fx, fy] = drag.current.from;
            const unit = SIDE * 0.94 * view.scale;
            setView({ ...drag.current.view, x: drag.current.view.x - (x - fx) / unit, y: drag.current.view.y - (y - fy) / unit });
          } else {
            drag.current.line.push([x, y]);
            show(drag.current.line);
          }
        }}
        onPointerUp={(e) => {
          const line = drag.current?.line ?? [];
          drag.current = null;
          show([]);
          if (pan || e.shiftKey) return;
          if (line.length > 3) return choose(inside(cloud, line.map(([x, y]) => toMap(view, SIDE, x, y))));
          const found = nearest(cloud, view, SIDE, ...at(e), 12);
          if (found >= 0) choose([cloud.rows[found]!]);
        }}
        onPointerLeave={() => setTip(null)}
        onWheel={(e) => {
          e.preventDefault();
          const [x, y] = at(e);
          zoom(e.deltaY < 0 ? 1.25 : 0.8, x, y);
        }}
        onKeyDown={(e) => {
          const by = 0.1 / view.scale;
          const moved = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[e.key];
          if (e.key === "+" || e.key === "-") zoom(e.key === "+" ? 1.25 : 0.8, SIDE / 2, SIDE / 2);
          else if (moved) setView({ ...view, x: view.x + moved[0]!, y: view.y + moved[1]! });
          else return;
          e.preventDefault();
        }} />
      <svg class="lasso" viewBox={`0 0 ${SIDE} ${SIDE}`} aria-hidden="true"><polyline ref={over} /></svg>
      {tip && (
        <div class={`tip${tip.x > SIDE * 0.7 ? " left" : ""}${tip.y > SIDE * 0.6 ? " up" : ""}`} style={{ left: `${(tip.x / SIDE) * 100}%`, top: `${(tip.y / SIDE) * 100}%` }}>
          <img alt="" src={`/api/image/${tip.row}?${query({ run, side: 128 })}`} />{texts[tip.row] && <span>{texts[tip.row]}</span>}
        </div>
      )}
      <p class="actions">
        <button type="button" onClick={() => zoom(1.5, SIDE / 2, SIDE / 2)} aria-label="closer">+</button>
        <button type="button" onClick={() => zoom(1 / 1.5, SIDE / 2, SIDE / 2)} aria-label="further away">−</button>
        <button type="button" onClick={() => setView({ x: 0, y: 0, scale: 1 })}>all</button>
        <button type="button" aria-pressed={pan} onClick={() => setPan(!pan)}>move</button>
        <Save of="the map" name={`map ${run}`} kinds={{
          PNG: () => canvasPng(canvas.current!),
          SVG: () => new Blob([cloudSvg(cloud, view, SIDE, codes, set)], { type: "image/svg+xml" }),
          JSON: () => asJson({ run, points: [...cloud.rows].map((row, i) => ({ row, x: cloud.places[2 * i], y: cloud.places[2 * i + 1], value: codes ? (values[codes[i]!] ?? null) : undefined, chosen: set.size ? set.has(row) : undefined })) }),
        }} />
      </p>
    </div>
  );

  function zoom(by: number, x: number, y: number): void {
    const scale = Math.min(Math.max(view.scale * by, 0.5), 200);
    const [mx, my] = toMap(view, SIDE, x, y);
    const [nx, ny] = toMap({ ...view, scale }, SIDE, x, y);
    setView({ x: view.x + mx - nx, y: view.y + my - ny, scale });
  }
}
