"""Many strings in little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Strings:
    """Strings, or encoded files, end to end in one buffer: their bytes and eight more each, which loader workers share.

    All are of one kind, `str` or `bytes`.
    """

    def __init__(self, items: Sequence[str] | Sequence[bytes]) -> None:
        self._text = not items or isinstance(items[0], str)
        parts = [item.encode() if isinstance(item, str) else item for item in items]
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str | bytes:
        place = range(len(self))[index]
        part = self._bytes[self._ends[place] : self._ends[place + 1]].tobytes()
        return part.decode() if self._text else part


class StringLists:
    """A list of strings for each of many items, kept as `Strings`."""

    def __init__(self, items: Sequence[Sequence[str]]) -> None:
        self._strings = Strings([text for texts in items for text in texts])
        self._ends = np.cumsum([0, *map(len, items)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> tuple[str, ...]:
        place = range(len(self))[index]
        return tuple(str(self._strings[i]) for i in range(self._ends[place], self._ends[place + 1]))
