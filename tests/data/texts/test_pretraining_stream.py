import pytest
import torch

from coalign.data.texts.pretraining_stream import ExampleStream
from coalign.data.texts.pretraining_text import Plan
from coalign.data.texts.sentences import split_sentences
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

WORDS = [f"w{i}" for i in range(30)]
TOKENIZER = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])
PLAN = Plan(max_length=16, max_predictions=3)


class Corpus:
    """Documents of six sentences; `read` counts how many have been taken."""

    def __init__(self, documents=10):
        self.documents, self.read = documents, 0

    def __iter__(self):
        for d in range(self.documents):
            self.read += 1
            yield "\n".join(f"w{d} w{10 + s} w{20 + s} w{d} ." for s in range(6))


def stream(documents=10, batch_size=4, **settings):
    return ExampleStream(Corpus(documents), TOKENIZER, PLAN, batch_size, **{"window": 4, "lines": True, **settings})


def ids(batches):
    return [batch.text.ids.values.tolist() for batch in batches]


def test_sentences():
    text = 'He met Dr. Who in the U.S. Army (b. 1900). "Yes!" she said. 42 is it? Ok\nA new line.'
    assert split_sentences(text) == [
        "He met Dr. Who in the U.S. Army (b. 1900).",
        '"Yes!" she said.',
        "42 is it?",
        "Ok",
        "A new line.",
    ]
    assert split_sentences("J. R. R. Tolkien wrote. It sold.") == ["J. R. R. Tolkien wrote.", "It sold."]
    assert split_sentences("One. Two.\n\nThree.", lines=True) == ["One. Two.", "Three."]
    assert split_sentences("  \n") == []


def test_epochs_differ_and_repeat_by_seed():
    first = stream()
    one, two = ids(first), ids(first)
    assert one != two and len(one) > 3
    again = stream()
    assert (ids(again), ids(again)) == (one, two)
    assert ids(stream(seed=1)) != one


def test_a_window_of_documents_is_held_at_a_time():
    corpus = Corpus(10)
    batches = iter(ExampleStream(corpus, TOKENIZER, PLAN, 4, window=4, lines=True))
    next(batches)
    assert corpus.read == 4


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_resumed_anywhere_it_goes_on(stop):
    whole = stream()
    expected = ids(whole) + ids(whole)
    begun = stream()
    seen = []
    while len(seen) < stop:
        for batch in begun:
            seen += ids([batch])
            if len(seen) == stop:
                break
    resumed = stream()
    resumed.load_state_dict(begun.state_dict())
    rest = []
    while len(rest) < len(expected) - stop:
        rest += ids(resumed)
    assert rest[: len(expected) - stop] == expected[stop:]


def test_ranks_share_the_batches():
    whole = ids(stream(batch_size=2, window=100))
    parts = [ids(stream(batch_size=2, window=100, rank=r, world_size=2)) for r in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(whole) // 2
    assert parts[0][0] == whole[0] and parts[1][0] == whole[1]


def test_small_and_changed_corpora():
    (only,) = ids(stream(documents=1, batch_size=64))  # fewer examples than a batch: what there is
    assert only
    moved = stream(documents=3)
    moved.load_state_dict({**stream().state_dict(), "window": 2})
    with pytest.raises(InputError, match="ends before window"):
        list(moved)
    with pytest.raises(InputError, match="batch_size was 4 and is 8"):
        stream(batch_size=8).load_state_dict(stream().state_dict())


def test_hidden_words_and_labels():
    batch = next(iter(stream()))
    labels = batch.labels.mlm_labels
    rows = (labels != -100).nonzero()[:, 0]
    assert len(rows) > 0
    assert bool((batch.text.ids.values[rows] == TOKENIZER.mask_id).any())
    assert set(batch.labels.next_sentence.tolist()) <= {0, 1}
    assert torch.all(labels[batch.text.ids.layout.first] == -100)
