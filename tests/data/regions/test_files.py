"""Readers of region features, each on a file that the test writes byte by byte in its published form."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coalign.data.regions.files import open_regions
from coalign.data.regions.files.lmdb_pages import LmdbFile
from coalign.data.regions.files.shards import write_shard
from coalign.data.regions.regions import RegionFile, image_key, pack_regions
from coalign.errors import InputError
from coalign.ops.boxes import box_numbers
from coalign.types import InputSpec, RegionSpec

WIDTH, HEIGHT = 200, 100
IDS = ("COCO_val2014_000000000042", "COCO_val2014_000000000007")
COUNTS = (3, 1)


def regions(number: int) -> dict[str, NDArray[Any]]:
    random, count = np.random.default_rng(number), COUNTS[number]
    low = random.uniform(0, 50, (count, 2))
    return {
        "features": random.standard_normal((count, 4)).astype(np.float32),
        "boxes": np.concatenate([low, low + random.uniform(1, 50, (count, 2))], 1).astype(np.float32),  # pixels
        "classes": random.uniform(0, 1, (count, 6)).astype(np.float32),
        "objects": random.integers(0, 5, count).astype(np.int64),
        "attributes": random.integers(0, 5, count).astype(np.int64),
        "confidence": random.uniform(0, 1, count).astype(np.float32),
    }


def fractions(boxes: NDArray[Any]) -> np.ndarray[Any, Any]:
    return boxes / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)


def code(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def bottom_up(folder: Path) -> Path:
    path = folder / "trainval_36.tsv"
    rows = [
        (str(int(id[-12:])), WIDTH, HEIGHT, COUNTS[n], code(regions(n)["boxes"]), code(regions(n)["features"]))
        for n, id in enumerate(IDS)
    ]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def lxmert_tsv(folder: Path) -> Path:
    path = folder / "mscoco_val.tsv"
    lines: list[str] = []
    for n, id in enumerate(IDS):
        r = regions(n)
        fields = (r["objects"], r["confidence"], r["attributes"], r["confidence"])
        row = (id, HEIGHT, WIDTH, *map(code, fields), COUNTS[n], code(r["boxes"]), code(r["features"]))
        lines.append("\t".join(map(str, row)) + "\r\n")
    path.write_bytes("".join(lines).encode())
    return path


def uniter_arrays(n: int) -> dict[str, Any]:
    r = regions(n)
    boxes = fractions(r["boxes"])
    return {
        "features": r["features"].astype(np.float16),
        "norm_bb": np.concatenate([boxes, boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float16),
        "conf": r["confidence"][:, None].astype(np.float16),
        "soft_labels": r["classes"].astype(np.float16),
    }


def uniter_npz(folder: Path) -> Path:
    for n, id in enumerate(IDS):
        np.savez(folder / f"{id.lower()}.npz", **uniter_arrays(n))
    return folder


def write_lmdb(folder: Path, values: dict[bytes, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return folder


def uniter_lmdb(folder: Path) -> Path:
    msgpack = pytest.importorskip("msgpack")

    def array(a: NDArray[Any]) -> dict[bytes, Any]:  # as msgpack-numpy writes arrays
        return {b"nd": True, b"type": a.dtype.str, b"kind": b"", b"shape": a.shape, b"data": a.tobytes()}

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **uniter_arrays(1))
    names = [f"{id.lower()}.npz" for id in IDS]
    values = {
        names[0].encode(): msgpack.packb({k: array(v) for k, v in uniter_arrays(0).items()}, use_bin_type=True),
        names[1].encode(): buffer.getvalue(),
        b"__keys__": json.dumps(names).encode(),
    }
    return write_lmdb(folder, values)


def vilbert_lmdb(folder: Path) -> Path:
    values = {b"keys": pickle.dumps([id.encode() for id in IDS])}
    for n, id in enumerate(IDS):
        r, encoded = regions(n), n == 0  # the first release has base64, 12-in-1 arrays
        values[id.encode()] = pickle.dumps(
            {
                "image_id": id.encode(),
                "image_h": str(HEIGHT),
                "image_w": str(WIDTH),
                "num_boxes": COUNTS[n],
                "boxes": code(r["boxes"]).encode() if encoded else r["boxes"],
                "features": code(r["features"]).encode() if encoded else r["features"],
                "cls_prob": code(r["classes"]).encode() if encoded else r["classes"],
            },
            protocol=2 if encoded else 5,
        )
    return write_lmdb(folder, values)


def lxmert_h5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    path = folder / "val.h5"
    with h5py.File(path, "w") as file:
        for n, id in enumerate(IDS):
            r = regions(n)
            for name, value in (
                ("features", r["features"]),
                ("boxes", r["boxes"]),
                ("img_w", WIDTH),
                ("img_h", HEIGHT),
                ("obj_id", r["objects"]),
                ("attr_id", r["attributes"]),
                ("obj_conf", r["confidence"]),
            ):
                file.create_dataset(f"{id}/{name}", data=value)
    return path


def flat_h5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    path = folder / "val.hdf5"
    parts = [regions(n) for n in range(2)]
    boxes = [fractions(r["boxes"]) for r in parts]
    with h5py.File(path, "w") as file:
        file["image_features"] = np.concatenate([r["features"] for r in parts])
        file["spatial_features"] = np.concatenate([np.concatenate([b, b[:, 2:] - b[:, :2]], 1) for b in boxes])
        file["pos_boxes"] = np.array([[0, 3], [3, 4]])
    (folder / "val_imgid2idx.pkl").write_bytes(pickle.dumps({42: 0, 7: 1}))
    return path


def shards(folder: Path) -> Path:
    for n, id in enumerate(IDS):
        r = regions(n)
        parts = {"features": r["features"].astype(np.float16), "boxes": fractions(r["boxes"]), "size": (WIDTH, HEIGHT)}
        write_shard(folder / f"regions-{n:05d}.safetensors", [id], [{**parts, "classes": r["classes"]}])
    return folder


@pytest.mark.parametrize(
    ("write", "parts"),
    [
        (bottom_up, ()),
        (lxmert_tsv, ("objects", "attributes", "confidence")),
        (uniter_npz, ("classes", "confidence")),
        (uniter_lmdb, ("classes", "confidence")),
        (vilbert_lmdb, ("classes",)),
        (lxmert_h5, ("objects", "attributes", "confidence")),
        (flat_h5, ()),
        (shards, ("classes",)),
    ],
)
def test_every_published_form_gives_the_same_regions(
    write: Callable[[Path], Path], parts: tuple[str, ...], tmp_path: Path
) -> None:
    file = open_regions(write(tmp_path))
    assert len(file) == 2 and file.width == 4
    half = write in (uniter_npz, uniter_lmdb, shards)
    for n, id in enumerate(IDS):
        expected = regions(n)
        for name in (id, int(id[-12:]), f"{id.lower()}.jpg"):
            found = file[name]
            tolerance: dict[str, Any] = {"rtol": 0, "atol": 2e-3 if half else 1e-6}
            torch.testing.assert_close(found["features"], torch.from_numpy(expected["features"]), **tolerance)
            torch.testing.assert_close(found["boxes"], torch.from_numpy(fractions(expected["boxes"])), **tolerance)
            for part in parts:
                torch.testing.assert_close(found[part], torch.from_numpy(expected[part]), **tolerance)
    clone: RegionFile = pickle.loads(pickle.dumps(file))  # what a worker that is not forked receives
    assert clone[42]["features"].equal(file[42]["features"])
    with pytest.raises(InputError, match="has no regions of image 43"):
        file[43]
    assert 43 not in file and 42 in file


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("COCO_train2014_000000000009.jpg", "9"),
        ("coco_val2014_000000000042.npz", "42"),
        (42, "42"),
        ("flickr30k_000000000123", "123"),
        ("nlvr2_dev-850-0-img0.npz", "dev-850-0-img0"),
        ("dir/sub/dev-850-0-img0.png", "dev-850-0-img0"),
        ("000", "0"),
        ("train2014", "train2014"),
    ],
)
def test_names_of_one_image(given: str | int, key: str) -> None:
    assert image_key(given) == key


def test_one_key_of_two_images_is_neither(tmp_path: Path) -> None:
    item = {"features": torch.ones(1, 4), "boxes": torch.zeros(1, 4)}
    write_shard(tmp_path / "a.safetensors", ["COCO_train2014_000000000042", "COCO_val2014_000000000042"], [item, item])
    file = open_regions(tmp_path)
    assert 42 not in file and "COCO_val2014_000000000042" in file
    write_shard(tmp_path / "b.safetensors", ["COCO_val2014_000000000042"], [item])
    with pytest.raises(InputError, match="twice"):
        open_regions(tmp_path)


def test_unsure_regions_of_uniters_files_are_left_out_as_its_authors_do(tmp_path: Path) -> None:
    for sure in (3, 12):
        conf = np.where(np.arange(15) < sure, 0.9, 0.1)[:, None]
        np.savez(tmp_path / f"{sure}.npz", features=np.eye(15), norm_bb=np.zeros((15, 6)), conf=conf)
    file = open_regions(tmp_path)
    assert len(file[3]["features"]) == 10 and len(file[12]["features"]) == len(file[12]["boxes"]) == 12


def test_none_one_and_a_hundred_regions_share_a_batch(tmp_path: Path) -> None:
    items = [{"features": torch.randn(n, 5), "boxes": torch.rand(n, 4)} for n in (0, 1, 100)]
    write_shard(tmp_path / "a.safetensors", ["none", "one", "many"], items)
    file = open_regions(tmp_path)
    batch = pack_regions([file[id] for id in file.ids], InputSpec(regions=RegionSpec(5, 36)))
    assert batch.features.lengths.tolist() == [0, 1, 36]
    assert batch.features.values[1:].equal(items[2]["features"][:36])
    unknown = {"features": torch.zeros(0, 0), "boxes": torch.zeros(0, 4)}  # as a table without any of its regions says
    assert pack_regions([unknown], InputSpec(regions=RegionSpec(5))).features.values.shape == (0, 5)


def test_the_numbers_of_a_box_come_from_one_form() -> None:
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    assert box_numbers(box, 4).tolist() == [[0.25, 0.5, 0.75, 1.0]]
    assert box_numbers(box, 5).tolist() == [[0.25, 0.5, 0.75, 1.0, 0.25]]
    assert box_numbers(box, 7).tolist() == [[0.25, 0.5, 0.75, 1.0, 0.5, 0.5, 0.25]]


def good() -> dict[str, torch.Tensor]:
    return {"features": torch.ones(2, 5), "boxes": torch.zeros(2, 4)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.ones(2, 6)}, "image x: features are 6 wide, the model reads 5"),
        ({"boxes": torch.ones(2, 4) * 3}, "image x: boxes are x1, y1, x2, y2 in fractions"),
        ({"boxes": torch.ones(1, 4)}, "image x: 2 features and 1 boxes"),
        ({"boxes": torch.full((2, 4), torch.nan)}, "not finite"),
        ({"classes": torch.ones(2, 3)}, "image y lack 'classes'"),
    ],
)
def test_regions_that_do_not_fit(change: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(InputError, match=words):
        pack_regions([{**good(), **change}, good()], InputSpec(regions=RegionSpec(5)), ["image x", "image y"])


def test_damaged_files_name_file_and_image(tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(InputError, match=words):
            file = open_regions(path)
            for id in file.ids:
                file[id]

    refused(tmp_path / "absent.tsv", "no such file")
    refused(tmp_path, "holds no region features")
    table = bottom_up(tmp_path)
    text = table.read_text().splitlines()
    for broken, words in (
        ("a\tb\tc", "has 3 columns"),
        (text[0] + "\n1\t2", "line 2: has not the 6 columns"),
        (text[0].replace("\t3\t", "\t5\t"), "image 42: features has 48 bytes"),
        (text[0][:-5] + "***==", "features is not base64"),
        (text[0].replace("\t200\t", "\twide\t"), "not whole numbers"),
        ("", "holds no image"),
    ):
        table.write_text(broken + "\n")
        refused(table, words)
    (tmp_path / "a.safetensors").write_bytes(b"1234567890")
    refused(tmp_path / "a.safetensors", "cannot be read as a shard")
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "1.npz", features=np.array([{}], object), norm_bb=np.zeros((1, 6)))
    refused(tmp_path / "npz", r"1\.npz: not a readable \.npy of plain arrays")
    (tmp_path / "x.pdf").write_text("")
    refused(tmp_path / "x.pdf", "no known form")


def test_a_database_of_pickles_that_run_something_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    folder = tmp_path / "evil.lmdb"
    evil = b"cos\nmkdir\n(S'" + str(made).encode() + b"'\ntR."
    write_lmdb(folder, {b"keys": pickle.dumps([b"1"]), b"1": b"\x80\x02}U\x08featuresq\x01" + evil[:-1] + b"s."})
    with pytest.raises(InputError, match=r"image 1: asks for os\.mkdir, which is refused"):
        open_regions(folder)[1]
    assert not made.exists()


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_database_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    file = vilbert_lmdb(tmp_path) / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])  # its library would end the process with SIGBUS
    with pytest.raises(InputError, match=r"is cut short: \d+ bytes of|is no LMDB database"):
        open_regions(tmp_path)


def test_pages_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    content = {f"{n:05d}".encode(): bytes([n % 251]) * (n % 9000) for n in range(300)}
    with lmdb.open(str(tmp_path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in content.items():
            transaction.put(key, value)
    file = LmdbFile(tmp_path)
    assert list(file.keys()) == list(content) and all(file.get(key) == value for key, value in content.items())
    assert file.get(b"zzz") is None
    whole, random = bytearray((tmp_path / "data.mdb").read_bytes()), np.random.default_rng(0)
    for _ in range(30):
        damaged = whole.copy()
        for place in random.integers(0, len(whole), 400):
            damaged[place] ^= 1 << int(random.integers(8))
        (tmp_path / "data.mdb").write_bytes(damaged)
        with suppress(InputError):
            found = LmdbFile(tmp_path)
            for key in found.keys():  # noqa: SIM118 (no mapping)
                found.get(key)


@pytest.mark.parametrize("how", ["external", "link", "soft"])
def test_hdf5_that_leads_to_other_files_is_refused(tmp_path: Path, how: str) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 48)
    path = lxmert_h5(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["boxes"] = np.zeros((3, 4), np.float32)
    with h5py.File(path, "r+") as file:
        del file[f"{IDS[0]}/boxes"]
        if how == "external":
            file.create_dataset(f"{IDS[0]}/boxes", (3, 4), "f4", external=[(str(secret), 0, 48)])
        else:
            link = h5py.ExternalLink("other.h5", "/boxes") if how == "link" else h5py.SoftLink(f"/{IDS[1]}/boxes")
            file[f"{IDS[0]}/boxes"] = link
    with pytest.raises(InputError, match=r"another file|is a link"):
        open_regions(path)[IDS[0]]


@pytest.mark.parametrize("how", ["claim", "array"])
def test_hdf5_that_claims_more_than_it_holds_is_refused(tmp_path: Path, how: str) -> None:
    h5py = pytest.importorskip("h5py")
    path = lxmert_h5(tmp_path)
    name = f"{IDS[0]}/features" if how == "claim" else IDS[0]
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, (1 << 40,), "f4", chunks=(1024,))  # in which looking for a name would not end
    with pytest.raises(InputError, match="claims 4398046511104 bytes and holds 0" if how == "claim" else "is no group"):
        open_regions(path)[IDS[0]]


@pytest.mark.parametrize("suffix", [".tsv", ".safetensors", ".h5", ".lmdb"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"regions{suffix}")
    with pytest.raises(InputError, match="a pipe or a device"):
        open_regions(tmp_path / f"regions{suffix}")
