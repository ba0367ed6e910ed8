"""Regions of pictures into shards: by a detector with random weights (no others can be had here), and by a grid."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from coalign.data.regions.files import open_regions
from coalign.errors import InputError
from coalign.extraction import regions as extraction
from coalign.extraction.detector import Detector, cells, faster_rcnn, grid_network
from coalign.extraction.regions import Extract


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Few proposals, because each costs as much on a small picture as on a large one."""
    model = faster_rcnn("random", side=64)
    kept: Any = model.rpn
    kept._post_nms_top_n = {"training": 40, "testing": 40}
    return Detector(model, most=6, least=2, confidence=2.0)


def pictures(folder: Path, count: int = 3) -> Path:
    (folder / "in").mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"p{number}.png")
    return folder


def test_a_detector_gives_the_boxes_it_was_asked_for(detector: Detector) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 40, 60, generator=generator), torch.rand(3, 64, 48, generator=generator)]
    together = detector(images)
    for found in together:  # nothing is as sure as 2: the least number
        assert found["features"].shape == (2, 1024) and found["classes"].shape == (2, 91)
        torch.testing.assert_close(found["classes"].sum(1), torch.ones(2))
        torch.testing.assert_close(found["confidence"], found["classes"][:, 1:].max(1).values)
        assert bool((found["boxes"] >= 0).all() and (found["boxes"] <= 1).all())
        assert bool((found["boxes"][:, 2:] > found["boxes"][:, :2]).all())
        assert not torch.equal(found["features"][0], found["features"][1])
    eager = Detector(detector.model, most=6, least=2, confidence=0.0)
    (six,) = eager(images[:1])
    assert len(six["boxes"]) == 6 and bool((six["confidence"].diff() <= 0).all())


def test_the_surest_box_of_a_place_and_class_stays(detector: Detector) -> None:
    probabilities = torch.tensor([[0.1, 0.9, 0], [0.2, 0.8, 0], [0.3, 0, 0.7], [0.9, 0.1, 0], [0.8, 0, 0.2]])
    place, beside = [0.0, 0, 20, 20], [30.0, 30, 50, 60]
    boxes = torch.tensor([place, [1, 1, 21, 21], place, beside, [5, 5, 5, 9]])[:, None].expand(5, 3, 4)
    sure = Detector(detector.model, most=6, least=1, confidence=0.5)._surest(probabilities, boxes, (40, 64))
    assert sure.tolist() == [place, place]  # two classes in one place; the second overlaps the first of its class
    more = Detector(detector.model, most=3, least=3, confidence=0.5)._surest(probabilities, boxes, (40, 64))
    assert more.tolist() == [place, place, [30, 30, 50, 40]]  # unsure, and cut at the picture's edge


def test_features_belong_to_their_boxes(detector: Detector) -> None:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    (found,) = detector([image])
    sized, _ = detector.model.transform([image])
    height, width = sized.image_sizes[0]
    boxes = found["boxes"] * torch.tensor([width, height, width, height])
    heads: Any = detector.model.roi_heads
    with torch.no_grad():
        maps = detector.model.backbone(sized.tensors)
        again = heads.box_head(heads.box_roi_pool(maps, [boxes], sized.image_sizes))
    torch.testing.assert_close(found["features"], again, atol=1e-3, rtol=1e-3)


