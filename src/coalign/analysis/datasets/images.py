"""Images of a data set: sizes and colours, what cannot be read, what is blank, what is there twice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coalign.analysis.datasets.columns import Floats, Ints
from coalign.analysis.datasets.drawing import figure, graph_objects, histogram
from coalign.data.images.decode import BadSample, ImageLike, decode_image
from coalign.errors import InputError

SMALL = 16  # side of the pictures that are kept to compare with
BITS = 4  # perceptual hashes of 64 bits that differ in this many are looked at closer
ALIKE = 24.0  # largest difference of a cell of the small pictures, of 255, up to which they are one picture
BLANK = 2.0  # deviation of all pixels, of 255, below which a picture is near-constant

Shown = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of the images.

    `rows` [M] are the rows looked at (each image once), of `count` images; the arrays [M] hold, for those that could
    be read: pixels, brightness and contrast (mean and deviation of grey, 0 to 255) and colourfulness (Hasler and
    Süsstrunk 2003). `broken` are (row, reason); `blank` rows are near-constant; `duplicates` groups of rows with one
    file or one picture, whatever its size or compression.
    """

    count: int
    rows: Ints = field(repr=False)
    width: Floats = field(repr=False)
    height: Floats = field(repr=False)
    brightness: Floats = field(repr=False)
    contrast: Floats = field(repr=False)
    colourfulness: Floats = field(repr=False)
    colour: Floats = field(repr=False)
    border: Floats = field(repr=False)
    broken: list[tuple[int, str]]
    blank: list[int]
    duplicates: list[list[int]]

    @property
    def aspect(self) -> Floats:
        return self.width / self.height

    @property
    def duplicate_rows(self) -> int:
        """Images that repeat an earlier one."""
        return sum(len(group) - 1 for group in self.duplicates)

    def measures(self) -> dict[str, Floats]:
        """The numbers [M] of each image by name."""
        return {
            "image width": self.width,
            "image height": self.height,
            "image aspect": self.aspect,
            "image brightness": self.brightness,
            "image contrast": self.contrast,
            "image colourfulness": self.colourfulness,
        }

    def trivial(self) -> dict[str, Floats]:
        """Numbers that say nothing of what a picture shows: size, mean colour, the colour of the border."""
        columns = {"width": self.width, "height": self.height, "brightness": self.brightness, "contrast": self.contrast}
        for i, name in enumerate(("red", "green", "blue")):
            columns[f"mean {name}"] = self.colour[:, i]
            columns[f"border {name}"] = self.border[:, i]
        return columns

    def plot(self) -> Any:
        """Width against height."""
        go = graph_objects()
        at = np.unique(np.stack([self.width, self.height], 1), axis=0, return_counts=True)
        shown = np.argsort(-at[1])[:2000]
        trace = go.Scatter(
            x=at[0][shown, 0].tolist(),
            y=at[0][shown, 1].tolist(),
            mode="markers",
            text=[f"{n} images" for n in at[1][shown]],
            marker={"opacity": 0.5, "size": (6 + 3 * np.log10(at[1][shown])).tolist()},
        )
        return figure([trace], "width in pixels", "height in pixels")

    def plots(self) -> list[tuple[str, Any]]:
        """Every figure with its caption."""
        return [
            ("Sizes", self.plot()),
            ("Aspect", histogram(self.aspect, "width over height", "images")),
            ("Brightness", histogram(self.brightness, "mean grey, 0 to 255", "images")),
            ("Contrast", histogram(self.contrast, "deviation of grey", "images")),
            ("Colourfulness", histogram(self.colourfulness, "colourfulness", "images")),
        ]


@dataclass(frozen=True)
class _Decoded:
    row: int
    reason: str = ""
    digest: bytes = b""
    numbers: tuple[float, ...] = ()
    hash: npt.NDArray[np.uint8] | None = None
    small: npt.NDArray[np.uint8] | None = None


def image_statistics(
    images: Sequence[ImageLike], rows: Ints, count: int | None = None, *, threads: int = 4, shown: Shown = iter
) -> ImageStatistics:
    """Looks at the images of these rows; nothing but some hundred bytes an image stays in memory.

    Args:
        images: All images.
        rows: Which to look at, each image once.
        count: How many images there are, of which `rows` is a sample.
        threads: Images that are decoded at once.
        shown: Wraps the rows in a progress bar.
    """
    if not len(rows):
        raise InputError("there are no images to look at")
    with ThreadPoolExecutor(threads) as pool:
        results = list(_bounded(pool, lambda row: _decode(images, row), shown(rows.tolist()), 8 * threads))
    good = [decoded for decoded in results if not decoded.reason]
    numbers = np.array([decoded.numbers for decoded in good], float).reshape(len(good), 11)
    columns = [numbers[:, i] for i in range(5)]
    return ImageStatistics(
        len(rows) if count is None else count,
        np.array([decoded.row for decoded in good], np.int64),
        *columns,
        colour=numbers[:, 5:8],
        border=numbers[:, 8:11],
        broken=[(decoded.row, decoded.reason) for decoded in results if decoded.reason],
        blank=[decoded.row for decoded in good if decoded.numbers[3] < BLANK and _spread(decoded) < BLANK],
        duplicates=_duplicates(good),
    )


