"""The code of the documents: commands and their flags are there, Python compiles and finds what it imports."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from coalign.cli.commands import command_names, run_command
from coalign.recipes import recipe_names
from coalign.tasks import tasks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"(?:^|&& |\$ |-m )(?:[A-Z_]+=\S+ )*(?:uv run (?:--[\w-]+ (?:quickstart )?)*)?coalign ([a-z][\w-]*)(.*)"
)
ANYWHERE = {"--help", "--debug", "--outside-paths", "--version", "--json", "--nproc"}
VARIANTS = {("world", "--videos"), ("embed", "--texts")}
"""Flags with which a command has another help."""


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of code of a page, in these languages."""
    return [text for _, language, text in BLOCK.findall(page.read_text("utf-8")) if language in languages]


def commands_of(page: Path) -> list[tuple[str, str]]:
    """The commands of a page: the first word after `coalign`, and what follows it; notes behind are left out."""
    lines = "\n".join(blocks(page, "", "sh", "bash")).replace("\\\n", " ").splitlines()
    found = [each for line in lines for each in COMMAND.findall(line.strip())]
    return [(name, re.split(r"\s+# |\s{3,}(?!-)|&& |\| ", rest)[0]) for name, rest in found]


def kind_of(name: str, rest: str) -> tuple[str, ...]:
    """What of a command decides its flags: its recipe, task, or other variant. An empty task is the one of the run."""
    words = rest.split()
    if name == "train":
        return (name, words[0] if words and words[0].islower() else "clip-pretrain")
    if name == "evaluate":
        task = words[words.index("--task") + 1] if "--task" in words else ""
        return (name, "--task", task if task.islower() else "")
    if name == "extract" and words:
        return (name, words[0])
    variant = next((word for word in words if (name, word) in VARIANTS), None)
    return (name, ".", variant, "1") if variant else (name,)


@cache
def known(kind: tuple[str, ...]) -> set[str]:
    """The flags in the help of a command."""
    if kind[-1] == "":
        return set().union(*(known((*kind[:-1], task)) for task in tasks()))
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        run_command(kind[0], [*kind[1:], "--help"])
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", said.getvalue()))


def test_commands_of_the_documents_are_there_with_their_flags() -> None:
    wrong: list[str] = []
    seen: dict[tuple[str, ...], int] = defaultdict(int)
    for page in PAGES:
        for name, rest in commands_of(page):
            where = f"{page.relative_to(ROOT)}: coalign {name}{rest}"
            kind = kind_of(name, rest)
            if name not in command_names():
                wrong.append(f"{where}: no such command")
            elif name == "train" and kind[1] not in recipe_names():
                wrong.append(f"{where}: no such recipe")
            elif name == "evaluate" and kind[2] not in {"", *tasks()}:
                wrong.append(f"{where}: no such task")
            else:
                given = set(re.findall(r"(?<=\s)--[a-z][\w-]*", rest))
                if given - ANYWHERE:
                    seen[kind] += 1
                    wrong += [f"{where}: no {flag}" for flag in sorted(given - ANYWHERE - known(kind))]
    assert sum(seen.values()) > 100  # else commands are not found any more
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_of_the_documents_compiles_and_finds_what_it_imports(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            names: dict[str, list[str]] = {}
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module: [alias.name for alias in node.names]}
            elif isinstance(node, ast.Import):
                names = {alias.name: [] for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "coalign":
                names = {"coalign": [node.attr]}
            for module, members in names.items():
                if module.partition(".")[0] == "coalign":
                    own = importlib.import_module(module)
                    for member in members:
                        assert hasattr(own, member) or importlib.import_module(f"{module}.{member}"), (module, member)
