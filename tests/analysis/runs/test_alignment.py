import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from coalign.analysis.runs.alignment import (
    AlignmentMap,
    RegionAlignment,
    align,
    alignment_sheet,
    boxes_over,
    overlay,
    read_alignment,
    save_alignment,
    word_maps,
)
from coalign.errors import InputError
from coalign.types import Batch, Packed, Regions, Text


def corner(x: int, y: int, height: int = 6, width: int = 6) -> Tensor:
    heat = torch.zeros(height, width)
    heat[y, x] = 1
    return heat


def test_pieces_of_a_word_are_averaged_and_special_tokens_dropped() -> None:
    pieces = torch.arange(5.0)[:, None, None].expand(5, 2, 3).contiguous()
    got = word_maps(pieces, torch.tensor([-1, 0, 1, 1, -1]))
    assert got.shape == (2, 2, 3)
    assert got[:, 0, 0].tolist() == [1.0, 2.5]
    assert word_maps(pieces[:1], torch.tensor([-1])).shape == (0, 2, 3)
    with pytest.raises(InputError, match=r"\(5, 2, 3\) and word numbers \(4,\)"):
        word_maps(pieces, torch.zeros(4))


class FakeAligner:
    alignment_methods = ("cross_attention", "grad_cam")

    def alignment(self, batch: Batch, method: str = "cross_attention") -> list[Tensor]:
        assert batch.text is not None
        scale = 1.0 if method == "cross_attention" else -1.0
        return [
            scale * ids[:, None, None].float().expand(len(ids), 2, 2) for ids in batch.text.ids.values.split([4, 3])
        ]


def test_align_gives_each_pair_its_words() -> None:
    ids = Packed.from_items([torch.tensor([9, 1, 3, 9]), torch.tensor([9, 5, 9])])
    batch = Batch(text=Text(ids, words=torch.tensor([-1, 0, 0, -1, -1, 0, -1])))
    first, second = align(FakeAligner(), batch, [["sailboat", "cut off"], ["sun"]], method="grad_cam")
    assert (first.words, first.values[:, 0, 0].tolist(), first.method) == (("sailboat",), [-2.0], "grad_cam")
    assert (second.words, second.values[:, 0, 0].tolist()) == (("sun",), [-5.0])
    with pytest.raises(InputError, match="which word each piece belongs to"):
        align(FakeAligner(), Batch(text=Text(ids)), [["a"], ["b"]])


class FakeRegionAligner:
    alignment_methods = ("cross_attention", "transport")

    def alignment(self, batch: Batch, method: str = "cross_attention") -> list[Tensor]:
        return [torch.tensor([[9.0, 9.0], [0.1, 0.9], [0.3, 0.5], [0.2, 0.1]]), torch.zeros(2, 0)]


def test_words_are_aligned_with_regions() -> None:
    ids = Packed.from_items([torch.tensor([9, 1, 3, 4]), torch.tensor([9, 5])])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    features = Packed.from_items([torch.zeros(2, 3), torch.zeros(0, 3)])
    text = Text(ids, words=torch.tensor([-1, 0, 0, 1, -1, 0]))
    batch = Batch(text=text, regions=Regions(features, boxes))
    first, none = read_alignment(FakeRegionAligner(), batch, [["red", "boat"], ["sea"]], "transport")
    torch.testing.assert_close(first.values, torch.tensor([[0.2, 0.7], [0.2, 0.1]]))
    assert first.best() == [1, 0] and none.best() == [-1]
    assert first.to_json()["best"] == [1, 0] and first.to_json()["boxes"] == boxes.tolist()
    assert first.scaled().tolist() == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(InputError, match="need a map"):
        RegionAlignment(("a",), torch.zeros(1, 3), boxes)


def test_the_strongest_box_is_shown_as_it_is_and_framed() -> None:
    picture = Image.new("RGB", (80, 80), (200, 0, 0))
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    pixels = np.asarray(boxes_over(picture, torch.tensor([0.0, 1.0]), boxes)).astype(int)
    assert pixels[60, 60].tolist() == [200, 0, 0]  # within the strongest box
    assert pixels[20, 20, 1] > 100 and pixels[20, 60, 1] > 100  # within the other, and outside both
    assert pixels[60, 40].tolist() != pixels[60, 60].tolist()  # its frame
    found = RegionAlignment(("red", "boat"), torch.tensor([[0.2, 0.7], [0.2, 0.1]]), boxes)
    assert alignment_sheet(picture, found).width > 600


def test_scaling_by_word_and_by_pair() -> None:
    found = AlignmentMap(("a", "b", "flat"), torch.stack([corner(0, 0), 2 + 2 * corner(1, 0), torch.full((6, 6), 3.0)]))
    by_word = found.scaled("word")
    assert torch.equal(by_word[0], corner(0, 0)) and torch.equal(by_word[1], corner(1, 0))
    assert by_word[2].abs().max() == 0
    assert found.scaled("pair")[:, 0, 0].tolist() == [0.25, 0.5, 0.75]
    assert found.scaled("none").max() == 1
    with pytest.raises(InputError, match="2 words"):
        AlignmentMap(("a", "b"), torch.zeros(3, 6, 6))


def test_heat_falls_where_the_patch_is_on_a_picture_that_is_not_square() -> None:
    picture = Image.new("RGB", (240, 60), "white")
    plain = np.asarray(overlay(picture, torch.zeros(6, 6)), dtype=float)
    assert plain.min() == 255
    hot = np.asarray(overlay(picture, corner(5, 0)), dtype=float)
    assert hot.shape == (60, 240, 3)
    change = np.abs(hot - plain).sum(-1)
    y, x = np.unravel_index(change.argmax(), change.shape)
    assert x > 240 * 5 / 6 and y < 10
    assert change[20:, :].max() == 0 and change[:, :170].max() == 0


def test_heat_is_confined_to_the_part_that_the_model_saw() -> None:
    picture = Image.new("RGB", (90, 60), "white")
    change = 255 - np.asarray(overlay(picture, torch.ones(3, 3), (1 / 3, 0.5, 1.0, 1.0)), dtype=float).min(-1)
    assert change[30:, 30:].min() > 0
    assert change[:30].max() == 0 and change[:, :30].max() == 0
    with pytest.raises(InputError, match="covers nothing"):
        overlay(picture, torch.ones(3, 3), (0.5, 0.0, 0.5, 1.0))


def test_json_keeps_the_values(tmp_path: Path) -> None:
    found = AlignmentMap(("größe", "b"), torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0)), "grad_cam")
    read = json.loads(save_alignment(found, tmp_path / "map.json").read_text(encoding="utf-8"))
    assert (read["words"], read["grid"], read["method"]) == (["größe", "b"], [6, 8], "grad_cam")
    assert torch.equal(torch.tensor(read["values"]), found.values)


def test_sheet_shows_the_picture_and_a_panel_a_word() -> None:
    picture = Image.new("RGB", (30, 30), (10, 200, 10))
    found = AlignmentMap(("up", "down"), torch.stack([corner(2, 0), corner(2, 5)]))
    sheet = np.asarray(alignment_sheet(picture, found, size=100), dtype=float)
    panels = [sheet[:, 12 + i * 112 : 112 + i * 112] for i in range(3)]
    rows = np.abs(panels[0] - (10, 200, 10)).sum(-1).min(1) == 0
    assert rows.sum() == 100
    up, down = (panel[rows] for panel in panels[1:])
    assert not np.allclose(up, down)
    assert np.allclose(up[40:60], down[40:60], atol=3)  # neither word looks at the middle
