"""What `coalign analyze` opens: tables with other columns, regions, narrated videos, series; and the command itself."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coalign.analysis.datasets.cache import Towers
from coalign.analysis.datasets.parts import Options
from coalign.analysis.datasets.sources import pair_columns, region_columns, series_columns, shot_changes, video_columns
from coalign.analysis.datasets.study import study
from coalign.analysis.datasets.summary import summarise
from coalign.cli.main import main
from coalign.data.pairs.sources import open_source
from coalign.data.regions.pairs import RegionPairs
from coalign.data.regions.regions import RegionFile
from coalign.data.videos.narrated import open_narrated
from coalign.data.videos.write import write_video
from coalign.errors import InputError
from coalign.worlds.speakers import open_series
from coalign.worlds.videos import make_videos, to_srt, write_videos


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    lines = ["image,caption,kind,weight,who1,who2,note"]
    for i in range(12):
        Image.new("RGB", (40 + i, 30), (20 * i, 250 - 20 * i, 90)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,picture number {i} of a colour,{'ab'[i % 2]},{i * 0.5},{'xy'[i % 2]},x,free words {i}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def test_other_columns_become_labels_and_numbers(table: Path) -> None:
    made = pair_columns(open_source(table), annotators=["who1", "who2"])
    assert made.count == 12 and made.texts[3] == "picture number 3 of a colour"
    assert list(made.labels) == ["kind"] and made.labels["kind"][:3] == ["a", "b", "a"]
    assert list(made.numbers) == ["weight"] and made.numbers["weight"][4] == 2
    assert list(made.annotators.values()) == [[["x" if i % 2 == 0 else "y", "x"] for i in range(12)]]
    chosen = pair_columns(open_source(table), labels=["who1"])
    assert list(chosen.labels) == ["who1"] and not chosen.numbers
    with pytest.raises(InputError, match=r"pairs.csv: no column 'sort'; the columns there are: image, caption"):
        pair_columns(open_source(table), labels=["sort"])


def test_a_label_of_many_numbers_is_cut_into_quarters(table: Path, tmp_path: Path) -> None:
    lines = ["image,text,n", *(f"{table.parent}/{i % 12}.png,text {i},{i * 1.5}" for i in range(80))]
    (tmp_path / "n.csv").write_text("\n".join(lines))
    counts = Counter(pair_columns(open_source(tmp_path / "n.csv", images=table.parent), labels=["n"]).labels["n"])
    assert len(counts) == 4 and set(counts.values()) <= {19, 20, 21} and "over 88.875" in counts


def test_images_in_class_folders(capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path) -> None:
    for i in range(12):
        folder = tmp_path / "data" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes((table.parent / f"{i}.png").read_bytes())
    status, out, err = call(capsys, "analyze", tmp_path / "data", "--out", tmp_path / "r", "--vit-steps", 0, "--json")
    assert status == 0 and json.loads(out)["rows"] == 12, err
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["labels"][0]["counts"] == {"cat": 6, "dog": 6} and report["texts"] is None


def test_rows_of_one_image_are_one_group(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "p.csv").write_text("image,text\na.png,one\nb.png,two\na.png,three\n")
    groups = pair_columns(open_source(tmp_path / "p.csv")).groups
    assert groups[0] == groups[2] != groups[1]


class Regions(RegionFile):
    def read(self, place: int) -> dict[str, Any]:
        features = torch.full((3 + place % 2, 5), float(place))
        features[:, 2] = 1.0
        return {"features": features, "boxes": torch.tensor([[0.1, 0.1, 0.5, 0.5]]).expand(len(features), 4)}


def test_regions_are_a_stream(table: Path) -> None:
    made = region_columns(RegionPairs(open_source(table), Regions("regions", [f"{i}" for i in range(12)])))
    assert made.count == 12 and not len(made.images) and made.series["regions"][5].shape == (4, 5)
    found = study(made, Towers(), Options(points=10))
    assert found.series[0].constant == [2] and found.series[0].lengths.tolist() == [3, 4] * 6
    assert "regions, mean and deviation" in found.vectors


def test_what_carries_the_score_of_a_series_is_told() -> None:
    bits = {}
    for regime in ("joint", "redundant"):
        made = series_columns(open_series(f"world:{regime},items=240,noise=0.3"))
        assert set(made.series) == {"text", "audio", "vision"} and len(made.texts) == made.count
        found = study(made, Towers(), Options(points=15))
        assert found.comparison is not None
        bits[regime] = {part.label: part for part in found.information}["sentiment, sign"]
    assert bits["redundant"].redundancy[1] > bits["joint"].redundancy[2]
    assert bits["redundant"].both[0] > bits["joint"].both[0]


class Frames:
    """A picture in 4 by 4 cells."""

    name, modality, key = "frames", "image", "frames"

    def encode(self, items: Any) -> dict[str, np.ndarray]:
        shrunk = [torch.nn.functional.adaptive_avg_pool2d(item.float() / 255, 6).flatten() for item in items]
        return {self.name: torch.stack(shrunk).numpy()}


class Words:
    """The words of a text, in 64 places."""

    name, modality, key = "words", "text", "words"

    def encode(self, items: Any) -> dict[str, np.ndarray]:
        rows = np.zeros((len(items), 64), np.float32)
        for row, text in zip(rows, items, strict=True):
            for word in text.lower().split():
                row[sum(map(ord, word)) % 64] = 1
        return {self.name: rows}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos whose narration is said five seconds too early."""
    folder = tmp_path_factory.mktemp("videos")
    made = make_videos(12, steps=8, kinds=8, seconds=5.0)
    write_videos(folder, made, side=32, fps=4.0)
    for video in made:
        early = [
            replace(n, start=n.start - 5, end=n.end - 5)
            for n in (t.narration for t in video.narrations)
            if n.start >= 5
        ]
        (folder / f"{video.name}.srt").write_text(to_srt(early))
    return folder


