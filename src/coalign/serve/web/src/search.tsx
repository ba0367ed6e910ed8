// Search: words, pictures, rows, added and taken away; answers as a grid that goes on while one scrolls.

import { useEffect, useRef, useState } from "preact/hooks";
import { json, query, type Answer, type Found, type Rows } from "./api";
import type { Screen } from "./app";

const PAGE = 48;

export function Search({ state, change, runs, upload, setUpload }: Screen) {
  const run = state.run ?? runs[0]?.name ?? "";
  const [about, setAbout] = useState<Rows | null>(null);
  const [answers, setAnswers] = useState<Answer[]>([]);
  const [total, setTotal] = useState(0);
  const [next, setNext] = useState<number | null>(null);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const [typed, setTyped] = useState(state.text ?? "");
  const [minus, setMinus] = useState(state.minus ?? "");
  const end = useRef<HTMLDivElement>(null);
  const asked = useRef(0);

  const filters = Object.keys(about?.columns ?? {}).filter((name) => state[`where.${name}`]);
  const where = filters.map((name) => `${name}:${state[`where.${name}`]}`);
  const isQuery = Boolean(state.text || state.like || upload);
  const key = JSON.stringify([run, state.text, state.minus, state.like, state.unlike, state.rerank, state.least, where, upload?.size, state.answers]);

  useEffect(() => {
    if (run) json<Rows>(`/api/rows?${query({ run, k: PAGE })}`).then(setAbout, (e: Error) => setError(e.message));
  }, [run]);

  async function load(offset: number): Promise<void> {
    const number = offset === 0 ? ++asked.current : asked.current;
    setBusy(true);
    try {
      let found: Found;
      if (isQuery) {
        const address = `/api/search?${query({
          run, text: state.text, minus: state.minus, like: state.like, unlike: state.unlike, rerank: state.rerank === "1",
          least: state.least, answers: state.answers, where, offset, k: PAGE,
        })}`;
        found = await json<Found>(address, upload ? { method: "POST", body: upload } : {});
      } else {
        const rows = await json<Rows>(`/api/rows?${query({ run, where, offset, k: PAGE })}`);
        const following = offset + rows.rows.length;
        found = { run, answers: rows.rows, total: rows.total, next: following < rows.total ? following : null };
      }
      if (number !== asked.current) return;
      setAnswers((before) => (offset ? [...before, ...found.answers] : found.answers));
      setTotal(found.total);
      setNext(found.next);
      setError("");
    } catch (problem) {
      if (number !== asked.current) return;
      setError((problem as Error).message);
      setAnswers(offset ? answers : []);
      setNext(null);
    } finally {
      if (number === asked.current) setBusy(false);
    }
  }

  useEffect(() => {
    if (about) void load(0);
  }, [key, about !== null]);

  useEffect(() => {
    const target = end.current;
    if (!target || next === null) return;
    const watch = new IntersectionObserver((seen) => {
      if (seen.some((one) => one.isIntersecting) && !busy) void load(next);
    }, { rootMargin: "600px" });
    watch.observe(target);
    return () => watch.disconnect();
  }, [next, busy]);

  useEffect(() => setTyped(state.text ?? ""), [state.text]);
  useEffect(() => setMinus(state.minus ?? ""), [state.minus]);
  const hasChance = answers.some((answer) => typeof answer.p_match === "number");

  return (
    <section aria-label="Search">
      <form
        class="query"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          change({ text: typed, minus }, true);
        }}
      >
        <label class="grow">
          Search for
          <input id="text" type="search" value={typed} placeholder="words, or drop or paste a picture" maxLength={2000} onInput={(e) => setTyped(e.currentTarget.value)} />
        </label>
        <label class="less">
          but not
          <input id="minus" type="search" value={minus} maxLength={2000} onInput={(e) => setMinus(e.currentTarget.value)} />
        </label>
        <button type="submit" class="main">Search</button>
        <PictureButton take={setUpload} />
      </form>
      <div class="options">
        <label><input type="checkbox" checked={state.rerank === "1"} onChange={(e) => change({ rerank: e.currentTarget.checked ? "1" : "" })} /> re-rank</label>
        <label title="Leave out answers whose P(match) is smaller">
          P(match) at least <output>{Number(state.least ?? 0).toFixed(2)}</output>
          <input id="least" type="range" min="0" max="0.95" step="0.05" value={state.least ?? "0"} onChange={(e) => change({ least: e.currentTarget.value === "0" ? "" : e.currentTarget.value })} />
        </label>
        {Object.entries(about?.columns ?? {}).map(([name, values]) => (
          <label key={name}>
            {name}
            <select value={state[`where.${name}`] ?? ""} onChange={(e) => change({ [`where.${name}`]: e.currentTarget.value })}>
              <option value="">any</option>
              {values.map((value) => <option key={value} value={value}>{value}</option>)}
            </select>
          </label>
        ))}
      </div>
      {(upload || state.like || state.unlike) && (
        <p class="terms">
          {upload && <span class="term"><Thumb file={upload} />your picture <button type="button" aria-label="remove your picture" onClick={() => setUpload(null)}>×</button></span>}
          {state.like && <span class="term"><img src={`/api/image/${state.like}?${query({ run, side: 64 })}`} alt="" />like row {state.like} <button type="button" aria-label="remove this term" onClick={() => change({ like: "" })}>×</button></span>}
          {state.unlike && <span class="term"><img src={`/api/image/${state.unlike}?${query({ run, side: 64 })}`} alt="" />unlike row {state.unlike} <button type="button" aria-label="remove this term" onClick={() => change({ unlike: "" })}>×</button></span>}
        </p>
      )}
      {error && <p class="error" role="alert">{error}</p>}
      <p class="count" role="status">
        {busy && !answers.length ? "searching…" : `${total.toLocaleString("en")} ${isQuery ? "answers" : "rows"}`}
        {!isQuery && (state.unlike || state.minus) && " (add words or a picture for these to be taken away from)"}
        {isQuery && answers.length > 0 && !hasChance && " (no P(match): the index holds no pairs of text and picture)"}
      </p>
      {!busy && !error && about && !answers.length && (
        <div class="empty"><strong>No answers</strong>
          {Number(state.least ?? 0) > 0 && `Nothing has a P(match) of ${state.least} or more. `}
          {filters.length > 0 && `Nothing fits with ${filters.map((name) => `${name} ${state[`where.${name}`]}`).join(", ")}. `}
          <p><button type="button" onClick={() => change({ least: "", ...Object.fromEntries(filters.map((name) => [`where.${name}`, ""])) })}>without the filters</button></p>
        </div>
      )}
      <Grid answers={answers} change={change} run={run} />
      <div ref={end} class="end" aria-hidden="true" />
    </section>
  );
}

