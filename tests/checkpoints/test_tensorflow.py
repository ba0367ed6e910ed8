"""Checkpoints written here byte by byte, as tensor_bundle.cc and format.cc describe them."""

import struct

import pytest
import torch

from coalign.checkpoints import read_tensors
from coalign.checkpoints.tensorflow import read_tensorflow
from coalign.errors import InputError
from coalign.models.bert.model import Bert, BertPretrainingConfig, original
from coalign.trunks.bert import BertConfig

FLOAT, INT64, STRING, BFLOAT16 = 1, 9, 7, 14


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def entry(dtype, shape, shard, offset, size, more=b"") -> bytes:
    dims = b"".join(part(2, number(1, length)) for length in shape)
    fixed32 = varint(6 << 3 | 5) + struct.pack("<I", 0)
    return number(1, dtype) + part(2, dims) + number(3, shard) + number(4, offset) + number(5, size) + fixed32 + more


def block(entries, restart_every=16) -> bytes:
    """Keys share prefixes with the one before, except at restart points."""
    out, restarts, last = b"", [], b""
    for place, (key, value) in enumerate(entries):
        shared = 0
        if place % restart_every:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + b"".join(struct.pack("<I", place) for place in restarts) + struct.pack("<I", len(restarts))


def with_trailer(data: bytes, kind=0) -> bytes:
    return data + bytes([kind]) + struct.pack("<I", masked(crc32c(data + bytes([kind]))))


def table(entries, block_size=6, kind=0) -> bytes:
    """Data blocks, an empty meta index, the index of the blocks, the footer."""
    out, index = b"", []
    for start in range(0, len(entries), block_size):
        chunk = entries[start : start + block_size]
        data = block(chunk)
        index.append((chunk[-1][0], varint(len(out)) + varint(len(data))))
        out += with_trailer(data, kind)
    handles = b""
    for content in (block([]), block(index, restart_every=1)):
        handles += varint(len(out)) + varint(len(content))
        out += with_trailer(content)
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(prefix, tensors, shards=1, extra=(), kind=0, header=None):
    """Tensors in the order of their names, dealt out to the shards in turn."""
    contents, entries = [b""] * shards, []
    kinds = {torch.float32: FLOAT, torch.int64: INT64, torch.bfloat16: BFLOAT16}
    for place, (name, tensor) in enumerate(sorted(tensors.items())):
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        shard = place % shards
        entries.append(
            (name.encode(), entry(kinds[tensor.dtype], tensor.shape, shard, len(contents[shard]), len(data)))
        )
        contents[shard] += data
    entries = sorted([(b"", header or number(1, shards) + part(3, number(1, 1))), *entries, *extra])
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries, kind=kind))
    for shard, content in enumerate(contents):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    return prefix


def some_tensors():
    g = torch.Generator().manual_seed(0)
    names = [f"bert/encoder/layer_{i}/output/{part}" for i in range(11) for part in ("kernel", "bias")]
    tensors = {name: torch.randn(3, 2, generator=g) for name in names}
    return tensors | {
        "counts": torch.arange(200),
        "half": torch.ones(5, dtype=torch.bfloat16),
        "one": torch.tensor(7.0),
    }


def same(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in b)


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_come_back(tmp_path, shards):
    tensors = some_tensors()
    prefix = write(tmp_path / "model.ckpt-100", tensors, shards)
    for path in (prefix, tmp_path / "model.ckpt-100.index", tmp_path):
        assert same(read_tensors(path), tensors)


