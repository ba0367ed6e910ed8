"""Tables, folders, caption files, saved data sets: read, and their damage named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from files import encoded, picture

from coalign.data.core.samples import InMemory, Sample, Source, Where
from coalign.data.images.decode import decode_image
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.files import outside_paths

Make = Callable[..., Path]


def grey(sample: Sample) -> int:
    """Which picture it is (see `make_images`)."""
    level = decode_image(sample.image).getpixel((0, 0))
    assert isinstance(level, tuple)
    return int(level[0])


def seen(source: Source) -> list[tuple[int, tuple[str, ...], int]]:
    return [(grey(sample), sample.texts, sample.id) for sample in (source[index] for index in range(len(source)))]


def reasons(source: Source) -> list[tuple[int | str, str]]:
    return [(problem.where.row, problem.reason) for problem in source.problems]


PAIRS = [(0, ("a dog, running",), 0), (10, ("two\nlines",), 1), (20, ('says "hi"',), 2)]


# ------------------------------------------------------------------------------------------------------------- tables
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_with_quotes_and_line_breaks(make_images: Make, ending: str, mark: bytes) -> None:
    folder = make_images(3)
    rows = ["image,caption", 'img/000.png,"a dog, running"', '"img/001.png","two\nlines"', 'img/002.png,"says ""hi"""']
    (folder / "p.csv").write_bytes(mark + ending.join([*rows, ""]).encode())
    source = open_source(folder / "p.csv")
    assert seen(source) == PAIRS
    assert [source[index].where for index in range(3)] == [Where(str(folder / "p.csv"), row) for row in (2, 3, 5)]
    assert source.problems == ()


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_separators(make_images: Make, delimiter: str) -> None:
    folder = make_images(1)
    (folder / "p.csv").write_text(f"File Name{delimiter}Title\nimg/000.png{delimiter}a, b\n")
    assert seen(open_source(folder / "p.csv")) == [(0, ("a, b",), 0)]


def test_tsv_and_utf16(make_images: Make) -> None:
    folder = make_images(1)
    (folder / "p.tsv").write_bytes("path\ttext\nimg/000.png\tcafé, 5\u2033\n".encode("utf-16"))
    assert seen(open_source(folder / "p.tsv")) == [(0, ("café, 5\u2033",), 0)]


def test_a_quote_that_never_closes_costs_its_own_row_alone(make_images: Make) -> None:
    folder = make_images(6)
    lines = [
        "image,text",
        "img/000.png,one",
        'img/001.png,"two',
        "img/002.png,three",
        'img/003.png,"four',
        "img/004.png,five",
    ]
    lines += ['img/005.png,"six" and more']
    (folder / "p.csv").write_text("\n".join(lines))
    source = open_source(folder / "p.csv")
    assert [sample[:2] for sample in seen(source)] == [
        (0, ("one",)),
        (20, ("three",)),
        (40, ("five",)),
        (50, ("six and more",)),
    ]
    assert [row for row, reason in reasons(source) if "quote" in reason] == [3, 5]


def test_broken_rows_are_listed(make_images: Make) -> None:
    folder = make_images(2)
    lines = [
        b"image,text",
        b"img/000.png,good",
        b"img/001.png,",
        b",no image",
        b"img/000.png,a, b",
        b"img/000.png",
        b"",
    ]
    lines += [b"img/000.png,  \0 ", b"img/001.png,n\0ul", b"img/000.png,caf\xe9", b"img/000.png,\x81\x8d bytes"]
    (folder / "p.csv").write_bytes(b"\n".join(lines))
    source = open_source(folder / "p.csv")
    assert [sample[:2] for sample in seen(source)] == [(0, ("good",)), (10, ("nul",)), (0, ("café",))]
    found = dict(reasons(source))
    assert set(found) == {3, 4, 5, 6, 8, 10, 11}
    assert "empty" in found[3] and "no image" in found[4] and "3 fields" in found[5] and "1 fields" in found[6]
    assert "empty" in found[8] and "read as Windows-1252" in found[10] and "neither" in found[11]
    assert [problem.where.row for problem in source.problems if problem.used] == [10]


