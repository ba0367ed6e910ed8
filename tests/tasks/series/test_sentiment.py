import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from coalign.analysis.runs.stream_attention import (
    LagProfile,
    Planted,
    directions,
    lag_profile,
    points_on_events,
    share_on_events,
)
from coalign.errors import InputError
from coalign.metrics.sentiment import class_metrics, emotion_metrics, sentiment_metrics
from coalign.tasks.series.missing_modality import MissingModality, corrupted
from coalign.types import Batch, Layout, Packed, Series, Text


def test_sentiment_as_the_literature_counts_it():
    truth = np.array([2.0, -1.0, 0.0, 0.4, -2.6, 3.0])
    predicted = np.array([1.6, 0.2, -0.1, 0.3, -4.0, 2.4])
    found = sentiment_metrics(predicted, truth)
    assert found["mae"] == pytest.approx((0.4 + 1.2 + 0.1 + 0.1 + 1.4 + 0.6) / 6)
    assert found["pearson"] == pytest.approx(np.corrcoef(predicted, truth)[0, 1])
    assert found["acc7"] == pytest.approx(4 / 6)  # 2=2, 0≠-1, 0=0, 0=0, -3=-3, 2≠3
    assert found["acc5"] == pytest.approx(5 / 6)
    assert found["acc2_nonzero"] == pytest.approx(4 / 5)  # without the third: + +, + -, + +, - -, + +
    assert found["acc2"] == pytest.approx(4 / 6)  # the third is 0, so at least 0, and was said to be below
    assert found["f1_nonzero"] == pytest.approx(f1_score([1, 0, 1, 0, 1], [1, 1, 1, 0, 1], average="weighted"))
    assert found["f1"] == pytest.approx(f1_score([1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 1], average="weighted"))
    # halves are rounded to even, as numpy and so MulT's authors do
    assert sentiment_metrics(np.array([0.5, 1.5]), np.array([0.0, 2.0]))["acc7"] == 1
    constant = sentiment_metrics(np.zeros(3), np.zeros(3))
    assert constant["pearson"] == 0
    assert np.isnan(constant["acc2_nonzero"])


def test_emotions_and_classes():
    truth = np.array([[1, 0], [0, 1], [1, 1]])
    logits = np.array([[0, 1, 2, 0], [3, 0, 0, 1], [0, 1, 5, 1]])  # says 1 0, 0 1, 1 0
    found = emotion_metrics(logits, truth, ["happy", "sad"])
    assert found["accuracy_happy"] == 1
    assert found["accuracy_sad"] == pytest.approx(2 / 3)
    assert found["f1_sad"] == pytest.approx(f1_score([0, 1, 1], [0, 1, 0], average="weighted"))
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert class_metrics(np.eye(3)[[0, 1, 1]], np.array([[0], [1], [2]]))["accuracy"] == pytest.approx(2 / 3)


def test_streams_are_dropped_and_noised_alone():
    g = torch.Generator().manual_seed(0)
    rows = {name: Packed(torch.randn(400, 2, generator=g) * 3, Layout.of([100, 300])) for name in ("audio", "vision")}
    ids = Packed(torch.arange(10, 410), Layout.of([100, 300]))
    words = torch.arange(400) % 100 - 1
    batch = Batch(Text(ids, words=words), series=Series(rows))
    dropped = corrupted(batch, "audio", None, g)
    assert not dropped.series.streams["audio"].values.any()
    assert dropped.series.streams["vision"] is rows["vision"]
    noise = corrupted(batch, "vision", 0.5, g).series.streams["vision"].values - rows["vision"].values
    assert noise.std().item() == pytest.approx(1.5, rel=0.1)
    hidden = corrupted(batch, "words", None, g, mask_id=1).text.ids.values
    assert torch.equal(hidden == 1, words >= 0)  # [CLS] and [SEP] stay
    some = corrupted(batch, "words", 1.0, g, mask_id=1).text.ids.values
    assert (some == 1).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_the_table_and_plot_of_missing_modalities(tmp_path):
    rows = {name: {"dropped": {"mae": 1.0}, "noise 1": {"mae": 0.5}} for name in ("text", "audio")}
    result = MissingModality({"mae": 0.25}, rows, 8, "mae")
    assert len(result.table().splitlines()) == 7
    assert result.to_json()["streams"]["audio"]["dropped"] == {"mae": 1.0}
    for ending in (".png", ".svg"):
        result.plot(tmp_path / f"m{ending}")
        assert (tmp_path / f"m{ending}").stat().st_size > 1000


def test_the_attention_of_an_event_and_its_lag():
    # one layer, one item, one head; words 0 ... 3, two sounds a word; word 1 looks one word later, at sounds 4 and 5
    weights = torch.full((1, 1, 1, 4, 8), 0.05)
    weights[0, 0, 0, 1] = torch.tensor([0.0, 0.1, 0.0, 0.1, 0.4, 0.4, 0.0, 0.0])
    event = Planted(0, {"text": 1, "audio": 4}, {"text": 1, "audio": 2})
    pair = ("text", "audio")
    assert share_on_events(weights, pair, [event]).item() == pytest.approx(0.8)
    profile = lag_profile([weights[0, 0, 0]], pair, [event])
    assert profile.peak == 1.0
    assert profile.attention.sum().item() == pytest.approx(1)
    assert LagProfile(torch.tensor([-1.0, -0.5, 0.0, 0.5]), torch.tensor([0.3, 0.1, 0.25, 0.25]), 2).peak == 0.0
    found = directions({"text.audio.1.cross_attention": weights[0], "text.audio.0.cross_attention": 2 * weights[0]})
    assert torch.equal(found[pair], torch.stack([2 * weights[0], weights[0]]))
    with pytest.raises(InputError, match="no cross-modal attention"):
        directions({"text.0.hidden": weights})


def test_planted_events_are_pointed_at_and_shuffled_ones_by_chance():
    pair, g = ("text", "audio"), torch.Generator().manual_seed(0)
    events = [Planted(i, {"text": i % 5, "audio": 12 + 4 * (i % 5)}, {"text": 1, "audio": 4}) for i in range(400)]
    maps = []
    for event in events:
        own = torch.rand(8, 40, generator=g) * 0.01
        own[event.rows["text"], event.rows["audio"] : event.rows["audio"] + 4] = 1.0
        maps.append(own)
    right, share = points_on_events(maps, pair, events)
    assert right.shape == share.shape == (400,) and right.mean() >= 0.99 and share.mean() > 0.95
    shuffled = [own[:, torch.randperm(40, generator=g)] for own in maps]
    right, share = points_on_events(shuffled, pair, events)
    assert right.mean().item() == pytest.approx(0.1, abs=0.05) and share.mean().item() == pytest.approx(0.1, abs=0.05)
    flat, spread = points_on_events([torch.zeros(8, 40)] * 400, pair, events)
    assert flat.mean() == pytest.approx(0.1) and spread.mean() == pytest.approx(0.1)
