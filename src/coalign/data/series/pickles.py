"""The pickles in which CMU-MOSI, CMU-MOSEI, IEMOCAP and UR-FUNNY go round. None is unpickled (`safe_pickle`).

* MulT (`mosi_data.pkl`, `mosei_senti_data_noalign.pkl`, `iemocap_data.pkl` ...), and MultiBench's of the same form:
  {split: {"text" [N, L, D], "audio", "vision", "labels" [N, 1, 1] or [N, K, 2], "id"}}. Padded with rows of zeros.
* MMSA (`aligned_50.pkl`, `unaligned_50.pkl`): {split: {"raw_text", "text", "text_bert", "audio", "vision",
  "audio_lengths", "vision_lengths", "regression_labels", "id"}}.
* MAG (`mosi.pkl`, `mosei.pkl`): {split: [((words, visual, acoustic), label, segment) ...]}, one row a word.
* UR-FUNNY (a folder of `humor_label_sdk.pkl`, `language_sdk.pkl`, `covarep_features_sdk.pkl` ...): the punchlines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coalign.checkpoints import safe_pickle
from coalign.data.series.utterances import SPLITS, SeriesData, Task, Utterance, cleaned, without_padding
from coalign.errors import InputError

Padding = Literal["strip", "keep"]
IEMOCAP = ("neutral", "happy", "sad", "angry")
_STREAMS = ("text", "audio", "vision")


def read_pickle(path: Path, padding: Padding = "strip") -> SeriesData:
    """Reads any of the three one-file forms.

    Args:
        path: The file.
        padding: "strip" takes leading and trailing rows of zeros off every stream; where streams are word by word
            together. "keep" leaves them, as MulT's authors do.

    Raises:
        InputError: The file holds something else, or asks for code to be run.
    """
    content: Any = safe_pickle.load(path)
    splits = {SPLITS[str(key)]: part for key, part in _items(content) if str(key) in SPLITS}
    if not splits:
        there = f"its keys are {', '.join(str(key) for key, _ in _items(content)) or 'none'}"
        raise InputError(f"{path}: has no splits train, valid or dev, test; {there}")
    first = next(iter(splits.values()))
    if isinstance(first, list | tuple):
        return _read_mag(path, cast("Mapping[str, Sequence[Any]]", splits))
    if isinstance(first, Mapping) and "regression_labels" in first:
        return _read_arrays(path, splits, padding, _mmsa_label(path, "regression_labels"))
    if isinstance(first, Mapping) and "labels" in first:
        return _read_arrays(path, splits, padding, lambda part: _array(path, part, "labels"))
    keys = ", ".join(str(key) for key, _ in _items(first)) or type(first).__name__
    raise InputError(f"{path}: is none of MulT's, MAG's and MMSA's pickles: a split of it holds {keys}")


def _items(content: Any) -> list[tuple[Any, Any]]:
    return list(content.items()) if isinstance(content, Mapping) else []


# -------------------------------------------------------------------------------------------------- arrays by split
def _read_arrays(
    path: Path, splits: Mapping[str, Any], padding: Padding, labels_of: Callable[[Mapping[str, Any]], Any]
) -> SeriesData:
    """MulT's and MMSA's: whole arrays [N, L, D] a stream."""
    raw = {split: np.asarray(labels_of(part), dtype=np.float64) for split, part in splits.items()}
    task, names, convert = _labels(path, raw)
    by_split: dict[str, list[Utterance]] = {}
    for split, part in splits.items():
        arrays = {name: _stream(path, split, part, name) for name in _STREAMS if name in part}
        if len(arrays) < 2:
            raise InputError(f"{path}: split {split!r} has {', '.join(arrays) or 'none'} of text, audio and vision")
        labels = convert(raw[split])
        for name, array in arrays.items():
            if len(array) != len(labels):
                raise InputError(f"{path}: {split!r} has {len(array)} items in {name!r} and {len(labels)} labels")
        ids, texts = part.get("id"), part.get("raw_text")
        items = by_split.setdefault(split, [])
        for i in range(len(labels)):
            rows = {name: torch.from_numpy(np.array(array[i], dtype=np.float32)) for name, array in arrays.items()}
            words = () if texts is None else tuple(_string(texts[i]).split())
            kept = _cut(rows, part, i, padding)
            items.append(Utterance(_id(ids, i, split), kept, labels[i], words))
    return cleaned(SeriesData(path.stem, by_split, task, names))


def _cut(rows: dict[str, Tensor], part: Mapping[str, Any], i: int, padding: Padding) -> dict[str, Tensor]:
    """The rows without padding: by the lengths that the file gives, else by its zeros."""
    if padding == "keep":
        return rows
    known: dict[str, int] = {}
    for name in ("audio", "vision"):
        if f"{name}_lengths" in part:
            known[name] = int(np.asarray(part[f"{name}_lengths"][i]))
    in_step = not known and len({len(x) for x in rows.values()}) == 1
    if "text_bert" in part:
        known["text"] = int(np.asarray(part["text_bert"][i])[1].sum())
    kept = {
        name: slice(0, known[name]) if name in known else without_padding(x.nan_to_num(1.0)) for name, x in rows.items()
    }
    if in_step:  # word by word: all streams are cut alike
        some = [there for there in kept.values() if there.stop > there.start]
        both = slice(min((s.start for s in some), default=0), max((s.stop for s in some), default=0))
        kept = dict.fromkeys(rows, both)
    return {name: x[kept[name]] for name, x in rows.items()}


def _labels(
    path: Path, raw: Mapping[str, npt.NDArray[Any]]
) -> tuple[Task, tuple[str, ...], Callable[[npt.NDArray[Any]], list[Tensor]]]:
    """The kind of the labels, their names, and how an array of them becomes one tensor an utterance."""
    if any(array.ndim == 3 and array.shape[1:] != (1, 1) for array in raw.values()):
        shapes = {array.shape[1:] for array in raw.values()}
        if len(shapes) != 1 or next(iter(shapes))[1] != 2:
            raise InputError(f"{path}: labels of the shapes {sorted(shapes)}; expected [N, 1, 1] or [N, emotions, 2]")
        count = next(iter(shapes))[0]
        names = IEMOCAP if count == 4 else tuple(f"emotion {i}" for i in range(count))
        return "emotions", names, lambda array: list(torch.from_numpy(array.argmax(-1)))
    if any(array.size != len(array) for array in raw.values()):
        raise InputError(f"{path}: more than one number a label; expected [N, 1, 1] or [N, emotions, 2]")
    values = {value for array in raw.values() for value in np.unique(array[np.isfinite(array)]).tolist()}
    if values and (values <= {0.0, 1.0} or values <= {-1.0, 1.0}):
        return (
            "classes",
            ("no", "yes"),
            lambda array: list(torch.from_numpy((array.reshape(-1, 1) > 0).astype("int64"))),
        )
    return "regression", ("sentiment",), lambda array: list(torch.from_numpy(array.reshape(-1, 1)).float())


def _mmsa_label(path: Path, key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda part: _array(path, part, key)


def _stream(path: Path, split: str, part: Mapping[str, Any], name: str) -> Any:
    """A stream's [N, L, D]; a list of arrays of different lengths passes too."""
    content = part[name]
    if isinstance(content, np.ndarray) and (content.ndim != 3 or content.dtype.kind not in "biuf"):
        shape = list(cast("npt.NDArray[Any]", content).shape)
        raise InputError(f"{path}: {name!r} of {split!r} has the shape {shape}; expected [items, steps, features]")
    if not isinstance(content, np.ndarray | list):
        raise InputError(f"{path}: {name!r} of {split!r} is a {type(content).__name__}, not an array")
    return cast("Any", content)


