"""Features of given boxes, and the regions of a world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coalign.data.regions.files import open_regions
from coalign.extraction.crops import CropFeatures, write_world_regions
from coalign.layers.convolution import EfficientNetLite0
from coalign.worlds.scenes import COLOURS, SHAPES, make_scenes


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EfficientNetLite0().eval()


def test_a_box_gives_what_a_picture_of_its_crop_gives(network: EfficientNetLite0) -> None:
    read = CropFeatures(network, side=32)
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    (both,) = read([picture], [torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5]])])
    assert both.shape == (2, CropFeatures.width)
    for row, crop in zip(both, (picture[:, :32, :32], picture[:, :32, 32:]), strict=True):
        (alone,) = read([crop], [torch.tensor([[0.0, 0.0, 1.0, 1.0]])])
        torch.testing.assert_close(row, alone[0], rtol=0.05, atol=0.02)  # roi_align looks past the crop's edge
    one, two = read([picture, picture.flip(2)], [torch.zeros(0, 4), torch.tensor([[0.5, 0.0, 1.0, 0.5]])])
    assert one.shape == (0, CropFeatures.width) and two.shape == (1, CropFeatures.width)


def test_a_worlds_regions_are_its_true_boxes(network: EfficientNetLite0, tmp_path: Path) -> None:
    scenes = make_scenes(3)
    pictures = [(f"images/{scene.number:07d}", scene) for scene in scenes] + [("nlvr2_images/dev-0-0-img0", scenes[1])]
    assert list(write_world_regions(tmp_path / "regions", pictures, 32, network)) == [3]
    regions = open_regions(tmp_path / "regions")
    assert len(regions) == 4
    for key, scene in ((0, scenes[0]), ("0000002.png", scenes[2]), ("dev-0-0-img0", scenes[1])):
        found = regions[key]
        assert torch.equal(found["boxes"], torch.from_numpy(scene.boxes))
        assert found["features"].shape == (len(scene.things), CropFeatures.width)
        assert [SHAPES[i - 1] for i in found["classes"].argmax(1).tolist()] == [t.shape for t in scene.things]
        assert [list(COLOURS)[i] for i in found["attributes"].tolist()] == [t.colour for t in scene.things]
