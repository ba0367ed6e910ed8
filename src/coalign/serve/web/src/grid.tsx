// Answers as a grid of cards. Of many only those in sight are there, so that a hundred thousand scroll as ten do.

import type { Ref, RefObject, VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Answer } from "./api";
import type { Screen } from "./app";

const OVERSCAN = 2; // rows above and below what is in sight
const FAST = 4; // pixels a millisecond from which cards that come into sight stay empty,
const REST = 90; // until that many milliseconds without it
const MOST_PIXELS = 15_000_000; // browsers lay nothing out below some 16 million

export interface Seen { first: number; last: number; before: number; after: number; }
export const FIRST: Seen = { first: 0, last: 24, before: 0, after: 0 };

// Which of `count` cards are in sight between `top` and `bottom` (pixels from the grid's upper edge), in rows of `columns`
// cards that are `height` apart.
export function inSight(count: number, columns: number, height: number, top: number, bottom: number): Seen {
  const rows = Math.min(Math.ceil(count / columns), Math.floor(MOST_PIXELS / height));
  const from = Math.min(Math.max(Math.floor(top / height) - OVERSCAN, 0), Math.max(rows - 1, 0));
  const to = Math.max(Math.min(Math.ceil(bottom / height) + OVERSCAN, rows), Math.min(from + 1, rows));
  return { first: from * columns, last: Math.min(to * columns, count), before: from * height, after: (rows - to) * height };
}

// The cards in sight of a grid of `count`, as the page is scrolled; rows are as high and as far apart as the first ones.
// `fast` is true while more is scrolled over than can be looked at. The grid is measured when its size changes, not as it
// is scrolled: that would lay the page out once more at each frame.
export function useSight(list: RefObject<HTMLUListElement | null>, count: number): Seen & { fast: boolean } {
  const [seen, setSeen] = useState<Seen & { fast: boolean }>({ ...FIRST, fast: false });
  useEffect(() => {
    let frame = 0, rest = 0, columns = 1, height = 0, upper = 0;
    let last = { top: scrollY, time: performance.now() };
    const show = (next: Seen & { fast: boolean }): void =>
      setSeen((own) => (Object.keys(next) as (keyof typeof next)[]).every((name) => own[name] === next[name]) ? own : next);
    const look = (): void => {
      frame = 0;
      clearTimeout(rest);
      const now = performance.now();
      const fast = Math.abs(scrollY - last.top) > FAST * Math.max(now - last.time, 1);
      last = { top: scrollY, time: now };
      if (fast) rest = window.setTimeout(look, REST);
      const top = scrollY - upper;
      show({ ...(height ? inSight(count, columns, height, top, top + innerHeight) : FIRST), fast });
    };
    const measure = (): void => {
      const grid = list.current;
      const real = grid?.querySelector<HTMLElement>(":scope > .card:not(.coming)");
      if (!grid || (!real && !height)) return show({ ...FIRST, fast: false });
      const style = getComputedStyle(grid);
      columns = style.gridTemplateColumns.split(" ").length;
      if (real) height = real.offsetHeight + Number.parseFloat(style.rowGap);
      upper = grid.getBoundingClientRect().top + scrollY;
      look();
    };
    const ask = (): void => { frame ||= requestAnimationFrame(look); };
    measure();
    const watch = new ResizeObserver(measure); // also when the first cards get their height, or what is above them grows
    if (list.current) for (const one of [list.current, list.current.parentElement!]) watch.observe(one, { box: "border-box" });
    addEventListener("scroll", ask, { passive: true });
    addEventListener("resize", measure);
    return () => { cancelAnimationFrame(frame); clearTimeout(rest); watch.disconnect(); removeEventListener("scroll", ask); removeEventListener("resize", measure); };
  }, [count, list.current]);
  return seen;
}

// `first` is the place of the first answer among all `total`; `before` and `after` are heights in pixels of what is not
// there. An answer that is still to come is undefined.
export function Grid({ answers, change, run, chosen, choose, list, first = 0, total = answers.length, before = 0, after = 0, alike = true }: {
  answers: (Answer | undefined)[]; run: string; change: Screen["change"]; chosen?: Set<number>; choose?: (row: number) => void;
  list?: Ref<HTMLUListElement>; first?: number; total?: number; before?: number; after?: number; alike?: boolean;
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
  // A card that is as it was is the same one, and costs nothing to draw again.
  const known = useRef(new WeakMap<Answer, { as: string; card: VNode }>());
  const card = (answer: Answer, place: number): VNode => {
    const as = `${run} ${place} ${total} ${chosen?.has(answer.row)} ${alike}`;
    let found = choose ? undefined : known.current.get(answer);
    if (found?.as !== as) {
      found = { as, card: <Card key={`${run} ${answer.row}`} answer={answer} change={change} run={run} chosen={chosen} choose={choose} total={total} place={place} alike={alike} /> };
      known.current.set(answer, found);
    }
    return found.card;
  };
  return (
    <ul class="grid" ref={list ?? null} onKeyDown={step} style={{ paddingTop: `${before}px`, paddingBottom: `${after}px` }}>
      {answers.map((answer, i) => answer ? card(answer, first + i + 1) : <li class="card coming" key={`place ${first + i}`} aria-hidden="true" />)}
    </ul>
  );
}

function Card({ answer, run, change, chosen, choose, total, place, alike }: {
  answer: Answer; run: string; change: Screen["change"]; chosen: Set<number> | undefined; choose: ((row: number) => void) | undefined; total: number; place: number; alike: boolean;
}) {
  const [playing, setPlaying] = useState(false);
  const span = `${clock(answer.start ?? 0)}–${clock(answer.end ?? 0)}`;
  return (
    <li class={`card${chosen?.has(answer.row) ? " chosen" : ""}${answer.video ? " moment" : ""}`} aria-setsize={total} aria-posinset={place}>
      {playing && <video controls autoplay muted src={`${answer.video}#t=${answer.start},${answer.end}`} aria-label={`${answer.file}, ${span}`} />}
      <button type="button" class="open" title="why" onClick={() => change({ screen: "why", row: String(answer.row), words: answer.text, run, runs: "", pin: "" }, true)}>
        {!playing && <img src={`${answer.image}${answer.image.includes("?") ? "&" : "?"}side=256`} alt="" loading="lazy" />}
        <span class="caption">{answer.text || `row ${answer.row}`}</span>
      </button>
      {answer.video && <button type="button" class="play" onClick={() => setPlaying(!playing)}>{playing ? "■" : "▶"} {span} <span class="file">{answer.file}</span></button>}
      {typeof answer.score === "number" && (
        <span class="figures">
          {typeof answer.p_match === "number" && <span class="chance" title="P(match): the share of right answers at this score" style={{ "--p": answer.p_match }}>P {answer.p_match.toFixed(2)}</span>}
          <span class="score" title="score">{answer.score.toFixed(3)}</span>
        </span>
      )}
      {(alike || choose) && <span class="actions">
        {alike && <>
          <button type="button" class="quiet" onClick={() => change({ screen: "search", like: String(answer.row), text: "", minus: "", unlike: "", run }, true)}>more like this</button>
          <button type="button" class="quiet" title="take this one away from the query" onClick={() => change({ screen: "search", unlike: String(answer.row), run }, true)}>less</button>
        </>}
        {choose && <button type="button" class="quiet" aria-pressed={chosen?.has(answer.row) ?? false} onClick={() => choose(answer.row)}>mark</button>}
      </span>}
    </li>
  );
}

export function clock(seconds: number): string {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}
