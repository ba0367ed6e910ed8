"""What VideoBERT and ActBERT read of narrated videos."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coalign.data.regions.files import open_regions
from coalign.data.regions.files.shards import write_shard
from coalign.data.videos.clip_features import ClipFeatures, rows_within
from coalign.data.videos.moments import Moments, NarratedMoment, read_action_labels, verb_labels
from coalign.data.videos.regions import VideoRegions, picture_name
from coalign.data.videos.sentences import VideoSentences, sentences, windows_of
from coalign.data.videos.subtitles import Narration
from coalign.data.videos.visual_words import VisualWordBook
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import InputSpec, RegionSpec, TextSpec

SAID = tuple(Narration(2.0 * n, 2.0 * n + 1.5, f"step {'abcdef'[n]}") for n in range(6))
SPEC = InputSpec(text=TextSpec(max_length=30), regions=RegionSpec(5, 4))
TOKENS = Tokenizer.train([" ".join(n.text for n in SAID)], 60, min_frequency=1)


@pytest.fixture
def features(tmp_path: Path) -> ClipFeatures:
    """Two videos of clips of a second; a clip's feature is its number, and 100 more in the second video."""
    for name, count, more in (("one", 12, 0.0), ("two", 5, 100.0)):
        rows = torch.arange(count, dtype=torch.float32)
        save_file(
            {"features": (rows + more)[:, None].repeat(1, 3), "times": torch.stack([rows, rows + 1], 1)},
            tmp_path / f"{name}.safetensors",
        )
    return ClipFeatures(tmp_path)


def test_features_of_a_folder(features: ClipFeatures, tmp_path: Path) -> None:
    assert (len(features), features.width, features.count("two")) == (17, 3, 5)
    assert features.owner(11) == ("one", 11) and features.owner(12) == ("two", 0)
    assert [len(piece) for piece in features.pieces(12)] == [12, 5]
    assert [len(piece) for piece in features.pieces(100)] == [17]
    times = features.read("one")[1]
    assert rows_within(times, 2.5, 4.5) == (2, 5)
    assert rows_within(times, 40, 41) == (11, 12)
    save_file({"features": torch.zeros(2, 4), "times": torch.zeros(2, 2)}, tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match=r"wide\.safetensors: 4 features a clip, one\.safetensors has 3"):
        ClipFeatures(tmp_path)


def test_sentences_go_with_the_clips_of_their_time(features: ClipFeatures) -> None:
    items = sentences({"one": SAID})
    make = VideoSentences(features, SPEC, TOKENS, {"both": 1.0}, join=3, stride=1)
    lengths = set()
    for seed in range(12):
        batch = make([items[1], items[3]], torch.Generator().manual_seed(seed))
        assert batch.text is not None and batch.video is not None and batch.video.features is not None
        for item, start in ((0, 2), (1, 6)):
            told = TOKENS.decode(batch.text.ids.select([item]).values)
            number = told.count("step")
            shown = batch.video.features.select([item]).values[:, 0].tolist()
            assert shown == list(
                range(start, start + 2 * number)
            )  # sentence n is said while clips 2n, 2n + 1 are shown
            lengths.add(number)
    assert lengths == {1, 2, 3}


def test_clips_are_thinned_and_regimes_drawn_by_their_shares(features: ClipFeatures) -> None:
    make = VideoSentences(features, SPEC, TOKENS, {"text": 1.0, "video": 3.0}, stride=3, length=16)
    items, kinds, steps = windows_of(features, 16), [0, 0], set()
    said = sentences({"one": SAID})
    for seed in range(60):
        batch = make([said[0]], torch.Generator().manual_seed(seed))
        kinds[batch.text is None] += 1
        assert (batch.text is None) != (batch.video is None)
        if batch.video is not None and batch.video.features is not None:
            steps.update(batch.video.features.values[:, 0].diff().tolist())
    assert steps == {1.0, 2.0, 3.0} and 36 <= kinds[1] <= 54
    assert [(item.video, item.first) for item in items] == [("one", 0), ("two", 0)]
    assert [item.first for item in windows_of(features, 4)] == [0, 4, 8, 0]  # a last clip alone is left out


def test_visual_words_know_their_nearest_clips(features: ClipFeatures, tmp_path: Path) -> None:
    tree = [
        torch.tensor([[[5.0] * 3, [102.0] * 3]]),
        torch.tensor([[[2.0] * 3, [9.0] * 3], [[100.0] * 3, [103.0] * 3]]),
    ]
    book = VisualWordBook.of(features, tree, keep=3)
    assert book.counts == {0: 6, 1: 6, 2: 2, 3: 3}
    assert [(e.video, e.start) for e in book.examples[1]] == [("one", 9.0), ("one", 8.0), ("one", 10.0)]
    assert next((e.video, e.start, e.distance) for e in book.examples[2]) == ("two", 0.0, 0.0)
    book.save(tmp_path / "words")
    again = VisualWordBook.load(tmp_path / "words")
    assert again.counts == book.counts and again.examples == book.examples and again.total == 4
    assert all(torch.equal(a, b) for a, b in zip(again.tree, tree, strict=True))
    (tmp_path / "words" / "words.json").write_text("{}")
    with pytest.raises(InputError, match="damaged visual words"):
        VisualWordBook.load(tmp_path / "words")


def test_moments_of_actions_and_regions(features: ClipFeatures, tmp_path: Path) -> None:
    ids = [picture_name("one", time) for time in (0.0, 2.0, 3.0, 7.0)]
    regions = [
        {"features": torch.full((2, 5), float(n)), "boxes": torch.tensor([[0.0, 0, 1, 1]] * 2), "classes": torch.eye(2)}
        for n in range(4)
    ]
    (tmp_path / "regions").mkdir()
    write_shard(tmp_path / "regions" / "0.safetensors", ids, regions)
    with (tmp_path / "actions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video_id", "start", "end", "label"], ["one", 0, 3, "stir"], ["one", 3, 9, "cut"]])
    labels = read_action_labels(tmp_path / "actions.csv")
    assert labels.names == ("cut", "stir")
    found = VideoRegions(open_regions(tmp_path / "regions"))
    make = Moments(features, found, labels, SPEC, TOKENS)
    batch = make([NarratedMoment("one", SAID[1]), NarratedMoment("one", SAID[3])])  # 2 to 3.5 and 6 to 7.5 seconds
    assert batch.video is not None and batch.video.features is not None and batch.regions is not None
    assert batch.video.features.values[:, 0].tolist() == [2, 3, 6, 7]
    assert batch.labels.action.tolist() == [1, 0, 0, 0]
    assert batch.regions.features.values[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert batch.regions.features.lengths.tolist() == [4, 2]
    late = make([NarratedMoment("one", Narration(11.0, 11.5, "step a"))])
    assert late.regions is not None and late.regions.features.values[:, 0].tolist() == [3, 3]  # the nearest frame
    assert late.labels.action.tolist() == [-100]
    said = verb_labels({"one": [Narration(0.0, 1.0, "Now stir!"), Narration(1.0, 2.0, "well")]}, ["cut", "stir"])
    assert said.of("one", torch.tensor([[0.0, 1.0], [1.0, 2.0]])).tolist() == [1, -100]
    write_shard(tmp_path / "x.safetensors", ["a"], regions[:1])
    with pytest.raises(InputError, match="coalign extract frames"):
        VideoRegions(open_regions(tmp_path / "x.safetensors"))
