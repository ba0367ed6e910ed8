// The page that stands alone: every alignment in its data, one under the other.
import { view, type Shown } from "./viewer";

const data = document.getElementById("alignments");
const root = document.getElementById("root");
if (data && root) for (const shown of JSON.parse(data.textContent ?? "[]") as Shown[]) view(root, shown);
