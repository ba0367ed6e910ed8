"""A model that needs no training: it reads the colour of a picture and the colour that a text names.

Its vectors are misled on purpose: a text lies nearest to the colour after its own. Its matching is right.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from coalign.data.words.tokenizer import Tokenizer
from coalign.types import Batch, Encoding, ImageSpec, InputSpec, Model, Packed, TextSpec

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


TOKENIZER = Tokenizer.train([*COLOURS, "a thing"], 100, min_frequency=1)


@Model.register
class ColourModel(nn.Module):
    config = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.encoded: list[str] = []

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(
            text=TextSpec(vocab_size=100, max_length=8), image=ImageSpec.square(8, mean=(0.0,) * 3, std=(1.0,) * 3)
        )

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        tokens, vectors = {}, {}
        if batch.images is not None:
            self.encoded += ["image"] * len(batch.images)
            seen = batch.images.pixels.mean((2, 3))
            tokens["image"], vectors["image"] = Packed.uniform(seen[:, None]), normalize(seen, dim=1)
        if batch.text is not None:
            self.encoded += ["text"] * len(batch.text.ids)
            words = [TOKENIZER.decode(ids) for ids in batch.text.ids.values.split(batch.text.ids.lengths.tolist())]
            own = torch.tensor([[float(name in text.split()) for name in COLOURS] for text in words])
            tokens["text"] = Packed.uniform(own[:, None])
            vectors["text"] = normalize(0.6 * own + 0.8 * own.roll(1, 1) + 1e-6, dim=1)
        return Encoding(tokens, vectors=vectors)

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        agree = (images.first[pairs[:, 0]] * texts.first[pairs[:, 1]]).sum(1)
        return 8 * agree - 4

    def before_step(self) -> None: ...

    def losses(self, batch, draws=None) -> dict[str, Tensor]:
        return {}

    def after_step(self) -> None: ...


def write_table(folder: Path, texts: dict[str, list[str]] | None = None, broken: int = 0) -> Path:
    """A CSV of one picture a colour, with its texts, and rows whose picture is not there."""
    lines = ["image,caption"]
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
        lines += [f"{name}.png,{text}" for text in (texts or {}).get(name, [f"a {name} thing"])]
    lines += [f"missing{number}.png,a red thing" for number in range(broken)]
    path = folder / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
