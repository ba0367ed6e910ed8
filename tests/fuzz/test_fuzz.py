"""Damaged files are read or refused in one line; and no reader is left out of the list."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fuzz_run
import pytest
from fuzz_readers import TARGETS, prepare

import coalign

SOURCE = Path(coalign.__file__).parent
EACH = 4
OPENS = re.compile(
    r"\b(?:read_text|read_bytes|open|load_file|safe_open|memmap|fromfile|np\.load|torch\.load|json\.loads|memory_map)\("
)
OPENS_TASKS = re.compile(r"\b(?:read_text|read_bytes|read_json|read_lines|load_file|safe_open|np\.load|json\.loads)\(")
OWN = {
    # what these read was written by coalign itself into a run, an output folder or its cache, or is part of a package
    *(
        "analysis/datasets/cache.py",
        "analysis/datasets/slices.py",
        "analysis/datasets/page.py",
        "analysis/datasets/images.py",
    ),
    *("checkpoints/seal.py", "cli/commands/systems.py", "data/pairs/emoji.py", "data/texts/wiki.py", "files.py"),
    *("extraction/frames.py", "extraction/regions.py", "extraction/video.py", "training/experiment.py"),
    "tasks/texts/question_answering.py",
    # parts of readers, which a marked function calls
    *(
        "checkpoints/arrays.py",
        "checkpoints/gpt_pieces.py",
        "checkpoints/hdf5.py",
        "checkpoints/tensorflow.py",
        "data/core/json_files.py",
    ),
    *("data/pairs/folders.py", "data/pairs/hub.py", "data/pairs/shards.py", "data/pairs/tables.py"),
    *("data/series/csd.py", "data/series/folder.py", "data/series/pickles.py", "data/videos/files.py"),
    *(f"data/regions/files/{name}.py" for name in ("hdf5", "lmdb", "lmdb_pages", "npz", "shards", "tsv")),
}


def marked() -> dict[str, str]:
    """The functions that `coalign.files.reader` marks, with the modules they are in."""
    found: dict[str, str] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        module = ".".join(("coalign", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            inner = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
            prefix = f"{module}.{node.name}." if isinstance(node, ast.ClassDef) else f"{module}."
            for one in inner:
                marks = [ast.unparse(mark) for mark in getattr(one, "decorator_list", ())]
                if isinstance(one, ast.FunctionDef) and "reader" in marks:
                    found[prefix + one.name] = file.relative_to(SOURCE).as_posix()
    return found


def test_every_reader_has_a_target() -> None:
    covered = {cover for target in TARGETS for cover in target.covers}
    assert len(marked()) > 40
    assert sorted(set(marked()) - covered) == []


def test_every_module_that_opens_files_marks_its_reader() -> None:
    with_readers = set(marked().values())
    for file in sorted(SOURCE.rglob("*.py")):
        name = file.relative_to(SOURCE).as_posix()
        opens = OPENS_TASKS if name.startswith("tasks/") else OPENS
        if name.startswith(("data/", "checkpoints/", "parity/", "tasks/")) and opens.search(file.read_text("utf-8")):
            assert name in with_readers | OWN | WITHOUT, (
                f"{name}: mark what reads a user's file by coalign.files.reader"
            )


WITHOUT = {
    *("data/pairs/frozen.py", "data/texts/wiki_derived.py"),
    *("parity/clip.py", "parity/siglip.py", "parity/coca.py"),
    *("data/core/quarantine.py", "data/core/remote.py", "data/core/strings.py"),
    "data/images/decode.py",
    "data/videos/write.py",
    "checkpoints/safe_pickle.py",
}
"""Targets of their own, by their classes' names; writers; a cache of ours; parts of `Tokenizer.load` and `verify`."""


@pytest.fixture(scope="module")
def clean() -> Iterator[Executor]:
    """A process of its own, whose children do the work: where a library has started threads, a fork of it may hang."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=prepare) as process:
        yield process


@pytest.mark.parametrize("name", [target.name for target in TARGETS])
def test_damaged_files_are_read_or_refused(name: str, clean: Executor, tmp_path: Path) -> None:
    outcomes = clean.submit(fuzz_run.fuzz_named, name, EACH, 20_260, tmp_path).result()
    bad = [one for one in outcomes if one.kind not in fuzz_run.GOOD]
    assert len(outcomes) == EACH
    assert not bad, f"python tests/fuzz/fuzz_run.py --only {name} --seed 20260 --keep: {bad[0]}"


def test_what_once_failed_is_refused() -> None:
    """In a process of its own: a library that has started threads here hangs after a fork."""
    kept = [path for path in fuzz_run.FOUND.glob("*/*") if path.is_dir()]
    done = subprocess.run([sys.executable, fuzz_run.__file__, "--replay"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(kept) > 10