def test_a_grid_is_its_cells() -> None:
    assert cells(2, 2).tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    grid = grid_network("resnet50", "random", 64)
    picture = torch.zeros(3, 32, 32)
    picture[:, :, 16:] = 1
    (found,) = grid([picture])
    assert found["features"].shape == (4, 2048) and found["boxes"].shape == (4, 4)
    with torch.no_grad():
        pixels = torch.nn.functional.interpolate(picture[None], size=(64, 64), mode="bilinear", antialias=True)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        (expected,) = grid.network((pixels - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(found["features"][1], expected[:, 0, 1], atol=1e-3, rtol=1e-3)  # the right upper cell


class Counted:
    """A network that stops when it has seen `limit` pictures, as if the process were killed."""

    width = 4

    def __init__(self, limit: int) -> None:
        self.limit, self.seen = limit, 0

    def __call__(self, shown: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for picture in shown:
            if self.seen == self.limit:
                raise KeyboardInterrupt
            self.seen += 1
            found.append(
                {"features": picture.mean((1, 2)).repeat(1, 2)[:, :4], "boxes": torch.tensor([[0, 0, 1.0, 1.0]])}
            )
        return found


def uses(monkeypatch: pytest.MonkeyPatch, network: Counted) -> None:
    def build(_: Extract) -> Counted:
        return network

    monkeypatch.setattr(Extract, "_network", build)


def test_a_stopped_extraction_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path, 5)
    order: dict[str, Any] = {"data": str(folder / "in"), "shard": 2, "batch_size": 1, "half": False}
    whole, broken_off = Counted(99), Counted(3)
    uses(monkeypatch, whole)
    Extract(**order, out=tmp_path / "whole").run()
    uses(monkeypatch, broken_off)
    with pytest.raises(KeyboardInterrupt):
        Extract(**order, out=tmp_path / "out").run()
    assert [file.name for file in (tmp_path / "out").glob("*.safetensors")] == ["regions-00000.safetensors"]
    rest = Counted(99)
    uses(monkeypatch, rest)
    Extract(**order, out=tmp_path / "out").run()
    assert rest.seen == 3  # the whole shard was not made again, the begun one was
    a, b = open_regions(tmp_path / "whole"), open_regions(tmp_path / "out")
    assert a.ids == b.ids == [f"p{n}" for n in range(5)]
    for id in a.ids:
        assert a[id]["features"].equal(b[id]["features"]) and a[id]["size"] == (64, 48)
    with pytest.raises(InputError, match="other pictures or settings"):
        Extract(**order, most=3, out=tmp_path / "out").run()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="no stopped extraction"):
        Extract(**order, out=tmp_path / "mine").run()


def test_parts_make_the_shards_of_one_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path, 5)
    order: dict[str, Any] = {"data": str(folder / "in"), "shard": 2, "batch_size": 1, "half": False}
    for number, seen in enumerate((2, 3)):
        own = Counted(99)
        uses(monkeypatch, own)
        Extract(**order, out=tmp_path / "out", part=f"{number}/2").run()
        assert own.seen == seen
        assert ("2 of 3 shards are missing" in capsys.readouterr().out) == (number == 0)
    assert open_regions(tmp_path / "out").ids == [f"p{n}" for n in range(5)]


def test_broken_pictures_are_left_out_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path, 11)
    (folder / "in" / "p1.png").write_bytes(b"no picture")
    uses(monkeypatch, Counted(99))
    Extract(data=str(folder / "in"), out=tmp_path / "out").run()
    assert len(open_regions(tmp_path / "out")) == 10
    assert json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())["row"] == "p1"
    monkeypatch.setattr(extraction, "BROKEN", 0.05)
    with pytest.raises(InputError, match="1 broken"):
        Extract(data=str(folder / "in"), out=tmp_path / "other").run()


def test_a_shard_without_one_sound_picture_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path, 11)
    (folder / "in" / "p9.png").write_bytes(b"no picture")  # the last by name
    counted = Counted(99)
    uses(monkeypatch, counted)
    for _ in range(2):
        Extract(data=str(folder / "in"), out=tmp_path / "out", shard=10).run()
        assert "regions of 10 pictures in 2 shards" in capsys.readouterr().out
    assert counted.seen == 10 and len(open_regions(tmp_path / "out")) == 10


def test_parts_that_begin_at_once_write_one_list(tmp_path: Path) -> None:
    parts = [Extract(data="in", out=tmp_path / "out", part=f"{n}/8") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: part._begin(["a", "b"]), parts))
    assert json.loads((tmp_path / "out" / "regions.json").read_text())["ids"] == ["a", "b"]


def test_what_cannot_be_extracted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        Extract(data=str(tmp_path / "empty"), out=tmp_path / "out").run()
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: is not the weights of this network"):
        grid_network("resnet50", str(tmp_path / "other.safetensors"), 64)
    with pytest.raises(InputError, match="at least 1"):
        Extract(data=str(tmp_path), out=tmp_path / "out", most=0).run()
    folder = pictures(tmp_path, 1)
    Image.new("RGB", (4, 4)).save(folder / "in" / "p0.jpg")
    with pytest.raises(InputError, match="two pictures have one name"):
        Extract(data=str(folder / "in"), out=tmp_path / "out").run()


def test_weights_from_a_file_say_how_many_classes_there_are(detector: Detector, tmp_path: Path) -> None:
    tensors = dict(detector.model.state_dict())
    for part in ("cls_score", "bbox_pred"):
        for kind in ("weight", "bias"):
            name = f"roi_heads.box_predictor.{part}.{kind}"
            tensors[name] = tensors[name][: 5 if part == "cls_score" else 20].clone()
    torch.save(tensors, tmp_path / "five.pth")
    model = faster_rcnn(str(tmp_path / "five.pth"), side=64)
    loaded = model.state_dict()
    assert len(loaded["roi_heads.box_predictor.cls_score.bias"]) == 5
    assert all(loaded[name].equal(tensor) for name, tensor in tensors.items())
