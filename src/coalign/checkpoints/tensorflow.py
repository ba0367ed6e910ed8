"""TensorFlow checkpoints (`bert_model.ckpt.index`, `bert_model.ckpt.data-00000-of-00001`), read without TensorFlow.

The index is a sorted string table in LevelDB's format: blocks of entries whose keys share prefixes with the key
before, an index of the blocks, and a footer that says where that lies. Its values are protocol buffers that say where
in the data files each tensor's bytes are (tensorflow/core/util/tensor_bundle, tensorflow/core/lib/io/format.cc).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from coalign.errors import InputError
from coalign.files import regular

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # two handles of at most 20 bytes, then the magic number
_SHARDS = 1 << 16
_TRAILER = 5  # after each block: how it is compressed, and a checksum
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}
_STRING = 7
_OPTIMISER = ("/adam_m", "/adam_v", "/Adam", "/Adam_1", "/Momentum")


def is_tensorflow(path: Path) -> bool:
    """Whether `path` is a checkpoint: its `.index` file, the prefix before it, or a folder that holds one."""
    return _index_files(path) != []


def read_tensorflow(path: str | Path, *, optimiser: bool = False) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name.

    `path` is the prefix that TensorFlow itself takes ("bert_model.ckpt"), the `.index` file, or a folder with one
    checkpoint. What the optimiser left (`adam_m`, `adam_v`, `global_step`) is read with `optimiser` only.
    Errors: `InputError` that names the file: missing, cut off, damaged, compressed, or of partitioned variables.
    """
    path = Path(path)
    indices = _index_files(path)
    if len(indices) != 1:
        names = ", ".join(file.name for file in indices)
        raise InputError(
            f"{path}: " + (f"holds several checkpoints ({names}): name one" if indices else "no .index file")
        )
    index = indices[0]
    try:
        entries = dict(_table(index, regular(index).read_bytes()))
        header = _fields(entries.pop(b"", b""))
        described = {key.decode("utf-8"): _Entry.parse(index, key, value) for key, value in entries.items()}
    except InputError:
        raise
    except (IndexError, ValueError):
        raise InputError(f"{index}: is cut off or damaged") from None
    if header.first(2):
        raise InputError(f"{index}: was written on a big-endian machine, which is not read")
    shards = header.first(1, 1)
    if not 0 < shards <= _SHARDS:
        raise InputError(f"{index}: is damaged: it tells of {shards} data files")
    prefix = str(index).removesuffix(".index")
    data = [Path(f"{prefix}.data-{number:05d}-of-{shards:05d}") for number in range(shards)]
    wanted = {name: entry for name, entry in described.items() if optimiser or not _of_optimiser(name)}
    return {name: entry.read(data, name) for name, entry in wanted.items() if entry.dtype != _STRING}


def _index_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.index"))
    if path.suffix == ".index" and path.is_file():
        return [path]
    beside = path.with_name(f"{path.name}.index")
    return [beside] if beside.is_file() else []


def _of_optimiser(name: str) -> bool:
    return name.endswith(_OPTIMISER) or name in ("global_step", "beta1_power", "beta2_power")


# --------------------------------------------------------------------------------------------------- the string table
def _table(file: Path, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in order."""
    if len(content) < _FOOTER or int.from_bytes(content[-8:], "little") != _MAGIC:
        raise InputError(f"{file}: is no TensorFlow checkpoint index (version 2), or it is cut off")
    _, at = _handle(content, len(content) - _FOOTER)  # the meta index, which TensorFlow leaves empty
    place, _ = _handle(content, at)
    for _, value in _block(file, content, place):
        yield from _block(file, content, _handle(value, 0)[0])


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where the handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(file: Path, content: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle
    block, trailer = content[offset : offset + size], content[offset + size : offset + size + _TRAILER]
    if len(block) < size or len(trailer) < _TRAILER or size < 4:
        raise InputError(f"{file}: is cut off or damaged")
    if trailer[0] != 0:
        raise InputError(f"{file}: is compressed, as TensorFlow writes none; re-save it with tf.train.Saver")
    if _unmask(int.from_bytes(trailer[1:], "little")) != _crc32c(block + trailer[:1]):
        raise InputError(f"{file}: is damaged (a checksum does not fit)")
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = size - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


# ------------------------------------------------------------------------------------------------- protocol buffers
@dataclass
class _Message:
    """The fields of a message by number: numbers, or bytes."""

    numbers: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    parts: dict[int, list[bytes]] = field(default_factory=dict[int, list[bytes]])

    def first(self, number: int, default: int = 0) -> int:
        return self.numbers.get(number, [default])[0]


def _fields(data: bytes) -> _Message:
    message, at = _Message(), 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            message.numbers.setdefault(number, []).append(value)
        elif kind == 2:
            length, at = _varint(data, at)
            message.parts.setdefault(number, []).append(data[at : at + length])
            at += length
        else:  # 1 and 5: eight and four bytes
            width = 8 if kind == 1 else 4
            message.numbers.setdefault(number, []).append(int.from_bytes(data[at : at + width], "little"))
            at += width
    return message


@dataclass(frozen=True)
class _Entry:
    """A BundleEntryProto: where a tensor lies, and what it is."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int

    @staticmethod
    def parse(file: Path, key: bytes, value: bytes) -> _Entry:
        message = _fields(value)
        if 7 in message.parts:
            raise InputError(f"{file}: {key.decode('utf-8')} is a partitioned variable; re-save it in one piece")
        dims = _fields(message.parts.get(2, [b""])[0]).parts.get(2, [])
        shape = tuple(_fields(dim).first(1) for dim in dims)
        return _Entry(message.first(1), shape, message.first(3), message.first(4), message.first(5))

    def read(self, data: list[Path], name: str) -> Tensor:
        if self.dtype not in _DTYPES:
            raise InputError(f"{data[0]}: {name} is of a kind of number that is not read (DataType {self.dtype})")
        dtype, count = _DTYPES[self.dtype], 1
        for length in self.shape:
            count *= length
        if self.shard >= len(data) or self.size != count * dtype.itemsize:
            raise InputError(f"{data[0]}: {name} is damaged: {self.size} bytes for a shape of {list(self.shape)}")
        if min(self.shape, default=0) < 0 or max(self.shape, default=0) > 1 << 48:
            raise InputError(f"{data[0]}: {name} is damaged: a shape of {list(self.shape)}")
        file = data[self.shard]
        try:
            if file.stat().st_size < self.offset + self.size:
                raise InputError(f"{file}: is cut off; {name} lies beyond its end")
            with regular(file).open("rb") as stream:
                stream.seek(self.offset, os.SEEK_SET)
                content = bytearray(stream.read(self.size))
        except OSError as error:
            raise InputError(
                f"{file}: {error.strerror}; a checkpoint is its .index and all of its .data files"
            ) from None
        if not content:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).reshape(self.shape)


# -------------------------------------------------------------------------------------------------------- checksums
def _make_table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _make_table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _unmask(masked: int) -> int:
    """TensorFlow stores checksums rotated and shifted, so that checksums of checksums stay harmless."""
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF
