"""Parts of a corpus: part I of N is work for one process, of a SLURM array, of Ray, of a loop in the shell."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coalign.data.core.samples import Source, Subset
from coalign.errors import InputError


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 0."""

    number: int
    of: int

    @staticmethod
    def parse(text: str) -> Part:
        """A part written "I/N", counted from 0. Errors: `InputError` where it is none."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None or not int(match[1]) < int(match[2]):
            raise InputError(f"--part {text}: give I/N, such as 0/16, the first of 16 parts; 15/16 is the last")
        return Part(int(match[1]), int(match[2]))

    @staticmethod
    def chosen(text: str | None, environment: Mapping[str, str] = os.environ) -> Part | None:
        """The part that a flag says, else the one of this process where torchrun has started several."""
        if text is not None:
            return Part.parse(text)
        rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        return Part(int(rank), int(size)) if int(size) > 1 else None

    def span(self, total: int) -> range:
        """The items of this part: neighbours, so that parts end to end are the corpus."""
        return range(self.number * total // self.of, (self.number + 1) * total // self.of)

    def source(self, source: Source) -> Source:
        """The samples of this part."""
        return Subset(source, self.span(len(source)))

    def file(self, folder: Path, ending: str) -> Path:
        """Its file in a folder of parts."""
        return folder / f"part-{self.number:05}-of-{self.of:05}{ending}"

    def files(self, folder: Path, ending: str) -> list[Path]:
        """The files of all parts."""
        return [Part(number, self.of).file(folder, ending) for number in range(self.of)]