def _array(path: Path, part: Mapping[str, Any], key: str) -> Any:
    if key not in part:
        raise InputError(f"{path}: a split has no {key!r}; it has {', '.join(map(str, part))}")
    return part[key]


def _string(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _id(ids: Any, i: int, split: str) -> str:
    if ids is None:
        return f"{split}-{i}"
    value = ids[i]
    if isinstance(value, np.ndarray | list | tuple):
        return "-".join(_string(part) for part in cast("Sequence[Any]", np.asarray(value).ravel().tolist()))
    return _string(value)


# ------------------------------------------------------------------------------------------------------ lists (MAG)
def _read_mag(path: Path, splits: Mapping[str, Sequence[Any]]) -> SeriesData:
    by_split: dict[str, list[Utterance]] = {}
    for split, examples in splits.items():
        items = by_split.setdefault(split, [])
        for i, example in enumerate(examples):
            try:
                (words, visual, acoustic), label, segment = example
                spoken = tuple(_string(word) for word in words)
                rows = {
                    name: torch.from_numpy(np.array(x, dtype=np.float32).reshape(len(x), -1))
                    for name, x in (("audio", acoustic), ("vision", visual))
                }
                score = torch.from_numpy(np.array(label, dtype=np.float32).reshape(-1)[:1])
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: item {i} of {split!r} is not ((words, visual, acoustic), label, segment): {error}"
                ) from None
            for name, x in rows.items():
                if len(x) != len(spoken):
                    raise InputError(
                        f"{path}: item {i} of {split!r} has {len(spoken)} words and {len(x)} rows of {name}"
                    )
            if not len(score):
                raise InputError(f"{path}: item {i} of {split!r} has no label")
            items.append(Utterance(_string(segment), rows, score, spoken, _word_by_word(rows)))
    return cleaned(SeriesData(path.stem, by_split))