def test_a_named_encoding(make_images: Make) -> None:
    folder = make_images(1)
    (folder / "p.csv").write_bytes("image,text\nimg/000.png,猫\n".encode("shift_jis"))
    assert seen(open_source(folder / "p.csv", encoding="shift_jis")) == [(0, ("猫",), 0)]
    with pytest.raises(InputError, match="cannot be read as utf-8"):
        open_source(folder / "p.csv", encoding="utf-8")
    (folder / "q.csv").write_bytes("image,text\nimg/000.png,a\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="encoding"):
        open_source(folder / "q.csv")


def test_columns_are_found_or_the_error_lists_them(make_images: Make) -> None:
    folder = make_images(2)
    (folder / "p.csv").write_text("id,shot,words,caption_0,caption_1\n1,img/000.png,w,x,y\n2,img/001.png,w,z,\n")
    with pytest.raises(InputError, match="image; the columns there are: id, shot, words, caption_0, caption_1"):
        open_source(folder / "p.csv")
    with pytest.raises(InputError, match="no column 'captoin'; the columns there are: id, shot"):
        open_source(folder / "p.csv", image_column="shot", text_column="captoin")
    source = open_source(folder / "p.csv", image_column="shot")
    assert [sample[1] for sample in seen(source)] == [("x", "y"), ("z",)]
    assert reasons(source) == [(3, "1 of 2 texts are empty")] and source.problems[0].used
    assert seen(open_source(folder / "p.csv", image_column="shot", text_column=["words", "caption_1"]))[0][1] == (
        "w",
        "y",
    )
    (folder / "q.csv").write_text("image,number\nimg/000.png,1\n")
    with pytest.raises(InputError, match="recognised as the text; the columns there are: image, number"):
        open_source(folder / "q.csv")


def test_rows_of_one_image_share_its_id_and_can_be_grouped(make_images: Make) -> None:
    folder = make_images(3)
    (folder / "p.csv").write_text(
        "image,text\nimg/002.png,a\nimg/000.png,b\n./img/002.png,c\nimg/001.png,d\nimg/000.png,e\n"
    )
    source = open_source(folder / "p.csv")
    assert [sample[2] for sample in seen(source)] == [0, 1, 0, 3, 1]
    assert seen(source.grouped()) == [(20, ("a", "c"), 0), (0, ("b", "e"), 1), (10, ("d",), 3)]
    assert seen(source.without([1]).grouped()) == [(20, ("a", "c"), 0), (10, ("d",), 3), (0, ("e",), 1)]


def test_absolute_paths_and_an_image_folder(make_images: Make, tmp_path: Path) -> None:
    folder = make_images(2)
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    (elsewhere / "p.csv").write_text(f"image,text\n{folder / 'img' / '001.png'},a\n../img/000.png,b\n")
    assert [sample[0] for sample in seen(open_source(elsewhere / "p.csv", images=folder / "img"))] == [10, 0]
    with outside_paths():
        assert [sample[0] for sample in seen(open_source(elsewhere / "p.csv"))] == [10, 0]
    (elsewhere / "q.csv").write_text("image,text\n001.png,a\n")
    assert seen(open_source(elsewhere / "q.csv", images=folder / "img"))[0][0] == 10
    with pytest.raises(InputError, match="no such folder"):
        open_source(elsewhere / "q.csv", images=folder / "no")


def test_jsonl(make_images: Make) -> None:
    folder = make_images(3)
    lines = [
        b'{"image": "img/000.png", "captions": ["one", "two"], "n": 1}',
        b"",
        b'{"image": "img/001.png", "captions": "three"}',
        b"{broken",
        b'["a list"]',
        b'{"image": "img/002.png"}',
        b'{"image": "img/002.png", "captions": ["", null, "half \\ud83d"]}',
        b'{"image": 7, "captions": "x"}',
        b'{"image": "img/002.png", "captions": "caf\xe9"}',
    ]
    (folder / "p.jsonl").write_bytes(b"\n".join(lines))
    source = open_source(folder / "p.jsonl")
    texts = [sample[:2] for sample in seen(source)]
    assert texts == [(0, ("one", "two")), (10, ("three",)), (20, ("half \ufffd",)), (20, ("café",))]
    found = dict(reasons(source))
    assert "not JSON" in found[4] and "a list" in found[5] and "no field 'captions'" in found[6] and "int" in found[8]
    assert {problem.where.row for problem in source.problems if problem.used} == {7, 9}


def test_a_json_list_of_records(make_images: Make) -> None:
    folder = make_images(2)
    records = [{"image": "img/000.png", "caption": "a"}, {"image": "img/001.png", "caption": ["b", "c"], "image_id": 3}]
    (folder / "pretrain.json").write_text(json.dumps(records))
    assert [sample[1] for sample in seen(open_source(folder / "pretrain.json"))] == [("a",), ("b", "c")]


def test_parquet_with_paths_lists_and_splits(make_images: Make) -> None:
    folder = make_images(3)
    table = {
        "filepath": ["img/000.png", "img/001.png", None],
        "sentences": [["a", "b"], [""], ["c"]],
        "split": ["train", "train", "test"],
    }
    pq.write_table(pa.table(table), folder / "p.parquet")
    source = open_source(folder / "p.parquet")
    assert seen(source) == [(0, ("a", "b"), 0)]
    assert reasons(source) == [(2, "the text is empty"), (3, "has no image")]
    assert len(open_source(folder / "p.parquet", split="train")) == 1
    with pytest.raises(InputError, match="no usable pair of image and text of the split 'val'"):
        open_source(folder / "p.parquet", split="val")
    (folder / "q.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match="no Parquet table"):
        open_source(folder / "q.parquet")


def test_parquet_that_holds_the_images(tmp_path: Path) -> None:
    pictures = [{"bytes": encoded(picture(level)), "path": None} for level in (30, 40, 30)]
    pq.write_table(pa.table({"image": pictures, "text": ["a", "b", "c"]}), tmp_path / "p.parquet")
    assert seen(open_source(tmp_path / "p.parquet")) == [(30, ("a",), 0), (40, ("b",), 1), (30, ("c",), 0)]


def test_a_split_is_preferred_only_where_there_is_one(make_images: Make) -> None:
    folder = make_images(2)
    (folder / "p.csv").write_text("image,text,split\nimg/000.png,a,train\nimg/001.png,b,test\n")
    assert [sample[1] for sample in seen(open_source(folder / "p.csv", prefer="test"))] == [("b",)]
    (folder / "q.csv").write_text("image,text\nimg/000.png,a\nimg/001.png,b\n")
    assert len(open_source(folder / "q.csv", prefer="test")) == 2
    with pytest.raises(InputError, match="no column 'split'"):
        open_source(folder / "q.csv", split="test")


@pytest.mark.parametrize("content", ["", "image,text\n", "\n\n"])
def test_empty_tables(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match=r"p\.csv: (is empty|holds no usable pair)"):
        open_source(tmp_path / "p.csv")


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,text\nmissing.png,a\nmissing.png,b\n")
    source = open_source(tmp_path / "p.csv")
    assert len(source) == 2 and source[1].texts == ("b",)


def test_what_is_not_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    for data, words in (
        (tmp_path / "no.csv", "no such file"),
        (tmp_path / "a" / "b" / "c", "no such file"),
        (tmp_path / "a.xlsx", "not a kind of data"),
        (tmp_path, "has no images"),
    ):
        with pytest.raises(InputError, match=words):
            open_source(data)


# ------------------------------------------------------------------------------------------------------------ folders
def test_a_folder_with_sidecars(make_images: Make, tmp_path: Path) -> None:
    folder = make_images(5, tmp_path / "data")
    img = folder / "img"
    (img / "000.txt").write_text("one\n\n two \n")
    (img / "001.json").write_text('{"caption": ["three", "four"], "width": 3}')
    (img / "002.txt").write_bytes(b"caf\xe9")
    (img / "003.json").write_text('{"width": 3}')
    (img / ".hidden.png").write_bytes(b"")
    picture(200).save(folder / "top.JPG", quality=95)
    (folder / "top.txt").write_text("top")
    source = open_source(folder)
    assert [sample[:2] for sample in seen(source)] == [
        (200, ("top",)),
        (0, ("one", "two")),
        (10, ("three", "four")),
        (20, ("café",)),
    ]
    found = dict(reasons(source))
    assert set(found) == {"img/002.png", "img/003.png", "img/004.png"}
    assert "Windows-1252" in found["img/002.png"] and "none of the fields" in found["img/003.png"]
    assert "no 004.txt or 004.json" in found["img/004.png"]


def test_an_image_folder_with_a_metadata_table(make_images: Make) -> None:
    folder = make_images(1)
    (folder / "metadata.jsonl").write_text('{"file_name": "img/000.png", "text": "a"}\n')
    assert seen(open_source(folder)) == [(0, ("a",), 0)]


# ------------------------------------------------------------------------------------------------------ caption files
def coco(folder: Path, name: str = "captions_val2017.json") -> Path:
    images = [{"id": 900 + number, "file_name": f"{number:03d}.png"} for number in range(4)]
    said = [(901, "b"), (900, "a"), (901, "b too"), (902, " "), (999, "nobody")]
    annotations = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(said)]
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / name).write_text(json.dumps({"images": images, "annotations": annotations, "info": {}}))
    return folder / "annotations" / name


