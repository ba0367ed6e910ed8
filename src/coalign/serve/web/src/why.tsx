// Why: which word draws on which patch, region or moment; of one run, or of several beside each other at one scale.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { aligned, base64, download, json, query, type Aligned, type Rows } from "./api";
import type { Screen } from "./app";
import { Streams } from "./streams";
import { asMultiples, css, draw, extent, placeAt, strength, svg, values, wordsAt, type Choice, type Maps, type Scale } from "./heat";

interface Shown { run: string; said?: Aligned; maps?: Maps; error?: string; }

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
  const row = state.row ?? "";
  const pinned = (state.pin ?? "").split(",").filter(Boolean).map(Number);
  const layer = Number(state.layer ?? -1), head = Number(state.head ?? -1);
  const method = state.method ?? "auto";
  const key = JSON.stringify([chosen, row, state.words, method, upload?.size]);

  useEffect(() => setTyped(state.words ?? ""), [state.words]);
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
      const film = found.find((one) => one.maps)?.maps?.kind === "moments" ? found.find((one) => one.maps)!.maps!.places : "";
      const address = image ?? `/api/image/${row}?${query({ run: chosen[0], side: film ? 1024 : 512, film })}`;
      const blob = image ? upload! : await fetch(address).then((answer) => (answer.ok ? answer.blob() : null));
      const bitmap = blob ? await createImageBitmap(blob).catch(() => null) : null;
      if (current) setPicture(bitmap);
    })();
    return () => void (current = false);
  }, [key]);

  const first = shown.find((one) => one.maps);
  const choice: Choice = { layer, head, words: hover ?? pinned };
  const drawn = useMemo(() => {
    const own = shown.map((one) => (one.maps ? values(one.maps, { ...choice, layer: Math.min(layer, one.maps.layers - 1) }) : null));
    if (shown.filter((one) => one.maps).length < 2) return { own, scale: extent(own.filter((v) => v !== null)) };
    const multiples = own.map((v) => (v ? asMultiples(v) : null));
    return { own: multiples, scale: extent(multiples.filter((v) => v !== null)) };
  }, [shown, layer, head, JSON.stringify(choice.words)]);
  const atPlace = place && shown.find((one) => one.run === place.run)?.maps;
  const byWord = atPlace ? wordsAt(atPlace, choice, place.at) : null;
  const wordScale = byWord ? extent([byWord]) : null;

  const pin = (word: number): void =>
    change({ pin: (pinned.includes(word) ? pinned.filter((own) => own !== word) : [...pinned, word].sort((a, b) => a - b)).join(",") });

  return (
    <section aria-label="Why">
      <form class="query" onSubmit={(event) => { event.preventDefault(); change({ words: typed, pin: "" }, true); }}>
        <label class="grow">Text<input id="words" value={typed} maxLength={2000} onInput={(e) => setTyped(e.currentTarget.value)} /></label>
        <label>Row<input id="row" type="number" min="0" value={row} onChange={(e) => change({ row: e.currentTarget.value, words: "", pin: "" }, true)} /></label>
        <button type="submit" class="main">Align</button>
        <label class="button">Picture…<input class="hidden" type="file" accept="image/*" onChange={(e) => { setUpload(e.currentTarget.files?.[0] ?? null); change({ row: "" }); }} /></label>
      </form>
      <div class="options">
        {runs.length > 1 && (
          <fieldset><legend>runs, at most three</legend>
            {runs.map((run) => (
              <label key={run.name}><input type="checkbox" checked={chosen.includes(run.name)} onChange={(e) => change({ runs: (e.currentTarget.checked ? [...chosen, run.name].slice(-3) : chosen.filter((name) => name !== run.name)).join(",") })} /> {run.name}</label>
            ))}
          </fieldset>
        )}
        {first?.said && (
          <label>method <select id="method" value={method} onChange={(e) => change({ method: e.currentTarget.value, layer: "", head: "" })}>
            <option value="auto">auto ({named(first.said.methods[0] ?? "")})</option>
            {first.said.methods.map((name) => <option key={name} value={name}>{named(name)}</option>)}
          </select></label>
        )}
      </div>
      {busy && <p role="status">aligning…</p>}
      {first?.maps && (
        <div class="words" role="group" aria-label="words: hover to see one, press to keep it">
          {first.maps.words.map((word, i) => (
            <button type="button" key={i} class="word" aria-pressed={pinned.includes(i)} data-word={i}
              style={byWord && wordScale ? { boxShadow: `inset 0 -0.35em 0 ${css(strength(byWord[i]!, wordScale))}` } : {}}
              onMouseEnter={() => setHover([i])} onMouseLeave={() => setHover(null)} onFocus={() => setHover([i])} onBlur={() => setHover(null)}
              onClick={() => pin(i)}>{word}</button>
          ))}
          <button type="button" class="whole" aria-pressed={!pinned.length} onClick={() => change({ pin: "" })}>whole text</button>
        </div>
      )}
      <div class="panels">
        {shown.map((one, i) => (
          <Panel key={one.run} one={one} picture={picture} of={chosen[0]!} own={drawn.own[i] ?? null} scale={drawn.scale} many={shown.length > 1}
            image={upload && !row ? uploaded : null} mark={place?.run === one.run ? place.at : -1} setPlace={(at) => setPlace(at < 0 ? null : { run: one.run, at })} choice={choice} />
        ))}
        {first?.maps && first.maps.layers > 0 && <Heads maps={first.maps} layer={layer} head={head} change={change} />}
      </div>
    </section>
  );
}

