"""Features of pictures and of words by a frozen model, for tables of utterances (`coalign convert-data`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torchvision.transforms import v2

from coalign.data.images.transforms import ImageTransform
from coalign.data.pairs.tables import open_rows
from coalign.data.series.collate import encode_words
from coalign.data.series.table import Extraction, read_utterances
from coalign.data.series.utterances import SeriesData, word_means
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.layers.convolution import MEAN, STAGES, STD, EfficientNetLite0
from coalign.models.bert.heads import BertTask
from coalign.models.bert.model import Bert
from coalign.progress import Bars
from coalign.registry import load
from coalign.types import Batch, Images

WordFeatures = Callable[[Sequence[tuple[str, ...]]], list[Any]]


def read_table(
    path: Path,
    by_word: bool,
    audio: Literal["log-mel", "mfcc"],
    vision: str,
    vision_system: str | None,
    fps: float,
    words: WordFeatures | None,
) -> SeriesData:
    """The utterances of a table of texts, labels and files of sound or video, with their features."""
    names, _ = open_rows(path)
    films = any(name.strip().lower() == "video" for name in names)
    extraction = Extraction(
        audio=audio,
        fps=fps,
        pictures=picture_features(vision, vision_system) if films else None,
        words=words,
        by_word=by_word,
    )
    with Bars(transient=True) as bar:
        task = bar.add_task("reading utterances")
        return read_utterances(path, extraction, lambda done, of: bar.update(task, completed=done, total=of))


def picture_features(name: str, system: str | None = None) -> Callable[[Any], Any]:
    """A function from pictures, uint8 [N, 3, H, W], to their features [N, D].

    Errors: `InputError` where the model is not there, or reads no pictures.
    """
    if name == "efficientnet":
        network = EfficientNetLite0.pretrained().folded()
        size = v2.Resize((224, 224), antialias=True)
        mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))

        @torch.no_grad()
        def stages(pictures: torch.Tensor) -> torch.Tensor:
            pixels = (size(pictures).float() / 255 - mean) / std
            (last,) = network.features(pixels.contiguous(memory_format=torch.channels_last), [len(STAGES) - 1])
            return last.mean((2, 3))

        return stages
    model = load(name, system).model
    spec = model.input_spec
    if spec.image is None:
        raise InputError(f"{name}: reads no pictures, so it makes no features of them")
    transform = ImageTransform(spec)

    @torch.no_grad()
    def encode(pictures: torch.Tensor) -> torch.Tensor:
        pixels = torch.stack([transform(picture) for picture in pictures])
        seen = model.encode(Batch(images=Images(pixels=pixels)))
        return seen.pooled["image"] if "image" in seen.pooled else seen.tokens["image"].mean()

    try:
        encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    except (InputError, KeyError):
        raise InputError(f"{name}: reads no picture by itself, so it makes no features of one") from None
    return encode


def word_features(model: Bert | BertTask, tokenizer: Tokenizer) -> WordFeatures:
    """Features of words [W, D] of texts: the mean of a BERT's last states over each word's pieces."""
    model.eval()

    @torch.no_grad()
    def encode(texts: Sequence[tuple[str, ...]]) -> list[torch.Tensor]:
        text = encode_words(tokenizer, texts, model.input_spec)
        states = model.trunk(text.ids, text.types)
        assert text.words is not None
        lengths = states.lengths.tolist()
        parts = zip(states.values.split(lengths), text.words.split(lengths), texts, strict=True)
        return [word_means(rows, places, len(words)) for rows, places, words in parts]

    return encode