def test_coco_captions(make_images: Make) -> None:
    folder = make_images(4)
    file = coco(folder)
    source = open_source(file, images=folder / "img")
    assert seen(source) == [(0, ("a",), 900), (10, ("b", "b too"), 901)]
    assert [row for row, _ in reasons(source)] == [902, 903, 999]
    with pytest.raises(InputError, match="say in which folder"):
        open_source(file)
    (folder / "img").rename(folder / "val2017")
    assert len(open_source(file)) == len(open_source(file, images=folder)) == 2
    (folder / "val2017").rename(folder / "images")
    assert seen(open_source(file, images=folder)) == [(0, ("a",), 900), (10, ("b", "b too"), 901)]
    with pytest.raises(InputError, match="no splits"):
        open_source(file, split="train")


def test_coco_without_captions(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}')
    with pytest.raises(InputError, match="no captions"):
        open_source(tmp_path / "instances.json")


def karpathy(folder: Path, place: str | None) -> Path:
    splits = ["train", "restval", "val", "test"]
    entries = [
        {
            "filename": f"{number:03d}.png",
            "split": split,
            "imgid": number,
            "sentences": [{"raw": f"{split} one.", "tokens": [split, "one"]}, {"tokens": [split, "two"]}],
            **({"filepath": place, "cocoid": 70 + number} if place else {}),
        }
        for number, split in enumerate(splits)
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": entries, "dataset": "x"}))
    return folder / "dataset.json"


@pytest.mark.parametrize("place", ["img", "elsewhere", None])
def test_karpathy_splits(make_images: Make, place: str | None) -> None:
    folder = make_images(4)
    file = karpathy(folder, place)
    images = folder if place == "img" else folder / "img"
    ids = [70, 71, 72, 73] if place else [0, 1, 2, 3]
    everything = open_source(file, images=images)
    assert [sample[2] for sample in seen(everything)] == ids
    assert seen(open_source(file, images=images, split="test")) == [(30, ("test one.", "test two"), ids[3])]
    assert seen(open_source(file, images=images, prefer="val"))[0][0] == 20
    assert [sample[0] for sample in seen(open_source(file, images=images, split="train"))] == [0, 10]
    with pytest.raises(
        InputError, match=r"no split 'dev'; there are train \(1\), restval \(1\), val \(1\), test \(1\)"
    ):
        open_source(file, images=images, split="dev")


def test_json_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"hello": 1}')
    with pytest.raises(InputError, match="COCO captions or a Karpathy split"):
        open_source(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: is not JSON"):
        open_source(tmp_path / "a.json")


# ---------------------------------------------------------------------------------------------------- saved data sets
def test_a_folder_that_datasets_saved(make_images: Make, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [picture(10), picture(20), picture(30)]
    features = datasets.Features({"photo": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))})
    texts = [["a", "b"], ["c"], []]
    table = datasets.Dataset.from_dict({"photo": pictures, "caption": texts}, features=features)
    table.save_to_disk(tmp_path / "one")
    source = open_source(tmp_path / "one")
    assert seen(source)[:2] == [(10, ("a", "b"), 0), (20, ("c",), 1)]
    assert source[2].texts == () and source[2].where == Where(str(tmp_path / "one"), 3)
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(tmp_path / "two")
    assert seen(open_source(tmp_path / "two", split="test")) == [(20, ("c",), 0)]
    assert len(open_source(tmp_path / "two", prefer="train")) == 3
    with pytest.raises(InputError, match=r"name one.*train, test"):
        open_source(tmp_path / "two")
    with pytest.raises(InputError, match="no 'val'; its splits are train, test"):
        open_source(tmp_path / "two", split="val")
    with pytest.raises(InputError, match="no column 'text'; the columns there are: photo, caption"):
        open_source(tmp_path / "one", text_column="text")


