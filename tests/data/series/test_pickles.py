import pickle

import numpy as np
import pytest
import torch

from coalign.data.series.pickles import read_pickle, read_ur_funny
from coalign.data.series.sources import open_series
from coalign.errors import InputError


def save(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def padded(lengths, width, steps, front=False, seed=0):
    """[N, steps, width], rows of zeros at the end or in front."""
    g = np.random.default_rng(seed)
    out = np.zeros((len(lengths), steps, width))
    for i, n in enumerate(lengths):
        out[i, steps - n if front else 0 :][: n if not front else None] = g.normal(size=(n, width))
    return out


def mult_pickle(lengths=(3, 5), audio=(7, 9), vision=(4, 6), steps=(6, 12, 10), **changes):
    part = {
        "text": padded(lengths, 8, steps[0]),
        "audio": padded(audio, 5, steps[1]),
        "vision": padded(vision, 3, steps[2]),
        "labels": np.array([[[1.6]], [[-0.4]]]),
        "id": np.array([[b"a", b"0.1", b"2"], [b"b", b"2", b"3"]]),
    }
    return {"train": part | changes, "valid": part, "test": part}


@pytest.mark.parametrize("protocol", [2, 4])
def test_mult_without_alignment(tmp_path, protocol):
    content = mult_pickle()  # the three splits share their arrays
    content["train"]["audio"][0, 2, 1] = -np.inf
    content["train"]["audio"][1, 0, 0] = np.nan
    data = read_pickle(save(tmp_path / "mosi_data_noalign.pkl", content, protocol))
    assert data.task == "regression"
    assert data.outputs == 1
    assert data.widths == {"text": 8, "audio": 5, "vision": 3}
    first, second = data.splits["train"]
    assert [len(x) for x in first.streams.values()] == [3, 7, 4]
    assert [len(x) for x in second.streams.values()] == [5, 9, 6]
    assert first.id == "a-0.1-2"
    assert first.label.tolist() == pytest.approx([1.6])
    assert first.streams["audio"][2, 1] == 0
    assert first.streams["audio"][2, 0] != 0
    assert all(bool(x.isfinite().all()) for x in second.streams.values())
    assert any("6 infinite or NaN values in 'audio'" in note for note in data.notes)


def test_mult_aligned_is_cut_the_same_in_all_streams(tmp_path):
    content = mult_pickle((3, 5), (3, 5), (3, 5), (6, 6, 6))
    for name in ("text", "audio", "vision"):  # padded in front, with a silent first word in two streams
        content["train"][name] = padded((3, 5), content["train"][name].shape[2], 6, front=True)
    content["train"]["audio"][0, 3] = 0
    content["train"]["vision"][0, 3] = 0
    first = read_pickle(save(tmp_path / "mosi_data.pkl", content)).splits["train"][0]
    assert [len(x) for x in first.streams.values()] == [3, 3, 3]
    assert not first.streams["audio"][0].any()
    kept = read_pickle(tmp_path / "mosi_data.pkl", "keep").splits["train"][0]
    assert [len(x) for x in kept.streams.values()] == [6, 6, 6]


def test_iemocap_has_four_answers(tmp_path):
    labels = np.zeros((2, 4, 2))
    labels[0, [0, 1, 2, 3], [1, 0, 0, 1]] = 1
    labels[1, [0, 1, 2, 3], [0, 1, 0, 0]] = 1
    content = mult_pickle()
    for part in content.values():
        part["labels"] = labels
    data = read_pickle(save(tmp_path / "iemocap_data.pkl", content))
    assert data.task == "emotions"
    assert data.label_names == ("neutral", "happy", "sad", "angry")
    assert data.outputs == 8
    assert [item.label.tolist() for item in data.splits["train"]] == [[1, 0, 0, 1], [0, 1, 0, 0]]


@pytest.mark.parametrize("values", [[0, 1], [-1, 1]])
def test_yes_or_no_labels_are_classes(tmp_path, values):
    content = mult_pickle()
    for part in content.values():
        part["labels"] = np.array(values).reshape(2, 1)
    data = read_pickle(save(tmp_path / "humor.pkl", content))
    assert data.task == "classes"
    assert [item.label.tolist() for item in data.splits["test"]] == [[0], [1]]
    assert data.splits["test"][0].label.dtype == torch.int64


def mmsa_part():
    mask = np.zeros((2, 3, 6))
    mask[0, 1, :4] = 1
    mask[1, 1, :6] = 1
    return {
        "raw_text": np.array(["so good", "I did not like it"]),
        "text": padded((4, 6), 8, 6),
        "text_bert": mask,
        "audio": padded((7, 9), 5, 12),
        "vision": padded((4, 6), 3, 10),
        "audio_lengths": [8, 12],
        "vision_lengths": [4, 6],
        "regression_labels": np.array([1.0, -2.2]),
        "id": ["v$_$1", "v$_$2"],
        "annotations": ["Positive", "Negative"],
    }


def test_mmsa_brings_its_words_and_lengths(tmp_path):
    content = {"train": mmsa_part(), "valid": mmsa_part(), "test": mmsa_part()}
    data = read_pickle(save(tmp_path / "unaligned_50.pkl", content))
    first, second = data.splits["train"]
    assert first.words == ("so", "good")
    assert [len(x) for x in first.streams.values()] == [4, 8, 4]
    assert [len(x) for x in second.streams.values()] == [6, 12, 6]
    assert second.label.tolist() == pytest.approx([-2.2])
    assert data.has_words


def test_mmsa_aligned_keeps_step(tmp_path):
    part = mmsa_part() | {"audio": padded((4, 6), 5, 6), "vision": padded((4, 6), 3, 6)}
    part["audio"][:, 0] = part["vision"][:, 0] = part["vision"][:, 3] = 0  # [CLS] has neither, [SEP] no face
    del part["audio_lengths"], part["vision_lengths"]
    first, second = read_pickle(save(tmp_path / "aligned_50.pkl", {"train": part})).splits["train"]
    assert [len(x) for x in first.streams.values()] == [4, 4, 4]
    assert [len(x) for x in second.streams.values()] == [6, 6, 6]
    assert not first.streams["audio"][0].any()


def mag_pickle():
    g = np.random.default_rng(0)
    item = ((["kind", "of", "nice"], g.normal(size=(3, 47)), g.normal(size=(3, 74))), np.array([[1.2]]), "v[1]")
    return {"train": [item, item], "dev": [item], "test": [item]}


def test_mag_has_one_row_a_word(tmp_path):
    data = read_pickle(save(tmp_path / "mosi.pkl", mag_pickle(), 3))
    item = data.split("dev")[0]
    assert list(data.splits) == ["train", "valid", "test"]
    assert item.words == ("kind", "of", "nice")
    assert data.widths == {"audio": 74, "vision": 47}
    assert item.places["audio"].tolist() == [0, 1, 2]
    assert item.id == "v[1]"


def test_ur_funny(tmp_path):
    language = {
        7: {"punchline_sentence": "that is it", "punchline_embedding_indexes": [2, 0, 1]},
        8: {"punchline_sentence": "no", "punchline_embedding_indexes": [1]},
    }
    sizes = {7: 3, 8: 1}
    parts = {
        "data_folds": {"train": [7], "dev": [8], "test": []},
        "language_sdk": language,
        "word_embedding_list": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
        "covarep_features_sdk": {k: {"punchline_features": [[float(k)] * 81] * n} for k, n in sizes.items()},
        "openface_features_sdk": {k: {"punchline_features": [[1.0] * 371] * n} for k, n in sizes.items()},
        "humor_label_sdk": {7: 1, 8: 0},
    }
    for name, content in parts.items():
        save(tmp_path / f"{name}.pkl", content)
    data = open_series(tmp_path)
    item = data.splits["train"][0]
    assert item.words == ("that", "is", "it")
    assert item.streams["text"].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert data.widths == {"text": 2, "audio": 81, "vision": 371}
    assert item.label.tolist() == [1]
    assert data.splits["valid"][0].label.tolist() == [0]
    (tmp_path / "covarep_features_sdk.pkl").unlink()
    with pytest.raises(InputError, match=r"covarep_features_sdk.pkl: no such file"):
        read_ur_funny(tmp_path)


class Malicious:
    def __reduce__(self):
        return (exec, (f"open({str(TARGET)!r}, 'w').write('ran')",))


TARGET = None


@pytest.mark.parametrize("where", ["split", "label", "words"])
def test_a_malicious_pickle_runs_nothing_and_is_named(tmp_path, where):
    global TARGET
    TARGET = tmp_path / "ran"
    content = {"split": {"train": Malicious()}, "label": mult_pickle(labels=Malicious()), "words": mag_pickle()}[where]
    if where == "words":
        content["train"][0] = ((Malicious(), None, None), 0, "x")
    path = save(tmp_path / "bad.pkl", content)
    with pytest.raises(InputError, match=r"bad.pkl: asks for \w+.exec, which is refused") as error:
        open_series(path)
    assert "plain containers and numpy arrays" in str(error.value)
    assert not TARGET.exists()
    pickle.loads(path.read_bytes())  # it would have run
    assert TARGET.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "has no splits train, valid or dev, test; its keys are a"),
        ([1, 2], "has no splits"),
        ({"train": {"x": 1}}, "a split of it holds x"),
        ({"train": 3}, "a split of it holds int"),
        ({"train": {"labels": np.zeros(2), "text": np.zeros((2, 3, 4))}}, "'train' has text of text, audio and vision"),
        (mult_pickle(labels=np.zeros((2, 3, 5))), r"labels of the shapes"),
        (mult_pickle(labels=np.zeros((3, 1, 1))), "has 2 items in 'text' and 3 labels"),
        (mult_pickle(text=np.zeros((2, 6))), r"'text' of 'train' has the shape \[2, 6\]"),
        (mult_pickle(labels=np.full((2, 1, 1), np.nan)) | {"valid": {}, "test": {}}, "has no 'labels'"),
        ({"train": [(1, 2, 3)]}, r"item 0 of 'train' is not \(\(words, visual, acoustic\), label, segment\)"),
        ({"train": [((["a", "b"], np.zeros((2, 4)), np.zeros((1, 4))), 1.0, "s")]}, "2 words and 1 rows of audio"),
    ],
)
def test_what_it_is_not_is_said(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        open_series(save(tmp_path / "x.pkl", content))
    assert "x.pkl" in str(error.value)


def test_a_damaged_file_and_other_kinds_are_named(tmp_path):
    whole = save(tmp_path / "mosi_data.pkl", mult_pickle()).read_bytes()
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut.pkl: not a readable pickle"):
        open_series(tmp_path / "cut.pkl")
    with pytest.raises(InputError, match="no such file"):
        open_series(tmp_path / "none.pkl")
    (tmp_path / "talk.csv").write_text("text,label\nhi,1\n")
    with pytest.raises(InputError, match="coalign convert-data"):
        open_series(tmp_path / "talk.csv")
    with pytest.raises(InputError, match="holds neither"):
        open_series(tmp_path)


def test_labels_that_are_no_number_are_left_out_and_said(tmp_path):
    content = mult_pickle(labels=np.array([[[np.nan]], [[2.0]]]))
    data = read_pickle(save(tmp_path / "x.pkl", content))
    assert len(data.splits["train"]) == 1
    assert any("1 utterances have no finite label" in note for note in data.notes)
    with pytest.raises(InputError, match=r"no split 'dev2'.*there are: train, valid, test"):
        data.split("dev2")
