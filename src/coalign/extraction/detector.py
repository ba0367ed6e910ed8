"""Networks that see regions: a detector's boxes with their features, or the cells of a grid.

A detector's features are read again at the boxes it ends with, so that feature, class probabilities and box belong
together (bottom-up attention, Anderson et al. 2018, reads them at the proposals that the boxes came from).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.transforms import v2

from coalign.checkpoints import read_tensors
from coalign.data.regions.regions import RegionSet
from coalign.errors import InputError
from coalign.layers.convolution import MEAN, STAGES, STD, EfficientNetLite0
from coalign.types.spec import IMAGENET_MEAN, IMAGENET_STD

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

NMS = 0.5
"""Of boxes of one class that overlap by more, the surest stays (Faster R-CNN's own choice)."""


@runtime_checkable
class Network(Protocol):
    """A detector: pictures [3, H, W] with pixels in [0, 1] to the regions of each; `width` features a region."""

    width: int

    def __call__(self, pictures: Sequence[Tensor]) -> list[RegionSet]: ...


class Detector:
    """torchvision's Faster R-CNN: the surest boxes, surest first, with the features of its box head.

    An image gets those of at least `confidence`, but no fewer than `least` and no more than `most` (bottom-up
    attention: 0.2, 10, 100; UNITER the same). `classes` [R, C] have the background first.
    """

    width = 1024

    def __init__(self, model: FasterRCNN, *, most: int = 36, least: int = 10, confidence: float = 0.2) -> None:
        self.model = model.eval()
        self.most, self.least, self.confidence = most, min(least, most), confidence

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Tensor]) -> list[RegionSet]:
        device = next(self.model.parameters()).device
        sized, _ = self.model.transform([picture.to(device) for picture in pictures])
        maps: dict[str, Tensor] = self.model.backbone(sized.tensors)
        proposals, _ = self.model.rpn(sized, maps)
        counts = [len(own) for own in proposals]
        _, logits, moves = self._read(maps, proposals, sized.image_sizes)
        coder: Any = self.model.roi_heads.box_coder
        boxes: Tensor = coder.decode(moves, proposals)
        own = [
            self._surest(*each)
            for each in zip(logits.softmax(1).split(counts), boxes.split(counts), sized.image_sizes, strict=True)
        ]
        features, logits, _ = self._read(maps, own, sized.image_sizes)
        kept = [len(each) for each in own]
        regions: list[RegionSet] = []
        for rows, classes, corners, (height, width) in zip(
            features.split(kept), logits.softmax(1).split(kept), own, sized.image_sizes, strict=True
        ):
            scale = corners.new_tensor([width, height, width, height])
            sure = classes[:, 1:].max(1).values if len(classes) else classes.new_zeros(0)
            parts = {"features": rows, "boxes": (corners / scale).clamp(0, 1), "classes": classes, "confidence": sure}
            order = sure.argsort(descending=True, stable=True)
            regions.append({name: part[order].float().cpu() for name, part in parts.items()})
        return regions

    def _read(
        self, maps: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features [N, 1024], class logits [N, C] and box moves [N, 4 C] at these boxes."""
        heads: Any = self.model.roi_heads
        features = heads.box_head(heads.box_roi_pool(maps, boxes, sizes))
        return features, *heads.box_predictor(features)

    def _surest(self, probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """[R, 4] the boxes that an image keeps, surest first."""
        if not len(boxes):
            return boxes.new_zeros(0, 4)
        scores, best = probabilities[:, 1:].max(1)
        corners = clip_boxes_to_image(boxes[torch.arange(len(best), device=best.device), best + 1], size)
        wide = (corners[:, 2:] - corners[:, :2] >= 1).all(1) & corners.isfinite().all(1)
        scores, best, corners = scores[wide], best[wide], corners[wide]
        order = batched_nms(corners, scores, best, NMS)
        count = min(max(int((scores[order] >= self.confidence).sum()), self.least), self.most)
        return corners[order[:count]]


class Grid:
    """The cells of a network's last map, row by row, as regions (Jiang et al. 2020).

    Pictures are squeezed to a square of `size` pixels.
    """

    def __init__(
        self,
        network: nn.Module,
        see: Callable[[Tensor], Tensor],
        width: int,
        size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.network, self._see, self.width, self._size = network.eval(), see, width, size
        self._mean, self._std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Tensor]) -> list[RegionSet]:
        device = next(self.network.parameters()).device
        side = [self._size, self._size]
        sized = torch.stack([v2.functional.resize(picture, side, antialias=True) for picture in pictures])
        maps = self._see(((sized - self._mean) / self._std).to(device)).float().cpu()
        rows, columns = maps.shape[2:]
        boxes = cells(rows, columns)
        return [{"features": own.flatten(1).T.contiguous(), "boxes": boxes} for own in maps]


def cells(rows: int, columns: int) -> Tensor:
    """[rows · columns, 4] the boxes of a grid's cells, row by row, in fractions."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x, y, x + 1, y + 1], -1).view(-1, 4)
    return corners / torch.tensor([columns, rows, columns, rows])


# ---------------------------------------------------------------------------------------------------------- weights
def faster_rcnn(weights: str, seed: int = 0, side: int | None = None) -> FasterRCNN:
    """torchvision's ResNet-50-FPN v2 detector.

    Args:
        weights: "torchvision" (its own download, COCO's 91 classes), "random", or a file with its tensors, which says
            how many classes there are.
        seed: of random weights.
        side: the shorter side that pictures are sized to; 800 pixels where it is not given.

    Raises:
        InputError: the download fails, or the file is not this detector's.
    """
    options: dict[str, Any] = {} if side is None else {"min_size": side, "max_size": round(side * 1333 / 800)}
    if weights == "torchvision":
        return downloaded(
            lambda: fasterrcnn_resnet50_fpn_v2(weights=FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT, **options)
        )
    tensors = {} if weights == "random" else read_tensors(Path(weights))
    head = tensors.get("roi_heads.box_predictor.cls_score.bias")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fasterrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=91 if head is None else len(head), **options
        )
    return model if weights == "random" else filled(model, tensors, weights)


