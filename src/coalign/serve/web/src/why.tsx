// Why: which word draws on which patch, region or moment; of one run, or of several beside each other at one scale.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { aligned, base64, json, query, type Rows } from "./api";
import type { Screen } from "./app";
import { asMultiples, css, extent, fitted, sameWords, strength, values, wordsAt, type Choice } from "./heat";
import { Heads } from "./heads";
import { named, Panel, type Shown } from "./panel";
import { PictureButton } from "./search";
import { Streams } from "./streams";

const FRAMES = 6; // of a film strip at least, also where the model sees fewer moments

export function Why(screen: Screen) {
  const { state, runs } = screen;
  const name = (state.run ?? state.runs ?? "").split(",")[0] || runs[0]?.name || "";
  const run = runs.find((one) => one.name === name);
  return run?.reads === "streams" ? <Streams state={state} change={screen.change} run={run.name} /> : <Pairs {...screen} />;
}

function Pairs({ state, change, runs, upload, setUpload }: Screen) {
  const chosen = (state.runs ?? state.run ?? runs[0]?.name ?? "").split(",").filter(Boolean).slice(0, 3);
  const [shown, setShown] = useState<Shown[]>([]);
  const [picture, setPicture] = useState<ImageBitmap | null>(null);
  const [typed, setTyped] = useState(state.words ?? "");
  const [hover, setHover] = useState<number[] | null>(null);
  const [place, setPlace] = useState<{ run: string; at: number } | null>(null);
  const [busy, setBusy] = useState(false);
  const [uploaded, setUploaded] = useState<string | null>(null);
  const known = useRef(new Map<string, string[]>()); // the methods of each run, also of one that lacks the chosen one
  const row = state.row ?? "";
  const pinned = (state.pin ?? "").split(",").filter(Boolean).map(Number);
  const layer = Number(state.layer ?? -1), head = Number(state.head ?? -1);
  const method = state.method ?? "auto";
  const opacity = Number(state.heat ?? 1);
  const key = JSON.stringify([chosen, row, state.words, method, upload?.size]);

  const own = shown.find((one) => one.said)?.said?.text ?? "";
  useEffect(() => setTyped(state.words ?? own), [state.words, own]);
  useEffect(() => {
    if (!row && !upload && chosen[0]) {
      json<Rows>(`/api/rows?${query({ run: chosen[0], k: 1 })}`).then((said) => {
        const first = said.rows[0];
        if (first) change({ row: String(first.row), words: first.text });
      }, (error: Error) => setShown([{ run: chosen[0]!, error: error.message }]));
    }
  }, [row, upload]);
  useEffect(() => {
    if (!row && !upload) return;
    let current = true;
    setBusy(true);
    void (async () => {
      const image = upload && !row ? await base64(upload) : null;
      const found = await Promise.all(chosen.map(async (run): Promise<Shown> => {
        try {
          const body = { run, text: state.words ?? "", method, ...(image ? { image } : { row: Number(row), of: chosen[0] }) };
          return { run, ...(await aligned(body)) };
        } catch (error) {
          return { run, error: (error as Error).message };
        }
      }));
      if (!current) return;
      setShown(found);
      setUploaded(image);
      setBusy(false);
      const film = found.find((one) => one.maps)?.maps?.kind === "moments" ? Math.max(found.find((one) => one.maps)!.maps!.places, FRAMES) : "";
      const address = image ?? `/api/image/${row}?${query({ run: chosen[0], side: film ? 1024 : 512, film })}`;
      const blob = image ? upload! : await fetch(address).then((answer) => (answer.ok ? answer.blob() : null));
      const bitmap = blob ? await createImageBitmap(blob).catch(() => null) : null;
      if (current) setPicture(bitmap);
    })();
    return () => void (current = false);
  }, [key]);

  const first = shown.find((one) => one.maps);
  const many = shown.length > 1;
  const layered = shown.find((one) => one.maps?.layers);
  for (const one of shown) if (one.said) known.current.set(one.run, one.said.methods);
  const methods = [...new Set(chosen.flatMap((run) => known.current.get(run) ?? []))];
  const multiples = shown.filter((one) => one.maps).length > 1;
  const words = hover ?? pinned;
  // the words of the first run's text in the words of another's
  const inOwn = (one: Shown, chosen: number[]): number[] => one.maps && first?.maps ? sameWords(first.said!.text, first.maps.words, one.maps.words, chosen) : chosen;
  const choiceOf = (one: Shown): Choice => {
    const choice = { layer, head, words: inOwn(one, words) };
    return one.maps ? fitted(one.maps, choice) : choice;
  };
  const drawn = useMemo(() => {
    const own = shown.map((one) => {
      const choice = choiceOf(one);
      return one.maps && choice.words.length >= Math.min(words.length, 1) ? values(one.maps, choice) : null;
    });
    if (shown.filter((one) => one.maps).length < 2) return { own, scale: extent(own.filter((v) => v !== null)) };
    const multiples = own.map((v) => (v ? asMultiples(v) : null));
    return { own: multiples, scale: extent(multiples.filter((v) => v !== null)) };
  }, [shown, layer, head, JSON.stringify(words)]);
  const under = place && shown.find((one) => one.run === place.run && one.maps);
  const atPlace = under ? wordsAt(under.maps!, choiceOf(under), place.at) : null;
  const byWord = under && atPlace && first?.maps ? Float32Array.from(first.maps.words, (_, i) => {
    const own = inOwn(under, [i]);
    return own.length ? Math.max(...own.map((word) => atPlace[word]!)) : Math.min(...atPlace);
  }) : null;
  const wordScale = byWord ? extent([byWord]) : null;

  const pin = (word: number): void =>
    change({ pin: (pinned.includes(word) ? pinned.filter((own) => own !== word) : [...pinned, word].sort((a, b) => a - b)).join(",") });

  return (
    <section aria-label="Why">
      <form class="query" onSubmit={(event) => { event.preventDefault(); change({ words: typed, pin: "" }, true); }}>
        <label class="grow">Text<input id="words" value={typed} maxLength={2000} onInput={(e) => setTyped(e.currentTarget.value)} /></label>
        <label>Row<input id="row" class="row" type="number" min="0" value={row} onChange={(e) => change({ row: e.currentTarget.value, words: "", pin: "" }, true)} /></label>
        <button type="submit" class="main">Align</button>
        <PictureButton take={(file) => { setUpload(file); change({ row: "", pin: "" }); }} />
      </form>
      <div class="options">
        {runs.length > 1 && (
          <fieldset><legend>runs, three at most</legend>
            {runs.map((run) => (
              <label key={run.name}><input type="checkbox" checked={chosen.includes(run.name)} onChange={(e) => {
                const next = e.currentTarget.checked ? [...chosen, run.name].slice(-3) : chosen.filter((name) => name !== run.name);
                change({ runs: (next.length ? next : chosen).join(",") });
              }} /> {run.name}</label>
            ))}
          </fieldset>
        )}
        {(first || state.method) && (
          <label>method <select id="method" value={method} onChange={(e) => change({ method: e.currentTarget.value, layer: "", head: "" })}>
            <option value="auto">auto{methods[0] && ` (${named(methods[0])})`}</option>
            {[...new Set([...methods, ...(state.method ? [method] : [])])].filter((name) => name !== "auto").map((name) => <option key={name} value={name}>{named(name)}</option>)}
          </select></label>
        )}
        {first && <label>heat <input id="heat" type="range" min="0" max="1" step="0.1" value={opacity} onInput={(e) => change({ heat: e.currentTarget.value === "1" ? "" : e.currentTarget.value })} /></label>}
        {busy && <span role="status" class="end-of-line">aligning…</span>}
      </div>
      {first?.maps && (
        <div class="words" role="group" aria-label="words: hover to see one, press to keep it">
          {first.maps.words.map((word, i) => (
            <button type="button" key={i} class={`word${/^\W+$/u.test(word) && !/[\p{L}\p{N}]/u.test(word) ? " mark" : ""}`} aria-pressed={pinned.includes(i)} data-word={i}
              style={byWord && wordScale ? { boxShadow: `inset 0 -0.3em 0 ${css(strength(byWord[i]!, wordScale))}` } : {}}
              onMouseEnter={() => setHover([i])} onMouseLeave={() => setHover(null)} onFocus={() => setHover([i])} onBlur={() => setHover(null)}
              onClick={() => pin(i)}>{word}</button>
          ))}
          <button type="button" class="whole" aria-pressed={!pinned.length} onClick={() => change({ pin: "" })}>whole text</button>
        </div>
      )}
      <div class="why">
        <div class={`panels ${["", "one", "two", "three"][shown.length] ?? ""}`}>
          {shown.map((one, i) => (
            <Panel key={one.run} one={one} picture={picture} of={chosen[0]!} own={drawn.own[i] ?? null} scale={drawn.scale} many={many} multiples={multiples} opacity={opacity}
              image={upload && !row ? uploaded : null} mark={place?.run === one.run ? place.at : -1} setPlace={(at) => setPlace(at < 0 ? null : { run: one.run, at })}
              choice={choiceOf(one)} wanted={words.map((i) => first?.maps?.words[i] ?? "")} pinned={inOwn(one, pinned)} curve={state.curve === "1"} setCurve={(on) => change({ curve: on ? "1" : "" })} />
          ))}
        </div>
        {first?.maps && (
          <div class="side">
            {layered?.maps && <Heads maps={layered.maps} of={many ? layered.run : ""} layer={layer} head={head} change={change} />}
            <p class="soft small">Hover a word to see where it draws on the picture, press it to keep it; several kept words are a phrase. Hover the picture to see which words look there.</p>
          </div>
        )}
      </div>
    </section>
  );
}
