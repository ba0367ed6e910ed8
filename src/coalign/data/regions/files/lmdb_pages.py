"""LMDB's file read page by page (lmdb.h and mdb.c of OpenLDAP, format 1), without its library.

The library maps the file into memory and follows what its pages say: one that is cut short or damaged ends the process.
Here every page is read where it lies and held against the file's size before anything in it is believed. A file is two
meta pages, the newer of which names the root of a B+ tree of pages: branches lead to leaves, whose nodes hold a key and
its value, or the first of the overflow pages in which the value lies. Little-endian, 64 bits; one database without
duplicates.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from coalign.errors import InputError
from coalign.files import regular

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG, _INNER = 0x01, 0x02 | 0x04  # of a node: its value lies in overflow pages; it is a database or duplicates
_HEADER, _NODE = 16, 8
_DEPTH = 64
_NONE = 2**64 - 1


class LmdbFile:
    """Keys and values of a file, or of `data.mdb` in a folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises InputError where it is no LMDB file, or is cut short."""
        path = Path(path)
        self.path = path / "data.mdb" if path.is_dir() else path
        self._file = regular(self.path).open("rb")
        self._size = self.path.stat().st_size
        self._page_size = 4096
        metas = [meta for place in (0, 1) if (meta := self._meta(place)) is not None]
        if not metas:
            raise InputError(f"{self.path}: is no LMDB database of this machine's form, or it is damaged")
        _, self._root, last, self._page_size = max(metas)
        if (last + 1) * self._page_size > self._size:
            raise InputError(f"{self.path}: is cut short: {self._size} bytes of {(last + 1) * self._page_size}")

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is none."""
        number = self._root
        for _ in range(_DEPTH):
            if number == _NONE:
                return None
            page, nodes, leaf = self._nodes(number)
            keys = [self._key(page, node) for node in nodes]
            if leaf:
                return next((self._value(page, n) for n, k in zip(nodes, keys, strict=True) if k == key), None)
            below = [place for place, first in enumerate(keys) if place == 0 or first <= key]
            number = self._child(page, nodes[below[-1]])
        raise self._damaged("its pages go round in a circle")

    def keys(self) -> Iterator[bytes]:
        """All keys in their order."""
        seen: set[int] = set()
        waiting = [] if self._root == _NONE else [self._root]
        while waiting:
            number = waiting.pop()
            if number in seen:
                raise self._damaged("its pages go round in a circle")
            seen.add(number)
            page, nodes, leaf = self._nodes(number)
            if leaf:
                yield from (self._key(page, node) for node in nodes)
            else:
                waiting += [self._child(page, node) for node in reversed(nodes)]

    # ----------------------------------------------------------------------------------------------------------- pages
    def _meta(self, place: int) -> tuple[int, int, int, int] | None:
        """(transaction, root, last page, page size) of a meta page."""
        for size in (4096, 16384, 65536, 8192, 32768, 512, 1024, 2048) if place else (4096,):
            self._file.seek(place * size)
            data = self._file.read(_HEADER + 136)
            if len(data) < _HEADER + 136:
                continue
            flags = struct.unpack_from("<H", data, 10)[0]
            magic, version = struct.unpack_from("<II", data, _HEADER)
            if not flags & _META or (magic, version) != (_MAGIC, _VERSION):
                continue
            page_size = struct.unpack_from("<I", data, _HEADER + 24)[0]
            root, last, transaction = struct.unpack_from("<QQQ", data, _HEADER + 24 + 2 * 48 - 8)
            if 512 <= page_size <= 65536 and page_size & (page_size - 1) == 0:
                return transaction, root, last, page_size
        return None

    def _read(self, number: int, count: int = 1) -> bytes:
        begin, size = number * self._page_size, count * self._page_size
        if number < 2 or begin + size > self._size:
            raise self._damaged(f"page {number} is not in it")
        data = os.pread(self._file.fileno(), size, begin)
        if len(data) != size:
            raise self._damaged("it has become shorter")
        return data

    def _nodes(self, number: int) -> tuple[bytes, list[int], bool]:
        """A page, where its nodes begin, and whether it is a leaf."""
        page = self._read(number)
        own, _, flags, lower = struct.unpack_from("<QHHH", page)
        kind = flags & (_BRANCH | _LEAF | _OVERFLOW | _META)
        count = (lower - _HEADER) // 2
        if own != number or kind not in (_BRANCH, _LEAF) or not _HEADER <= lower <= len(page):
            raise self._damaged(f"page {number} is none of its tree")
        if kind == _BRANCH and count < 1:
            raise self._damaged(f"page {number} leads nowhere")
        nodes = list(struct.unpack_from(f"<{count}H", page, _HEADER))
        if any(node + _NODE > len(page) for node in nodes):
            raise self._damaged(f"page {number} points outside of itself")
        return page, nodes, kind == _LEAF

    def _key(self, page: bytes, node: int) -> bytes:
        size = struct.unpack_from("<H", page, node + 6)[0]
        if node + _NODE + size > len(page):
            raise self._damaged("a key is longer than its page")
        return page[node + _NODE : node + _NODE + size]

    def _child(self, page: bytes, node: int) -> int:
        low, high, top = struct.unpack_from("<HHH", page, node)
        return low | high << 16 | top << 32

    def _value(self, page: bytes, node: int) -> bytes:
        low, high, flags, key_size = struct.unpack_from("<HHHH", page, node)
        size, begin = low | high << 16, node + _NODE + key_size
        if flags & _INNER:
            raise self._damaged("holds several values a key, which is not read")
        if not flags & _BIG:
            if begin + size > len(page):
                raise self._damaged("a value is longer than its page")
            return page[begin : begin + size]
        if begin + 8 > len(page):
            raise self._damaged("a value is longer than its page")
        first = struct.unpack_from("<Q", page, begin)[0]
        count = (_HEADER + size + self._page_size - 1) // self._page_size
        return self._read(first, count)[_HEADER : _HEADER + size]

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self.path}: is damaged: {why}")