def _bounded(
    pool: ThreadPoolExecutor, work: Callable[[int], _Decoded], rows: Iterable[int], ahead: int
) -> Iterator[_Decoded]:
    """Like `map`, with at most `ahead` pictures under way."""
    waiting: list[Any] = []
    for row in rows:
        waiting.append(pool.submit(work, row))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


def _decode(images: Sequence[ImageLike], row: int) -> _Decoded:
    try:
        import imagehash
    except ImportError as error:
        raise InputError("perceptual hashes need imagehash: pip install 'coalign[analysis]'") from error

    try:
        reference = images[row]
        picture = decode_image(reference)
    except (BadSample, InputError) as error:
        return _Decoded(row, getattr(error, "reason", str(error)))
    hashed: Any = imagehash.phash(picture)
    pixels = np.asarray(_shrunk(picture, 256), np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    numbers = (
        *map(float, picture.size),
        float(grey.mean()),
        float(grey.std()),
        _colourfulness(pixels),
        *map(float, pixels.mean((0, 1))),
        *map(float, np.median(edge, 0)),
    )
    small = np.asarray(picture.resize((SMALL, SMALL), Image.Resampling.BOX), np.uint8)
    return _Decoded(row, "", _digest(reference, picture), numbers, np.packbits(hashed.hash.flatten()), small)


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    return picture.reduce(max(1, max(picture.size) // side)) if max(picture.size) > side else picture


def _colourfulness(pixels: npt.NDArray[np.float32]) -> float:
    red_green = pixels[..., 0] - pixels[..., 1]
    yellow_blue = (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    deviation = np.hypot(red_green.std(), yellow_blue.std())
    return float(deviation + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def _spread(decoded: _Decoded) -> float:
    assert decoded.small is not None
    return float(decoded.small.astype(float).std((0, 1)).max())


def _digest(reference: ImageLike, picture: Image.Image) -> bytes:
    if isinstance(reference, str | os.PathLike):
        return hashlib.blake2b(Path(reference).read_bytes(), digest_size=16).digest()
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest()


def _duplicates(results: Sequence[_Decoded]) -> list[list[int]]:
    """Groups of images that are the same file, or whose perceptual hashes agree and whose small pictures do too.

    The hash alone takes all simple drawings of one shape for the same, and the mean difference all grinning faces.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    if results:
        hashes = np.stack([decoded.hash for decoded in results]).view(np.uint64)[:, 0]  # pyright: ignore[reportArgumentType, reportCallIssue]
        small = np.stack([decoded.small for decoded in results]).reshape(len(results), -1, 3)  # pyright: ignore[reportArgumentType, reportCallIssue]
        files: dict[bytes, int] = {}
        pictures: dict[tuple[bytes, bytes], int] = {}
        pairs: list[Ints] = []
        unique: list[int] = []  # of those that are the same to the last cell one is compared with the others
        for i, decoded in enumerate(results):
            same = files.setdefault(decoded.digest, i)
            if same == i:
                same = pictures.setdefault((hashes[i].tobytes(), small[i].tobytes()), i)
            if same == i:
                unique.append(i)
            else:
                pairs.append(np.array([[same], [i]]))
        order = np.array(unique)
        pairs += [order[pair] for pair in _alike(hashes[order], small[order])]
        ends = np.concatenate([np.zeros((2, 0), np.int64), *pairs], 1)
        links = coo_array((np.ones(ends.shape[1], bool), (ends[0], ends[1])), (len(results), len(results)))
        for decoded, group in zip(results, connected_components(links, directed=False)[1].tolist(), strict=True):
            groups[group].append(decoded.row)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)


def _alike(hashes: npt.NDArray[np.uint64], small: npt.NDArray[np.uint8]) -> Iterator[Ints]:
    """Pairs [2, n] of pictures whose hashes agree and none of whose cells [cells, 3] differ by much. Where even the
    means do, cells need not be compared: of simple drawings most hashes agree."""
    means, cells = small.mean(1, dtype=np.float32), small.reshape(len(small), -1).astype(np.int16)
    size = max(16, 8_000_000 // len(small))  # 64 MB at once
    for begin in range(0, len(small), size):
        near = np.bitwise_count(hashes[begin : begin + size, None] ^ hashes[None, begin:]) <= BITS
        for channel in means.T:
            near &= np.abs(channel[begin : begin + size, None] - channel[None, begin:]) <= ALIKE
        pairs = np.stack(np.nonzero(np.triu(near, 1))) + begin
        for part in np.array_split(pairs, max(pairs.shape[1] >> 15, 1), 1):
            yield part[:, np.abs(cells[part[0]] - cells[part[1]]).max(1, initial=0) <= ALIKE]
