"""Labelled images in every form that is read, and what becomes of bad ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from files import encoded, noise, picture
from PIL import Image

from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.images.labelled_images import Classes, LabelledBatch, LabelledImages, open_images, open_labelled
from coalign.data.images.mixing import Mixing
from coalign.data.images.transforms import ImageOptions, ImageTransform
from coalign.data.pairs.loader import Loader
from coalign.errors import InputError
from coalign.types import Batch, ImageSpec, InputSpec

SPEC = InputSpec(image=ImageSpec.square(16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))


def put(path: Path, colour: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(colour).save(path)
    return path


def folder(root: Path, names: Sequence[str] = ("cat", "dog"), count: int = 2) -> Path:
    for number, name in enumerate(names):
        for place in range(count):
            put(root / name / f"{place}.png", 40 * number + place)
    return root


def seen(data: LabelledImages) -> list[tuple[str, int]]:
    """(class, number) of every sample, by way of the sample."""
    return [(data[i].texts[0], int(data.labels[data[i].id])) for i in range(len(data))]


def test_a_folder_of_class_folders_is_numbered_in_the_order_of_the_names(tmp_path: Path) -> None:
    folder(tmp_path, ("dog", "cat"))
    put(tmp_path / "cat" / "deeper" / "x.jpg")
    put(tmp_path / "stray.png")
    data = open_labelled(tmp_path)
    assert data.classes.names == ("cat", "dog")
    assert seen(data) == [("cat", 0)] * 3 + [("dog", 1)] * 2
    assert [str(problem.where.row) for problem in data.problems] == ["stray.png"]
    assert "no class folder" in data.problems[0].reason


def test_imagenet_layout_and_its_splits(tmp_path: Path) -> None:
    folder(tmp_path / "train", ("n01440764", "n01443537"), 3)
    folder(tmp_path / "val", ("n01440764", "n01443537"), 1)
    (tmp_path / "test").mkdir()
    put(tmp_path / "test" / "unlabelled.png")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    train = open_labelled(tmp_path, prefer=("train",))
    assert len(train) == 6 and train.classes.shown == ("tench, Tinca tinca", "goldfish")
    assert len(open_labelled(tmp_path, prefer=("test", "val"))) == 2  # the test folder has no classes
    assert len(open_labelled(tmp_path, split="validation")) == 2
    (tmp_path / "notes").mkdir()  # another folder beside the splits is no class
    assert len(open_labelled(tmp_path, split="val")) == 2
    folder(tmp_path / "vehicles", ("boat", "train"), 1)
    assert open_labelled(tmp_path / "vehicles").classes.names == ("boat", "train")
    with pytest.raises(InputError, match=r"name the split.*notes, test, train, val"):
        open_labelled(tmp_path)
    with pytest.raises(InputError, match="no split 'dev2'"):
        open_labelled(tmp_path, split="dev2")
    with pytest.raises(InputError, match="no folder for each split"):
        open_labelled(tmp_path / "train", split="val")


def test_a_flat_validation_folder_is_read_with_kaggles_solutions(tmp_path: Path) -> None:
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    folder(root / "train", ("n01440764", "n01443537"))
    for number in range(3):
        put(root / "val" / f"ILSVRC2012_val_0000000{number}.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000000,n01443537 1 2 3 4\nILSVRC2012_val_00000001,n01440764 1 2 3 4"
        " n01440764 1 2 3 4\n"
    )
    data = open_labelled(root, split="val", classes=open_labelled(root, split="train").classes)
    assert seen(data) == [("n01443537", 1), ("n01440764", 0)]
    assert len(data.problems) == 1  # one image has no solution


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, kind: str) -> None:
    folder(tmp_path, ("a",), 4)
    rows = [{"file": f"a/{i}.png", "label": label, "split": split} for i, (label, split) in enumerate(zip([10, 9, 10, 2], ["train", "train", "val", "val"], strict=True))]  # fmt: skip  # noqa: E501
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text("file,label,split\n" + "".join(f"{r['file']},{r['label']},{r['split']}\n" for r in rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    data = open_labelled(path, prefer=("train",))
    assert data.classes.names == ("9", "10") and data.labels.tolist() == [1, 0]  # numbers in the order of numbers
    held = open_labelled(path, split="val", classes=data.classes)
    assert held.labels.tolist() == [1] and "'2' is none of the 2 known" in held.problems[0].reason
    with pytest.raises(InputError, match="no image is of a known class; its classes are 10, 2, known are 7"):
        open_labelled(path, split="val", classes=Classes.of(["7"]))


def test_tables_without_a_class_column_say_so(tmp_path: Path) -> None:
    folder(tmp_path, ("a",), 1)
    (tmp_path / "t.csv").write_text("image,words\na/0.png,hello\n")
    with pytest.raises(InputError, match="no column is recognised as the label; the columns there are: image, words"):
        open_labelled(tmp_path / "t.csv")
    assert seen(open_labelled(tmp_path / "t.csv", label_column="words")) == [("hello", 0)]


def test_data_sets_of_the_library_bring_the_names_of_their_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ape", "bee"])})
    table = datasets.Dataset.from_dict(
        {"img": [{"bytes": encoded(picture(i)), "path": None} for i in range(3)], "label": [2, 0, 2]}, features=features
    )
    table.save_to_disk(tmp_path / "saved")
    data = open_labelled(tmp_path / "saved")
    assert data.classes.names == ("zebra", "ape", "bee")
    assert seen(data) == [("bee", 2), ("zebra", 0), ("bee", 2)]
    assert len(open_images(tmp_path / "saved")) == 3


def test_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, label in enumerate(["7", "11", "7"]):
            for name, raw in ((f"{number}.png", encoded(picture(number))), (f"{number}.cls", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
    assert open_labelled(tmp_path / "0.tar").labels.tolist() == [0, 1, 0]
    assert len(open_images(tmp_path)) == 3


def test_pairs_in_memory() -> None:
    data = open_labelled([(noise(), "b"), (noise(seed=1), "a")])
    assert seen(data) == [("b", 1), ("a", 0)]


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("c.txt", "dog\n\ncat\n", ("dog", "cat")),
        ("c.json", '["dog", "cat"]', ("dog", "cat")),
        ("c.json", '{"dog": 1, "cat": 0}', ("cat", "dog")),
        ("c.json", '{"0": ["n02", "cat"], "1": ["n01", "dog"]}', ("n02", "n01")),
        ("c.json", '{"names": ["x", "y"], "shown": ["1", "2"]}', ("x", "y")),
    ],
)
def test_lists_of_classes(tmp_path: Path, name: str, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text)
    assert Classes.load(tmp_path / name).names == names


def test_a_run_keeps_its_classes(tmp_path: Path) -> None:
    classes = Classes.of(["a", "b"], ["A", "B"])
    (tmp_path / "classes.json").write_text(json.dumps(classes.to_json()))
    assert Classes.load(tmp_path) == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"a": 0, "b": 2}', "0 to 1"), ('["a", "a"]', "'a' is listed twice"), ("7", "not a list"), ("[", "not JSON")],
)
def test_bad_lists_of_classes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Classes.load(tmp_path / "c.json")


def test_an_empty_class_folder_is_an_error_unless_allowed(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"bird: a class folder with no image in it; .*--allow-empty"):
        open_labelled(tmp_path)
    data = open_labelled(tmp_path, allow_empty=True)
    assert data.classes.names == ("bird", "cat", "dog") and data.labels.tolist() == [1, 1, 2, 2]
    with pytest.raises(InputError, match="has no class folders"):
        open_labelled(put(tmp_path / "flat" / "a.png").parent)


# --------------------------------------------------------------------------------------------------------- bad images
def bad_folder(root: Path) -> Path:
    """One class of sound but odd images, one of images that cannot be used."""
    (root / "odd").mkdir(parents=True)
    (root / "bad").mkdir()
    odd = root / "odd"
    Image.new("RGB", (1, 1), (255, 0, 0)).save(odd / "one_pixel.png")
    Image.new("L", (9, 9), 128).save(odd / "grey.png")
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(odd / "cmyk.jpg", quality=100)
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255] + [0] * 750)
    palette.paste(0, (0, 0, 9, 4))
    palette.save(odd / "palette.png", transparency=0)
    Image.new("RGB", (9, 9), (0, 255, 0)).save(
        odd / "animated.gif", save_all=True, append_images=[Image.new("RGB", (9, 9), (255, 0, 0))]
    )
    turned = Image.new("RGB", (8, 4), (255, 255, 255))
    turned.paste((0, 0, 0), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned.save(odd / "rotated.jpg", exif=exif, quality=100)
    Image.new("RGB", (1, 5000), (10, 20, 30)).save(odd / "strip.png")
    raw = encoded(noise())
    (root / "bad" / "cut_short.png").write_bytes(raw[: len(raw) // 2])
    (root / "bad" / "not_an_image.jpg").write_bytes(b"hello")
    (root / "bad" / "empty.png").write_bytes(b"")
    huge = Image.new("1", (20_000, 20_000))
    huge.save(root / "bad" / "huge.png")  # 50 MB of bits, some kB as a file
    put(root / "bad" / "sound.png")
    return root


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_images_are_listed_and_left_out_and_odd_ones_are_used(tmp_path: Path) -> None:
    data, quarantine = open_labelled(bad_folder(tmp_path / "data")), Quarantine(tmp_path / "quarantine.jsonl")
    with pytest.raises(InputError, match=r"4 of 12 samples .* are broken, more than the 10% allowed"):
        check_source(data, quarantine=quarantine)
    checked = check_source(data, limit=0.5, quarantine=quarantine)
    assert checked.broken == 4 and len(checked.source) == 8
    reasons = {
        Path(json.loads(line)["image"]).name: json.loads(line)["reason"]
        for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()
    }
    assert reasons.keys() == {"cut_short.png", "not_an_image.jpg", "empty.png", "huge.png"}
    assert "damaged" in reasons["cut_short.png"] and "400000000 pixels" in reasons["huge.png"]
    collate = LabelledBatch(data.labels, len(data.classes))
    loader = Loader(checked.source, SPEC, None, 8, train=False, collate=collate, options=ImageOptions(resize="crop"))
    (batch,) = loader
    assert batch.images is not None and batch.images.pixels is not None and batch.ids is not None
    images = {Path(str(data[i].image)).name: x for i, x in zip(batch.ids.tolist(), batch.images.pixels, strict=True)}
    assert batch.labels.label.tolist() == [0] + [1] * 7
    middle = {name: [round(v, 1) for v in x[:, 8, 8].tolist()] for name, x in images.items()}
    assert middle["one_pixel.png"] == [1.0, 0.0, 0.0]
    assert middle["grey.png"] == [0.5, 0.5, 0.5]
    assert middle["cmyk.jpg"] == [1.0, 0.0, 0.0]
    assert middle["animated.gif"] == [0.0, 1.0, 0.0]  # the first frame
    assert images["palette.png"][:, 1, 8].tolist() == pytest.approx([1, 1, 1], abs=0.05)  # white shines through
    assert images["palette.png"][:, 14, 8].tolist() == pytest.approx([0, 0, 1], abs=0.05)
    assert float(images["rotated.jpg"][0, 1].mean()) < 0.1 and float(images["rotated.jpg"][0, 14].mean()) > 0.9
    assert images["strip.png"].shape == (3, 16, 16)


def test_evaluation_leaves_out_what_breaks_later_and_training_takes_another(tmp_path: Path) -> None:
    data = open_labelled(folder(tmp_path))
    (tmp_path / "cat" / "0.png").write_bytes(b"gone bad since")
    collate = LabelledBatch(data.labels, 2)
    quarantine = Quarantine()
    (held,) = Loader(data, SPEC, None, 4, train=False, collate=collate, quarantine=quarantine)
    assert held.labels.label.tolist() == [0, 1, 1] and quarantine.broken == 1
    (trained,) = Loader(data, SPEC, None, 4, collate=collate)
    assert len(trained) == 4 and data.labels[trained.ids].equal(trained.labels.label)


# ------------------------------------------------------------------------------------------------------ augmentation
def batches(data: LabelledImages, mixing: Mixing | None, options: ImageOptions | None = None) -> list[Batch]:
    collate = LabelledBatch(data.labels, len(data.classes), mixing)
    loader = Loader(data, SPEC, None, 4, collate=collate, options=options)
    return [batch for _ in range(4) for batch in loader]


def plain(batch: Batch) -> torch.Tensor:
    assert batch.images is not None and batch.images.pixels is not None
    return batch.images.pixels


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_mixes_labels_as_it_mixes_pixels(tmp_path: Path, kind: str) -> None:
    """Black and white classes: the mean of an image tells its share of white."""
    for name, colour in (("black", 0), ("white", 255)):
        for number in range(4):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (colour,) * 3).save(path)
    data = open_labelled(tmp_path)
    mixing = Mixing(mixup=1.0) if kind == "mixup" else Mixing(cutmix=1.0)
    found = batches(data, mixing)
    shares = torch.cat([batch.labels.label for batch in found])
    assert shares.shape[1] == 2 and torch.allclose(shares.sum(1), torch.ones(len(shares)))
    white = torch.cat([plain(batch).mean((1, 2, 3)) for batch in found])
    assert torch.allclose(white, shares[:, 1], atol=1e-5)
    assert ((shares > 0.02) & (shares < 0.98)).any()
    again = batches(data, mixing)
    assert all(plain(a).equal(plain(b)) for a, b in zip(found, again, strict=True))
    unmixed = batches(data, Mixing(mixup=1.0, cutmix=1.0, chance=0.0))
    assert all(set(batch.labels.label.flatten().tolist()) == {0.0, 1.0} for batch in unmixed)


def test_random_erasing_fills_a_rectangle_with_noise(tmp_path: Path) -> None:
    data = open_labelled(folder(tmp_path))
    alone = ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    whole = torch.cat([plain(batch) for batch in batches(data, None, alone)])
    erased = torch.cat([plain(batch) for batch in batches(data, None, ImageOptions(erase=1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0)))])  # fmt: skip  # noqa: E501
    changed = (whole - erased).abs().amax(1) > 1e-6
    shares = changed.flatten(1).float().mean(1)
    assert (shares > 0).all() and (shares < 0.6).all()
    assert erased[changed.unsqueeze(1).expand_as(erased)].std() > 0.5


def test_randaugment_changes_pictures_by_the_seed_of_each(tmp_path: Path) -> None:
    data = open_labelled(folder(tmp_path))
    alone = ImageOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    strong = replace(alone, randaugment=2, magnitude=20)
    whole, turned, again = (
        torch.cat([plain(batch) for batch in batches(data, None, options)]) for options in (alone, strong, strong)
    )
    changed = (whole - turned).abs().amax((1, 2, 3)) > 0.05
    assert changed.float().mean() > 0.3 and turned.equal(again)


# -------------------------------------------------------------------------------------------------- without labels
def test_images_alone(tmp_path: Path) -> None:
    folder(tmp_path / "pictures", ("a", "b"))
    put(tmp_path / "pictures" / "top.png")
    assert len(open_images(tmp_path / "pictures")) == 5
    folder(tmp_path / "net" / "train", ("a",), 3)
    folder(tmp_path / "net" / "val", ("a",), 1)
    assert len(open_images(tmp_path / "net")) == 3  # never the held-out ones
    (tmp_path / "t.csv").write_text("image\npictures/top.png\npictures/a/0.png\n")
    data = open_images(tmp_path / "t.csv")
    assert len(data) == 2 and data[1].texts == (f"{tmp_path / 't.csv'}, row 3",)
    assert check_source(data).broken == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no usable image"):
        open_images(tmp_path / "none")


def test_evaluation_keeps_a_share_of_the_shorter_side() -> None:
    """The middle half of a picture whose outer quarters are white."""
    image = Image.new("RGB", (64, 48), (255, 255, 255))
    image.paste((0, 0, 0), (20, 12, 44, 36))
    whole = ImageTransform(SPEC, ImageOptions(resize="crop"))(image)
    middle = ImageTransform(SPEC, ImageOptions(resize="crop", keep=0.5))(image)
    assert whole[0, 0, 0] > 0.9 and middle.shape == (3, 16, 16) and middle.abs().max() < 0.2
