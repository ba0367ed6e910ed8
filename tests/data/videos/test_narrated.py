from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from video_files import make_sound, make_video, number_of

from coalign.data.core.batches import Batches
from coalign.data.videos.narrated import ClipBags, Moment, Moments, bag_of, clip_start, open_narrated, without
from coalign.data.videos.subtitles import Narration
from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.types import InputSpec, TextSpec, VideoSpec

WORDS = WordList(["pour", "the", "milk", "stir", "it", "serve", "w0", "w1", "w2", "w3"])
SPEC = InputSpec(text=TextSpec(max_length=3, separator=False), video=VideoSpec(48, 8, 10.0))


def srt(*cues: tuple[float, float, str]) -> str:
    from coalign.worlds.videos import to_srt

    return to_srt([Narration(float(a), float(b), text) for a, b, text in cues])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good videos; one without subtitles, one without speech, one without pictures, one that is no video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b", "quiet", "lone"):
        make_video(folder / f"{name}.mp4", 60)
    make_sound(folder / "sound.mp4")
    (folder / "text.mp4").write_text("no video")
    (folder / "a.srt").write_text(srt((0, 2, "pour the milk now"), (1.5, 3, "stir it"), (5, 9, "w0"), (60, 62, "w1")))
    (folder / "b.srt").write_text(srt((1, 4, "serve"), (4, 5, "unknown")))
    (folder / "quiet.srt").write_text(srt((1, 2, "[Music]")))
    for name in ("sound", "text"):
        (folder / f"{name}.srt").write_text(srt((0, 1, "hello")))
    return folder


def test_opens_a_folder_and_says_what_is_wrong_with_the_rest(folder: Path) -> None:
    found = open_narrated(folder).checked()
    assert [video.path.stem for video in found.videos] == ["a", "b"]
    reasons = {Path(problem.image).stem: problem.reason for problem in found.problems}
    assert reasons["lone"] == "no subtitles" and reasons["quiet"] == "no speech in it"
    assert "sound only" in reasons["sound"] and "not a readable video" in reasons["text"]
    assert [n.text for n in found.videos[0].narrations] == ["pour the milk now", "stir it", "w0"]  # not past the end


def test_captions_of_their_own_place_and_howto100m_tables(folder: Path, tmp_path: Path) -> None:
    captions = {"a": {"start": [0, 3], "end": [2, 4], "text": ["one", "two"]}}
    (tmp_path / "caption.json").write_text(json.dumps(captions))
    (tmp_path / "HowTo100M_v1.csv").write_text(
        "video_id,category_1,category_2,rank,task_id\na,Food,Recipes,1,7\nb,Pets,,2,8\n"
    )
    found = open_narrated(folder, captions=tmp_path / "caption.json", info=tmp_path / "HowTo100M_v1.csv")
    assert [(v.path.stem, v.task, v.category) for v in found.videos] == [("a", "7", "Food")]
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "b.csv").write_text("start,end,text\n0,1,hello\n")
    assert [v.path.stem for v in open_narrated(folder, captions=tmp_path / "csv").videos] == ["b"]
    with pytest.raises(InputError, match="no such folder"):
        open_narrated(tmp_path / "nothing")
    with pytest.raises(InputError, match="no videos in it"):
        open_narrated(tmp_path / "csv")
    with pytest.raises(InputError, match="none of its 6 videos has subtitles"):
        (tmp_path / "empty").mkdir()
        open_narrated(folder, captions=tmp_path / "empty")


def test_the_bag_is_the_neighbours_that_span_the_least_time() -> None:
    said = [Narration(float(t), t + 1.0, "") for t in (0, 10, 11, 13, 30)]
    assert bag_of(said, 2, 1) == [2]
    assert bag_of(said, 2, 3) == [1, 2, 3]
    assert bag_of(said, 0, 3) == [0, 1, 2]
    assert bag_of(said, 4, 2) == [3, 4]
    assert bag_of(said, 1, 4) == [0, 1, 2, 3]
    assert bag_of(said, 3, 7) == [0, 1, 2, 3, 4, 4, 4]


def test_a_clip_lies_within_its_narration_or_around_it() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [clip_start(Narration(10.0, 20.0, ""), 3.2, generator) for _ in range(50)]
    assert 10 <= min(starts) < 11 and 16 < max(starts) <= 16.8
    assert clip_start(Narration(10.0, 11.0, ""), 3.0, generator) == 9.0  # its middle in the middle
    assert clip_start(Narration(0.0, 1.0, ""), 3.0) == 0.0


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_clips_with_their_bags(folder: Path, workers: int) -> None:
    videos = open_narrated(folder).checked().videos
    moments = Moments(videos)
    assert len(moments) == 5
    assert [(m.video.path.stem, m.number) for m in moments] == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    loader = Batches(moments, ClipBags(SPEC, WORDS, bag=3, augment=False), 5, train=False, workers=workers)
    (batch,) = list(loader)
    assert batch.video is not None and batch.video.frames is not None and batch.text is not None
    assert batch.video.frames.shape == (5, 8, 3, 48, 48)
    assert batch.text.ids.lengths.tolist() == [3, 2, 1] * 3 + [1, 0, 0] * 2  # at most 3 words, the unknown left out
    assert batch.text.ids.values[:3].tolist() == WORDS.ids("pour the milk")
    # "w0" is said from 5 to 9 s; its clip begins at 6.6 s, after the end of the video
    assert float(batch.video.frames[2].max()) == 0 and float(batch.video.frames[1].min(1).values.max()) > 0


def test_the_same_batches_whoever_makes_them_and_any_narration_of_a_video(folder: Path) -> None:
    videos = open_narrated(folder).checked().videos

    def first(seed: int, workers: int = 0) -> torch.Tensor:
        moments = Moments(videos, "video")
        assert len(moments) == 2 and moments[1] == Moment(videos[1])
        batch = next(iter(Batches(moments, ClipBags(SPEC, WORDS), 2, seed=seed, workers=workers)))
        assert batch.video is not None and batch.video.frames is not None
        return batch.video.frames

    assert torch.equal(first(1), first(1, workers=2)) and not torch.equal(first(1), first(2))


def test_stop_words_go() -> None:
    assert without("Pour The milk, and stir", frozenset({"the", "and"})) == "Pour milk, stir"


def test_clips_show_the_moment_that_is_told(folder: Path) -> None:
    (video,) = (v for v in open_narrated(folder).checked().videos if v.path.stem == "b")
    spec = InputSpec(text=TextSpec(max_length=3, separator=False), video=VideoSpec(48, 1, 10.0))
    batch = ClipBags(spec, WORDS, bag=1, augment=False)([Moment(video, 0)], torch.Generator())
    assert batch.video is not None and batch.video.frames is not None
    picture = (batch.video.frames[0, 0] * 255).byte()
    padded = torch.nn.functional.pad(picture, (8, 8))  # the cut-off sides were stripes 0 and 7
    assert number_of(padded) == 24 & 0b01111110  # at 2.45 s of 10 pictures a second
