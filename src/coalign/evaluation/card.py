"""The files of a run that go to a hub, with a model card that is written from the run."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from coalign.arguments import run_config
from coalign.errors import InputError, visible
from coalign.files import guarded, read_json, replace_folder, writing
from coalign.registry import find
from coalign.training.tracking import curves, read_metrics

FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "querybank.safetensors", "results.json")
"""Files of a run that are pushed, where they are there."""


@contextmanager
def staged(
    run: Path,
    name: str,
    licence: str,
    trained_on: str | None = None,
    pictures: Sequence[Path] = (),
    folder: Path | None = None,
) -> Generator[Path]:
    """A folder with copies of the run's files and README.md; a temporary one, unless one that is new is given.

    Raises:
        InputError: There is no run, or no such picture; the folder exists.
    """
    config = run_config(run)
    if not (run / "model.safetensors").is_file():
        raise InputError(f"{run}: has no model.safetensors; train it first")
    lost = next((picture for picture in pictures if not picture.is_file()), None)
    if lost is not None:
        raise InputError(f"{lost}: no such picture")
    shown = [f"pictures/{number}{picture.suffix.lower()}" for number, picture in enumerate(pictures, 1)]
    with guarded(run):
        text = card(run, config, name, licence, trained_on, shown)

    def fill(target: Path) -> None:
        for file in FILES:
            if (run / file).is_file():
                shutil.copyfile(run / file, target / file)
        for picture, place in zip(pictures, shown, strict=True):
            (target / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(picture, target / place)
        (target / "README.md").write_text(text, encoding="utf-8")

    if folder is not None:
        with writing(folder):
            if folder.exists():
                raise InputError(f"{folder}: exists already; delete it or push without --dry-run")
            replace_folder(folder, fill)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        fill(Path(temporary))
        yield Path(temporary)


def card(
    run: Path, config: Mapping[str, Any], name: str, licence: str, trained_on: str | None, pictures: Sequence[str]
) -> str:
    """The model card (Markdown with the hub's header): system, data, recipe, figures, pictures, licence, use."""
    entry = find(config["system"])
    header = ["---", "library_name: coalign", f"license: {json.dumps(licence)}", "tags:", "- coalign"]
    header += [f"- {entry.name}", "- multimodal", "---"]
    task = f" for {_plain(config['head'])}" if config.get("head") else ""
    parts = [
        "\n".join(header),
        f"# {name.partition('/')[2]}",
        f"{entry.title}{task} ({entry.paper}), trained with [coalign](https://pypi.org/project/coalign).",
        f'```python\nimport coalign\n\nmodel = coalign.load("hf://{name}")\n```',
        "## Data\n\n" + "\n".join([visible(trained_on or "What it was trained on was not said."), *_data(run)]),
        "## Recipe\n\n" + _table(("setting", "value"), _settings(config)),
    ]
    figures = [*_results(run), *_last(run)]
    if figures:
        parts.append("## Figures\n\nAs the run wrote them down.\n\n" + _table(("figure", "value"), figures))
    if pictures:
        parts.append("## Pictures\n\n" + "\n\n".join(f"![]({picture})" for picture in pictures))
    parts.append(f"## Licence\n\nThe weights: {_plain(licence)}.")
    return "\n\n".join(parts) + "\n"


def _data(run: Path) -> list[str]:
    path = run / "fingerprints.json"
    with guarded(path):
        prints: dict[str, Any] = dict(read_json(path)) if path.is_file() else {}
    return [f"* {_plain(part)}: {_plain(_short(value))}" for part, value in prints.items()]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    training = {name: value for name, value in (config.get("training") or {}).items() if value not in (None, {}, [])}
    about = {name: config[name] for name in ("recipe", "task", "seed", "versions") if config.get(name) is not None}
    return [(name, _short(value)) for name, value in {**about, **training}.items()]


def _results(run: Path) -> list[tuple[str, str]]:
    """The numbers of results.json by the path to each."""
    path = run / "results.json"
    results = read_json(path) if path.is_file() else {}
    return [(place, f"{value:.4g}") for place, value in _numbers(results)]


def _last(run: Path) -> list[tuple[str, str]]:
    """The last value of every curve of the training."""
    return [
        (f"{name}, step {steps[-1]}", f"{values[-1]:.4g}")
        for name, (steps, values) in curves(read_metrics(run / "metrics.jsonl")).items()
        if name.startswith(("loss", "eval", "valid", "held", "accuracy", "recall"))
    ]


def _numbers(value: Any, path: str = "") -> Generator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(part, f"{path} · {name}" if path else str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {_plain(left)} | {_plain(right)} |" for left, right in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def _plain(text: Any) -> str:
    """Text of the run's files that Markdown, and the HTML in it, make nothing of."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(visible(" ".join(str(text).split())), quote=False))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:297] + "..."
