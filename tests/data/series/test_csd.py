import json

import numpy as np
import pytest

from coalign.data.series.csd import EMOTIONS, read_csd
from coalign.data.series.sources import open_series
from coalign.errors import InputError

h5py = pytest.importorskip("h5py")


def write(path, root, data):
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        for video, (features, intervals) in data.items():
            entry = group.create_group(f"data/{video}")
            entry["features"], entry["intervals"] = np.asarray(features), np.asarray(intervals, dtype=float)
        group.create_group("metadata")["root name"] = [json.dumps(root).encode()]


WORDS = np.array([[b"so"], [b"sp"], [b"good"], [b"bad"]])
TIMES = [[0.0, 1.0], [1.0, 1.5], [1.5, 2.0], [3.0, 4.0]]


def folder(path, label_width=1, videos=("v1", "v2")):
    # sound every half second with the number of the half second; a face at three moments, one of them not a number
    sound = (np.arange(8.0).reshape(8, 1), [[i / 2, i / 2 + 0.5] for i in range(8)])
    face = ([[1.0, 2.0], [np.nan, 4.0], [5.0, 6.0]], [[0.0, 0.4], [0.4, 0.9], [3.5, 3.6]])
    labels = np.zeros((2, label_width))
    labels[:, 0] = [2.0, -1.0]
    if label_width == 7:
        labels[0, 2] = 0.66
    write(
        path / "CMU_MOSI_Opinion_Labels.csd",
        "Opinion Segment Labels",
        dict.fromkeys(videos, (labels, [[0, 2], [3, 4]])),
    )
    write(path / "CMU_MOSI_TimestampedWords.csd", "words", dict.fromkeys(videos, (WORDS, TIMES)))
    write(path / "CMU_MOSI_COVAREP.csd", "COVAREP", dict.fromkeys(videos, sound))
    write(path / "CMU_MOSI_Visual_Facet_42.csd", "FACET", {videos[0]: face})
    write(path / "CMU_MOSI_TimestampedPhones.csd", "phonemes", dict.fromkeys(videos, (WORDS, TIMES)))
    (path / "splits.json").write_text(json.dumps({"train": [videos[0]], "test": [videos[1]]}))
    return path


def test_words_get_the_mean_of_what_overlaps_them(tmp_path):
    data = open_series(folder(tmp_path))
    first, second = data.splits["train"]
    assert first.id == "v1[0]"
    assert first.words == ("so", "good")  # the pause is no word
    assert first.streams["audio"].tolist() == [[0.5], [3.0]]  # 0-1 s: rows 0 and 1; 1.5-2 s: row 3
    assert first.streams["vision"].tolist() == [[0.5, 3.0], [0.0, 0.0]]  # NaN counts as 0; no face in "good"
    assert first.label.tolist() == [2.0]
    assert second.words == ("bad",)
    assert second.streams["audio"].tolist() == [[6.5]]
    assert second.streams["vision"].tolist() == [[5.0, 6.0]]
    other = data.splits["test"][0]
    assert other.streams["vision"].tolist() == [[0.0, 0.0]] * 2  # v2 has no face at all


def test_rows_as_they_are_know_their_words(tmp_path):
    first = read_csd(folder(tmp_path), by_word=False).splits["train"][0]
    assert first.streams["audio"].flatten().tolist() == [0, 1, 2, 3]
    assert first.places["audio"].tolist() == [0, 0, -1, 1]
    assert read_csd(tmp_path, by_word=False).splits["test"][0].streams["vision"].shape == (0, 2)
    assert read_csd(tmp_path, keep_pauses=True).splits["train"][0].words == ("so", "sp", "good")


def test_emotions_of_mosei(tmp_path):
    data = read_csd(folder(tmp_path, 7), labels="emotions")
    assert data.task == "emotions"
    assert data.label_names == EMOTIONS
    assert data.splits["train"][0].label.tolist() == [0, 1, 0, 0, 0, 0]
    with pytest.raises(InputError, match="labels have 1 columns; emotions need 7"):
        read_csd(folder(tmp_path, 1), labels="emotions")


def test_without_splits_videos_are_split_by_their_ids(tmp_path):
    folder(tmp_path, videos=tuple(f"v{i}" for i in range(40)))
    (tmp_path / "splits.json").unlink()
    data = read_csd(tmp_path)
    sizes = {split: len(items) for split, items in data.splits.items()}
    assert sum(sizes.values()) == 80
    assert sizes["train"] > sizes["test"] > 0
    assert "not as published" in data.notes[0]
    videos = [{item.id.split("[")[0] for item in items} for items in data.splits.values()]
    assert not videos[0] & videos[2]


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no file is recognised as the labels"):
        read_csd(tmp_path)
    folder(tmp_path)
    write(tmp_path / "CMU_MOSI_openSMILE.csd", "o", {"v1": ([[1.0]], [[0, 1]])})
    with pytest.raises(InputError, match="several files would be 'audio'"):
        read_csd(tmp_path)
    chosen = read_csd(tmp_path, streams={"audio": "CMU_MOSI_COVAREP.csd", "smile": "CMU_MOSI_openSMILE.csd"})
    assert list(chosen.widths) == ["audio", "smile", "vision"]
    with pytest.raises(InputError, match=r"missing.csd: no such file"):
        read_csd(tmp_path, streams={"audio": "missing.csd"})
    (tmp_path / "CMU_MOSI_openSMILE.csd").write_bytes(b"no hdf5")
    with pytest.raises(InputError, match=r"openSMILE.csd: is no readable HDF5 file"):
        read_csd(tmp_path, streams={"audio": "CMU_MOSI_openSMILE.csd"})
    (tmp_path / "splits.json").write_text('{"learn": []}')
    with pytest.raises(InputError, match="unknown split 'learn'"):
        read_csd(tmp_path, streams={"audio": "CMU_MOSI_COVAREP.csd"})
