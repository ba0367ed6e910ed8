// The pages: what is common to the four screens.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { json, type Run } from "./api";
import { Data } from "./data";
import { Runs } from "./runs";
import { Search } from "./search";
import { useAddress, type State } from "./state";
import { Why } from "./why";

export interface Screen {
  state: State;
  change: (changes: State, push?: boolean) => void;
  runs: Run[];
  upload: File | null;
  setUpload: (file: File | null) => void;
}

const SCREENS = { search: Search, why: Why, data: Data, runs: Runs };
const TITLES = { search: "Search", why: "Why", data: "Data", runs: "Runs" };
type Name = keyof typeof SCREENS;

function App() {
  const [state, change] = useAddress();
  const [runs, setRuns] = useState<Run[]>([]);
  const [error, setError] = useState("");
  const [upload, setUpload] = useState<File | null>(null);
  const [dragging, setDragging] = useState(false);
  const name: Name = state.screen && state.screen in SCREENS ? (state.screen as Name) : "search";
  const Shown = SCREENS[name];
  const dark = state.dark ?? "";

  useEffect(() => {
    json<{ runs: Run[] }>("/api/health").then((said) => setRuns(said.runs), (e: Error) => setError(e.message));
  }, []);
  useEffect(() => {
    document.title = `${TITLES[name]} · coalign`;
  }, [name]);
  useEffect(() => {
    document.documentElement.dataset.theme = dark === "1" ? "dark" : dark === "0" ? "light" : "";
  }, [dark]);
  useEffect(() => {
    const take = (file: File | null | undefined): void => {
      if (!file?.type.startsWith("image/")) return;
      setUpload(file);
      change(name === "why" ? { row: "" } : { screen: "search" });
    };
    const paste = (event: ClipboardEvent): void => take(event.clipboardData?.files[0]);
    const drop = (event: DragEvent): void => {
      event.preventDefault();
      setDragging(false);
      take(event.dataTransfer?.files[0]);
    };
    const over = (event: DragEvent): void => {
      event.preventDefault();
      setDragging(true);
    };
    const out = (event: DragEvent): void => {
      if (!event.relatedTarget) setDragging(false);
    };
    const keys = (event: KeyboardEvent): void => {
      const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") {
        event.preventDefault();
        document.querySelector<HTMLInputElement>("#text, #words")?.focus();
      }
      const wanted = Object.keys(SCREENS)[Number(event.key) - 1];
      if (wanted) change({ screen: wanted }, true);
    };
    const listeners: [string, EventListener][] = [
      ["paste", paste as EventListener], ["drop", drop as EventListener], ["dragover", over as EventListener],
      ["dragleave", out as EventListener], ["keydown", keys as EventListener],
    ];
    for (const [event, listener] of listeners) addEventListener(event, listener);
    return () => listeners.forEach(([event, listener]) => removeEventListener(event, listener));
  }, [name]);

  return (
    <>
      <a class="skip" href="#main">to the content</a>
      <header>
        <h1><img src="/icon.svg" alt="" />coalign</h1>
        <nav aria-label="screens">
          {(Object.keys(SCREENS) as Name[]).map((one) => (
            <a key={one} href={`?screen=${one}`} aria-current={one === name ? "page" : undefined}
              onClick={(event) => { event.preventDefault(); change({ screen: one }, true); }}>{TITLES[one]}</a>
          ))}
        </nav>
        <div class="tools">
          {runs.length > 1 && name !== "runs" && (name !== "why" || runs.some((run) => run.reads === "streams")) && (
            <label class="soft">run <select id="run" value={state.run ?? runs[0]!.name} onChange={(e) => change({ run: e.currentTarget.value, rows: "", row: "", words: "", pin: "" })}>
              {runs.map((run) => <option key={run.name} value={run.name}>{run.name}</option>)}
            </select></label>
          )}
          <button type="button" class="theme quiet" aria-label={isDark(dark) ? "light colours" : "dark colours"} title={isDark(dark) ? "light colours" : "dark colours"}
            onClick={() => change({ dark: isDark(dark) ? "0" : "1" })}>
            <svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{isDark(dark)
              ? <path d="M8 1v2M8 13v2M1 8h2M13 8h2M3 3l1.4 1.4M11.6 11.6 13 13M13 3l-1.4 1.4M4.4 11.6 3 13M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6Z" />
              : <path d="M13.5 9.6A6 6 0 0 1 6.4 2.5a6 6 0 1 0 7.1 7.1Z" />}</svg>
          </button>
          <a class="docs-link small" href="/api/docs">API</a>
        </div>
      </header>
      <main id="main" tabIndex={-1} class={dragging ? "dragging" : ""}>
        {error ? <p class="error" role="alert">{error}</p> : runs.length > 0 && <Shown state={state} change={change} runs={runs} upload={upload} setUpload={setUpload} />}
      </main>
    </>
  );
}

function isDark(chosen: string): boolean {
  return chosen === "" ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "1";
}

render(<App />, document.getElementById("root")!);
