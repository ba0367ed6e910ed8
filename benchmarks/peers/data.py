"""The way of the data: pictures decoded and batched beside torchvision's loader, texts tokenised beside transformers.

Pictures are pieces of 500 x 375 pixels of the photographs that scikit-image and scikit-learn bring, as JPEG files; both
sides cut a random part of each, size it to 224 pixels (bicubic, antialiased), flip, normalise and stack 32 of them, or
take the middle, all in this process. Texts are Wikipedia leads, in MiniLM's vocabulary; both sides use the same library
of tokens, and ours gives each piece its word too. Extras `bench`, `wiki` and `minilm`.

    python benchmarks/peers/data.py
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from transformers import PreTrainedTokenizerFast

from coalign.checkpoints.packages import minilm_folder
from coalign.data.images.transforms import ImageOptions
from coalign.data.pairs.loader import Loader
from coalign.data.texts.wiki import leads
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import FILE
from coalign.types import ImageSpec, InputSpec

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, compare, same, version

PICTURES, BATCH, SIDE = 128, 32, 224
TEXTS, LONGEST = 1000, 64
PHOTOGRAPHS = {
    "skimage/data": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs() -> list[Image.Image]:
    import skimage

    packages = Path(skimage.__file__).parents[1]
    files = (packages / folder / name for folder, names in PHOTOGRAPHS.items() for name in names)
    return [Image.open(file).convert("RGB") for file in files]


def write(folder: Path) -> list[Path]:
    """The files, in one class, as torchvision wants them."""
    of, drawn, written = photographs(), random.Random(0), list[Path]()
    (folder / "one").mkdir()
    for number in range(PICTURES):
        whole = of[number % len(of)]
        size = (min(500, whole.width), min(375, whole.height))
        left, top = (drawn.randint(0, own - part) for own, part in zip(whole.size, size, strict=True))
        written.append(folder / "one" / f"{number:04}.jpg")
        whole.crop((left, top, left + size[0], top + size[1])).save(written[-1], quality=90)
    return written


def pictures(given: Any, folder: Path) -> None:
    files = write(folder)
    spec = InputSpec(image=ImageSpec(size=(SIDE, SIDE), mean=MEAN, std=STD, resize="crop", interpolation="bicubic"))
    options = ImageOptions(scale=(0.2, 1.0), flip=True)
    bicubic, ending = transforms.InterpolationMode.BICUBIC, [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    drawn = [
        transforms.RandomResizedCrop(SIDE, (0.2, 1.0), interpolation=bicubic),
        transforms.RandomHorizontalFlip(),
        *ending,
    ]
    middle = [transforms.Resize(SIDE, bicubic), transforms.CenterCrop(SIDE), *ending]
    for name, train, steps in (("training", True, drawn), ("evaluation", False, middle)):
        ours = Loader([(file, "a photograph") for file in files], spec, None, BATCH, train=train, options=options)
        peer = DataLoader(datasets.ImageFolder(folder, transforms.Compose(steps)), BATCH, shuffle=train)

        def read(loader: Loader = ours) -> int:
            return sum(_pixels(batch.images).numel() for batch in islice(loader, len(loader)))

        def theirs(loader: Any = peer) -> int:
            return sum(images.numel() for images, _ in loader)

        if train:
            differ = same(torch.tensor(float(read())), torch.tensor(float(theirs())), "numbers of pixels")
        else:  # a picture's own arithmetic differs by the rounding of sized bytes
            pair = _pixels(next(iter(ours)).images), next(iter(peer))[0]
            differ = same(*pair, "pixels", 0.05)
        compare(
            f"pictures, {name}",
            read,
            {"torchvision": theirs},
            given,
            differ=differ,
            versions=[version("torchvision"), version("pillow")],
            pictures=PICTURES,
        )


def _pixels(images: Any) -> Tensor:
    return images.pixels


def texts(given: Any) -> None:
    folder = minilm_folder()
    chosen = [lead.text for lead in islice(leads(), TEXTS)]
    ours = load_tokenizer(folder)
    peer = PreTrainedTokenizerFast(tokenizer_file=str(folder / FILE), pad_token="[PAD]", model_max_length=LONGEST)

    def read() -> Any:
        return ours.encode(chosen, LONGEST)

    def theirs() -> Any:
        return peer(chosen, truncation=True, max_length=LONGEST, padding=True, return_tensors="pt")

    ids, other = read().ids, theirs()
    differ = same(ids.values.float(), other["input_ids"][other["attention_mask"].bool()].float(), "ids")
    compare(
        "texts",
        read,
        {"transformers": theirs},
        given,
        differ=differ,
        versions=[version("transformers"), version("tokenizers")],
        texts=TEXTS,
    )


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    given = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        pictures(given, Path(folder))
    texts(given)


if __name__ == "__main__":
    main()