def test_a_saved_table_of_paths(make_images: Make, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = make_images(2)
    paths = ["img/001.png", "img/000.png", "img/001.png"]
    datasets.Dataset.from_dict({"image": paths, "text": ["a", "b", "c"]}).save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved", images=folder)
    assert seen(source) == [(10, ("a",), 0), (0, ("b",), 1), (10, ("c",), 0)]
    assert seen(source.grouped()) == [(10, ("a", "c"), 0), (0, ("b",), 1)]


# ---------------------------------------------------------------------------------------------------------- in memory
def test_pairs_in_memory() -> None:
    one = picture(50)
    own = Sample(torch.zeros(4, 2, 2), ("x",), 99, Where("mine", 1))
    source = open_source([(one, "a"), (np.full((2, 2, 3), 60, np.uint8), ["b", "c"]), (one, "d"), own])
    assert isinstance(source, InMemory)
    assert [source[index].id for index in range(4)] == [0, 1, 0, 99]
    assert [source.grouped()[index].texts for index in range(3)] == [("a", "d"), ("b", "c"), ("x",)]
    assert open_source(source) is source
    with pytest.raises((InputError, TypeError)):
        open_source(["just a text"])  # type: ignore[list-item]


def test_one_row_that_is_no_utf8_costs_its_row_alone(make_images: Callable[..., Path]) -> None:
    folder = make_images(3)
    texts = pa.array([b"one", b"t\xffwo", b"three"], pa.binary()).view(pa.string())
    table = pa.table({"image": [f"img/{n:03d}.png" for n in range(3)], "caption": texts})
    pq.write_table(table, folder / "t.parquet")
    source = open_source(folder / "t.parquet")
    assert [sample.texts for sample in source] == [("one",), ("three",)]
    assert source.problems[0].where.row == 2 and "utf-8" in source.problems[0].reason


def test_offsets_of_a_saved_set_that_lead_out_of_its_text_are_refused(make_images: Callable[..., Path]) -> None:
    datasets = pytest.importorskip("datasets")
    folder = make_images(2)
    rows = {"image": [f"img/{n:03d}.png" for n in range(2)], "text": ["a" * 7, "b" * 11]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder / "set"))
    assert len(open_source(folder / "set", images=folder)) == 2
    (file,) = (folder / "set").glob("*.arrow")
    sound, far = (np.array([0, 7, end], "<i4").tobytes() for end in (18, 1 << 30))
    assert file.read_bytes().count(sound) == 1
    file.write_bytes(file.read_bytes().replace(sound, far))
    with pytest.raises(InputError, match="set"):
        open_source(folder / "set", images=folder)
