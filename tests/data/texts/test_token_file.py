import numpy as np
import pytest
import torch

from coalign.data.core.batches import Batches
from coalign.data.texts.token_file import _ENDS, TokenFile, collate_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

TEXTS = ["a b c d e f g", "", "a", "c b a"]
ABOUT = {"data": "x"}


@pytest.fixture
def tokenizer():
    return Tokenizer.train_byte_pairs(["a b c d e f g"], 20, min_frequency=1)


def test_documents_come_in_windows_that_do_not_cross_them(tmp_path, tokenizer):
    file = TokenFile.write(TEXTS, tokenizer, tmp_path / "t", ABOUT)
    assert isinstance(file.ids, np.memmap) and file.ids.dtype == np.uint16
    windows = file.windows(3)
    shown = [tokenizer.decode([int(id) for id in windows[number]]) for number in range(len(windows))]
    assert shown == ["a b c", "d e f", "c b a"]  # "g" and "a" alone predict nothing
    assert [len(window) for window in file.windows(100)] == [7, 3]
    counts = file.counts(tokenizer.vocab_size)
    assert counts.sum() == 11 and counts[tokenizer.ids("a")[0]] == 3


def test_what_is_whole_and_of_the_same_corpus_is_found_again(tmp_path, tokenizer):
    assert TokenFile.find(tmp_path, ABOUT) is None
    TokenFile.write(TEXTS, tokenizer, tmp_path, ABOUT)
    again = TokenFile.find(tmp_path, ABOUT)
    assert again is not None and len(again.ids) == 11
    assert TokenFile.find(tmp_path, {"data": "y"}) is None
    (tmp_path / "about.json").unlink()  # as after a crash
    assert TokenFile.find(tmp_path, ABOUT) is None
    with pytest.raises(InputError, match="not a whole token file"):
        TokenFile.open(tmp_path)
    assert len(TokenFile.write(["b c"], tokenizer, tmp_path, ABOUT).ids) == 2


def test_nothing_to_write_is_said(tmp_path, tokenizer):
    with pytest.raises(InputError, match="no document has a word"):
        TokenFile.write(["", " "], tokenizer, tmp_path, ABOUT)


def test_batches_of_windows_are_packed_and_resume(tmp_path, tokenizer):
    windows = TokenFile.write(TEXTS, tokenizer, tmp_path, ABOUT).windows(3)
    loader = Batches(windows, collate_windows, 2, seed=1)
    first = next(iter(loader))
    state = loader.state_dict()
    assert first.text is not None and first.text.ids.values.dtype == torch.int64
    assert first.text.ids.lengths.tolist() == [3, 3]
    rest, other = loader, Batches(windows, collate_windows, 2, seed=1)
    other.load_state_dict(state)
    a, b = (next(iter(one)).text.ids.values.tolist() for one in (rest, other))
    assert a == b
    mixed = collate_windows([np.asarray([1, 2, 3], np.uint16), np.asarray([4, 5], np.uint16)])
    assert mixed.text is not None and mixed.text.ids.layout.offsets.tolist() == [0, 3, 5]


@pytest.mark.parametrize("ends", [[], [-1, 11], [7, 3, 11], [7, 8, 99], [7, 8]])
def test_documents_that_do_not_end_where_the_ids_do_are_refused(tmp_path, tokenizer, ends):
    TokenFile.write(TEXTS, tokenizer, tmp_path, ABOUT)
    (tmp_path / _ENDS).write_bytes(np.asarray(ends, np.int64).tobytes())
    with pytest.raises(InputError, match="its documents do not end where its 11 ids do"):
        TokenFile.open(tmp_path)
