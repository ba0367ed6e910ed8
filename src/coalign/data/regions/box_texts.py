"""Texts about parts of pictures: which box of a picture does a phrase, a label or an expression mean? And batches of
texts about whole pictures and about parts of them alike.

A table of boxes (`x1`, `y1`, `x2`, `y2` in fractions of the picture) with a column of pictures and one of texts, or
RefCOCO's expressions with `instances.json` beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from coalign.data.core.fingerprint import Fingerprint, digest
from coalign.data.core.samples import Source, texts_of
from coalign.data.images.decode import name_of
from coalign.data.pairs.collate import Example, collate
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.tables import TEXT_COLUMNS, AnyOf, choose_image, choose_texts, column, image_of, open_rows
from coalign.data.questions.items import Box
from coalign.data.questions.referring import read_refcoco
from coalign.data.regions.regions import image_key
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import read_json, reader
from coalign.flags import say
from coalign.types import Batch, InputSpec, Places

SIDES = ("x1", "y1", "x2", "y2")
TEXTS = AnyOf(("text", "label", "phrase", "expression", *TEXT_COLUMNS))
WHOLE = (0.0, 0.0, 1.0, 1.0)
OUTSIDE = 1e-3
"""How far a box may reach out of its picture, by rounding; it is cut off there."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Part:
    """A box of a picture, in fractions, and the texts that mean it."""

    box: Corners
    texts: tuple[str, ...]


class BoxTexts:
    """Parts of pictures with their texts. A picture is found by its name as `regions.image_key` sees it, or where that
    is the same for several, by its path."""

    def __init__(self, name: str, rows: Iterable[tuple[str | int, Corners, str]]) -> None:
        """Args:
        name: What the data is called in errors.
        rows: Picture, box and text; rows of one box of a picture are one part.

        Raises:
            InputError: There is no row.
        """
        self.name = name
        found: dict[str, dict[Corners, list[str]]] = {}
        for image, box, text in rows:
            texts = found.setdefault(str(image), {}).setdefault(box, [])
            if text not in texts:
                texts.append(text)
        self._parts = {
            image: tuple(Part(box, tuple(texts)) for box, texts in boxes.items()) for image, boxes in found.items()
        }
        self._alike: dict[str, list[str]] = {}
        for image in self._parts:
            self._alike.setdefault(image_key(image), []).append(image)
        if not self._parts:
            raise InputError(f"{name}: holds no box")

    def of(self, image: str | int) -> tuple[Part, ...]:
        """The parts of a picture; none where it is not there."""
        names = [str(image)] if str(image) in self._parts else self._alike.get(image_key(image), [])
        if len(names) > 1:
            path = _plain(image)
            names = [name for name in names if path == _plain(name) or path.endswith(f"/{_plain(name)}")]
        return self._parts[names[0]] if len(names) == 1 else ()

    def texts(self, images: Iterable[str | int]) -> list[str]:
        """The texts about parts of these pictures."""
        return [text for image in images for part in self.of(image) for text in part.texts]

    def fingerprint(self) -> str:
        """A digest of it all."""
        return digest(self._parts)

    @property
    def example(self) -> str:
        """The name of one picture."""
        return next(iter(self._parts))


def _plain(image: str | int) -> str:
    """A path without its ending and with plain separators."""
    path = str(image).replace("\\", "/")
    return path.removesuffix(Path(path).suffix)


@reader
def read_box_texts(path: Path) -> BoxTexts:
    """Reads a file of boxes.

    Raises:
        InputError: The file is of no known kind, a column is missing, a row's box is no box of its picture or its text
            is empty; the message says which row, and how to mend it.
    """
    if path.suffix.lower() in (".p", ".pkl") or _is_expressions(path):
        return BoxTexts(str(path), _expressions(path))
    return BoxTexts(str(path), _table(path))


