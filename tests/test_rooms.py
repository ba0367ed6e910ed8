"""Rooms: a private module or name is for the folder that holds it, no files import each other in a circle, and papers
stand on trunks and layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import coalign

ROOT = Path(coalign.__file__).parent


def private_imports(text: str, folder: str) -> Iterator[str]:
    """The private modules and names that a module of `folder` imports from outside the folder that holds them."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom | ast.Import):
            continue
        module = node.module if isinstance(node, ast.ImportFrom) else None
        for alias in node.names:
            parts = f"{module}.{alias.name}".split(".") if module else alias.name.split(".")
            for place, part in enumerate(parts):
                holder = ".".join(parts[:place])
                if parts[0] == "coalign" and part.startswith("_") and not part.startswith("__"):
                    if not f"{folder}.".startswith(f"{holder}."):
                        yield ".".join(parts[: place + 1])
                    break


def test_no_room_imports_what_is_private_in_another() -> None:
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        folder = ".".join(path.relative_to(ROOT.parent).parent.parts)
        imported = private_imports(path.read_text("utf-8"), folder)
        found |= {f"{path.relative_to(ROOT)} imports {name}" for name in imported}
    assert not found


def test_what_counts_as_private() -> None:
    text = "from coalign.tasks.pairs._x import a\nfrom coalign.data.core.samples import _b\nimport coalign._c\n"
    assert list(private_imports(text, "coalign.tasks.images")) == [
        "coalign.tasks.pairs._x",
        "coalign.data.core.samples._b",
    ]
    assert list(private_imports(text, "coalign.tasks.pairs")) == ["coalign.data.core.samples._b"]
    assert not list(private_imports("from coalign.recipes._start import a", "coalign.recipes.pairs"))


# -------------------------------------------------------------------------------------------------------- import graph
PAPERS = {
    ("concat", "bert"): "the baseline fine-tunes BERT itself",
    ("fusion", "bert"): "the baselines read the words by BERT itself",
    ("mag_bert", "bert"): "MAG is put into BERT, whose weights it starts from",
    ("videobert", "bert"): "VideoBERT is BERT with further words, and its heads",
    ("mae", "vit"): "MAE is fine-tuned and probed as ViT's classifier",
}
"""Papers that build on another paper's whole model, and why; a trunk is in `trunks`."""


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules that each module imports."""
    graph = grimp.build_graph("coalign", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def circle(imports: Mapping[str, Set[str]]) -> list[str]:
    """A circle of modules that import each other, its first module at the end again; none: empty."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_imports(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 300 and "coalign.trunks.vit" in imports["coalign.models.vit.model"]
    assert circle(imports) == []
    closed = imports | {"coalign.trunks.vit": {"coalign.models.vit.model"}}
    assert "coalign.trunks.vit" in circle(closed)


def test_papers_import_another_paper_only_where_they_build_on_its_model(imports: dict[str, set[str]]) -> None:
    papers = {path.parent.name for path in ROOT.glob("models/*/__init__.py")}
    folders = {module: module.split(".")[2] for module in imports if module.startswith("coalign.models.")}
    crossing = {
        (folders[module], folders[other])
        for module in folders
        for other in imports[module] & set(folders)
        if folders[module] != folders[other] and {folders[module], folders[other]} <= papers
    }
    assert crossing == set(PAPERS)