def _word_by_word(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.arange(len(x)) for name, x in rows.items()}


# ------------------------------------------------------------------------------------------------- folder (UR-FUNNY)
FUNNY = "humor_label_sdk.pkl"


def read_ur_funny(folder: Path) -> SeriesData:
    """UR-FUNNY's folder of pickles: words, GloVe vectors, COVAREP and OpenFace features of the punchlines.

    Raises:
        InputError: A file is missing, or is not what the data set's README says.
    """
    labels, folds, language = (_part(folder, name) for name in ("humor_label_sdk", "data_folds", "language_sdk"))
    audio, vision = _part(folder, "covarep_features_sdk"), _part(folder, "openface_features_sdk")
    vectors = _part(folder, "word_embedding_list", optional=True)
    numbers = _part(folder, "word_embedding_indexes_sdk", optional=True) or language
    splits: dict[str, list[Utterance]] = {}
    for fold, ids in _items(folds):
        items = splits.setdefault(SPLITS.get(str(fold), str(fold)), [])
        items += _punchlines(folder, ids, labels, language, audio, vision, vectors, numbers)
    return cleaned(SeriesData(folder.name, splits, "classes", ("not humorous", "humorous")))


def _punchlines(folder: Path, ids: Any, *parts: Any) -> Iterator[Utterance]:
    labels, language, audio, vision, vectors, numbers = parts
    for id in ids:
        try:
            sentence = language[id]["punchline_sentence"]
            words = tuple(sentence.split() if isinstance(sentence, str) else map(_string, sentence))
            rows = {
                name: _rows(part[id]["punchline_features"]) for name, part in (("audio", audio), ("vision", vision))
            }
            indices = numbers[id].get("punchline_embedding_indexes", numbers[id].get("punchline_features"))
            if vectors is not None and indices is not None:
                rows = {"text": _rows([vectors[int(np.ravel(i)[0])] for i in indices]), **rows}
            label = torch.tensor([int(labels[id])])
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(f"{folder}: utterance {id} is not complete ({type(error).__name__}: {error})") from None
        yield Utterance(str(id), rows, label, words, _word_by_word(rows))


def _rows(content: Any) -> Tensor:
    array = np.array(content, dtype=np.float32)
    return torch.from_numpy(array.reshape(len(array), -1))


def _part(folder: Path, name: str, optional: bool = False) -> Any:
    path = folder / f"{name}.pkl"
    if not path.is_file():
        if optional:
            return None
        raise InputError(f"{path}: no such file; UR-FUNNY's folder has it beside {FUNNY}")
    return safe_pickle.load(path)