def _is_expressions(path: Path) -> bool:
    """Whether a JSON file is RefCOCO's."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    rows: Any = read_json(path)
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], Mapping) and "ann_id" in rows[0]


def _expressions(path: Path) -> Iterable[tuple[str | int, Corners, str]]:
    for item in read_refcoco(path):
        assert isinstance(item.target, Box)
        corners: list[float] = item.target.fractions()[0].tolist()
        yield item.images[0], _checked(corners, f"{path}, expression {item.id}"), str(item.texts[0])


def _table(path: Path) -> Iterable[tuple[str | int, Corners, str]]:
    names, rows = open_rows(path)
    image, (text,) = choose_image(names, None, str(path)), choose_texts(names, TEXTS, str(path))
    sides = [column(names, side, str(path)) for side in SIDES]
    for row in rows([image, text, *sides]):
        where = f"{path}, row {row.number}"
        lost = next((name for name in (image, text, *sides) if name not in row.fields), None)
        if row.broken or lost is not None:
            raise InputError(f"{where}: {row.broken or f'has no field {lost!r}'}; mend it or take it out")
        picture, said = image_of(row.fields[image]), [own for own in texts_of(row.fields[text]) if own.strip()]
        if not isinstance(picture, str | int) or not str(picture).strip():
            raise InputError(f"{where}: has no picture; give its path as in the pairs")
        if not said:
            raise InputError(f"{where}: its text is empty; give one or take the row out")
        try:
            corners = [float(row.fields[side]) for side in sides]  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            raise InputError(f"{where}: x1, y1, x2 and y2 are numbers, fractions of the picture (0 to 1)") from None
        box = _checked(corners, where)
        for own in said:
            yield picture, box, own.strip()


def _checked(corners: Sequence[float], where: str) -> Corners:
    """The box, with what rounding put outside cut off."""
    shown = ", ".join(f"{side:g}" for side in corners)
    if not all(-OUTSIDE <= side <= 1 + OUTSIDE for side in corners):  # not a number, too
        raise InputError(
            f"{where}: the box {shown} reaches out of its picture; x1, y1, x2, y2 are fractions of it, 0 to 1: divide "
            "pixels by its width and height"
        )
    x1, y1, x2, y2 = (min(max(side, 0.0), 1.0) for side in corners)
    if x1 >= x2 or y1 >= y2:
        raise InputError(f"{where}: the box {shown} has no area; x1 < x2 and y1 < y2, left, top, right, bottom")
    return x1, y1, x2, y2


# ---------------------------------------------------------------------------------------------------------- batches
@dataclass(frozen=True)
class PartCollate:
    """Makes batches of the texts of B examples and of `each` * B texts about parts of their pictures, drawn from all
    parts of these. Where they have fewer, some come again; where they have none, the pictures' own texts do, so that
    all processes have as many."""

    boxes: BoxTexts
    spec: InputSpec
    tokenizer: Tokenizer
    each: int

    def __call__(self, examples: Sequence[Example], generator: torch.Generator) -> Batch:
        whole = [(number, Part(WHOLE, own.texts), own.id) for number, own in enumerate(examples)]
        parts = [(number, part, None) for number, own in enumerate(examples) for part in self.boxes.of(own.name)]
        pool = parts or whole
        order: list[int] = torch.randperm(len(pool), generator=generator).tolist()
        count = self.each * len(examples)
        chosen = [*whole, *(pool[order[place % len(order)]] for place in range(count))]
        draws: list[int] = torch.randint(1 << 30, (len(chosen),), generator=generator).tolist()
        texts = [part.texts[draw % len(part.texts)] for draw, (_, part, _) in zip(draws, chosen, strict=True)]
        ids = [_id_of(text) if own is None else own for text, (*_, own) in zip(texts, chosen, strict=True)]
        places = Places(
            torch.tensor([number for number, *_ in chosen]),
            torch.tensor([part.box for _, part, _ in chosen]),
            torch.tensor([own is not None for *_, own in chosen]),
        )
        batch = collate(examples, self.spec, None)
        text = self.tokenizer.encode_for(texts, self.spec)
        return replace(batch, text=text, ids=torch.tensor(ids), places=places)


def _id_of(text: str) -> int:
    """Texts of the same words about parts share an id: none is a negative of the other's part."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


class PartLoader(Loader):
    """Training batches of a source of pairs with texts about parts of its pictures (`PartCollate`)."""

    def __init__(
        self,
        source: Source,
        spec: InputSpec,
        tokenizer: Tokenizer,
        batch_size: int,
        boxes: BoxTexts,
        each: int,
        **settings: Any,
    ) -> None:
        """Args:
        source, spec, tokenizer, batch_size: As of `Loader`.
        boxes: Texts about parts.
        each: How many of these a picture has in a batch, on average.
        settings: Further arguments of `Loader`.
        """
        super().__init__(
            source, spec, tokenizer, batch_size, collate=PartCollate(boxes, spec, tokenizer, each), **settings
        )
        self.boxes = boxes

    def fingerprint(self) -> Fingerprint:
        own = super().fingerprint()
        return own | {"content": digest([own["content"], self.boxes.fingerprint()])}


def with_boxes(source: Source, boxes: BoxTexts) -> list[str]:
    """The pictures of a source that have boxes, by name; how many there are is said on standard error.

    Raises:
        InputError: None has.
    """
    samples = (source[index] for index in range(len(source)))
    names = [name_of(sample.image) or str(sample.where) for sample in samples]
    there = [name for name in dict.fromkeys(names) if boxes.of(name)]
    if not there:
        raise InputError(
            f"{boxes.name}: has boxes of none of the pictures in {source.name}, such as {names[0]!r}; its own are "
            f"called such as {boxes.example!r}. Name them as the pairs do"
        )
    count = sum(len(boxes.of(name)) for name in there)
    say(f"{boxes.name}: {count} boxes of {len(there)} of the {len(set(names))} pictures")
    return there