def test_narrated_videos(videos: Path) -> None:
    made = video_columns(open_narrated(videos, info=videos / "videos.csv"))
    assert len(made.videos) == 12 and made.count == 12 * 7 and set(made.labels) == {"category", "task"}
    assert made.videos[0].duration == pytest.approx(40, abs=0.5)
    towers = Towers([Frames()], [Words()])
    found = study(made, towers, Options(points=15, words=0))
    assert found.videos is not None and found.videos.table[0][2:4] == (12, 84)
    assert found.offset is not None and found.offset.best == 5.0  # what is said is shown five seconds later
    assert "narration_offset" in {finding.kind for finding in summarise(found)}


def test_shot_changes(tmp_path: Path) -> None:
    def frames() -> Any:
        for number in range(60):
            level = (200, 40, 120)[number // 20]
            yield np.full((32, 48, 3), level + number % 3, np.uint8)

    cuts = shot_changes(write_video(tmp_path / "v.mp4", frames(), 10.0))
    assert cuts == pytest.approx((2.0, 4.0), abs=0.26)


# -------------------------------------------------------------------------------- the command
def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_a_report_of_a_table(capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path) -> None:
    words = ("analyze", table, "--out", tmp_path, "--vit-steps", 0, "--slice", "weight > 2")
    status, out, err = call(capsys, *words, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["rows"] == 12 and {f["kind"] for f in answer["findings"]} >= {"few_rows", "label_leak"} - {
        "label_leak"
    }
    page = (tmp_path / "report.html").read_text()
    assert "EfficientNet-lite0" in page and "weight &gt; 2" in page
    status, _, err = call(capsys, *words)
    assert status == 2 and "exists already" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("picture_url,words\na.png,hello\n", "no column is recognised as the image"),
        ("", "is empty"),
        ("image,text\n", "no usable pair"),
        ("image,text\n../a.png,red\n", "odd.csv: no pair is usable; the first of 1: "),
    ],
)
def test_what_cannot_be_analysed(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "odd.csv").write_text(content)
    status, out, err = call(capsys, "analyze", tmp_path / "odd.csv", "--out", tmp_path / "r")
    assert status == 2 and out == "" and said in err and err.count("\n") == 1 and not (tmp_path / "r").exists()
