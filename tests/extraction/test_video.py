from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from video_files import make_sound, make_video

from coalign.data.core.parts import Part
from coalign.data.videos.clip_features import read_features
from coalign.errors import InputError
from coalign.extraction.boxes import Extract as Boxes
from coalign.extraction.frames import Extract as Frames
from coalign.extraction.video import extract_folder
from coalign.types import Batch, Encoding, InputSpec, VideoSpec

SPEC = InputSpec(video=VideoSpec(16, 4, 10.0))


class Means(nn.Module):
    """The mean of each frame of a clip, and how many clips it has seen; stops when it has seen too many."""

    def __init__(self, stop_after: int = 1000) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen, self.stop_after = 0, stop_after

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        assert batch.video is not None and batch.video.frames is not None
        if self.seen + len(batch) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(batch)
        return Encoding({}, {"video_feature": batch.video.frames.mean((2, 3, 4))})


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name, count in (("a", 50), ("sub/b", 23)):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "videos" / f"{name}.mp4", count, key_frames=9)
    make_sound(tmp_path / "videos" / "sound.mp4")
    return tmp_path / "videos"


def all_features(folder: Path) -> dict[str, Any]:
    return {path.stem: read_features(path) for path in sorted(folder.glob("*.safetensors"))}


def test_one_file_a_video_and_the_rest_is_listed(videos: Path, tmp_path: Path) -> None:
    done = extract_folder(videos, tmp_path / "out", Means(), SPEC, batch_size=3)
    assert (done.videos, done.clips, done.known, done.broken) == (2, 13 + 6, 0, 1)
    found = all_features(tmp_path / "out")
    assert list(found) == ["a", "sub__b"]
    features, times = found["sub__b"]
    assert features.shape == (6, 4) and times[1].tolist() == pytest.approx([0.4, 0.8])
    assert features[-1, 3] == 0 and features[-1, 2] > 0  # 23 frames: the last clip has three
    assert "sound only" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert extract_folder(videos, tmp_path / "out", Means(0), SPEC).known == 2


def test_parts_make_the_files_of_one_extraction(videos: Path, tmp_path: Path) -> None:
    extract_folder(videos, tmp_path / "whole", Means(), SPEC)
    for number, (made, missing) in enumerate([((1, 13), 2), ((0, 0), 1), ((1, 6), 0)]):
        done = extract_folder(videos, tmp_path / "out", Means(), SPEC, part=Part(number, 3))
        assert ((done.videos, done.clips), done.missing) == (made, missing)
    assert done.broken == 1  # which another part listed
    whole, parts = all_features(tmp_path / "whole"), all_features(tmp_path / "out")
    assert list(whole) == list(parts)
    for name in whole:
        assert all(a.equal(b) for a, b in zip(whole[name], parts[name], strict=True))
    again = extract_folder(videos, tmp_path / "out", Means(0), SPEC, part=Part(0, 3))
    assert (again.videos, again.known, again.missing) == (0, 1, 0)


def test_killed_it_goes_on_after_the_last_clip(videos: Path, tmp_path: Path) -> None:
    extract_folder(videos, tmp_path / "whole", Means(), SPEC, batch_size=3)
    killed = Means(stop_after=7)
    with pytest.raises(KeyboardInterrupt):
        extract_folder(videos, tmp_path / "out", killed, SPEC, batch_size=3)
    assert killed.seen == 6 and not all_features(tmp_path / "out")
    (part,) = (tmp_path / "out").glob(".*.rows")
    with part.open("ab") as file:  # a row that was being written
        file.write(b"half a row")
    again = Means()
    extract_folder(videos, tmp_path / "out", again, SPEC, batch_size=3)
    assert again.seen == 13 - 6 + 6
    whole, resumed = all_features(tmp_path / "whole"), all_features(tmp_path / "out")
    for name in whole:
        for a, b in zip(whole[name], resumed[name], strict=True):
            torch.testing.assert_close(a, b)
    assert not list((tmp_path / "out").glob(".*"))


def test_clips_closer_together(videos: Path, tmp_path: Path) -> None:
    extract_folder(videos, tmp_path / "out", Means(), SPEC, step=0.2)
    assert all_features(tmp_path / "out")["a"][1][:3, 0].tolist() == pytest.approx([0, 0.2, 0.4])


def test_bad_input_is_one_line(videos: Path, tmp_path: Path) -> None:
    extract_folder(videos, tmp_path / "out", Means(), SPEC)
    with pytest.raises(InputError, match="made in another way"):
        extract_folder(videos, tmp_path / "out", Means(), SPEC, step=0.2)
    with pytest.raises(InputError, match="no folder of videos"):
        extract_folder(tmp_path / "nowhere", tmp_path / "out", Means(), SPEC)
    (tmp_path / "x.safetensors").write_text("no")
    with pytest.raises(InputError, match="not the features of a video"):
        read_features(tmp_path / "x.safetensors")
    make_video(videos / "a.mkv", 3)
    with pytest.raises(InputError, match="same name"):
        extract_folder(videos, tmp_path / "out", Means(), SPEC)


def test_pictures_of_a_video_stay_in_the_folder_and_names_do_not_clash(videos: Path, tmp_path: Path) -> None:
    (videos / "..hidden").mkdir()
    make_video(videos / "..hidden" / "x.mp4", 4)
    for part in ("0/2", "1/2"):
        there = [path for path in (tmp_path / "deep").glob("out/[!.]*") if path.is_dir()]
        assert bool(there) == (part == "1/2")
        Frames(videos=videos, out=tmp_path / "deep" / "out", short_side=16, part=part).run()
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    folders = {path.name for path in (tmp_path / "deep" / "out").iterdir() if path.is_dir()}
    assert folders == {"a", "sub__b", "..hidden__x"}
    make_video(videos / "sub__b.mp4", 3)
    with pytest.raises(InputError, match="same name"):
        Frames(videos=videos, out=tmp_path / "other", short_side=16).run()
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("picture,x1,y1,x2,y2,label\n../../a/0000000,0,0,1,1,red\n/a/0000000,0,0,1,1,red\n")
    with pytest.raises(InputError, match="boxes of none"):
        Boxes(pictures=tmp_path / "deep" / "out", boxes=boxes, out=tmp_path / "regions").run()
    assert not (tmp_path / "regions").exists()
