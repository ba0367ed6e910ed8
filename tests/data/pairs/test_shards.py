"""WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from files import encoded, picture

from coalign.data.core.quarantine import check_source
from coalign.data.core.samples import Source
from coalign.data.images.decode import decode_image
from coalign.data.pairs.shards import TarShards
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError


def write_shard(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples(start: int, count: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for number in range(start, start + count):
        files[f"{number:05d}.png"] = encoded(picture(number))
        files[f"{number:05d}.txt"] = f"text {number}".encode()
    return files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number, (start, count) in enumerate([(0, 7), (7, 4), (11, 9)]):
        write_shard(tmp_path / f"s-{number:02d}.tar", samples(start, count))
    return tmp_path


def numbers(source: Source, indices: list[int]) -> list[int]:
    found: list[int] = []
    for index in indices:
        sample = source[index]
        level = decode_image(sample.image).getpixel((0, 0))
        assert isinstance(level, tuple) and sample.texts == (f"text {level[0]}",)
        found.append(int(level[0]))
    return found


@pytest.mark.parametrize("form", ["folder", "glob", "range"])
def test_shards_are_read_in_place(shards: Path, form: str) -> None:
    data = {"folder": shards, "glob": f"{shards}/s-*.tar", "range": f"{shards}/s-{{00..02}}.tar"}[form]
    source = open_source(data)
    assert isinstance(source, TarShards)
    assert numbers(source, list(range(len(source)))) == list(range(20))
    assert source.problems == ()
    where = source[8].where
    assert (Path(where.file).name, where.row) == ("s-01.tar", "00008")


def test_ids_do_not_depend_on_the_other_shards(shards: Path) -> None:
    everything, one = open_source(shards), open_source(shards / "s-01.tar")
    assert len(set(everything.ids.tolist())) == 20
    assert everything.ids[7:11].tolist() == one.ids.tolist() == [one[index].id for index in range(4)]


def test_the_order_is_shuffled_and_keeps_neighbours_together(shards: Path) -> None:
    source = TarShards(sorted(shards.glob("*.tar")), window=4)
    orders = [source.order(torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(20))
    assert orders[0] == orders[1] != orders[2]
    shard_of = [0] * 7 + [1] * 4 + [2] * 9
    for order in orders:
        for start in range(0, 20, 4):
            assert len({shard_of[index] for index in order[start : start + 4]}) <= 2
    fewer = source.without([0, 9])
    order = fewer.order(torch.Generator().manual_seed(0)).tolist()
    assert numbers(fewer, order) == [number for number in orders[0] if number not in (0, 9)]


def test_json_texts_and_chosen_files(tmp_path: Path) -> None:
    record = json.dumps({"caption": "from json", "alt": "the alt"}).encode()
    files = {"a/0.jpg": encoded(picture(9), "JPEG"), "a/0.json": record, "b/0.seg.png": encoded(picture(8))}
    files |= {"b/0.webp": encoded(picture(7), "WEBP"), "b/0.json": record, "b/0.txt": b"from txt"}
    write_shard(tmp_path / "s.tar", files)
    assert [open_source(tmp_path / "s.tar")[index].texts for index in (0, 1)] == [("from json",), ("from txt",)]
    chosen = open_source(tmp_path / "s.tar", image_column="webp", text_column="alt")
    assert len(chosen) == 1 and chosen[0].texts == ("the alt",)
    assert decode_image(chosen[0].image).getpixel((0, 0)) == (7, 7, 7)


def test_incomplete_samples_and_damage_are_listed(tmp_path: Path) -> None:
    good = samples(0, 4)
    del good["00001.txt"]
    good["00002.txt"] = b" "
    good["00003.txt"] = b"caf\xe9"
    write_shard(tmp_path / "s.tar", good)
    source = open_source(tmp_path / "s.tar")
    assert [(problem.where.row, problem.reason) for problem in source.problems] == [("00001", "no text among: png")]
    checked = check_source(source, limit=0.9)
    assert (checked.total, checked.broken, checked.indices) == (4, 2, (1,))
    assert checked.source[1].texts == ("café",)


def test_a_shard_that_is_cut_short_gives_what_it_holds(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", samples(0, 6))
    whole = (tmp_path / "s.tar").read_bytes()
    kept = open_source(tmp_path / "s.tar")
    assert len(kept) == 6
    for cut in (512 * 11 + 3, 512 * 10 + 3, 512 * 10):  # within a text, within a header, between files
        (tmp_path / "s.tar").write_bytes(whole[:cut])
        source = open_source(tmp_path / "s.tar")
        assert numbers(source, list(range(len(source)))) == [0, 1]
        assert any("00002" in str(problem.where.row) for problem in source.problems)


def test_bad_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("this is no archive" * 100)
    write_shard(tmp_path / "small.tar.gz", samples(0, 1), "w:gz")
    (tmp_path / "small.tar.gz").rename(tmp_path / "zipped.tar")
    write_shard(tmp_path / "other.tar", {"readme.md": b"x"})
    for name, words in (("text.tar", "no plain tar"), ("zipped.tar", "unpacked"), ("other.tar", "no sample")):
        with pytest.raises(InputError, match=words):
            open_source(tmp_path / name)
    for name, words in (("no.tar", "no such shards"), ("other{0..3}.tar", "no such shard")):
        with pytest.raises(InputError, match=words):
            open_source(tmp_path / name)
