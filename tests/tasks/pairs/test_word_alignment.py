"""Boxes chosen by alignment maps, of patches and of regions, held against maps drawn by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from torch import Tensor, nn

from coalign.data.loaded import Loaded
from coalign.data.regions.files.shards import write_shard
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.visual import VisualTask
from coalign.tasks.pairs import word_alignment
from coalign.tasks.pairs._alignment import WordMap
from coalign.tasks.pairs.referring_alignment import Evaluate as Referring
from coalign.types import Batch, Encoding, InputSpec, Model, RegionSpec, TextSpec

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
SPEC = InputSpec(text=TextSpec(max_length=20), regions=RegionSpec(2))


def test_a_map_on_patches_is_averaged_over_boxes() -> None:
    values = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 8.0]]])
    boxes = torch.tensor([LEFT, RIGHT, (0.0, 0.5, 0.25, 1.0), (0.875, 0.5, 1.0, 1.0), (0.0, 0.25, 0.25, 0.75)])
    found = WordMap(values, None)
    torch.testing.assert_close(found.on(boxes), torch.tensor([[1.0, 2.0, 3.0, 8.0, 2.0]]))
    assert found.centres().tolist() == [[0.875, 0.75]]


def test_a_map_on_regions_is_that_of_the_region_that_is_the_box() -> None:
    found = WordMap(torch.tensor([[0.2, 0.7], [0.9, 0.1]]), torch.tensor([LEFT, RIGHT]))
    boxes = torch.tensor([RIGHT, LEFT, (0.4, 0.4, 0.5, 0.5)])
    torch.testing.assert_close(found.on(boxes), torch.tensor([[0.7, 0.2, -torch.inf], [0.1, 0.9, -torch.inf]]))
    assert found.centres().tolist() == [[0.75, 0.5], [0.25, 0.5]]
    assert WordMap(torch.zeros(2, 0), torch.zeros(0, 4)).on(boxes).tolist() == [[0.0] * 3] * 2


@Model.register
class Pointing(nn.Module):
    """Draws "red" to the first region and any other word to the last; its attention errs in every word."""

    alignment_method = "transport"
    alignment_methods = ("transport", "cross_attention")
    input_spec = SPEC

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        raise AssertionError("maps alone are read")

    def alignment(self, batch: Batch, method: str = "cross_attention") -> list[Tensor]:
        assert batch.text is not None and batch.regions is not None
        red = self.tokenizer.encode(["red"]).ids.values[1]
        maps: list[Tensor] = []
        for ids, count in zip(
            batch.text.ids.values.split(batch.text.ids.lengths.tolist()),
            batch.regions.features.lengths.tolist(),
            strict=True,
        ):
            place = torch.where(ids == red, 0, count - 1)
            own = nn.functional.one_hot(place, count).float()
            maps.append(own if method == "transport" else 1 - own)
        return maps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    regions: dict[str, Any] = {"features": torch.zeros(2, 2), "boxes": torch.tensor([LEFT, RIGHT]), "size": (10, 10)}
    write_shard(tmp_path / "regions.safetensors", [1], [regions])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "boat", "and", "sun"]
    tokenizer = Tokenizer.from_vocabulary(words)
    monkeypatch.setattr(VisualTask, "load", lambda _: Loaded(Pointing(tokenizer), tokenizer))
    return tmp_path


def test_words_are_counted_by_every_way_the_model_has(folder: Path) -> None:
    rows = [
        {"image": "1.png", "words": ["a", "red", "boat"], "boxes": [None, LEFT, LEFT]},
        {"image": "1.png", "words": ["a", "sun"], "boxes": [None, RIGHT]},
    ]
    file = folder / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = word_alignment.Evaluate(run=folder, data=file, regions=folder / "regions.safetensors")
    found = task.evaluate().to_json()
    assert found["metrics"]["choice, transport"] == pytest.approx(2 / 3)  # "boat" is drawn to the wrong side
    assert found["metrics"]["pointing, transport"] == pytest.approx(2 / 3)
    assert found["metrics"]["choice, cross_attention"] == pytest.approx(1 / 3)
    assert (found["chance"], found["words"], found["count"]) == (0.5, 3, 2)


def test_occlusion_finds_the_box_that_the_score_hangs_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model whose score counts the regions of the colours that the text names; only the first text is read."""
    found = planted.loaded(by_region=True)
    monkeypatch.setattr(VisualTask, "load", lambda _: found)
    looks = torch.tensor([planted.COLOURS["green"], planted.COLOURS["red"]]) / 255
    write_shard(folder / "seen.safetensors", [1], [{"features": looks, "boxes": torch.tensor([LEFT, RIGHT])}])
    right = {"image": "1.png", "words": ["a", "red", "thing"], "boxes": [None, RIGHT, None]}
    wrong = {"image": "1.png", "words": ["green", "red"], "boxes": [RIGHT, LEFT]}
    file = folder / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (right, wrong, right)))
    given = {"run": folder, "data": file, "regions": folder / "seen.safetensors"}
    metrics = [word_alignment.Evaluate(**given, occlusion=True, limit=n).evaluate().metrics for n in (1, None)]
    assert [each["choice, occlusion"] for each in metrics] == [1.0, 0.5]
    assert metrics[0]["choice, similarity"] == 1.0
    assert "choice, occlusion" not in word_alignment.Evaluate(**given).evaluate().metrics


def test_expressions_go_to_the_box_their_words_draw_on(folder: Path) -> None:
    boxes = [(0, 0, 5, 10), (5, 0, 5, 10)]
    known = {
        "images": [{"id": 1, "width": 10, "height": 10}],
        "annotations": [{"id": number, "image_id": 1, "bbox": box} for number, box in enumerate(boxes)],
    }
    (folder / "instances.json").write_text(json.dumps(known))
    refs = [
        {"ann_id": number, "image_id": 1, "split": "val", "sentences": [{"sent_id": number, "sent": text}]}
        for number, text in enumerate(["red", "sun"])
    ]
    (folder / "refs.json").write_text(json.dumps(refs))
    task = Referring(run=folder, data=folder / "refs.json", split="val", regions=folder / "regions.safetensors")
    found = task.evaluate().to_json()
    assert found["metrics"] == {"accuracy, transport": 1.0, "accuracy, cross_attention": 0.0}
    assert found["chance"] == 0.5


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"image": "1", "words": ["a"], "boxes": [None, None]}, "1 words and 2 boxes"),
        ({"image": "1", "words": ["a"], "boxes": [[0, 1]]}, "four numbers"),
        ({"image": "1", "words": ["a"]}, "lacks 'boxes'"),
        ({"image": "1", "words": ["a"], "boxes": [None]}, "no word in it has a box"),
        ({"image": "1", "words": ["red-boat"], "boxes": [LEFT]}, "other words than the data"),
    ],
)
def test_bad_lines_are_named(folder: Path, row: dict[str, Any], says: str) -> None:
    file = folder / "words.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=says):
        word_alignment.Evaluate(run=folder, data=file, regions=folder / "regions.safetensors").evaluate()
