"""WebDataset shards: tar files in which a sample's files lie one after another under one key.

Opening reads the tar headers alone and notes where every picture and text lies. From then on a shard is read in
place, so training knows its length, can begin again at any sample, and splits the data over ranks and workers exactly;
nothing is unpacked, and no more than a sample is held in memory. A shard behind a URL is read through once, and its
list of places kept in the cache folder; a sample is then one request.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coalign.data.core import remote
from coalign.data.core.samples import Ids, Problem, Sample, Source, Where, clean_texts
from coalign.data.core.strings import Strings
from coalign.data.images.decode import BadSample
from coalign.data.pairs.folders import IMAGE_SUFFIXES, decode_text, parse_texts
from coalign.data.pairs.tables import TEXT_COLUMNS
from coalign.errors import InputError, redacted
from coalign.files import inside, read_json, regular, replace_file

TEXT_ENDINGS = ("txt", "text", "caption", "captions", "cap", "json")
WINDOW = 4096
"""Samples within which the order is shuffled, after the order of the shards: neighbours are read close together."""


@dataclass(frozen=True)
class _File:
    ending: str
    offset: int
    size: int


class TarShards(Source):
    """Samples in tar shards. `image_column` is the ending of the picture's file; `text_column` that of the text's, or
    a field of its JSON."""

    def __init__(
        self,
        shards: Sequence[Path | str],
        *,
        image_column: str | None = None,
        text_column: str | Sequence[str] | None = None,
        window: int = WINDOW,
    ) -> None:
        self._shards = [str(shard) for shard in shards]
        self._shown = [redacted(shard) for shard in self._shards]
        self.name = self._shown[0] if len(shards) == 1 else f"{self._shown[0]} ... ({len(shards)} shards)"
        self._window = window
        self._image = image_column
        self._text = (text_column,) if isinstance(text_column, str) else tuple(text_column or ())
        places: list[tuple[int, int, int, int, int, bool]] = []
        ids: list[int] = []
        keys: list[str] = []
        problems: list[Problem] = []
        for number, shard in enumerate(self._shards):
            for key, files in (_kept if remote.is_url(shard) else _samples)(shard, problems):
                image, text = self._choose_image(files), self._choose_text(files)
                if image is None or text is None:
                    held = ", ".join(file.ending for file in files)
                    problems.append(
                        Problem(Where(self._shown[number], key), f"no {'text' if image else 'image'} among: {held}")
                    )
                    continue
                as_json = text.ending == "json"
                places.append((number, image.offset, image.size, text.offset, text.size, as_json))
                ids.append(_stable_id(Path(shard).name, key))
                keys.append(key)
        self.problems = tuple(problems)
        if not keys:
            why = f": {problems[0]}" if problems else ""
            raise InputError(f"{self.name}: holds no sample with an image and a text{why}")
        self._places = np.asarray(places, dtype=np.int64)
        self._ids = np.asarray(ids, dtype=np.int64)
        self._keys = Strings.of(keys)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        shard, image_at, image_size, text_at, text_size, as_json = self._places[index].tolist()
        where = Where(self._shown[shard], str(self._keys[index]))
        try:
            raw, image = _read(self._shards[shard], (text_at, text_size), (image_at, image_size))
            text, note = decode_text(raw)
            texts = parse_texts(text, bool(as_json), self._text or TEXT_COLUMNS)
        except remote.Unreachable:  # the sample may be as good as any
            raise
        except (ValueError, OSError, RecursionError) as error:
            raise BadSample(f"{where.row}: {error}", where.file) from error
        return Sample(image, clean_texts(texts), int(self._ids[index]), where, note)

    @property
    def ids(self) -> Ids:
        return self._ids

    def order(self, generator: torch.Generator) -> Tensor:
        """Shards in a random order, samples shuffled within windows of it."""
        counts = torch.bincount(torch.from_numpy(self._places[:, 0].copy()), minlength=len(self._shards))
        starts = counts.cumsum(0) - counts
        shards = torch.randperm(len(counts), generator=generator)
        sequence = torch.cat([torch.arange(int(counts[shard])) + starts[shard] for shard in shards.tolist()])
        window = torch.arange(len(sequence)) // self._window
        within = torch.rand(len(sequence), generator=generator, dtype=torch.float64)
        return sequence[torch.argsort(window + within, stable=True)]

    def _choose_image(self, files: Sequence[_File]) -> _File | None:
        if self._image is not None:
            return next((file for file in files if file.ending == self._image), None)
        return next((file for file in files if "." + file.ending.rpartition(".")[2] in IMAGE_SUFFIXES), None)

    def _choose_text(self, files: Sequence[_File]) -> _File | None:
        by_ending = {file.ending: file for file in files}
        endings = TEXT_ENDINGS
        if self._text:
            endings = (*(name for name in self._text if name in by_ending), "json")
        return next((by_ending[ending] for ending in endings if ending in by_ending), None)


def find_shards(data: str | Path) -> list[Path] | list[str]:
    """The shards that a name stands for: a tar file, a folder of them, a glob, or a range as in `{0000..0009}.tar`; of
    URLs too.

    Raises:
        InputError: There are none, or one of a range is missing.
    """
    text = os.fspath(data)
    span = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if span:
        width = len(span[1])
        numbers = range(int(span[1]), int(span[2]) + 1)
        names = [f"{text[: span.start()]}{number:0{width}d}{text[span.end() :]}" for number in numbers]
        if remote.is_url(text):
            return names
        shards = [Path(name) for name in names]
        missing = [shard for shard in shards if not shard.is_file()]
        if missing:
            raise InputError(f"{missing[0]}: no such shard ({len(missing)} of {len(shards)} in {text} are missing)")
    elif remote.is_url(text):
        return _find_remote(text)
    elif Path(text).is_dir():
        shards = inside(text, sorted(Path(text).glob("*.tar")))
    else:
        shards = [Path(text)] if Path(text).is_file() else [Path(name) for name in sorted(glob.glob(text))]  # noqa: PTH207 - may be absolute
    if not shards:
        raise InputError(f"{text}: no such shards")
    return shards


def _find_remote(url: str) -> list[str]:
    one = remote.plain(url).endswith(".tar") and not set("*[") & set(url)
    urls = [url] if one else remote.find(url if url.endswith(".tar") else f"{url.rstrip('/')}/*.tar")
    if not urls:
        raise InputError(f"{redacted(url)}: no such shards")
    return urls


class _Bounded(io.BufferedReader):
    """A file whose reads ask for no more than is there: the header of a tar file may claim any size."""

    def __init__(self, name: str) -> None:
        if remote.is_url(name):
            self.length: int = remote.describe(name)["size"]
            super().__init__(remote.Remote(name, self.length), remote.READ_AHEAD)
        else:
            self.length = regular(name).stat().st_size
            super().__init__(io.FileIO(name))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > 1 << 20:
            size = max(min(size, self.length - self.tell()), 0)
        return super().read(size)


def _kept(shard: str, problems: list[Problem]) -> Iterator[tuple[str, list[_File]]]:
    """Those of a shard behind a URL, which is read through once."""
    place = remote.cached(shard, "shards")
    if not place.is_file():
        wrong: list[Problem] = []
        samples = [(key, [(f.ending, f.offset, f.size) for f in files]) for key, files in _samples(shard, wrong)]
        about = {
            "samples": samples,
            "problems": [(str(problem.where.row), problem.reason) for problem in wrong],
        }
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, lambda part: part.write_text(json.dumps(about), "utf-8"))
    about = read_json(place)
    problems.extend(Problem(Where(redacted(shard), row), reason) for row, reason in about["problems"])
    for key, files in about["samples"]:
        yield key, [_File(*file) for file in files]


def _samples(shard: str, problems: list[Problem]) -> Iterator[tuple[str, list[_File]]]:
    """Runs of files with one key. A shard that is cut short gives what comes before."""
    key: str | None = None
    files: list[_File] = []
    try:
        with _Bounded(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, name = os.path.split(member.name)
                stem, _, ending = name.partition(".")
                if not member.isfile() or not stem or not ending or name.startswith("__"):
                    continue
                if member.size < 0 or member.offset_data + member.size > file.length:
                    problems.append(Problem(Where(redacted(shard), member.name), "the shard is cut short here"))
                    break
                here = f"{folder}/{stem}" if folder else stem
                if here != key:
                    if key is not None:
                        yield key, files
                    key, files = here, []
                files.append(_File(ending.lower(), member.offset_data, member.size))
    except remote.Unreachable:  # what came before is not all that is there
        raise
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if key is None:
            raise InputError(
                f"{redacted(shard)}: is no plain tar file (a compressed one must be unpacked): {error}"
            ) from error
        problems.append(Problem(Where(redacted(shard), key), f"the shard is damaged after this sample: {error}"))
    if key is not None:
        yield key, files


def _read(shard: str, *parts: tuple[int, int]) -> list[bytes]:
    """The bytes of files of a shard, each by where it begins and its size."""
    begin, end = min(at for at, _ in parts), max(at + size for at, size in parts)
    if remote.is_url(shard):
        if end - begin > sum(size for _, size in parts) + remote.READ_AHEAD:
            return [remote.read(shard, at, at + size) for at, size in parts]
        held = remote.read(shard, begin, end)
        return [held[at - begin : at - begin + size] for at, size in parts]
    chunks: list[bytes] = []
    with regular(shard).open("rb") as file:
        for at, size in parts:
            file.seek(at)
            chunks.append(file.read(size))
            if len(chunks[-1]) != size:
                raise OSError("the shard has become shorter than it was")
    return chunks


def _stable_id(shard: str, key: str) -> int:
    """A number that stays the same whatever other shards there are."""
    digest = hashlib.blake2b(f"{shard}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
