import math

import pytest

from coalign.ops.spans import SpanSettings, Window, answer, project, widest_context, windows

WORDS = ["The", "Cat's", "house", ",", "near", "Oslo"]
PIECES = ["[CLS]", "where", "[SEP]", "the", "cat", "'", "s", "house", ",", "near", "os", "##lo", "[SEP]"]
WORD_OF = {3: 0, 4: 1, 5: 1, 6: 1, 7: 2, 8: 3, 9: 4, 10: 5, 11: 5}


def window(start, end, widest=None, word_of=None, pieces=PIECES):
    def logits(best):
        return [best.get(place, -5.0) for place in range(len(pieces))]

    places = word_of or WORD_OF
    return Window(pieces, places, widest or dict.fromkeys(places, True), logits(start), logits(end))


def test_the_best_span_in_the_words_of_the_paragraph():
    found = answer([window({10: 2.0}, {11: 3.0})], WORDS, SpanSettings())
    assert found.text == "Oslo"
    assert found.null_odds is None
    assert found.candidates[0].score == 5.0
    assert sum(candidate.probability for candidate in found.candidates) == pytest.approx(1.0)


def test_part_of_a_word_is_given_as_such():
    assert answer([window({4: 2.0}, {4: 3.0})], WORDS, SpanSettings()).text == "Cat"
    assert answer([window({10: 2.0}, {10: 3.0})], WORDS, SpanSettings()).text == "Os"


def test_spans_that_are_no_answers():
    # the question, an end before the start, and one too long are passed over
    seen = window({1: 9.0, 9: 5.0, 4: 4.0}, {1: 9.0, 7: 5.0, 9: 1.0, 11: 2.0})
    assert answer([seen], WORDS, SpanSettings(longest=3)).text == "near Oslo"
    assert answer([seen], WORDS, SpanSettings(longest=4)).text == "Cat's house"


def test_a_start_counts_where_it_has_most_context():
    narrow = window({10: 9.0}, {11: 9.0}, widest=dict.fromkeys(WORD_OF, False))
    wide = window({7: 1.0}, {7: 1.0})
    assert answer([narrow, wide], WORDS, SpanSettings()).text == "house"


def test_unanswerable_questions():
    seen = [window({0: 3.0, 7: 2.0}, {0: 3.0, 7: 2.0}), window({0: 1.0}, {0: 1.0})]
    for threshold, text in ((-1.0, "house"), (-2.0, "house"), (-2.5, "")):
        found = answer(seen, WORDS, SpanSettings(null_threshold=threshold))
        assert found.null_odds == -2.0  # the smallest null score, 2, less 4
        assert found.text == text
    assert "" in [candidate.text for candidate in found.candidates]
    short = answer(seen, WORDS, SpanSettings(best=2, null_threshold=0.0))
    assert [c.text for c in short.candidates] == ["house", ""]


def test_nothing_can_be_the_answer():
    blind = window({}, {}, widest=dict.fromkeys(WORD_OF, False))
    found = answer([blind], WORDS, SpanSettings(null_threshold=0.0))
    assert (found.text, found.null_odds) == ("", math.inf)
    assert answer([blind], WORDS, SpanSettings()).text == "empty"


def test_padding_past_the_pieces_is_no_answer():
    seen = window({7: 1.0}, {7: 1.0})
    padded = Window(seen.pieces, seen.word_of, seen.widest, [*seen.start, 50.0], [*seen.end, 50.0])
    assert answer([padded], WORDS, SpanSettings()).text == "house"


def test_projection_to_the_text():
    assert project("steve smith", "Steve Smith's") == "Steve Smith"
    assert project("cafe", "the Café,") == "Café"
    assert project("Cafe", "the Café,", lowercase=False) == "the Café,"  # not found: the whole
    assert project("", "anything") == "anything"


def test_windows_overlap_and_cover():
    spans = windows(10, 4, 2)
    assert spans == [range(4), range(2, 6), range(4, 8), range(6, 10)]
    assert windows(3, 4, 2) == [range(3)]
    assert windows(0, 4, 2) == []
    assert windows(7, 3, 9) == [range(3), range(3, 6), range(6, 7)]
    with pytest.raises(ValueError, match="stride"):
        windows(3, 4, 0)
    # position 3 has 0 to its right in the first window, and one on each side in the second
    assert [widest_context(spans, place) for place in range(10)] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