function Panel({ one, picture, image, of, own, scale, many, mark, setPlace, choice }: {
  one: Shown; picture: ImageBitmap | null; image: string | null; of: string; own: Float32Array | null; scale: Scale; many: boolean; mark: number; setPlace: (at: number) => void; choice: Choice;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { maps, said } = one;
  const longer = picture ? Math.max(picture.width, picture.height) : 1;
  const side = maps?.kind === "moments" ? 1024 : 420;
  const width = picture ? Math.round((picture.width * side) / longer) : 420;
  const height = picture ? Math.round((picture.height * side) / longer) : 420;
  useEffect(() => {
    if (!canvas.current || !maps) return;
    const start = performance.now();
    draw(canvas.current, picture, maps, own, scale, mark);
    canvas.current.dataset.milliseconds = (performance.now() - start).toFixed(2);
    // for programs: what is drawn, as the heat map has it
    canvas.current.dataset.values = own && own.length <= 4096 ? JSON.stringify([...own].map((v) => Number(v.toPrecision(5)))) : "";
  }, [maps, picture, own, scale.low, scale.high, mark, width, height]);
  if (one.error || !maps || !said) return <article class="panel"><h3>{one.run}</h3><p class="error" role="alert">{one.error}</p></article>;
  const at = (event: MouseEvent): number => {
    const box = canvas.current!.getBoundingClientRect();
    return placeAt(maps, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  const wordsSaid = choice.words.length ? choice.words.map((i) => maps.words[i]).join(" ") : "the whole text";
  const name = `${one.run}-${said.row ?? "picture"}-${wordsSaid.replace(/\W+/g, "-")}`.slice(0, 80);
  return (
    <article class={`panel${maps.kind === "moments" ? " wide" : ""}`}>
      {many && <h3>{one.run}</h3>}
      <canvas ref={canvas} width={width} height={height} role="img" aria-label={`${said.text}: where ${wordsSaid} draws on the picture, by ${named(maps.method)}`}
        onMouseMove={(e) => setPlace(at(e))} onMouseLeave={() => setPlace(-1)} />
      <p class="figures">
        <span>{wordsSaid}: {named(maps.method)}{choice.layer >= 0 && maps.layers ? `, ${maps.layer_names?.[choice.layer] ?? `layer ${choice.layer + 1}`}${choice.head >= 0 ? `, head ${choice.head + 1}` : ""}` : ""}</span>
        {typeof said.p_match === "number" && <span>P(match) {said.p_match.toFixed(2)}</span>}
      </p>
      <p class="scale" aria-hidden="true"><span>{scale.low.toPrecision(2)}</span><Bar /><span>{scale.high.toPrecision(2)}{many ? " × even" : ""}</span></p>
      <Deletion key={`${said.bytes} ${choice.words.join()}`} said={said} words={choice.words} image={image} of={of} />
      <p class="actions">
        <button type="button" onClick={() => canvas.current!.toBlob((blob) => blob && download(`${name}.png`, blob))}>PNG</button>
        <button type="button" onClick={async () => {
          const plain = document.createElement("canvas");
          [plain.width, plain.height] = [width, height];
          if (picture) plain.getContext("2d")!.drawImage(picture, 0, 0, width, height);
          download(`${name}.svg`, new Blob([svg(maps, own!, scale, plain.toDataURL("image/png"), width, height)], { type: "image/svg+xml" }));
        }}>SVG</button>
        <button type="button" onClick={() => {
          const each = maps.words.map((_, i) => [...values(maps, { ...choice, words: [i] })]);
          const { bytes: _, ...rest } = said;
          download(`${name}.json`, new Blob([JSON.stringify({ ...rest, layer: choice.layer, head: choice.head, values: each })], { type: "application/json" }));
        }}>JSON</button>
      </p>
    </article>
  );
}

type Curves = Record<"deletion" | "insertion" | "random_deletion" | "random_insertion", number[]>;

// The model's score as the places that the map shows as strong are hidden first: the faster it falls, the truer the map.
function Deletion({ said, words, image, of }: { said: Aligned; words: number[]; image: string | null; of: string }) {
  const [found, setFound] = useState<Curves | null>(null);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const ask = (): void => {
    setBusy(true);
    const body = { run: said.run, text: said.text, method: said.method, words, ...(said.row === null ? { image } : { row: said.row, of }) };
    json<Curves>("/api/deletion", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })
      .then(setFound, (e: Error) => setError(e.message)).finally(() => setBusy(false));
  };
  if (error) return <p class="error" role="alert">{error}</p>;
  if (!found) return <p class="actions"><button type="button" disabled={busy} onClick={ask}>{busy ? "measuring…" : "deletion curve"}</button></p>;
  const all = [...found.deletion, ...found.random_deletion];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const line = (curve: number[]): string => curve.map((v, i) => `${(30 + (i / (curve.length - 1)) * 360).toFixed(1)},${(10 + (1 - (v - low) / (high - low || 1)) * 90).toFixed(1)}`).join(" ");
  return (
    <figure class="deletion">
      <svg viewBox="0 0 400 118" role="img" aria-label={`score as places are hidden: ${found.deletion.map((v) => v.toPrecision(2)).join(", ")}`}>
        <polyline class="random" points={line(found.random_deletion)} /><polyline class="own" data-curve={found.deletion.join(",")} points={line(found.deletion)} />
        <text x="0" y="16">{high.toPrecision(2)}</text><text x="0" y="104">{low.toPrecision(2)}</text><text x="390" y="116" text-anchor="end">all hidden</text>
      </svg>
      <figcaption>score as the map's strongest places are hidden first; dotted: in a random order</figcaption>
    </figure>
  );
}

function Bar() {
  return <svg class="bar" viewBox="0 0 64 1" preserveAspectRatio="none">{[...Array(64).keys()].map((i) => <rect key={i} x={i} width="1.05" height="1" fill={css(i / 63)} />)}</svg>;
}

// Layers as a slider and layers by heads as a matrix; a cell's colour is the share of the head's attention that goes to
// the other modality.
function Heads({ maps, layer, head, change }: { maps: Maps; layer: number; head: number; change: Screen["change"] }) {
  const shares = maps.shares ?? null;
  const most = shares ? Math.max(...shares.flat(), 1e-9) : 1;
  const pick = (l: number, h: number): void => change({ layer: l < 0 ? "" : String(l), head: h < 0 ? "" : String(h) });
  return (
    <div class="heads">
      <label>layer <input id="layer" type="range" min="-1" max={maps.layers - 1} value={layer} aria-valuetext={layer < 0 ? "the method's own map" : `layer ${layer + 1}`} onInput={(e) => pick(Number(e.currentTarget.value), head)} />
        <output>{layer < 0 ? "the method's own" : (maps.layer_names?.[layer] ?? `layer ${layer + 1}`)}</output></label>
      <table><caption>layers × heads{shares ? ": how much each looks across" : ""}</caption><tbody>
        {[...Array(maps.layers).keys()].map((l) => (
          <tr key={l}><th scope="row">{maps.layer_names?.[l] ?? l + 1}</th>
            {[...Array(maps.heads).keys()].map((h) => {
              const share = shares?.[l]?.[h];
              return <td key={h}><button type="button" class="cell" data-cell={`${l},${h}`} aria-pressed={l === layer && h === head}
                aria-label={`layer ${l + 1}, head ${h + 1}${share === undefined ? "" : `, share across ${share.toFixed(2)}`}`}
                style={share === undefined ? {} : { backgroundColor: css(share / most) }} onClick={() => (l === layer && h === head ? pick(-1, -1) : pick(l, h))} /></td>;
            })}
          </tr>
        ))}
      </tbody></table>
    </div>
  );
}

export function named(method: string): string {
  return method.replaceAll("_", " ");
}
