"""Rooms: a private module or name is for the folder that holds it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import coalign

ROOT = Path(coalign.__file__).parent
STILL = {
    "coalign.recipes.texts._bert": {"coalign.cli.commands", "coalign.recipes.series", "coalign.recipes.videos"},
    "coalign.recipes.questions._finetune": {"coalign.recipes.pairs"},
    "coalign.recipes.pairs._vl_pretrain": {"coalign.recipes.questions"},
}
"""Private modules that other folders still import, with these folders. It only gets shorter."""


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
        for name in private_imports(path.read_text("utf-8"), folder):
            if folder not in STILL.get(name, ()):
                found.add(f"{path.relative_to(ROOT)} imports {name}")
    assert not found


def test_what_counts_as_private() -> None:
    text = "from coalign.tasks.pairs._x import a\nfrom coalign.data.core.samples import _b\nimport coalign._c\n"
    assert list(private_imports(text, "coalign.tasks.images")) == [
        "coalign.tasks.pairs._x",
        "coalign.data.core.samples._b",
    ]
    assert list(private_imports(text, "coalign.tasks.pairs")) == ["coalign.data.core.samples._b"]
    assert not list(private_imports("from coalign.recipes._start import a", "coalign.recipes.pairs"))
