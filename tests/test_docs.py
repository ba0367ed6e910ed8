"""The documents against the code: what they name is there, and the course runs."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SOURCE, COURSE = ROOT / "src" / "coalign", ROOT / "docs" / "course"
NAMED = re.compile(r"`(\w+/[\w/]+\.py)(?:: (\w+(?:\.\w+)*))?`")  # one without a folder is of the authors


def names_of(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """What statements define, each with the statements inside it."""
    names: dict[str, list[ast.stmt]] = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names[statement.name] = statement.body
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {target.id: [] for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "systems").glob("*.md")), ids=lambda page: page.stem)
def test_what_a_page_of_a_system_names_is_in_the_code(page: Path) -> None:
    named = NAMED.findall(page.read_text("utf-8"))
    assert named
    for file, dotted in named:
        path = next((path for path in (SOURCE / file, ROOT / file) if path.is_file()), None)
        assert path is not None, f"{page.name}: no file {file}"
        body = ast.parse(path.read_text("utf-8")).body
        for name in dotted.split(".") if dotted else ():
            assert name in names_of(body), f"{page.name}: no {dotted} in {file}"
            body = names_of(body)[name]


@pytest.mark.parametrize("notebook", sorted(COURSE.glob("[0-9]*.py")), ids=lambda notebook: notebook.stem)
def test_the_course_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each training; what is learned is checked by `docs/course/run.py` without --steps."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("COURSE_OUT", str(tmp_path))
    monkeypatch.setenv("COURSE_STEPS", "2")
    monkeypatch.syspath_prepend(str(COURSE))
    with torch.random.fork_rng():
        runpy.run_path(str(notebook), run_name="__main__")
    assert list(tmp_path.iterdir())  # its figures
