import json
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from coalign.data.series.collate import Collate, Scaling, widths_for
from coalign.data.series.folder import read_folder, write_files
from coalign.data.series.utterances import SeriesData, Utterance, cleaned, even_places, places_in_words, word_means
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import InputSpec, StreamSpec, TextSpec
from coalign.worlds.speakers import RATES, SeriesWorld, make_world, open_world

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "so", "good", "##ness", "don", "'", "t"]


def utterance(lengths=(2, 6), words=("so", "goodness"), id="u", **fields):
    g = torch.Generator().manual_seed(sum(lengths))
    streams = {
        n: torch.randn(k, w, generator=g) for (n, w), k in zip((("text", 4), ("audio", 3)), lengths, strict=True)
    }
    return Utterance(id, streams, torch.tensor([1.0]), words, **fields)


def test_words_keep_their_numbers_whatever_is_in_them():
    spec = InputSpec(text=TextSpec(vocab_size=11, max_length=6), streams=StreamSpec({"audio": 3}))
    batch = Collate(spec, Tokenizer.from_vocabulary(VOCABULARY))(
        [utterance(), utterance(words=("don't", "so", "good")), utterance(words=())]
    )
    assert batch.text.ids.lengths.tolist() == [5, 6, 2]
    assert batch.text.words.tolist() == [-1, 0, 1, 1, -1, -1, 0, 0, 0, 1, -1, -1, -1]
    assert batch.labels.label.tolist() == [1, 1, 1]


def test_streams_by_word_are_means_over_its_rows():
    item = utterance((2, 6), places={"audio": torch.tensor([0, 0, -1, 1, 1, 1])})
    spec = InputSpec(streams=StreamSpec({"acoustic": 3}, by_word=True))
    rows = Collate(spec)([item]).series.streams["acoustic"].values
    audio = item.streams["audio"]
    torch.testing.assert_close(rows, torch.stack([audio[:2].mean(0), audio[3:].mean(0)]))
    without = Collate(spec)([utterance((2, 6))]).series.streams["acoustic"].values
    torch.testing.assert_close(without, torch.stack([audio[:3].mean(0), audio[3:].mean(0)]))


def test_streams_that_keep_step_share_a_layout():
    spec = InputSpec(streams=StreamSpec({"text": 4, "audio": 3}))
    same = Collate(spec)([utterance((3, 3)), utterance((2, 2))]).series.streams
    assert same["text"].layout is same["audio"].layout
    other = Collate(spec)([utterance((3, 4)), utterance((2, 2))]).series.streams
    assert other["text"].layout is not other["audio"].layout


