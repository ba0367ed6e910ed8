import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.data.texts.conll import entities, is_spans, read_conll, tag_names, to_scheme
from coalign.errors import InputError

CONLL2003 = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def test_conll_2003(tmp_path):
    file = tmp_path / "eng.train"
    file.write_text(CONLL2003)
    first, second = read_conll(file)
    assert first.words == ("EU", "rejects", "German", "call")
    assert first.tags == ("I-ORG", "O", "I-MISC", "O")
    assert (second.words, second.where.row) == (("Peter", "Blackburn"), 8)
    assert tag_names([first, second]) == ("O", "I-MISC", "I-ORG", "I-PER")
    assert read_conll(file, tag_column=2)[0].tags == ("NNP", "VBZ", "JJ", "NN")
    with pytest.raises(InputError, match="line 3: has 4 columns, column 5 was asked for"):
        read_conll(file, tag_column=5)


def test_conll_u(tmp_path):
    file = tmp_path / "en.conllu"
    rows = [
        "# text = He's in",
        "1-2\tHe's\t_\t_\t_",
        "1\tHe\the\tPRON\tx",
        "2\t's\tbe\tAUX\tx",
        "3\tin\tin\tADP\tx",
        "",
    ]
    file.write_text("\n".join(rows))
    (only,) = read_conll(file)
    assert only.words == ("He", "'s", "in") and only.tags == ("PRON", "AUX", "ADP")


def test_words_alone_and_bad_files(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("One\ntwo\n\nthree\n")
    assert [s.tags for s in read_conll(file, need_tags=False)] == [None, None]
    with pytest.raises(InputError, match="line 1: has a word and no tag"):
        read_conll(file)
    file.write_text("a O\nb\n")
    with pytest.raises(InputError, match="line 2: 1 columns, the first line has 2: 'b'"):
        read_conll(file)
    file.write_text("\n\n")
    with pytest.raises(InputError, match="holds no sentence"):
        read_conll(file)
    file.write_bytes("café O".encode("latin-1"))
    with pytest.raises(InputError, match="name its encoding"):
        read_conll(file)
    with pytest.raises(InputError, match="no such file"):
        read_conll(tmp_path / "b")


IOB1 = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-LOC", "I-ORG", "O"]
IOB2 = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "B-ORG", "O"]
IOBES = ["B-PER", "E-PER", "O", "S-LOC", "B-LOC", "E-LOC", "S-ORG", "O"]
SPANS = [("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 6), ("ORG", 6, 7)]


def test_schemes():
    for tags in (IOB1, IOB2, IOBES, [tag.replace("E-", "L-").replace("S-", "U-") for tag in IOBES]):
        assert entities(tags) == SPANS
        assert to_scheme(tags, "iob1") == IOB1
        assert to_scheme(tags, "iob2") == IOB2
        assert to_scheme(tags, "iobes") == IOBES
    assert entities(["O", "I-X", "O", "E-X", "I-X", "S-X", "I-Y"]) == [
        ("X", 1, 2),
        ("X", 3, 4),
        ("X", 4, 5),
        ("X", 5, 6),
        ("Y", 6, 7),
    ]
    assert is_spans(IOB1) and not is_spans(["NN", "O"]) and not is_spans(["O", "O"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIES" for t in "XY")]), max_size=8))
def test_any_tags_survive_every_scheme(tags):
    spans = entities(tags)
    for scheme in ("iob1", "iob2", "iobes"):
        assert entities(to_scheme(tags, scheme)) == spans