export function Grid({ answers, change, run, chosen, choose }: {
  answers: Answer[]; run: string; change: Screen["change"]; chosen?: Set<number>; choose?: (row: number) => void;
}) {
  function step(event: KeyboardEvent): void {
    const list = event.currentTarget as HTMLElement;
    const cards = [...list.querySelectorAll<HTMLElement>(".card > .open")];
    const at = cards.indexOf(document.activeElement as HTMLElement);
    if (at < 0) return;
    const top = cards[0]!.getBoundingClientRect().top;
    const columns = cards.findIndex((card) => card.getBoundingClientRect().top > top + 4);
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns < 0 ? cards.length : columns, ArrowUp: columns < 0 ? -cards.length : -columns }[event.key];
    const target = by === undefined ? undefined : cards[at + by];
    if (target) {
      event.preventDefault();
      target.focus();
    }
  }
  return (
    <ul class="grid" onKeyDown={step}>
      {answers.map((answer) => (
        <li class={`card${chosen?.has(answer.row) ? " chosen" : ""}${answer.video ? " moment" : ""}`} key={`${run} ${answer.row}`}>
          <button type="button" class="open" title="why" onClick={() => change({ screen: "why", row: String(answer.row), words: answer.text, run, runs: "", pin: "" }, true)}>
            <img src={`${answer.image}${answer.image.includes("?") ? "&" : "?"}side=256`} alt="" loading="lazy" />
            <span class="caption">{answer.text || `row ${answer.row}`}</span>
          </button>
          {answer.video && <Moment answer={answer} />}
          {typeof answer.score === "number" && (
            <span class="figures">
              {typeof answer.p_match === "number" && <span title="P(match): the share of right answers at this score">P {answer.p_match.toFixed(2)} <progress max={1} value={answer.p_match} aria-label="P(match)" /></span>}
              <span class="score" title="score">{answer.score.toFixed(3)}</span>
            </span>
          )}
          <span class="actions">
            <button type="button" class="quiet" onClick={() => change({ screen: "search", like: String(answer.row), text: "", minus: "", unlike: "", run }, true)}>more like this</button>
            <button type="button" class="quiet" title="take this one away from the query" onClick={() => change({ screen: "search", unlike: String(answer.row), run }, true)}>less</button>
            {choose && <button type="button" class="quiet" aria-pressed={chosen?.has(answer.row) ?? false} onClick={() => choose(answer.row)}>mark</button>}
          </span>
        </li>
      ))}
    </ul>
  );
}

export function PictureButton({ take }: { take: (file: File | null) => void }) {
  return (
    <label class="button">
      <svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d="M1.5 3.5h13v9h-13zM1.5 11l4-4 3 3 2.5-2.5 3.5 3.5" /></svg>
      Picture…
      <input class="hidden" type="file" accept="image/*" onChange={(e) => { take(e.currentTarget.files?.[0] ?? null); e.currentTarget.value = ""; }} />
    </label>
  );
}

function Thumb({ file }: { file: File }) {
  const [address, setAddress] = useState("");
  useEffect(() => {
    const made = URL.createObjectURL(file);
    setAddress(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return address ? <img src={address} alt="" /> : null;
}

export function Moment({ answer }: { answer: Answer }) {
  const [open, setOpen] = useState(false);
  const span = `${clock(answer.start ?? 0)}–${clock(answer.end ?? 0)}`;
  return open ? (
    <video controls autoplay muted src={`${answer.video}#t=${answer.start},${answer.end}`} aria-label={`${answer.file}, ${span}`} />
  ) : (
    <button type="button" class="play" onClick={() => setOpen(true)}>▶ {span} <span class="file">{answer.file}</span></button>
  );
}

export function clock(seconds: number): string {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}
