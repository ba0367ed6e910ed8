from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import is_black, make_video, number_of

from coalign.data.videos.clips import Clip, read_clip, stream_clips, windows
from coalign.data.words.load import load_tokenizer
from coalign.data.words.word_list import WordList
from coalign.errors import InputError
from coalign.types import InputSpec, VideoSpec

SPEC = InputSpec(video=VideoSpec(48, 8, 10.0))


def test_a_clip_is_the_frames_from_its_beginning_and_black_after_the_end(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", 60)
    frames = read_clip(Clip(file, 5.5), SPEC)
    assert frames.shape == (8, 3, 48, 48) and frames.dtype == torch.float32 and float(frames.max()) <= 1
    assert not any(is_black(frame) for frame in frames[:5]) and all(is_black(frame) for frame in frames[5:])
    torch.testing.assert_close(read_clip(file, SPEC), read_clip(Clip(file), SPEC))
    with pytest.raises(InputError, match=r"not \[2, 3, 48, 48\]"):
        read_clip(torch.zeros(2, 3, 48, 48), SPEC)


def test_the_middle_is_cut_out_and_in_training_a_random_part(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", 20, fps=10)
    small = InputSpec(video=VideoSpec(32, 1, 10.0))
    whole = InputSpec(video=VideoSpec(48, 1, 10.0))
    assert number_of(read_clip(Clip(file, 0.3), whole)[0] * 255) != 3  # its sides are cut off
    random = [read_clip(Clip(file, 0.3), small, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    again = read_clip(Clip(file, 0.3), small, generator=torch.Generator().manual_seed(4))
    assert torch.equal(random[4], again) and len({round(float(r.mean()), 5) for r in random}) > 2


def test_windows_lie_evenly() -> None:
    assert windows(10, 20, 4, 3) == [10, 13, 16] and windows(10, 20, 4, 1) == [13.0]
    assert windows(10, 11, 4, 2) == [10, 10]


@pytest.mark.parametrize("step", [None, 0.4, 1.2])
def test_a_whole_video_as_clips(tmp_path: Path, step: float | None) -> None:
    file = make_video(tmp_path / "a.mp4", 30, key_frames=7)
    found = list(stream_clips(file, SPEC, step=step))
    hop = 0.8 if step is None else step
    assert [begin for begin, _, _ in found] == pytest.approx([n * hop for n in range(len(found))])
    assert found[-1][0] < 3.0 <= found[-1][0] + max(hop, 0.8) and found[0][1] == pytest.approx(0.8)
    for begin, _, frames in found:
        torch.testing.assert_close(frames, read_clip(Clip(file, round(begin, 3)), SPEC))
    later = list(stream_clips(file, SPEC, step=step, first=2))
    assert [begin for begin, _, _ in later] == [begin for begin, _, _ in found[2:]]
    torch.testing.assert_close(later[0][2], found[2][2])


def test_a_word_list_is_a_tokenizer_that_runs_save_and_load(tmp_path: Path) -> None:
    words = WordList.of_texts(["Pour the milk", "pour it", "don't pour"])
    assert words.words("POUR, unknown milk!") == ["pour", "milk"] and words.ids("pour") == [1]
    assert words.vocab_size == len(words) + 1 == 6
    words.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, WordList) and again.lowercase
    assert again.encode(["don't pour the unknown"]).ids.values.tolist() == words.ids("don't pour the")
    assert again.encode(["unknown"]).ids.lengths.tolist() == [0]
    np.save(tmp_path / "s3d_dict.npy", np.array(["pour", "milk"]))
    assert load_tokenizer(tmp_path / "s3d_dict.npy").encode(["milk pour milk"], 2).ids.values.tolist() == [2, 1]
    with pytest.raises(InputError, match="no pairs"):
        words.encode([("a", "b")])


def test_prepare_makes_texts_and_clips_for_mil_nce(tmp_path: Path) -> None:
    from coalign import create, prepare

    words = WordList.of_texts(["pour the milk", "pour it", "don't pour"])
    model = replace(create("mil_nce", vocab_size=6), tokenizer=words)
    batch = prepare(model, texts=["pour it", "nothing known"], videos=[make_video(tmp_path / "a.mp4", 9)] * 2)
    assert batch.text is not None and batch.text.ids.lengths.tolist() == [2, 0]
    assert batch.video is not None and batch.video.frames is not None
    assert batch.video.frames.shape == (2, 8, 3, 64, 64)
    with pytest.raises(InputError, match="as many of each"):
        prepare(model, texts=["pour"], videos=[torch.zeros(8, 3, 64, 64)] * 2)
    features = prepare(create("videobert"), videos=[torch.zeros(4, 1024), torch.zeros(2, 1024)])
    assert features.video is not None and features.video.features is not None
    assert features.video.features.lengths.tolist() == [4, 2]
    with pytest.raises(InputError, match="reads features"):
        prepare(create("videobert"), videos=[torch.zeros(4, 7)])
