// A viewer of one alignment without a framework: the picture, a small map for each word, layers and heads as a list. It
// is the whole of the pages that stand alone and of the notebook's widget.

import { css, decode, draw, extent, placeAt, strength, values, wordsAt, type Choice, type Maps, type Said } from "./heat";

export interface Shown extends Said {
  text: string;
  picture: string; // a data: URI
  values: string; // base64 of the bytes
}

export function fromBase64(text: string): ArrayBuffer {
  const plain = atob(text);
  const bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  return bytes.buffer;
}

function make<K extends keyof HTMLElementTagNameMap>(name: K, className: string, text = ""): HTMLElementTagNameMap[K] {
  const found = document.createElement(name);
  found.className = className;
  if (text) found.textContent = text;
  return found;
}

const LARGE = 520, SMALL = 104; // longer sides of the large picture and of a word's

export function view(root: HTMLElement, shown: Shown): void {
  const maps: Maps = decode(shown, fromBase64(shown.values));
  const choice: Choice = { layer: -1, head: -1, words: [] };
  let pinned: number[] = [];
  const figure = make("figure", "heat");
  const main = make("div", "heat-main");
  const side = make("div", "heat-side");
  const canvas = make("canvas", "heat-picture");
  canvas.setAttribute("role", "img");
  const note = make("figcaption", "heat-note");
  const words = make("div", "heat-words");
  const image = new Image();
  const buttons = maps.words.map((word, place) => {
    const button = make("button", "heat-word");
    button.type = "button";
    const small = make("canvas", "");
    small.setAttribute("aria-hidden", "true");
    button.append(small, make("span", "", word));
    button.setAttribute("aria-pressed", "false");
    for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => show([place]));
    for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => show(pinned));
    button.addEventListener("click", () => {
      pinned = pinned.includes(place) ? pinned.filter((own) => own !== place) : [...pinned, place];
      buttons.forEach((own, i) => own.setAttribute("aria-pressed", String(pinned.includes(i))));
      show(pinned);
    });
    words.append(button);
    return button;
  });

  function show(chosen: number[], mark = -1): void {
    choice.words = chosen;
    const own = values(maps, choice);
    draw(canvas, image, maps, own, extent([own]), mark);
    const said = chosen.length ? `“${chosen.map((word) => maps.words[word]).join(" ")}”` : "the whole text";
    canvas.setAttribute("aria-label", `where ${said} draws on the picture`);
    note.textContent = `${said}, by ${maps.method.replaceAll("_", " ")}`;
  }

  // each word by its own scale
  function redraw(): void {
    buttons.forEach((button, place) => {
      const own = values(maps, { ...choice, words: [place] });
      draw(button.querySelector("canvas")!, image, maps, own, extent([own]));
    });
    show(pinned);
  }

  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const place = placeAt(maps, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    if (place < 0) return;
    show(pinned, place);
    const own = wordsAt(maps, choice, place);
    const scale = extent([own]);
    buttons.forEach((button, i) => (button.style.boxShadow = `inset 0 -4px 0 ${css(strength(own[i]!, scale))}`));
  });
  canvas.addEventListener("mouseleave", () => {
    buttons.forEach((button) => (button.style.boxShadow = ""));
    show(pinned);
  });
  image.addEventListener("load", () => {
    const longer = Math.max(image.width, image.height) || 1;
    const size = (own: HTMLCanvasElement, side: number): void => {
      own.width = Math.round((image.width * side) / longer);
      own.height = Math.round((image.height * side) / longer);
    };
    size(canvas, LARGE);
    buttons.forEach((button) => size(button.querySelector("canvas")!, 2 * SMALL));
    redraw();
  });
  main.append(canvas, note);
  if (maps.layers) side.append(layers(maps, choice, redraw));
  side.append(words);
  figure.append(main, side);
  root.append(figure);
  image.src = shown.picture;
}

function layers(maps: Maps, choice: Choice, changed: () => void): HTMLElement {
  const label = make("label", "heat-layers", "layer and head ");
  const select = make("select", "");
  select.append(new Option("the method's own", "-1,-1"));
  for (let layer = 0; layer < maps.layers; layer++) {
    const name = maps.layer_names?.[layer] ?? `layer ${layer + 1}`;
    select.append(new Option(`${name}, all heads`, `${layer},-1`));
    for (let head = 0; head < maps.heads; head++) select.append(new Option(`${name}, head ${head + 1}`, `${layer},${head}`));
  }
  select.addEventListener("change", () => {
    [choice.layer, choice.head] = select.value.split(",").map(Number) as [number, number];
    changed();
  });
  label.append(select);
  return label;
}
