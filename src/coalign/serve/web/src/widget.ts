// The notebook's widget (anywidget): draws the alignments of its model.
import { view, type Shown } from "./viewer";

interface Model {
  get(name: "alignments"): Shown[];
  on(event: string, changed: () => void): void;
}

function render({ model, el }: { model: Model; el: HTMLElement }): void {
  const redraw = (): void => {
    el.replaceChildren();
    el.classList.add("coalign");
    for (const shown of model.get("alignments")) view(el, shown);
  };
  model.on("change:alignments", redraw);
  redraw();
}

export default { render };
