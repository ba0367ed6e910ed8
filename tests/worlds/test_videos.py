from __future__ import annotations

import json
from pathlib import Path

import pytest

from coalign.data.videos.decode import read_frames
from coalign.data.videos.narrated import open_narrated
from coalign.errors import InputError
from coalign.worlds.scenes import COLOURS
from coalign.worlds.videos import STEPS, Narrating, box_at, make_videos, write_videos


def place_of(time: float, seconds: float = 4.0) -> int:
    return int(time // seconds)


def test_narration_is_misaligned_by_the_share_that_was_asked_for() -> None:
    def shares(how: Narrating) -> tuple[float, float, float]:
        told = [t for video in make_videos(60, narrating=how) for t in video.narrations]
        off = [t for t in told if t.step is None]
        shifts = [place_of(t.narration.start) - t.step for t in told if t.step is not None]
        assert set(shifts) <= {-1, 0, 1}
        return len(off) / len(told), shifts.count(-1) / len(shifts), shifts.count(1) / len(shifts)

    assert shares(Narrating()) == (0, 0, 0)
    off, early, late = shares(Narrating(0.6, 0.25))
    assert abs(off - 0.25) < 0.05 and abs(early - 0.3) < 0.05 and abs(late - 0.3) < 0.05
    assert sum(shares(Narrating(1.0))[1:]) == 1
    with pytest.raises(InputError, match="between 0 and 1"):
        Narrating(1.5)


def test_the_same_seed_is_the_same_world_and_tasks_share_steps() -> None:
    first, again, other = (make_videos(12, tasks=3, kinds=10, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    held_out = make_videos(12, tasks=3, kinds=10, seed=1, split="test")
    orders = {video.task: video.steps for video in first}
    assert all(orders[video.task] == video.steps for video in held_out) and held_out[0].seed != first[0].seed
    assert len(set(orders.values())) == 3 and set(orders[0]) & set(orders[1])


def test_what_is_written_is_what_is_known(tmp_path: Path) -> None:
    videos = make_videos(2, narrating=Narrating(0.5), steps=3, seconds=2.0)
    write_videos(tmp_path, videos, side=64)
    found = open_narrated(tmp_path, info=tmp_path / "videos.csv").checked()
    assert len(found.videos) == 2 and not found.problems and found.videos[0].category == "moving shapes"
    for video, read in zip(videos, found.videos, strict=True):
        assert list(read.narrations) == [t.narration for t in video.narrations] and read.duration == 6.0
        truth = json.loads(read.path.with_suffix(".truth.json").read_text())
        assert [step["number"] for step in truth["steps"]] == list(video.steps)
        for place, step in enumerate(video.steps):
            time = 2.0 * place + 1.0
            (picture,) = read_frames(read.path, [time])
            left, top, right, bottom = box_at(video, time)
            centre = picture[:, round((top + bottom) * 32), round((left + right) * 32)].float()
            wanted = COLOURS[STEPS[step].colour]
            assert max(abs(a - b) for a, b in zip(centre.tolist(), wanted, strict=True)) < 40
            assert truth["steps"][place]["sentence"] == STEPS[step].sentence


def test_things_move_as_their_sentence_says() -> None:
    (video,) = make_videos(1, steps=40, seconds=4.0)
    for place, number in enumerate(video.steps):
        begin, end = box_at(video, 4 * place + 0.5), box_at(video, 4 * place + 3.5)
        across, down = end[0] - begin[0], end[1] - begin[1]
        motion = STEPS[number].motion
        expected = {"moves right": across, "moves left": -across, "rises": -down, "falls": down}[motion]
        assert expected > 0.3
