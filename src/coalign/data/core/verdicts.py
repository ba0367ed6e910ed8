"""The results of checking a large source, kept for the next start (`$XDG_CACHE_HOME/coalign/checks`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.data.core.fingerprint import digest, fingerprint
from coalign.data.core.samples import Problem, Source, Where
from coalign.data.images.decode import BadSample, name_of
from coalign.errors import InputError
from coalign.files import cache_folder, read_json, replace_file

LARGE = 100_000
"""Samples from which on a verdict is kept. Smaller data is looked over at every start."""

FORMAT = 2
"""Of what is kept, and of the checks: what another one found is not read. 1 kept verdicts on data that was refused."""


@dataclass(frozen=True)
class Verdict:
    """Where the verdict on a source is kept: by its file, when that was changed, some of its samples, and how they were
    looked at. Pictures that break afterwards change nothing in it: training replaces what it cannot read."""

    path: Path

    @staticmethod
    def on(source: Source, settings: Sequence[Any]) -> Verdict | None:
        """None where the source is small, or is no file."""
        file = Path(source.name)
        if len(source) < LARGE or not file.exists():
            return None
        stat = file.stat()
        about = [FORMAT, str(file.absolute()), stat.st_size, stat.st_mtime_ns, fingerprint(_Samples(source))]
        key = digest([*about, *settings])
        return Verdict(cache_folder() / "checks" / f"{key}.json")

    def read(self) -> list[tuple[int, Problem]] | None:
        """The samples that had problems, by number; None where nothing is kept, or it is damaged."""
        try:
            kept: Any = read_json(self.path)
            return [
                (int(at), Problem(Where(file, row), reason, image, used)) for at, file, row, reason, image, used in kept
            ]
        except (OSError, ValueError, TypeError, InputError):
            return None

    def write(self, problems: Sequence[tuple[int, Problem]]) -> None:
        """Keeps it, if it can be kept."""
        rows = [[at, p.where.file, p.where.row, p.reason, p.image, p.used] for at, p in problems]
        try:
            replace_file(self.path, lambda part: part.write_text(json.dumps(rows), encoding="utf-8"))
        except OSError:
            return


class _Samples(Sequence[Any]):
    """The file's name and the texts of each sample; no picture is opened."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            sample = self.source[index]
        except BadSample:
            return None
        return name_of(sample.image), sample.texts
