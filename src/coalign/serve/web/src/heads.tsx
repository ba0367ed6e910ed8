// Layers as a slider and layers by heads as a matrix; a cell's colour is the share of the head's attention that goes to
// the other modality.

import type { Screen } from "./app";
import { css, strength, type Maps } from "./heat";

export function Heads({ maps, of, layer, head, change }: { maps: Maps; of: string; layer: number; head: number; change: Screen["change"] }) {
  const shares = maps.shares ?? null;
  const all = shares?.flat() ?? [];
  const scale = { low: Math.min(...all), high: Math.max(...all) };
  const pick = (l: number, h: number): void => change({ layer: l < 0 ? "" : String(l), head: h < 0 ? "" : String(h) });
  const name = (l: number): string => maps.layer_names?.[l] ?? `layer ${l + 1}`;
  return (
    <div class="box heads">
      <h2>Layers and heads{of && ` of ${of}`}</h2>
      <p class="soft small">{shares ? "How much of each head's attention goes from the words to the picture. " : ""}Choose one to see its map.</p>
      <table aria-label="layers by heads">
        <thead><tr><td />{[...Array(maps.heads).keys()].map((h) => <th key={h} scope="col">{h + 1}</th>)}</tr></thead>
        <tbody>
          {[...Array(maps.layers).keys()].map((l) => (
            <tr key={l}><th scope="row">{name(l)}</th>
              {[...Array(maps.heads).keys()].map((h) => {
                const share = shares?.[l]?.[h];
                const said = `${name(l)}, head ${h + 1}${share === undefined ? "" : `, share across ${share.toFixed(2)}`}`;
                return <td key={h}><button type="button" class="cell" data-cell={`${l},${h}`} aria-pressed={l === layer && h === head} aria-label={said} title={said}
                  style={share === undefined ? {} : { backgroundColor: css(strength(share, scale)) }} onClick={() => (l === layer && h === head ? pick(-1, -1) : pick(l, h))} /></td>;
              })}
            </tr>
          ))}
        </tbody>
      </table>
      {shares && <p class="scale" aria-hidden="true"><span>{scale.low.toPrecision(2)}</span><Bar /><span>{scale.high.toPrecision(2)}</span></p>}
      <p class="options">
        <label>layer <input id="layer" type="range" min="-1" max={maps.layers - 1} value={layer} aria-valuetext={layer < 0 ? "the method's own map" : name(layer)} onInput={(e) => pick(Number(e.currentTarget.value), head)} />
          <output>{layer < 0 ? "the method's own" : `${name(layer)}${head < 0 ? ", all heads" : `, head ${head + 1}`}`}</output></label>
        {layer >= 0 && <button type="button" class="quiet" onClick={() => pick(-1, -1)}>the method's own</button>}
      </p>
    </div>
  );
}

export function Bar() {
  return <svg class="bar" viewBox="0 0 64 1" preserveAspectRatio="none" shape-rendering="crispEdges">{[...Array(64).keys()].map((i) => <rect key={i} x={i} width="1.05" height="1" fill={css(i / 63)} />)}</svg>;
}
