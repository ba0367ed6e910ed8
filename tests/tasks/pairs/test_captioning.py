"""Captions written, measured, and noisy pairs cleaned by a BLIP that has learned six colours."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import coalign
from coalign.cli.main import main
from coalign.data.core.samples import Ids, Sample, Source, Where
from coalign.data.images.decode import BadSample
from coalign.data.pairs.sources import open_source
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.captions import judge, rows_files
from coalign.metrics.captions import cider
from coalign.models.blip.model import Blip
from coalign.models.blip.trunk import BlipConfig, text_tower
from coalign.models.clip.model import SIZES, Clip
from coalign.recipes._start import with_vocabulary
from coalign.registry import describe
from coalign.tasks import find_task
from coalign.trunks.vit import VitConfig
from coalign.types import Draws

COLOURS = {
    "red": (230, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 230),
    "white": (250, 250, 250), "black": (5, 5, 5), "yellow": (240, 240, 10),
}  # fmt: skip


def status(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(words)
    return int(left.value.code or 0)


def said(colour: str) -> str:
    return f"all of it is {colour}"


def save_run(folder: Path, model: torch.nn.Module, tokenizer: Tokenizer) -> Path:
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(describe(model)))
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    rows = [{"image": f"{name}.png", "text": said(name)} for name in COLOURS]
    (folder / "right.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([said(name) for name in COLOURS] * 2, 200)
    image = VitConfig(image_size=16, patch_size=8, dim=48, depth=1, heads=3, hidden_dim=96)
    text = text_tower(dim=48, depth=2, heads=3, hidden_dim=96, positions=20, context_dim=48, dropout=0.0)
    config = with_vocabulary(BlipConfig(image, text, embed_dim=16, queue_size=12), tokenizer)
    model = Blip(config).train()
    loaded = coalign.data.loaded.Loaded(model, tokenizer)
    batch = coalign.prepare(loaded, [pictures / f"{n}.png" for n in COLOURS], [said(n) for n in COLOURS])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(80):
        model.before_step()
        loss = sum(model.losses(batch, Draws(choices={"alpha": torch.tensor(0.0)})).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.after_step()
    return save_run(tmp_path_factory.mktemp("run") / "blip", model, tokenizer)


def test_captions_are_printed_and_written_as_pairs(run: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    assert status(["caption", str(run), str(pictures / "red.png"), str(pictures / "blue.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == [said("red"), said("blue")]
    out = tmp_path / "captions.jsonl"
    given = ["caption", str(run), "--data", str(pictures / "right.jsonl"), "--out", str(out)]
    assert status(given) == 0
    source = open_source(out, images=pictures)
    assert [source[i].texts for i in range(len(source))] == [(said(name),) for name in COLOURS]
    assert status(given) == 2  # it is there already
    assert "exists already" in capsys.readouterr().err
    assert status(["caption", str(run), str(pictures / "red.png"), "--prompt", "all of it", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["captions"][0]["text"] == "is red"


def test_wrong_pairs_are_found_and_captions_take_their_place(run: Path, pictures: Path, tmp_path: Path) -> None:
    wrong = {"red": "blue", "white": "black"}
    noisy, out, dropped = pictures / "noisy.jsonl", tmp_path / "clean.jsonl", tmp_path / "dropped.jsonl"
    rows = [{"image": f"{n}.png", "text": said(wrong.get(n, n))} for n in COLOURS]
    noisy.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = noisy.read_bytes()
    given = ["filter", str(run), "--data", str(noisy), "--out", str(out), "--dropped", str(dropped)]
    assert status([*given, "--no-sample"]) == 0
    lost = [json.loads(line) for line in dropped.read_text().splitlines()]
    assert {Path(row["image"]).stem: row["text"] for row in lost} == {n: said(w) for n, w in wrong.items()}
    assert all(row["origin"] == "data" and row["score"] < 0.5 for row in lost)
    clean = open_source(out, images=pictures)
    found = {Path(clean[i].image).stem: clean[i].texts for i in range(len(clean))}
    assert found == {name: (said(name),) for name in COLOURS}
    assert noisy.read_bytes() == before
    alone = tmp_path / "alone.jsonl"
    assert status(["filter", str(run), "--data", str(noisy), "--out", str(alone), "--no-captions"]) == 0
    assert len(alone.read_text().splitlines()) == 4


def test_a_filter_that_was_killed_between_its_files_is_done_again(tmp_path: Path, monkeypatch) -> None:
    """Its own file is taken for its own as long as nobody changed it; the crash test kills the command everywhere."""
    out, dropped = tmp_path / "clean.jsonl", tmp_path / "dropped.csv"

    def write(text: str) -> None:
        with rows_files([out, dropped], ["text"]) as writers:
            for writer in writers:
                writer({"text": text})

    def end(part: Path, path: Path) -> Path:
        if path == out:
            raise KeyboardInterrupt
        return rename(part, path)

    rename = Path.replace
    for changed in (False, True):
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(Path, "replace", end)
            write("first")
        assert dropped.read_text() == "text\nfirst\n" and not out.exists()
        if changed:
            dropped.write_text("mine")
            with pytest.raises(InputError, match=r"dropped\.csv: exists already"):
                write("second")
            assert dropped.read_text() == "mine"
        else:
            write("second")
            assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.jsonl", "dropped.csv"]
            assert dropped.read_text() == "text\nsecond\n" and "second" in out.read_text()
            with pytest.raises(InputError, match="exists already"):
                write("third")
            out.unlink()
            dropped.unlink()


def test_what_cannot_be_done_is_said(run: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    tokenizer = coalign.load(run).vocabulary
    other = save_run(tmp_path / "clip", Clip(with_vocabulary(SIZES["tiny"], tokenizer)), tokenizer)
    data = str(pictures / "right.jsonl")
    for words, message in (
        (["caption", str(other), str(pictures / "red.png")], "a Clip writes no captions"),
        (["caption", str(run)], "give either pictures"),
        (["caption", str(run), "nothing.png"], "nothing.png: no such picture"),
        (
            ["filter", str(other), "--data", data, "--out", str(tmp_path / "a.jsonl"), "--no-captions"],
            "no matching head",
        ),
        (["filter", str(run), "--data", data, "--out", data, "--overwrite"], "is the data itself"),
        (["caption", str(run), "--data", data, "--out", data, "--overwrite"], "is the data itself"),
        (["filter", str(run), "--data", data, "--out", str(tmp_path / "a.txt")], "should end in"),
        (["filter", str(run), "--data", data, "--out", str(tmp_path / "a.csv"), "--threshold", "2"], "from 0 to 1"),
    ):
        assert status(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_lists_are_read_as_they_were_written(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    texts = ["@ann: hello", "=1+1", "+ and -", "-1", "'quoted", 'a, "b"']
    out = tmp_path / f"out.{ending}"
    with rows_files([out], ("image", "text")) as (write,):
        for text in texts:
            write({"image": str(tmp_path / "a.png"), "text": text})
        assert not out.exists()
    source = open_source(out)
    assert [source[n].texts for n in range(len(source))] == [(text,) for text in texts]


def test_what_cannot_be_read_or_named_does_not_end_a_long_run(
    run: Path, pictures: Path, tmp_path: Path, capsys
) -> None:
    class Rows(Source):
        def __init__(self, rows: list[Sample]) -> None:
            self.rows = rows

        @property
        def ids(self) -> Ids:
            return np.arange(len(self.rows))

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Sample:
            if index == 0:
                raise BadSample("row 1: a damaged page", "t.parquet")
            return self.rows[index]

    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(pictures / "red.png", odd)
    files = [odd, odd, pictures / "red.png", pictures / "blue.png"]
    rows = Rows([Sample(file, (said("red"),) if n < 3 else (), n, Where("t", n)) for n, file in enumerate(files)])
    found = [pair for part in judge(coalign.load(run), rows, None, 1) for pair in part]
    assert [(Path(pair.image).name, pair.text) for pair in found] == [("red.png", said("red"))]
    err = capsys.readouterr().err
    assert "t.parquet: row 1: a damaged page; left out" in err and "is no text in UTF-8; left out" in err


def test_captions_are_measured(run: Path, pictures: Path) -> None:
    from coalign.arguments import Pairs

    result = find_task("captioning")(run=run, pairs=Pairs(data=str(pictures / "right.jsonl"))).evaluate()
    assert result.metrics["cider"] == pytest.approx(10 * 2 / 4 + 10 * 2 / 4, abs=1e-6)  # see below: all four n count
    assert result.extra["cider, next picture's"] == 0.0
    assert result.extra["examples"][0] == {"caption": said("red"), "texts": [said("red")]}


def test_cider_is_the_formula() -> None:
    """Two pictures, computed by hand: words that both pictures have weigh nothing."""
    references = [["a red cat", "a cat"], ["a blue dog sits"]]
    score, each = cider(["a red cat", "a dog sits"], references)
    # picture 1, reference 1: unigrams red, cat, bigrams (a red), (red cat), trigram, all log 2 each: cosine 1, three of
    # the four n; reference 2: caption {red, cat}, reference {cat}: 1 / √2; bigrams (a red), (red cat) and (a cat): 0
    first = 10 * ((3 / 4) + math.exp(-1 / 72) * (1 / math.sqrt(2)) / 4) / 2
    # picture 2: unigrams {dog, sits} of {blue, dog, sits}: 2 / (√2 √3); bigrams (a dog), (dog sits) of (a blue),
    # (blue dog), (dog sits): 1 / (√2 √3); no trigram
    second = 10 * math.exp(-1 / 72) * (2 / math.sqrt(6) + 1 / math.sqrt(6)) / 4
    assert each == pytest.approx([first, second])
    assert score == pytest.approx((first + second) / 2)
    assert cider(["dog dog dog dog", "a"], references)[1][0] == 0.0
    clipped = cider(["cat cat cat", "a"], [["the cat"], ["a dog"]])[1][0]
    assert clipped == pytest.approx(10 * math.exp(-1 / 72) * (1 / (3 * math.sqrt(2))) / 4)  # min(3, 1), |g| = 3
    with pytest.raises(InputError, match="picture 2 has no reference"):
        cider(["a", "b"], [["a"], []])
    with pytest.raises(InputError, match="1 captions of 2 pictures"):
        cider(["a"], references)


def test_a_model_of_a_hub_is_indexed_where_out_says(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr("coalign.checkpoints.hub.hub", SimpleNamespace(snapshot_download=lambda *_, **__: str(run)))
    given = ["hf://ann/blip", "--data", str(pictures / "right.jsonl")]
    assert status(["index", *given]) == 2 and "--out FOLDER" in capsys.readouterr().err
    assert status(["index", *given, "--out", str(tmp_path / "index")]) == 0
    assert status(["embed", *given, "--out", str(tmp_path / "t.parquet"), "--part", "0/1"]) == 0
    assert status(["embed", *given, "--out", str(tmp_path / "t.parquet"), "--part", "0/1"]) == 0  # it is there
    assert capsys.readouterr().out.count("12 rows: ") == 2
    assert status(["embed", *given, "--out", str(tmp_path / "t.parquet")]) == 2
    assert status(["push", "hf://ann/blip", "ann/other", "--licence", "mit"]) == 2
    assert "is on a hub already" in capsys.readouterr().err


def test_one_process_at_a_time_writes_a_list(tmp_path):
    """The other one is refused before it writes; where the first one ends, or is killed, none is."""
    path = tmp_path / "captions.csv"
    holds = f"""
from pathlib import Path
from {rows_files.__module__} import rows_files
with rows_files([Path({str(path)!r})], ("image", "text"), True) as (write,):
    write({{"image": "a.png", "text": "first"}})
    print("ready", flush=True)
    input()
"""
    for killed in (True, False):
        process = subprocess.Popen(
            [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with (
            pytest.raises(InputError, match=r"captions\.csv: another process writes this file"),
            rows_files([path], ("image", "text")),
        ):
            raise AssertionError
        assert not path.exists()
        process.kill() if killed else None
        process.communicate(None if killed else "\n")
    assert path.read_text().splitlines() == ["image,text", "a.png,first"]
    with rows_files([path], ("image", "text"), True) as (write,):
        write({"image": "b.png", "text": "second"})
    assert "second" in path.read_text() and not list(tmp_path.glob(".*.lock"))
