"""Tasks about images: what is asked of which images, and batches of it in the forms that task models take.

The readers of the published tasks (`vqa`, `nlvr2`, `entailment`, `vcr`, `referring`) give `Item`s; `ItemCollate` makes
batches of them as the model's `InputSpec` says, so that one reader serves every system.

`Batch.labels.label`, by `AnswerSpec.form`: "class" [B] numbers; "scores" [B, classes] in [0, 1]; "choice" [B] the
right one of each item's texts; "binary" [texts] 1 at the right ones; "region" [B] the region that overlaps the right
box most; "overlaps" [regions] each one's overlap with it, 0 below one half; "entities" [B, 1, regions] equal shares for
those that overlap it by one half or more, with `labels.entities` [B, 1], the last word's position; "box" [B, 4] the
right box itself, x1, y1, x2, y2 in fractions; "answers": no
label but `labels.answers`, `weights` and `questions`, the texts to generate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from coalign.data.questions.pictures import Pictures
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.ops.boxes import overlap
from coalign.ops.pairing import take_images, take_regions, take_texts
from coalign.types import Batch, InputSpec, Labels, Packed, Regions, Text, needed

RIGHT = 0.5
"""The overlap (intersection over union) from which on a box is right."""

Parts = str | tuple[str, ...]
"""A text, or parts of it with [SEP] between them."""


@dataclass(frozen=True)
class Answers:
    """Soft `scores` of answers by their number in the vocabulary, and `weights` of answers as texts, which sum to 1."""

    scores: Mapping[int, float]
    weights: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Box:
    """x1, y1, x2, y2, in pixels of an image of this `size` (width, height)."""

    corners: tuple[float, float, float, float]
    size: tuple[float, float]

    def fractions(self) -> Tensor:
        """[1, 4] in fractions of the image."""
        width, height = self.size
        return torch.tensor([self.corners]) / torch.tensor([width, height, width, height])


@dataclass(frozen=True)
class Item:
    """One example: `texts` about `images`. One text, or one for each choice; one image, or two.

    `target` is None where the truth is not published: a class or the right choice, `Answers`, or a `Box`.
    """

    id: str
    images: tuple[str | int, ...]
    texts: tuple[Parts, ...]
    target: int | Answers | Box | None = None


@dataclass
class ItemCollate:
    """Makes batches of items for a model. `classes` is the width of "scores"."""

    spec: InputSpec
    tokenizer: Tokenizer
    pictures: Pictures
    classes: int = 0

    def __call__(self, items: Sequence[Item], generator: torch.Generator | None = None) -> Batch:
        """The batch of items of the same number of texts and images each.

        Raises:
            InputError: an image is not there, its regions are not what the model reads, or the items do not agree.
        """
        del generator
        spec, size = self.spec, len(items)
        each = {(len(item.images), len(item.texts)) for item in items}
        if len(each) > 1:
            raise InputError(f"items {items[0].id} ... {items[-1].id} differ in their numbers of images and texts")
        ((images, choices),) = each
        text = encode_texts(self.tokenizer, [text for item in items for text in item.texts], spec)
        places = images > 1 and spec.answers.pairs == "places"
        flat = [item.images[i] for i in range(images) for item in items] if places else []
        seen = self.pictures.batch(flat or [image for item in items for image in item.images])
        labels = Labels()
        regions = seen.regions
        segments = None if spec.regions is None else spec.regions.segments
        if regions is not None and segments is not None and images > 1:
            types = torch.tensor(segments)
            labels = replace(labels, region_types=types[regions.features.layout.item % images])
        if images > 1 and spec.answers.pairs == "joined":
            if regions is None:
                raise InputError("this model joins the regions of an item's images, but was given pictures")
            layout = regions.features.layout.group([images] * size)
            regions = replace(regions, features=Packed(regions.features.values, layout))
        each_text = torch.arange(size * choices)
        if images > 1 and spec.answers.pairs == "alternating":
            text = take_texts(text, each_text.repeat_interleave(images))
        pixels = seen.images
        if choices > 1:
            item = torch.arange(size).repeat_interleave(choices)
            regions = None if regions is None else take_regions(regions, item)
            pixels = None if pixels is None else take_images(pixels, item)
        if spec.answers.form == "entities":
            labels = replace(labels, entities=last_words(text)[:, None])
        if all(item.target is not None for item in items):
            labels = replace(labels, **self.targets(items, regions))
        return Batch(text=text, images=pixels, regions=regions, labels=labels)

    def targets(self, items: Sequence[Item], regions: Regions | None) -> dict[str, Tensor | Packed]:
        """The truth in the model's form; see the module."""
        form, truth = self.spec.answers.form, [item.target for item in items]
        if form in ("region", "overlaps", "entities"):
            if regions is None:
                raise InputError("finding the right region needs regions")
            return _boxes(form, [cast("Box", box) for box in truth], regions)
        if form == "box":
            return {"label": torch.cat([cast("Box", box).fractions() for box in truth])}
        if form == "answers":
            return _texts(self.tokenizer, [cast("Answers", answers) for answers in truth])
        if form == "scores":
            scores = torch.zeros(len(items), self.classes)
            for row, target in enumerate(truth):
                for number, score in target.scores.items() if isinstance(target, Answers) else ((target, 1.0),):
                    scores[row, cast("int", number)] = score
            return {"label": scores}
        numbers = torch.tensor([cast("int", number) for number in truth])
        if form == "binary":
            choices = len(items[0].texts)
            return {"label": torch.nn.functional.one_hot(numbers, choices).flatten()}
        return {"label": numbers}


