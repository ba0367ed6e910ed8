import pytest
import torch

from coalign.data.core.samples import Where
from coalign.data.texts.choices import ChoiceRow
from coalign.data.texts.conll import TaggedSentence
from coalign.data.texts.encoded_texts import encode_choices, encode_tagged, encode_texts
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "##e"]
TOKENIZER = Tokenizer.from_vocabulary(WORDS)
WHERE = Where("x", 1)


def test_batches_are_selections():
    encoded = encode_texts(TOKENIZER, [("a", "b c"), ("b", "a"), ("cd", "a a a a")], 7, torch.tensor([2, 0, 1]))
    batch = encoded.batch([2, 0])
    assert batch.text.ids.lengths.tolist() == [7, 6]
    direct = TOKENIZER.encode([("cd", "a a a a"), ("a", "b c")], 7)
    assert torch.equal(batch.text.ids.values, direct.ids.values)
    assert torch.equal(batch.text.types, direct.types)
    assert batch.labels.label.tolist() == [1, 2]
    assert encoded.cut == 1
    loader = encoded.batches(2, train=False)
    assert [b.labels.label.tolist() for b in loader] == [[2], [0, 1]]


def test_choices_stay_together():
    rows = [ChoiceRow("a", ("b", "c"), 1, WHERE, "1"), ChoiceRow("b", ("a a", "b"), 0, WHERE, "2")]
    encoded = encode_choices(TOKENIZER, rows, 16)
    assert len(encoded) == 2
    batch = encoded.batch([1])
    assert torch.equal(batch.text.ids.values, TOKENIZER.encode([("b", "a a"), ("b", "b")]).ids.values)
    assert batch.labels.label.tolist() == [0]
    unlabelled = [ChoiceRow("a", ("b", "c"), None, WHERE, "1")]
    assert encode_choices(TOKENIZER, unlabelled, 16).batch([0]).labels.label is None


def test_tags_stand_at_first_pieces():
    sentence = TaggedSentence(("cd", "a", "\u200d", "cde"), ("X", "O", "Y", "X"), WHERE)
    encoded = encode_tagged(TOKENIZER, [sentence], ("O", "X", "Y"), 16)
    assert [TOKENIZER.id_to_piece(i) for i in encoded.text.ids.values.tolist()] == [
        *("[CLS]", "c", "##d", "a", "[UNK]", "c", "##d", "##e", "[SEP]"),
    ]
    assert encoded.piece_labels.tags.tolist() == [-100, 1, -100, 0, 2, 1, -100, -100, -100]
    assert encoded.piece_labels.first.tolist() == [False, True, False, True, True, True, False, False, False]
    with pytest.raises(InputError, match="label 'Y' is not in the set"):
        encode_tagged(TOKENIZER, [sentence], ("O", "X"), 16)


def test_a_long_sentence_keeps_all_its_words():
    words = ("cd", "a", "cde", "cdedede", "b")
    encoded = encode_tagged(TOKENIZER, [TaggedSentence(words, None, WHERE)], None, 5)
    assert encoded.text.ids.lengths.tolist() == [5, 5, 5, 3]
    assert int(encoded.piece_labels.first.sum()) == len(words)
    assert encoded.cut == 3