def grid_network(name: str, weights: str, size: int, seed: int = 0) -> Grid:
    """A network for grid features: "resnet50" (2048 wide) or "efficientnet-lite0" (320 wide, extra `efficientnet`).

    `weights` as `faster_rcnn`'s; "torchvision" are ImageNet's, of EfficientNet-lite0 those of its package.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "efficientnet-lite0":
            if weights == "random":
                network = EfficientNetLite0()
            else:
                network = EfficientNetLite0.pretrained(None if weights == "torchvision" else weights)
            network = network.folded()
            last = len(STAGES) - 1

            def see(pixels: Tensor) -> Tensor:
                return network.features(pixels.contiguous(memory_format=torch.channels_last), [last])[0]

            return Grid(network, see, STAGES[-1][3], size, MEAN, STD)
        if weights == "torchvision":
            model = downloaded(lambda: resnet50(weights=ResNet50_Weights.IMAGENET1K_V2))
        else:
            model = resnet50(weights=None)
            model = model if weights == "random" else filled(model, read_tensors(Path(weights)), weights)
    body = nn.Sequential(*list(model.children())[:-2])  # without the pooling and the classifier
    return Grid(body, body, 2048, size, IMAGENET_MEAN, IMAGENET_STD)


def downloaded(load: Callable[[], T]) -> T:
    """Weights that torchvision downloads. Raises InputError where it cannot."""
    try:
        return load()
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"torchvision's weights cannot be downloaded ({error}); give their file by --weights"
        ) from None


def filled(model: M, tensors: Mapping[str, Tensor], name: str) -> M:
    """The model with the tensors of a file. Raises InputError where they are another model's."""
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1:2]
        raise InputError(f"{name}: is not the weights of this network: {' '.join(first).strip()}") from None
    return model