def encode_texts(tokenizer: Tokenizer, texts: Sequence[Parts], spec: InputSpec) -> Text:
    """Texts of one, two or more parts; more than two have their last part as the second side of a pair.

    A text that is too long loses words at its end, of two sides the longer first; the answer slot stays.
    """
    own = needed(spec.text, "texts")
    room = own.max_length
    if own.answer_slot and room is not None:
        room -= 1
    separator = tokenizer.id_to_piece(tokenizer.sep_id)
    sides = [text if isinstance(text, str) else (f" {separator} ".join(text[:-1]), text[-1]) for text in texts]
    encoded = tokenizer.encode(cast("list[str]", sides), room, own.separator)
    if own.segments is not None and any(not isinstance(text, str) for text in texts):
        ends = encoded.ids.with_values((encoded.ids.values == tokenizer.sep_id).long())
        before = ends.values.cumsum(0) - ends.values
        segment = before - before[encoded.ids.layout.first][encoded.ids.layout.item]
        encoded = replace(encoded, types=torch.tensor(own.segments)[segment.clamp(max=len(own.segments) - 1)])
    if not own.answer_slot:
        return encoded
    slot = [torch.cat([ids[:-1], ids.new_tensor([tokenizer.mask_id]), ids[-1:]]) for ids in _items(encoded.ids)]
    words = None
    if encoded.words is not None:
        inside = [
            torch.cat([w[:-1], w.new_tensor([-1]), w[-1:]]) for w in _items(encoded.ids.with_values(encoded.words))
        ]
        words = torch.cat(inside)
    return Text(Packed.from_items(slot), None, words)


def _items(packed: Packed) -> list[Tensor]:
    return list(packed.values.split(packed.lengths.tolist()))


def _boxes(form: str, truth: Sequence[Box], regions: Regions) -> dict[str, Tensor | Packed]:
    lengths = regions.features.lengths.tolist()
    each = [
        overlap(box.fractions(), boxes).squeeze(0)
        for box, boxes in zip(truth, regions.boxes.split(lengths), strict=True)
    ]
    if form == "region":
        return {"label": torch.tensor([int(share.argmax()) if len(share) else 0 for share in each])}
    if form == "overlaps":
        share = torch.cat(each)
        return {"label": share * (share >= RIGHT)}
    right = [(share >= RIGHT).float() for share in each]
    widest = max(lengths)
    shares = [torch.nn.functional.pad(share / share.sum().clamp(min=1), (0, widest - len(share))) for share in right]
    return {"label": torch.stack(shares)[:, None]}


def last_words(text: Text) -> Tensor:
    """[B] the position of each text's last word, which is before its [SEP]; 0 where it has none."""
    return (text.ids.lengths - 2).clamp(min=0)


def _texts(tokenizer: Tokenizer, truth: Sequence[Answers]) -> dict[str, Tensor | Packed]:
    answers = [answer for item in truth for answer in item.weights]
    if not answers:
        raise InputError("none of the questions of a batch has an answer")
    return {
        "answers": tokenizer.encode(answers).ids,
        "weights": torch.tensor([weight for item in truth for weight in item.weights.values()]),
        "questions": torch.tensor([number for number, item in enumerate(truth) for _ in item.weights]),
    }
