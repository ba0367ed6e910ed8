import json

import pytest

from coalign.data.words.byte_pairs import byte_pairs
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

TABLE = {"<unk>": 0, **{letter: number for number, letter in enumerate("abcdefglorstw'n", 1)}}
TABLE |= {f"{letter}</w>": 30 + number for number, letter in enumerate("abcdefglorstw.'n\n")}
MERGES = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>"), ("n", "'"), ("n'", "t</w>"), ("lo", "w")]
TABLE |= {"".join(pair): 60 + number for number, pair in enumerate(MERGES)}
CORPUS = ["The cat sat on the mat.", "A cat isn't a dog; the dogs don't sit.", "Ümläute, cafés and 3.5 cats!"] * 4


def write(folder, table=TABLE, merges=MERGES, names=("vocab.json", "merges.txt"), head="#version: 0.2\n"):
    (folder / names[0]).write_text(json.dumps(table), "utf-8")
    (folder / names[1]).write_text(head + "".join(f"{a} {b}\n" for a, b in merges), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [  # as spaCy's English rules split the standardised text, lower-cased
        ("I don't think it's O'Neil's.", "i do n't think it 's o'neil 's ."),
        ("can't cannot won't we'll they've he'd I'm", "ca n't can not wo n't we 'll they 've he 'd i 'm"),
        ("Mr. Smith, the U.S. (e.g. at 9 a.m.)...", "mr. smith , the u.s. ( e.g. at 9 a.m. ) ..."),
        ("a $3.50-priced e-mail, 10km of 50% — 12:30", "a $ 3.50 - priced e - mail , 10 km of 50 % - 12:30"),
        ("the 19th, the 1950s and covid19; 1990.", "the 19th , the 1950s and covid19 ; 1990 ."),
        ("the dogs' “bone” and a‘b’", "the dogs ' \" bone \" and a'b '"),
        ("snake_case -- wow!!! ok?", "snake _ case -- wow !!! ok ?"),
        ("two\n\n lines", "two \n lines"),
    ],
)
def test_words_come_apart_as_in_the_original(text, words):
    assert Tokenizer(byte_pairs(TABLE, MERGES)).words(text) == words.replace(" \n ", "|\n|").replace(" ", "|").split(
        "|"
    )


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe")])
def test_published_files_and_their_merges(tmp_path, names):
    write(tmp_path, names=names)
    for path in (tmp_path, tmp_path / names[0]):
        tokenizer = load_tokenizer(path)
        assert tokenizer.pieces("Low lower don't") == ["low</w>", "low", "er</w>", "d", "o</w>", "n't</w>"]
        assert tokenizer.ids("lowz low") == [TABLE["low"], 0, TABLE["low</w>"]]
        assert tokenizer.vocab_size == max(TABLE.values()) + 1


def test_pieces_agree_with_transformers(tmp_path):
    hf = pytest.importorskip("transformers")
    theirs = hf.OpenAIGPTTokenizer(vocab=TABLE, merges=MERGES)
    ours = load_tokenizer(write(tmp_path))
    for text in ("slower low flows", "Glow z two low.", "bzl lowlow"):
        assert ours.ids(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.ids("slower low")) == "slower low"


def test_texts_carry_no_special_tokens(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path))
    text = tokenizer.encode(["lower low", "a dog"], max_length=2)
    assert text.ids.layout.offsets.tolist() == [0, 2, 4]
    assert [tokenizer.id_to_piece(id) for id in text.ids.values.tolist()] == ["low", "er</w>", "a</w>", "d"]
    assert text.types is None and text.words is not None and text.words.tolist() == [0, 0, 0, 1]
    with pytest.raises(InputError, match="text 2 has no words"):
        tokenizer.encode(["low", "  "])
    with pytest.raises(InputError, match="no token between"):
        tokenizer.encode([("low", "lower")])


def test_training_is_repeatable_and_saved_whole(tmp_path):
    first, second = (Tokenizer.train_byte_pairs(iter(CORPUS), 90) for _ in range(2))
    first.save(tmp_path)
    again = load_tokenizer(tmp_path)
    for text in (*CORPUS, "catsat dont zzz\nsit"):
        assert first.ids(text) == second.ids(text) == again.ids(text)
    assert first.pieces("the cat") == ["the</w>", "cat</w>"]  # frequent words are whole
    assert "n't</w>" in first.pieces("isn't")
    assert first.vocab_size <= 90 and first.unk_id == 0
    assert first.decode(first.ids("Ümläute, cafés")) == "ümläute , cafés"
    with pytest.raises(InputError, match="there are none"):
        Tokenizer.train_byte_pairs([], 90)


@pytest.mark.parametrize(
    ("table", "merges", "said"),
    [
        ("[1]", "a b\n", "not a table"),
        ("{", "a b\n", "cannot be read"),
        ('{"a": 0}', "a b\n", "no '<unk>'"),
        ('{"<unk>": 0, "a": 1}', "#version\na b c\n", "line 2 has 3 pieces"),
        ('{"<unk>": 0, "a": 1, "b": 2}', "a b\n", "do not go together"),
    ],
)
def test_damaged_files_are_named(tmp_path, table, merges, said):
    (tmp_path / "vocab.json").write_text(table)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(InputError, match=said) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
