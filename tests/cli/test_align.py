"""`coalign align`: lines of many pairs, and what a call imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_model

from coalign.cli.main import main
from coalign.data.words.tokenizer import Tokenizer
from coalign.registry import create, describe

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "grey": (120, 120, 120)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny ViLT that was not trained, pictures, and tables of pairs."""
    folder = tmp_path_factory.mktemp("align")
    run = folder / "run"
    run.mkdir()
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([f"a {name} square" for name in COLOURS], 120, min_frequency=1)
    model = create("vilt", vocab_size=tokenizer.vocab_size).model
    (run / "config.json").write_text(json.dumps(describe(model)))
    save_model(model, str(run / "model.safetensors"))
    tokenizer.save(run)
    for name, colour in COLOURS.items():
        Image.new("RGB", (60, 40), colour).save(folder / f"{name}.png")
    rows = [f"{name}.png,a {name} square" for name in COLOURS]
    (folder / "pairs.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
    (folder / "broken.csv").write_text("\n".join(["image,caption", rows[0], "none.png,a square", *rows[1:]]) + "\n")
    return folder


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_a_pair_in_their_order_and_what_cannot_be_read_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps.jsonl"
    assert run("align", folder / "run", "--pairs", folder / "broken.csv", "--out", out, "--batch-size", 2) == 0
    said = capsys.readouterr().err
    found = lines(out)
    assert [Path(row["image"]).stem for row in found] == ["red", "none", "green", "blue", "grey"]
    assert found[1]["error"] == "no such file" and "values" not in found[1]
    assert "none.png: no such file" in said and "1 of 5 pairs" in said
    good = [row for row in found if "error" not in row]
    assert [row["text"] for row in good] == [f"a {name} square" for name in COLOURS]
    for row in good:
        rows, columns = row["grid"]
        assert row["words"] == row["text"].split() and row["method"] == "transport"
        assert len(row["values"]) == len(row["words"])
        assert {len(values) for values in row["values"]} == {rows * columns}
    assert run("align", folder / "run", folder / "blue.png", "a blue square", "--json") == 0
    one = json.loads(capsys.readouterr().out)
    assert one["grid"] == good[2]["grid"]
    flat = torch.tensor(one["values"]).flatten(1)  # row by row
    torch.testing.assert_close(flat, torch.tensor(good[2]["values"]), atol=1e-5, rtol=1e-4)


def test_every_method_by_layer_and_head(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = folder / "red.png", "a red square"
    for method in ("cross_attention", "rollout", "grad_cam", "relevance", "similarity", "occlusion"):
        assert run("align", folder / "run", *pictures, "--method", method, "--json") == 0
        assert json.loads(capsys.readouterr().out)["method"] == method
    assert run("align", folder / "run", *pictures, "--method", "cross_attention", "--layer", 0, "--head", 1) == 0
    capsys.readouterr()
    assert run("align", folder / "run", *pictures, "--method", "similarity", "--layer", 0) == 2
    assert "no layers" in capsys.readouterr().err
    for wrong, says in ((["--pairs", "x.csv"], "--out"), ([], "--pairs FILE")):
        assert run("align", folder / "run", *wrong) == 2
        assert says in capsys.readouterr().err


def test_tasks_of_alignment_give_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = "--data", folder / "pairs.csv", "--json"
    assert run("evaluate", folder / "run", "--task", "pointing", *given, "--mosaics", 2, "--captions", "whole") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chance"] == 0.25 and found["texts"] == 8 and set(found["metrics"]) == {"transport"}
    low, high = found["intervals"]["transport"]["accuracy"]
    assert low <= found["metrics"]["transport"]["accuracy"] <= high
    assert run("evaluate", folder / "run", "--task", "pointing", *given, "--mosaics", 2, "--captions", "whole") == 0
    assert json.loads(capsys.readouterr().out) == found
    assert (
        run("evaluate", folder / "run", "--task", "faithfulness", *given, "--steps", 4, "--method", "similarity") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == 4 and set(found["metrics"]) == {
        f"{name}, similarity" for name in ("deletion", "insertion", "random deletion", "random insertion")
    }


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="an older torch loads its compiler for shapes alone (2.7 does)")
def test_one_pair_imports_no_compiler_and_no_plots(folder: Path) -> None:
    script = (
        "import sys\nfrom coalign.cli.main import main\n"
        f"try:\n    main(['align', {str(folder / 'run')!r}, {str(folder / 'red.png')!r}, 'a red square'])\n"
        "except SystemExit as done:\n    assert done.code == 0\n"
        "from coalign.layers.initialise import shapes_alone\nfrom coalign.registry import find\n"
        "with shapes_alone():\n"  # what `load` compares a file's sizes with
        "    for name in ('compact', 'clip', 'coca', 'sasa'):\n"
        "        find(name).model(next(reversed(find(name).sizes.values())))\n"
        "names = ('torchvision', 'torch._dynamo', 'sympy', 'matplotlib', 'transformers', 'sklearn', 'scipy')\n"
        "loaded = [name for name in names if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
