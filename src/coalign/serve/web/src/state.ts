// What is shown, kept in the address, so that a link shows the same.

import { useEffect, useState } from "preact/hooks";

export type State = Record<string, string>;

export function parse(search: string): State {
  return Object.fromEntries(new URLSearchParams(search));
}

export function format(state: State): string {
  const kept = Object.entries(state).filter(([, value]) => value !== "");
  return kept.length ? `?${new URLSearchParams(kept)}` : location.pathname;
}

// The state, and a change of some of its values; `push` makes a step of the browser's history.
export function useAddress(): [State, (changes: State, push?: boolean) => void] {
  const [state, setState] = useState(() => parse(location.search));
  useEffect(() => {
    const back = (): void => setState(parse(location.search));
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, []);
  return [
    state,
    (changes, push = false) => {
      const next = { ...parse(location.search), ...changes };
      history[push ? "pushState" : "replaceState"](null, "", format(next));
      setState(parse(location.search));
    },
  ];
}
