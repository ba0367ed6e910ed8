// The pages that stand alone, and reports: each alignment in the page's data is drawn in the element that names its
// number; those that none names, one under the other in the page's root.
import { view, type Shown } from "./viewer";

const data = document.getElementById("alignment-data");
const all = JSON.parse(data?.textContent ?? "[]") as Shown[];
all.forEach((shown, number) => {
  const root = document.querySelector<HTMLElement>(`[data-alignment="${number}"]`) ?? document.getElementById("root");
  if (root) view(root, shown);
});