def test_empty_and_very_long_streams():
    spec = InputSpec(streams=StreamSpec({"text": 4, "audio": 3}))
    long = utterance((2, 10_000))
    batch = Collate(spec, max_rows=500)([utterance((0, 0), words=()), long])
    audio = batch.series.streams["audio"]
    assert audio.lengths.tolist() == [1, 500]
    assert not audio.values[0].any()
    torch.testing.assert_close(audio.values[1:].mean(0), long.streams["audio"].mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(audio.values[1], long.streams["audio"][:20].mean(0))
    assert batch.series.places["audio"].tolist() == [-1, *even_places(500, 2).tolist()]


def test_scaling_is_of_the_training_split_and_comes_back(tmp_path):
    items = [replace(utterance((2, n)), streams={"audio": 5 + 3 * torch.randn(n, 2)}) for n in (50, 70)]
    items = [
        replace(i, streams={"audio": torch.cat([i.streams["audio"], torch.ones(len(i.streams["audio"]), 1)], 1)})
        for i in items
    ]
    scaling = Scaling.of(items, ["audio"])
    scaling.save(tmp_path)
    again = Scaling.load(tmp_path)
    rows = Collate(InputSpec(streams=StreamSpec({"audio": 3})), scaling=again)(items).series.streams["audio"].values
    torch.testing.assert_close(rows[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[:, :2].std(0, unbiased=False), torch.ones(2), atol=1e-4, rtol=0)
    assert not rows[:, 2].any()  # a feature that never changes
    assert Scaling.load(tmp_path / "none") is None


def test_bad_requests_are_named():
    with pytest.raises(InputError, match="u: has no stream 'vision', which the model reads; it has: text, audio"):
        Collate(InputSpec(streams=StreamSpec({"vision": 3})))([utterance()])
    with pytest.raises(InputError, match="'audio' has 3 features, the model reads 7"):
        Collate(InputSpec(streams=StreamSpec({"audio": 7})))([utterance()])
    spec = InputSpec(text=TextSpec(vocab_size=11))
    with pytest.raises(InputError, match="no vocabulary"):
        Collate(spec)([utterance()])
    with pytest.raises(InputError, match="the data has none, only features of words"):
        Collate(spec, Tokenizer.from_vocabulary(VOCABULARY))([utterance(words=())])
    data = SeriesData(
        "d",
        {
            "train": [utterance()],
            "test": [utterance((2, 3)), Utterance("x", {"text": torch.ones(1, 9)}, torch.ones(1))],
        },
    )
    with pytest.raises(InputError, match=r"d: stream 'text' of x \(test\) has 9 features, others have 4"):
        widths_for(data)
    with pytest.raises(InputError, match="has no stream 'smell'"):
        widths_for(replace(data, splits={"train": [utterance()]}), ["smell"])
    with pytest.raises(InputError, match="no utterance with a label"):
        cleaned(SeriesData("d", {"train": []}))


def test_places_and_means():
    times = torch.tensor([[0.0, 0.4], [0.4, 1.0], [1.0, 1.2], [9.0, 9.5]])
    assert places_in_words(times, torch.tensor([[0.0, 1.0], [1.0, 2.0]])).tolist() == [0, 0, 1, -1]
    assert places_in_words(times, torch.zeros(0, 2)).tolist() == [-1] * 4
    means = word_means(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([1, 1, -1]), 3)
    assert means.flatten().tolist() == [0, 2, 0]


def test_a_folder_gives_back_what_went_in(tmp_path):
    world = make_world(SeriesWorld(items=8))
    (tmp_path / "series.json").write_text(json.dumps(write_files(world, tmp_path)))
    again = read_folder(tmp_path)
    assert again.widths == world.widths
    for split, items in world.splits.items():
        for a, b in zip(items, again.splits[split], strict=True):
            assert (a.id, a.words) == (b.id, b.words)
            assert torch.equal(a.label, b.label)
            assert all(
                torch.equal(a.streams[n], b.streams[n]) and torch.equal(a.places[n], b.places[n]) for n in a.streams
            )
    (tmp_path / "test.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"test.safetensors: cannot be read"):
        read_folder(tmp_path)
    (tmp_path / "train.arrow").unlink()
    with pytest.raises(InputError, match=r"train.arrow: cannot be read"):
        read_folder(tmp_path)


# ------------------------------------------------------------------------------------------------ the generated world
def test_the_world_is_its_seed():
    a, b = (make_world(SeriesWorld(items=16, seed=3, jitter=0.5)) for _ in range(2))
    other = make_world(SeriesWorld(items=16, seed=4, jitter=0.5))
    assert torch.equal(a.splits["test"][1].streams["audio"], b.splits["test"][1].streams["audio"])
    assert not torch.equal(a.splits["test"][1].label, other.splits["test"][1].label) or a.events != other.events


def correlation(world, key):
    items = world.splits["train"]
    signs = torch.tensor([sum(e.signs[key] for e in world.events[i.id]) / len(world.events[i.id]) for i in items])
    return float(torch.corrcoef(torch.stack([signs, torch.stack([i.label for i in items]).flatten()]))[0, 1])


def test_regimes_put_the_score_where_they_say():
    joint = make_world(SeriesWorld("joint", items=600, events=1))
    assert all(abs(correlation(joint, key)) < 0.12 for key in RATES)
    redundant = make_world(SeriesWorld("redundant", items=60))
    assert all(correlation(redundant, key) > 0.999 for key in RATES)
    single = make_world(SeriesWorld("single", "audio", items=200))
    assert correlation(single, "audio") > 0.999
    assert abs(correlation(single, "text")) < 0.25
    for item in joint.splits["train"]:
        (event,) = joint.events[item.id]
        s = event.signs
        assert item.label.item() == pytest.approx(1.5 * s["text"] * (s["audio"] + s["vision"]))


def test_lag_moves_voice_and_face_and_events_are_where_the_world_says():
    for lag in (0.0, 3.0):
        world = make_world(SeriesWorld(items=40, lag=lag, noise=0.0, distractors=0))
        for item in world.splits["train"]:
            rows = {name: x.norm(dim=1) > 1.2 for name, x in item.streams.items() if name != "text"}
            for event in world.events[item.id]:
                assert event.rows["audio"] == (event.word + lag) * RATES["audio"]
                assert all(bool(rows[name][event.rows[name]]) for name in rows)
            shown = sum(int(r.sum()) for r in rows.values())
            assert shown == len(world.events[item.id]) * (RATES["audio"] + RATES["vision"])


def test_settings_in_words():
    world = open_world("world:single,carrier=vision,items=8,events=3,lag=1.5,noise=0")
    assert len(world.splits["train"]) == 8
    for source, message in (
        ("world:odd", "no regime 'odd'; there are: single, redundant, joint"),
        ("world:joint,size=3", "no setting 'size'"),
        ("world:joint,lag=x", "lag = 'x' is no float"),
        ("world:joint,items=2", "8 or more items"),
        ("world:single,carrier=smell", "no stream 'smell'"),
    ):
        with pytest.raises(InputError, match=message):
            open_world(source)


def test_offsets_that_lead_out_of_a_text_are_refused(tmp_path):
    (tmp_path / "series.json").write_text(json.dumps(write_files(make_world(SeriesWorld(items=8)), tmp_path)))
    read_folder(tmp_path)
    file = tmp_path / "train.arrow"
    column = pa.ipc.open_file(file.read_bytes()).read_all().column("id").chunk(0)
    sound = column.buffers()[1].to_pybytes()[: 4 * (len(column) + 1)]
    assert file.read_bytes().count(sound) == 1
    far = sound[:-4] + (1 << 30).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(sound, far))
    with pytest.raises(InputError, match=r"train\.arrow"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a.mean": torch.zeros(3)},
        {"a.mean": torch.zeros(3), "a.std": torch.ones(4)},
        {"a.mean": torch.zeros(3, 1), "a.std": torch.ones(3, 1)},
        {"a.mean": torch.zeros(3), "a.std": torch.full((3,), torch.nan)},
        {"a.mean": torch.zeros(3).double(), "a.std": torch.ones(3).double()},
        b"",
        b"\xff" * 64,
    ],
)
def test_a_scaling_that_is_damaged_is_named(tmp_path, tensors):
    file = tmp_path / "scaling.safetensors"
    file.write_bytes(tensors) if isinstance(tensors, bytes) else save_file(tensors, file)
    with pytest.raises(InputError, match=f"^{tmp_path}.*(is damaged|cannot be read)"):
        Scaling.load(tmp_path)
