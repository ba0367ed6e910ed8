"""A model whose alignment is planted: each colour's word means the patches, regions or clips of that colour."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from coalign.data.loaded import Loaded
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Batch, Encoding, ImageSpec, InputSpec, Model, RegionSpec, StreamSpec, TextSpec

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "pink": (255, 0, 255),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "orange": (255, 128, 0),
    "violet": (128, 0, 255),
}
PATCH, SIDE = 4, 6
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "thing", ",", *COLOURS]
FIRST = len(WORDS) - len(COLOURS)


def pictures() -> list[tuple[Image.Image, str]]:
    """A picture of each colour and its text."""
    return [(Image.new("RGB", (30, 20), colour), f"a {name} thing") for name, colour in COLOURS.items()]


@Model.register
class Planted(nn.Module):
    """Its score is the mean, over the colours that the text names, of the share of the picture that has the colour.

    Maps by "similarity" are the planted ones; by "rollout" the same with the places in an order drawn anew each time.
    Words that are no colour have flat maps.
    """

    alignment_method = "similarity"
    alignment_methods = ("similarity", "rollout")

    def __init__(self, by_region: bool = False, by_clip: bool = False) -> None:
        super().__init__()
        self.by_region, self.by_clip = by_region, by_clip
        self.palette = nn.Parameter(torch.tensor(list(COLOURS.values())) / 255)
        self.random = torch.Generator().manual_seed(0)

    @property
    def input_spec(self) -> InputSpec:
        text = TextSpec(len(WORDS), 64)
        if self.by_region:
            return InputSpec(text, regions=RegionSpec(3, 40))
        if self.by_clip:
            return InputSpec(text, streams=StreamSpec({"video": 3}))
        return InputSpec(text, image=ImageSpec.square(PATCH * SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))

    def planted(self, batch: Batch) -> list[Tensor]:
        """[pieces, *places]: 1 where a piece names the colour of a place."""
        assert batch.text is not None
        if batch.regions is not None or batch.video is not None:
            rows = (batch.regions or batch.video).features
            looks = list(rows.values.split(rows.lengths.tolist()))
        else:
            if batch.images is None or batch.images.pixels is None:
                raise InputError("this model reads a text with an image")
            patches = nn.functional.avg_pool2d(batch.images.pixels, PATCH)
            looks = [own.permute(1, 2, 0) for own in patches]
        maps: list[Tensor] = []
        for look, ids in zip(looks, batch.text.ids.values.split(batch.text.ids.lengths.tolist()), strict=True):
            near = ((look[..., None, :] - self.palette).abs().amax(-1) < 0.1).float()
            named = nn.functional.one_hot((ids - FIRST).clamp(min=-1) + 1, len(COLOURS) + 1)[:, 1:].float()
            maps.append(torch.einsum("lc,...c->l...", named, near))
        return maps

    def alignment(self, batch: Batch, method: str = "similarity") -> list[Tensor]:
        maps = self.planted(batch)
        if method == "similarity":
            return maps
        return [
            own.flatten(1)[:, torch.randperm(own[0].numel(), generator=self.random)].view(own.shape) for own in maps
        ]

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        scores = torch.stack([own.flatten(1).mean(1).sum() for own in self.planted(batch)])
        return Encoding({}, {"match_logits": torch.stack([-scores, scores], 1)})


def loaded(**settings: Any) -> Loaded:
    return Loaded(Planted(**settings), Tokenizer.from_vocabulary(WORDS))
