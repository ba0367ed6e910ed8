"""Dual encoders and their kin in every command that takes a run: search, maps, analysis, layouts and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_model

from coalign.analysis.runs.maps import explain
from coalign.cli.main import main
from coalign.data.words.tokenizer import Tokenizer
from coalign.recipes._start import with_vocabulary
from coalign.registry import create, describe, find, load

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "grey": (120, 120, 120)}
SYSTEMS = {"clip": "tiny", "siglip": "tiny-naflex", "blip": "tiny", "coca": "tiny", "dinov2": "tiny", "xvlm": "tiny"}


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of drawings of several proportions."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["image,caption"]
    for number in range(12):
        name, colour = list(COLOURS.items())[number % 4]
        picture = Image.new("RGB", (40 + 8 * number, 60), "white")
        ImageDraw.Draw(picture).rectangle((5, 5, 20 + number, 40), fill=colour)
        picture.save(folder / f"{number}.png")
        rows.append(f"{number}.png,a {name} square number {number}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_command_takes_its_runs(system: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    texts = [f"a {name} square number" for name in COLOURS]
    tokenizer, folder = Tokenizer.train(texts, 120, min_frequency=1), tmp_path / "run"
    folder.mkdir()
    reads = system != "dinov2"
    size: Any = find(system).sizes[SYSTEMS[system]]
    made = create(system, with_vocabulary(size, tokenizer) if reads else size)
    (folder / "config.json").write_text(json.dumps(describe(made.model)))
    save_model(made.model, str(folder / "model.safetensors"))
    if reads:
        tokenizer.save(folder)

    assert run("index", folder, "--data", pairs, "--out", tmp_path / "index") == 0
    capsys.readouterr()
    asked = ["a red square"] if reads else []
    assert (
        run(
            "search",
            folder,
            *asked,
            *([] if reads else ["--image", pairs.with_name("0.png")]),
            "--index",
            tmp_path / "index",
            "--json",
        )
        == 0
    )
    assert capsys.readouterr().out.count("score") >= 5

    methods = getattr(made.model, "alignment_methods", None) or ("similarity",)
    for method in methods if reads else ():
        out = tmp_path / f"{method}.json"
        assert run("align", folder, pairs.with_name("3.png"), "a grey square", "--method", method, "--out", out) == 0
        assert json.loads(out.read_text())
        maps = explain(load(folder), "a grey square", Image.open(pairs.with_name("3.png")), method=method)
        assert maps.method == method
    assert run("analyze", pairs, "--run", folder, "--out", tmp_path / "page") == (0 if reads else 2)  # pairs need texts
    assert not reads or (tmp_path / "page" / "report.html").stat().st_size > 10_000

    for layout in find(system).weights:
        first, back = tmp_path / f"{layout}.safetensors", tmp_path / f"back-{layout}.safetensors"
        assert run("convert", folder, first, "--system", system, "--to", layout) == 0
        assert run("convert", first, back, "--system", system, "--to", layout) == 0
        mine, theirs = load_file(first), load_file(back)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
