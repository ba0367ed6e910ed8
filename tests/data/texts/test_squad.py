import json

import pytest

from coalign.data.texts.squad import read_squad, split_words
from coalign.data.texts.squad_windows import WindowSettings, encode_windows, read_windows
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.ops.spans import SpanSettings, answer

CONTEXT = "John Smith (1895-1943).  He lived in Oslo."


def squad(tmp_path, qas, context=CONTEXT, version="v2.0"):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"version": version, "data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    return file


def qa(id, text, start, question="Where?", **more):
    return {"id": id, "question": question, "answers": [{"text": text, "answer_start": start}], **more}


def test_both_versions(tmp_path):
    read = read_squad(squad(tmp_path, [qa("1", "Oslo", CONTEXT.index("Oslo"))], version="1.1"))
    (row,) = read.rows
    assert row.words == ("John", "Smith", "(1895-1943).", "He", "lived", "in", "Oslo.")
    assert (row.start, row.end, row.answers, read.has_unanswerable) == (6, 6, ("Oslo",), False)
    none = {"id": "2", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "x"}]}
    read = read_squad(squad(tmp_path, [none, qa("1", "John Smith", 0, is_impossible=False)]))
    assert read.has_unanswerable
    assert [row.answerable for row in read.rows] == [False, True]
    assert (read.rows[1].start, read.rows[1].end) == (0, 1)


def test_a_misplaced_answer_trains_nothing_and_is_said(tmp_path):
    read = read_squad(squad(tmp_path, [qa("1", "Oslo", 3), qa("2", "Oslo", 999), qa("3", "Oslo", "x")]))
    reasons = [problem.reason for problem in read.problems]
    assert reasons[0] == "the answer is 'Oslo', the paragraph has 'n Sm' at 3"
    assert "is not in the paragraph of 42 letters" in reasons[1]
    assert "not a number" in reasons[2]
    assert [row.start for row in read.rows] == [None] * 3
    assert read.rows[0].answers == ("Oslo",)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"paragraphs\[0\].qas\[1\]: a question before has the id '1' already"):
        read_squad(squad(tmp_path, [qa("1", "John", 0), qa("1", "John", 0)]))
    with pytest.raises(InputError, match=r"qas\[0\]: is no SQuAD file: there should be a record with 'question'"):
        read_squad(squad(tmp_path, [{"id": "1"}]))
    with pytest.raises(InputError, match="holds no question"):
        read_squad(squad(tmp_path, []))
    file = tmp_path / "x.json"
    file.write_text("[1]")
    with pytest.raises(InputError, match="a record with 'data'"):
        read_squad(file)
    with pytest.raises(InputError, match="no such file"):
        read_squad(tmp_path / "y.json")


def test_words_of_letters():
    assert split_words("a  bc\n") == (("a", "bc"), [0, 0, 0, 1, 1, 1])


WORDS = [
    "john",
    "smith",
    "(",
    "1895",
    "-",
    "1943",
    ")",
    ".",
    "he",
    "lived",
    "in",
    "oslo",
    "where",
    "who",
    "?",
    *"abcdefg",
]
TOKENIZER = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefg"])


def pieces(reading):
    return [TOKENIZER.id_to_piece(id) for id in reading.ids]


def test_the_answer_within_its_words(tmp_path):
    start = CONTEXT.index("1895")
    read = read_squad(squad(tmp_path, [qa("1", "1895-1943", start)]))
    (reading,) = read_windows(TOKENIZER, read.rows, WindowSettings(40, 20, 10), train=True)
    tokens = pieces(reading)
    assert tokens[:4] == ["[CLS]", "where", "?", "[SEP]"]
    assert tokens[reading.start : reading.end + 1] == ["1895", "-", "1943"]
    assert reading.types == [0] * 4 + [1] * (len(tokens) - 4)


def test_windows_and_answers_out_of_them(tmp_path):
    context = "a b c d e f g"
    read = read_squad(squad(tmp_path, [qa("1", "e f", 8, question="who")], context))
    readings = read_windows(TOKENIZER, read.rows, WindowSettings(8, 2, 2), train=True)
    assert [pieces(r)[3:-1] for r in readings] == [["a", "b", "c", "d"], ["c", "d", "e", "f"], ["e", "f", "g"]]
    assert [(r.start, r.end) for r in readings] == [(0, 0), (5, 6), (3, 4)]
    # every piece is of widest context in one window
    seen = [r.word_of[place] for r in readings for place, widest in r.widest.items() if widest]
    assert sorted(seen) == list(range(7))
    batch = encode_windows(readings).batch([1, 2])
    assert batch.labels.start.tolist() == [5, 3]
    assert batch.text.ids.lengths.tolist() == [8, 7]
    # logits that point at the answer's first and last letter in each window: only the one with most context counts
    starts = [[float(place == where) for place in range(8)] for where in (0, 5, 3)]
    ends = [[float(place == where) for place in range(8)] for where in (0, 6, 4)]
    seen = [r.window(TOKENIZER, s, e) for r, s, e in zip(readings, starts, ends, strict=True)]
    assert answer(seen, read.rows[0].words, SpanSettings()).text == "e f"
    with pytest.raises(InputError, match="leaves no room for a paragraph"):
        read_windows(TOKENIZER, read.rows, WindowSettings(8, 2, 6), train=True)


def test_unanswerable_and_misplaced_in_training(tmp_path):
    none = {"id": "2", "question": "who", "answers": [], "is_impossible": True}
    read = read_squad(squad(tmp_path, [none, qa("1", "Oslo", 3, is_impossible=False)]))
    (reading,) = read_windows(TOKENIZER, read.rows, WindowSettings(40, 20, 10), train=True)
    assert (reading.question, reading.start, reading.end) == (0, 0, 0)
    assert len(read_windows(TOKENIZER, read.rows, WindowSettings(40, 20, 10), train=False)) == 2
