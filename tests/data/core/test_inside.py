"""Paths in data, and links in its folder, stay in that folder unless a flag lets them out."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from coalign.cli.main import main
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.images.decode import BadSample
from coalign.data.images.labelled_images import open_images, open_labelled
from coalign.data.pairs.hub import open_rows
from coalign.data.pairs.sources import open_source
from coalign.data.questions.pictures import picture_files
from coalign.data.regions.files import open_regions
from coalign.data.series.audio import read_sound
from coalign.data.series.sources import open_series
from coalign.data.series.table import Extraction, read_utterances
from coalign.data.texts.documents import open_documents
from coalign.data.videos.clip_features import ClipFeatures
from coalign.data.videos.decode import find_videos, probe_video
from coalign.data.videos.subtitles import subtitles_beside
from coalign.data.videos.write import write_video
from coalign.errors import InputError
from coalign.files import OUTSIDE, Inside, outside_paths

Case = Callable[[Path, Path], Callable[[], object]]
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    """Writes hostile data into `own`, which leads to a file in `other`; gives what reads it."""
    CASES[make.__name__] = make
    return make


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    return path


def link(path: Path, to: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to, target_is_directory=to.is_dir())
    return path


def table(path: Path, image: str) -> Callable[[], object]:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "text"], [image, "red"]])
    return lambda: open_source(path)[0]


@case
def absolute(own: Path, other: Path) -> Callable[[], object]:
    return table(own / "t.csv", str(picture(other / "a.png")))


@case
def upwards(own: Path, other: Path) -> Callable[[], object]:
    picture(other / "a.png")
    return table(own / "t.csv", "../other/a.png")


@case
def linked_picture(own: Path, other: Path) -> Callable[[], object]:
    link(own / "a.png", picture(other / "a.png"))
    return table(own / "t.csv", "a.png")


@case
def linked_folder(own: Path, other: Path) -> Callable[[], object]:
    picture(other / "a.png")
    link(own / "images", other)
    return table(own / "t.csv", "images/a.png")


@case
def coco(own: Path, other: Path) -> Callable[[], object]:
    images = [{"id": 1, "file_name": str(picture(other / "a.png"))}]
    said = {"images": images, "annotations": [{"image_id": 1, "caption": "red"}]}
    (own / "captions.json").write_text(json.dumps(said))
    return lambda: open_source(own / "captions.json")[0]


@case
def karpathy(own: Path, other: Path) -> Callable[[], object]:
    picture(other / "a.png")
    said = {"images": [{"filename": "a.png", "filepath": "../other", "sentences": [{"raw": "red"}]}]}
    (own / "split.json").write_text(json.dumps(said))
    return lambda: open_source(own / "split.json")[0]


@case
def metadata(own: Path, other: Path) -> Callable[[], object]:
    table(other / "t.csv", str(picture(own / "a.png")))
    link(own / "metadata.csv", other / "t.csv")
    return lambda: open_source(own)[0]


@case
def text_beside(own: Path, other: Path) -> Callable[[], object]:
    picture(own / "a.png")
    (other / "secret").write_text("a password")
    link(own / "a.txt", other / "secret")
    return lambda: open_source(own)[0]


@case
def folder_of_pictures(own: Path, other: Path) -> Callable[[], object]:
    (own / "a.txt").write_text("red")
    link(own / "a.png", picture(other / "a.png"))
    return lambda: open_source(own)[0]


@case
def class_folder(own: Path, other: Path) -> Callable[[], object]:
    picture(own / "here" / "a.png")
    link(own / "there", picture(other / "b.png").parent)
    return lambda: open_labelled(own)[1]


@case
def split_folder(own: Path, other: Path) -> Callable[[], object]:
    link(own / "train", picture(other / "x" / "b.png").parents[1])
    picture(own / "val" / "x" / "a.png")
    return lambda: open_labelled(own, split="train")[0]


@case
def unlabelled(own: Path, other: Path) -> Callable[[], object]:
    link(own / "a.png", picture(other / "b.png"))
    return lambda: open_images(own)[0]


@case
def shards(own: Path, other: Path) -> Callable[[], object]:
    (other / "a.txt").write_text("red")
    picture(other / "a.png")
    with tarfile.open(other / "a.tar", "w") as file:
        for name in ("a.png", "a.txt"):
            file.add(other / name, name)
    link(own / "a.tar", other / "a.tar")
    return lambda: open_source(own)[0]


@case
def saved_paths(own: Path, other: Path) -> Callable[[], object]:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [str(picture(other / "a.png"))], "text": ["red"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(own / "set"))
    return lambda: open_source(own / "set")[0]


@case
def saved_files(own: Path, other: Path) -> Callable[[], object]:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [picture(own / "set" / "a.png").name], "text": ["red"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(own / "set"))
    state = json.loads((own / "set" / "state.json").read_text())
    (name,) = (file["filename"] for file in state["_data_files"])
    (own / "set" / name).rename(other / name)
    state["_data_files"] = [{"filename": str(other / name)}]
    (own / "set" / "state.json").write_text(json.dumps(state))
    return lambda: open_source(own / "set")[0]


@case
def saved_files_beside_splits(own: Path, other: Path) -> Callable[[], object]:
    read = saved_files(own, other)
    (own / "set" / "dataset_dict.json").write_text('{"splits": []}')
    return read


@case
def questions(own: Path, other: Path) -> Callable[[], object]:
    link(own / "a.png", picture(other / "a.png"))
    return lambda: picture_files(own)


@case
def regions_by_image(own: Path, other: Path) -> Callable[[], object]:
    np.savez(other / "a.npz", features=np.ones((2, 4)), norm_bb=np.zeros((2, 6)))
    link(own / "a.npz", other / "a.npz")
    return lambda: open_regions(own)["a"]


@case
def regions_in_shards(own: Path, other: Path) -> Callable[[], object]:
    tensors = {"features": torch.ones(2, 4), "boxes": torch.zeros(2, 4), "offsets": torch.tensor([0, 2])}
    save_file(tensors, other / "0.safetensors", metadata={"ids": '["a"]'})
    link(own / "0.safetensors", other / "0.safetensors")
    return lambda: open_regions(own)


@case
def clip_features(own: Path, other: Path) -> Callable[[], object]:
    save_file({"features": torch.ones(1, 4), "times": torch.zeros(1, 2)}, other / "a.safetensors")
    link(own / "a.safetensors", other / "a.safetensors")
    return lambda: ClipFeatures(own)


@case
def series(own: Path, other: Path) -> Callable[[], object]:
    (other / "a.csd").write_bytes(b"")
    link(own / "a.csd", other / "a.csd")
    return lambda: open_series(own)


@case
def utterances(own: Path, other: Path) -> Callable[[], object]:
    (other / "a.wav").write_bytes(b"RIFF")
    (own / "t.csv").write_text(f"text,label,audio\nso good,1,{other / 'a.wav'}\n")
    return lambda: read_utterances(own / "t.csv", Extraction())


@case
def documents(own: Path, other: Path) -> Callable[[], object]:
    (other / "secret").write_text("a password")
    link(own / "a.txt", other / "secret")
    return lambda: open_documents(own)


@case
def videos(own: Path, other: Path) -> Callable[[], object]:
    (other / "a.mp4").write_bytes(b"")
    link(own / "a.mp4", other / "a.mp4")
    return lambda: find_videos(own)


@case
def subtitles(own: Path, other: Path) -> Callable[[], object]:
    (other / "secret").write_text("a password")
    link(own / "a.srt", other / "secret")
    return lambda: subtitles_beside(own / "a.mp4")


@pytest.mark.parametrize("lists", [False, True])
def test_pictures_that_nothing_asks_for_are_not_followed(
    own: Path, lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    address = {"path": "http://127.0.0.1/a.png", "bytes": None}
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    kinds = datasets.Features(extra=datasets.List(stored) if lists else stored, text=datasets.Value("string"))
    rows = {"extra": [[address] if lists else address], "text": ["red"]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(own / "set"))
    about = json.loads((own / "set" / "dataset_info.json").read_text())
    about["features"]["extra"] = {"_type": "List", "feature": {"_type": "Image"}} if lists else {"_type": "Image"}
    (own / "set" / "dataset_info.json").write_text(json.dumps(about))
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("the address is followed"))
    _, read = open_rows(str(own / "set"))
    assert [row["text"] for row in read] == ["red"]


@pytest.mark.skipif(os.name == "nt", reason="no file has such a name there")
def test_a_video_is_a_file_and_no_list_or_address_of_others(
    own: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    film = write_video(other / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 4)
    assert probe_video(film).width == 32
    (own / "a.mp4").write_text("ffconcat version 1.0\nfile link.mp4\n")
    link(own / "link.mp4", film)
    (own / "a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n")
    for name in ("a.mp4", "a.m3u8"):
        with pytest.raises(InputError, match=rf"{name}: is a playlist of other files"):
            probe_video(own / name)
        with pytest.raises(InputError, match=rf"{name}: is a playlist of other files"):
            read_sound(own / name)
    monkeypatch.chdir(own)
    alias = Path(f"file:{film}")
    alias.parent.mkdir(parents=True)
    alias.write_bytes(b"no video")
    with pytest.raises(InputError, match="not a readable video"):
        probe_video(alias)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    return tmp_path / "other"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("name", CASES)
def test_what_leads_out_is_refused_and_allowed_by_the_flag(name: str, own: Path, other: Path) -> None:
    read = CASES[name](own, other)
    with pytest.raises(InputError, match=r"leads out of .*--outside-paths") as caught:
        read()
    assert str(own) in str(caught.value)
    with outside_paths():
        try:
            assert read() is not None
        except InputError as error:  # an empty .csd, half a .wav
            assert name in ("series", "utterances") and "leads out" not in str(error)


def test_what_stays_inside_is_read(own: Path, other: Path) -> None:
    picture(own / "images" / "a.png")
    (own / "b.png").symlink_to("images/a.png")
    for said in ("images/a.png", str(own / "images" / "a.png"), "images/../images/a.png", "b.png", "none.png"):
        assert table(own / "t.csv", said)() is not None
    (other / "alias").symlink_to(own, target_is_directory=True)
    assert table(other / "alias" / "t.csv", str(own / "b.png"))()
    assert table(own / "t.csv", str(other / "alias" / "b.png"))()


def test_the_folder_of_images_may_be_anywhere_and_paths_in_it_absolute(own: Path, other: Path) -> None:
    table(own / "t.csv", str(picture(other / "a.png")))
    assert open_source(own / "t.csv", images=other)[0]
    assert open_source(own / "t.csv", images="/")[0]
    with pytest.raises(BadSample, match=r"leads out of .*--images FOLDER .* or --outside-paths"):
        open_source(own / "t.csv", images=(own / "x").mkdir() or own / "x")[0]
    table(own / "t.csv", "../other/a.png")  # --images would change what it is relative to
    with pytest.raises(BadSample, match=r"if that is meant: --outside-paths$"):
        open_source(own / "t.csv")[0]


def test_one_row_that_leads_out_is_left_out_and_listed(own: Path, other: Path) -> None:
    picture(own / "a.png")
    picture(other / "b.png")
    (own / "t.csv").write_text("image,text\na.png,red\n../other/b.png,red\n")
    quarantine = Quarantine()
    checked = check_source(open_source(own / "t.csv"), limit=0.5, quarantine=quarantine)
    assert len(checked.source) == 1 and "leads out" in quarantine.summary()
    with pytest.raises(InputError, match=r"t\.csv, row 3 \(\.\./other/b\.png\): leads out .*--outside-paths"):
        check_source(open_source(own / "t.csv"))


def test_a_folder_whose_name_begins_alike_is_another(own: Path) -> None:
    kept = Inside(own)
    assert kept.refusal(f"{own}er/a.png") and kept.refusal(own.parent) and kept.refusal(f"{own}/..")
    assert not kept.refusal(own) and not kept.refusal(own / "a") and not kept.refusal(f"{own}/no\0name")


def test_the_flag_is_the_same_for_every_command(
    own: Path, other: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OUTSIDE, raising=False)
    read, given = table(own / "t.csv", str(picture(other / "a.png"))), list[list[str]]()

    def command(name: str, words: list[str]) -> int:
        given.append([name, *words])
        return 0 if read() else 1

    monkeypatch.setattr("coalign.cli.main.run_command", command)
    for words, status in (
        (["train", "x"], 2),
        (["--outside-paths", "train", "x"], 0),
        (["train", "--outside-paths", "x"], 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == status and given[-1] == ["train", "x"] and OUTSIDE not in os.environ
    assert "t.csv, row 2" in capsys.readouterr().err