def test_a_file_known_to_the_byte(tmp_path):
    """A checkpoint with one number, 0.5 under the name "a", as TensorFlow writes it."""
    data = bytes.fromhex("00 00 06 08 01 1a 02 08 01")  # key "", the header: one shard, version 1
    data += bytes.fromhex("00 01 0b 61 08 01 12 00 28 04 35 00 00 00 00")  # key "a": float, scalar, four bytes
    data += bytes.fromhex("00 00 00 00 01 00 00 00")  # one restart point, at 0
    index = bytes.fromhex("00 01 02 62 00 20 00 00 00 00 01 00 00 00")  # up to key "b": the block at 0, 32 bytes
    meta = bytes.fromhex("00 00 00 00 01 00 00 00")
    assert len(data) == 32
    content = with_trailer(data) + with_trailer(meta) + with_trailer(index)
    footer = bytes([37, 8, 50, 14]).ljust(40, b"\0") + bytes.fromhex("57 fb 80 8b 24 75 47 db")
    (tmp_path / "v.index").write_bytes(content + footer)
    (tmp_path / "v.data-00000-of-00001").write_bytes(struct.pack("<f", 0.5))
    assert same(read_tensorflow(tmp_path / "v"), {"a": torch.tensor(0.5)})


def test_a_bert_from_its_checkpoint(tmp_path):
    config = BertPretrainingConfig(BertConfig(vocab_size=12, dim=8, depth=2, heads=2, hidden_dim=12, positions=6))
    model, again = Bert(config), Bert(config)
    write(tmp_path / "bert_model.ckpt", original(config).export(model.state_dict()))
    again.load_state_dict(original(config).load(read_tensors(tmp_path / "bert_model.ckpt")).state)
    assert same(dict(again.state_dict()), dict(model.state_dict()))


def test_the_optimisers_tensors_are_left_aside(tmp_path):
    one = torch.ones(2)
    tensors = {"w": one, "w/adam_m": one, "w/adam_v": one, "global_step": torch.tensor(5)}
    prefix = write(tmp_path / "model.ckpt", tensors, extra=[(b"graph", entry(STRING, (), 0, 0, 3))])
    assert list(read_tensorflow(prefix)) == ["w"]
    assert same(read_tensorflow(prefix, optimiser=True), tensors)


def test_no_elements(tmp_path):
    tensors = {"nothing": torch.empty(0, 3)}
    assert same(read_tensorflow(write(tmp_path / "model.ckpt", tensors)), tensors)


def test_what_is_wrong_is_said(tmp_path):
    prefix = write(tmp_path / "model.ckpt", some_tensors())
    index, data = tmp_path / "model.ckpt.index", tmp_path / "model.ckpt.data-00000-of-00001"
    good = index.read_bytes()

    def says(words):
        return pytest.raises(InputError, match=words)

    index.write_bytes(good[:20] + bytes([good[20] ^ 1]) + good[21:])
    with says("checksum"):
        read_tensorflow(prefix)
    index.write_bytes(good[:-60])
    with says("cut off"):
        read_tensorflow(prefix)
    index.write_bytes(b"")
    with says("no TensorFlow checkpoint index"):
        read_tensorflow(prefix)
    index.write_bytes(good)
    data.write_bytes(data.read_bytes()[:-1])
    with says("cut off"):
        read_tensorflow(prefix)
    data.unlink()
    with says(r"data-00000-of-00001: No such file"):
        read_tensorflow(prefix)
    with says("no such file"):
        read_tensors(tmp_path / "other.ckpt")
    write(tmp_path / "second", {"w": torch.ones(1)})
    with says("several checkpoints"):
        read_tensorflow(tmp_path)


def test_kinds_of_files_that_are_not_read(tmp_path):
    one = {"w": torch.ones(2)}
    with pytest.raises(InputError, match="compressed"):
        read_tensorflow(write(tmp_path / "a", one, kind=1))
    with pytest.raises(InputError, match="big-endian"):
        read_tensorflow(write(tmp_path / "b", one, header=number(1, 1) + number(2, 1)))
    partitioned = (b"p", entry(FLOAT, (4,), 0, 0, 0, more=part(7, b"")))
    with pytest.raises(InputError, match="partitioned"):
        read_tensorflow(write(tmp_path / "c", one, extra=[partitioned]))
    with pytest.raises(InputError, match="DataType 8"):
        read_tensorflow(write(tmp_path / "d", one, extra=[(b"complex", entry(8, (1,), 0, 0, 8))]))
    with pytest.raises(InputError, match="damaged"):
        read_tensorflow(write(tmp_path / "e", one, extra=[(b"short", entry(FLOAT, (4,), 0, 0, 8))]))
