"""Many strings in one buffer."""

from __future__ import annotations

from array import array
from tempfile import TemporaryFile
from typing import Any

import numpy as np

IN_MEMORY = 1 << 24
"""Bytes of strings above which they are in a temporary file that is mapped into memory."""


class Strings:
    """Strings, or encoded files, end to end in one buffer: their bytes and eight more each, which loader workers share.

    All are of one kind, `str` or `bytes`. Made by `StringsBuilder`.
    """

    def __init__(self, content: Any, ends: Any, text: bool) -> None:
        self._bytes, self._ends, self._text = content, ends, text

    @staticmethod
    def of(items: Any) -> Strings:
        """These strings."""
        builder = StringsBuilder()
        for item in items:
            builder.add(item)
        return builder.build()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str | bytes:
        place = range(len(self))[index]
        part = self._bytes[self._ends[place] : self._ends[place + 1]].tobytes()
        return part.decode() if self._text else part


class StringsBuilder:
    """Takes strings as they come; what it holds lies in a temporary file where it is much."""

    def __init__(self) -> None:
        self.kind: type | None = None
        self._waiting, self._written = bytearray(), 0
        self._file: Any = None
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, item: str | bytes) -> None:
        """One string, of the kind of those before."""
        self.kind = type(item)
        self._waiting += item.encode() if isinstance(item, str) else item
        self._ends.append(self._written + len(self._waiting))
        if len(self._waiting) > IN_MEMORY:
            self._write()

    def _write(self) -> Any:
        self._file = self._file or TemporaryFile()  # noqa: SIM115 - lives as long as the strings
        self._written += self._file.write(self._waiting)
        self._waiting = bytearray()
        return self._file

    def build(self) -> Strings:
        """The strings."""
        if self._file is None:
            content: Any = np.frombuffer(bytes(self._waiting), dtype=np.uint8)
        else:
            file = self._write()
            file.flush()
            content = np.memmap(file, dtype=np.uint8, mode="r", shape=(self._written,))
        return Strings(content, np.frombuffer(self._ends, dtype=np.int64), self.kind is not bytes)


class StringLists:
    """A list of strings for each of many items: item i has those up to number `ends[i + 1]`, from `ends[i]` on."""

    def __init__(self, strings: Strings, ends: Any) -> None:
        self._strings, self._ends = strings, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> tuple[str, ...]:
        place = range(len(self))[index]
        return tuple(str(self._strings[i]) for i in range(self._ends[place], self._ends[place + 1]))
