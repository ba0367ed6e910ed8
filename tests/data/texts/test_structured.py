from itertools import pairwise

import pytest
import torch

from coalign.data.texts.structured import encode_sequences
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.gpt.heads import GptClassifier, GptMultipleChoice, GptSimilarity, GptTaskConfig
from coalign.trunks.gpt import GptConfig

WORDS = "a b c d e f g"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train_byte_pairs([WORDS], 20, min_frequency=1)


def task(kind, tokenizer, positions=16, **settings):
    gpt = GptConfig(vocab_size=tokenizer.vocab_size, special=3, positions=positions, dim=16, depth=1, heads=2)
    return kind(GptTaskConfig(gpt, **settings))


def shown(model, tokenizer, encoded):
    gpt = model.config.gpt
    marks = {gpt.start: "[s]", gpt.delimiter: "[d]", gpt.extract: "[x]"}
    ids, layout = encoded.text.ids.values.tolist(), encoded.text.ids.layout
    offsets = layout.offsets.tolist()
    return [
        " ".join(marks.get(id) or tokenizer.decode([id]) for id in ids[begin:end]) for begin, end in pairwise(offsets)
    ]


def test_each_task_arranges_its_texts_as_figure_1_does(tokenizer):
    classify = task(GptClassifier, tokenizer)
    assert shown(classify, tokenizer, encode_sequences(classify, tokenizer, [("a b",), ("c",)])) == [
        "[s] a b [x]",
        "[s] c [x]",
    ]
    pairs = encode_sequences(classify, tokenizer, [("a b", "c")])
    assert shown(classify, tokenizer, pairs) == ["[s] a b [d] c [x]"] and pairs.group == 1
    similar = task(GptSimilarity, tokenizer, classes=1)
    both = encode_sequences(similar, tokenizer, [("a b", "c")], torch.tensor([0.5]))
    assert shown(similar, tokenizer, both) == ["[s] a b [d] c [x]", "[s] c [d] a b [x]"]
    assert len(both) == 1 and both.batch([0]).labels.label.tolist() == [0.5]
    choose = task(GptMultipleChoice, tokenizer, choices=3)
    endings = encode_sequences(choose, tokenizer, [("a", "b", "c", "d e")], torch.tensor([2]))
    assert shown(choose, tokenizer, endings) == ["[s] a [d] b [x]", "[s] a [d] c [x]", "[s] a [d] d e [x]"]
    assert len(endings) == 1 and choose.eval().encode(endings.batch([0])).pooled["logits"].shape == (1, 3)


def test_long_parts_are_cut_and_counted(tokenizer):
    model = task(GptClassifier, tokenizer, positions=8)
    one = encode_sequences(model, tokenizer, [("a b c d e f g",), ("a b c d e f",)])
    assert shown(model, tokenizer, one) == ["[s] a b c d e f [x]"] * 2 and one.cut == 1
    two = encode_sequences(model, tokenizer, [("a b c", "d e f g")])
    assert shown(model, tokenizer, two) == ["[s] a b [d] d e [x]"] and two.cut == 1
    choose = task(GptMultipleChoice, tokenizer, positions=8)
    three = encode_sequences(choose, tokenizer, [("a b c", "d", "e")])
    assert shown(choose, tokenizer, three) == ["[s] a b [d] d [x]", "[s] a b [d] e [x]"] and three.cut == 1


def test_the_wrong_number_of_texts_is_said(tokenizer):
    with pytest.raises(InputError, match="compares two texts, an item has 1"):
        encode_sequences(task(GptSimilarity, tokenizer), tokenizer, [("a",)])
    with pytest.raises(InputError, match="among 2 endings, an item has 3"):
        encode_sequences(task(GptMultipleChoice, tokenizer), tokenizer, [("a", "b", "c", "d")])
    with pytest.raises(InputError, match="no texts"):
        encode_sequences(task(GptClassifier, tokenizer), tokenizer, [])
