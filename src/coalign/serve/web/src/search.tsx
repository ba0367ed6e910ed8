// Search: words, pictures, rows, added and taken away; answers as a grid that goes on while one scrolls.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { json, query, type Answer, type Found, type Rows } from "./api";
import type { Screen } from "./app";
import { Grid, useSight } from "./grid";
import { asCsv, asJson, Save } from "./save";

const PAGE = 48;
const MOST_SAVED = 1000; // answers of a file
let left = { key: "", top: 0 }; // how far an earlier query was scrolled when its screen was left

export function Search({ state, change, runs, upload, setUpload }: Screen) {
  const run = state.run ?? runs[0]?.name ?? "";
  const [about, setAbout] = useState<Rows | null>(null);
  const [pages, setPages] = useState<Map<number, Answer[]>>(new Map());
  const [total, setTotal] = useState(0);
  const [calibrating, setCalibrating] = useState(false);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const [typed, setTyped] = useState(state.text ?? "");
  const [minus, setMinus] = useState(state.minus ?? "");
  const list = useRef<HTMLUListElement>(null);
  const asked = useRef({ number: 0, pages: new Set<number>() });

  const filters = Object.keys(about?.columns ?? {}).filter((name) => state[`where.${name}`]);
  const where = filters.map((name) => `${name}:${state[`where.${name}`]}`);
  const isQuery = Boolean(state.text || state.like || upload);
  const key = JSON.stringify([run, state.text, state.minus, state.like, state.unlike, state.rerank, state.least, where, upload?.size, state.answers]);

  useEffect(() => {
    if (run) json<Rows>(`/api/rows?${query({ run, k: PAGE })}`).then(setAbout, (e: Error) => setError(e.message));
  }, [run]);

  async function ask(offset: number, k = PAGE): Promise<Found> {
    if (isQuery) {
      const address = `/api/search?${query({
        run, text: state.text, minus: state.minus, like: state.like, unlike: state.unlike, rerank: state.rerank === "1",
        least: state.least, answers: state.answers, where, offset, k,
      })}`;
      return json<Found>(address, upload ? { method: "POST", body: upload } : {});
    }
    const rows = await json<Rows>(`/api/rows?${query({ run, where, offset, k })}`);
    const following = offset + rows.rows.length;
    return { run, answers: rows.rows, total: rows.total, next: following < rows.total ? following : null };
  }

  // page 0 begins anew; others are added to what is there
  async function load(page: number): Promise<void> {
    if (page === 0) asked.current = { number: asked.current.number + 1, pages: new Set() };
    const { number, pages: wanted } = asked.current;
    if (wanted.has(page)) return;
    wanted.add(page);
    setBusy(true);
    try {
      const found = await ask(page * PAGE);
      if (number !== asked.current.number) return;
      setPages((before) => new Map([...(page ? before : []), [page, found.answers] as const]));
      setTotal(found.next === null && found.answers.length ? page * PAGE + found.answers.length : found.total);
      setCalibrating(found.calibrating === true);
      setError("");
    } catch (problem) {
      if (number !== asked.current.number) return;
      setError((problem as Error).message);
      if (!page) setPages(new Map());
      if (!page) setTotal(0);
    } finally {
      if (number === asked.current.number) setBusy(false);
    }
  }

  useEffect(() => {
    if (!about) return;
    const top = left.key === key ? left.top : 0;
    void load(0).then(() => requestAnimationFrame(() => requestAnimationFrame(() => scrollTo(0, top)))); // once the cards are measured
  }, [key, about !== null]);
  useEffect(() => {
    const keep = (): void => void (left = { key, top: scrollY });
    addEventListener("scroll", keep, { passive: true });
    return () => removeEventListener("scroll", keep);
  }, [key]);
  useEffect(() => { // P(match) of re-ranked answers comes when it is calibrated
    if (!calibrating) return;
    const timer = setTimeout(() => void load(0), 1500);
    return () => clearTimeout(timer);
  }, [calibrating, pages]);

  async function first(): Promise<Answer[]> {
    const found: Answer[] = [];
    for (let next: number | null = 0; next !== null && next < MOST_SAVED;) {
      const said: Found = await ask(next, 200);
      found.push(...said.answers);
      next = said.next;
    }
    return found;
  }

  const count = pages.size ? total : 0;
  const seen = useSight(list, count);
  const calm = useRef(seen); // what was in sight before it was scrolled fast
  if (!seen.fast) calm.current = seen;
  const answers = useMemo(
    () => [...Array(Math.max(Math.min(seen.last, count) - seen.first, 0)).keys()].map((i) => {
      const at = seen.first + i;
      if (at < calm.current.first || at >= calm.current.last) return undefined;
      return pages.get(Math.floor(at / PAGE))?.[at % PAGE];
    }),
    [pages, seen, count],
  );
  useEffect(() => {
    if (!count || seen.fast) return;
    const [from, to] = [Math.floor(seen.first / PAGE), Math.floor(Math.max(Math.min(seen.last, count) - 1, 0) / PAGE)];
    const timer = setTimeout(() => { for (let page = from; page <= to; page++) if (page) void load(page); }, 60); // not of what is only scrolled over
    return () => clearTimeout(timer);
  }, [seen, count, pages]);

  useEffect(() => setTyped(state.text ?? ""), [state.text]);
  useEffect(() => setMinus(state.minus ?? ""), [state.minus]);
  const hasChance = answers.some((answer) => typeof answer?.p_match === "number");

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
        {about?.searchable !== false && <label class="less">
          but not
          <input id="minus" type="search" value={minus} maxLength={2000} onInput={(e) => setMinus(e.currentTarget.value)} />
        </label>}
        <button type="submit" class="main">Search</button>
        <PictureButton take={setUpload} />
      </form>
      <div class="options">
        {about?.searchable !== false && <label><input type="checkbox" checked={state.rerank === "1"} onChange={(e) => change({ rerank: e.currentTarget.checked ? "1" : "" })} /> re-rank</label>}
        {about?.searchable !== false && <label title="Leave out answers whose P(match) is smaller">
          P(match) at least <output>{Number(state.least ?? 0).toFixed(2)}</output>
          <input id="least" type="range" min="0" max="0.95" step="0.05" value={state.least ?? "0"} onChange={(e) => change({ least: e.currentTarget.value === "0" ? "" : e.currentTarget.value })} />
        </label>}
        {Object.entries(about?.columns ?? {}).map(([name, values]) => (
          <label key={name}>
            {name}
            <select value={state[`where.${name}`] ?? ""} onChange={(e) => change({ [`where.${name}`]: e.currentTarget.value })}>
              <option value="">any</option>
              {values.map((value) => <option key={value} value={value}>{value}</option>)}
            </select>
          </label>
        ))}
        {answers.length > 0 && <span class="end-of-line"><Save of="the answers" name={["answers", state.text, state.like && `like ${state.like}`].filter(Boolean).join(" ")} kinds={{
          CSV: async () => {
            const [found, columns] = [await first(), Object.keys(about?.columns ?? {})];
            return asCsv(["row", "score", "p_match", "text", "image", ...columns], found.map((one) => [one.row, one.score, one.p_match, one.text, one.image, ...columns.map((name) => one.columns[name])]));
          },
          JSON: async () => asJson({ run, query: { text: state.text, minus: state.minus, like: state.like, unlike: state.unlike, picture: upload?.name, where, rerank: state.rerank === "1" }, total, answers: await first() }),
        }} /></span>}
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
        {!about && !error ? "reading…" : busy && !answers.length ? "searching…" : `${total.toLocaleString("en")} ${isQuery ? "answers" : "rows"}`}
        {!isQuery && (state.unlike || state.minus) && " (add words or a picture for these to be taken away from)"}
        {calibrating && " (P(match) of re-ranked answers is being calibrated…)"}
        {isQuery && answers.length > 0 && !hasChance && !calibrating && about?.searchable && " (no P(match): the index holds no pairs of text and picture)"}
        {isQuery && about && !about.searchable && " (no index: the model has read the words with each of the first 500 rows)"}
      </p>
      {!busy && !error && about && !answers.length && (
        <div class="empty"><strong>No answers</strong>
          {Number(state.least ?? 0) > 0 && `Nothing has a P(match) of ${state.least} or more. `}
          {filters.length > 0 && `Nothing fits with ${filters.map((name) => `${name} ${state[`where.${name}`]}`).join(", ")}. `}
          <p><button type="button" onClick={() => change({ least: "", ...Object.fromEntries(filters.map((name) => [`where.${name}`, ""])) })}>without the filters</button></p>
        </div>
      )}
      <Grid answers={answers} change={change} run={run} list={list} first={seen.first} total={count} before={seen.before} after={seen.after} alike={about?.searchable !== false} />
    </section>
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
