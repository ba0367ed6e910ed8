from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Text

CLS, SEP, MASK = "[CLS]", "[SEP]", "[MASK]"


def shown(tokenizer: Tokenizer, text: Text) -> list[str]:
    """Each item's pieces as one string."""
    items = text.ids.to_padded(fill=-1.0).tolist()
    return [" ".join(tokenizer.id_to_piece(id) for id in item if id >= 0) for item in items]


def test_pieces_words_and_special_tokens(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode(["A red unaffable boat.", "", "Dogs zzz"])
    assert shown(tokenizer, text) == [
        "[CLS] a red un ##aff ##able boat . [SEP]",
        "[CLS] [SEP]",
        "[CLS] dog ##s [UNK] [SEP]",
    ]
    assert text.words is not None and text.types is None
    assert text.words.tolist() == [-1, 0, 1, 2, 2, 2, 3, 4, -1, -1, -1, -1, 0, 0, 1, -1]
    assert text.ids.lengths.tolist() == [9, 2, 5]
    assert text.ids.values.dtype == torch.int64


def test_without_the_final_separator(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode(["a boat", ""], separator=False)
    assert shown(tokenizer, text) == ["[CLS] a boat", "[CLS]"]
    assert shown(tokenizer, tokenizer.encode(["a boat [SEP]"], separator=False)) == ["[CLS] a boat [SEP]"]


def test_marks_in_the_text_belong_to_no_word(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode(["a [MASK] boat [SEP]"], separator=False)
    assert text.words is not None
    assert shown(tokenizer, text) == ["[CLS] a [MASK] boat [SEP]"]
    words = text.words.tolist()
    assert (words[0], words[2], words[4]) == (-1, -1, -1) and words[1] >= 0 and words[3] >= 0


def test_truncation_counts_special_tokens(tokenizer: Tokenizer) -> None:
    assert shown(tokenizer, tokenizer.encode(["a red boat and a dog"], 5)) == ["[CLS] a red boat [SEP]"]
    assert shown(tokenizer, tokenizer.encode(["a red boat and a dog"], 5, separator=False)) == ["[CLS] a red boat and"]
    assert shown(tokenizer, tokenizer.encode(["a red"], 2)) == ["[CLS] [SEP]"]
    with pytest.raises(InputError, match="no room"):
        tokenizer.encode(["a"], 1)


def test_pairs(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode([("a red boat", "dogs"), ("", "a")])
    assert shown(tokenizer, text) == ["[CLS] a red boat [SEP] dog ##s [SEP]", "[CLS] [SEP] a [SEP]"]
    assert text.types is not None and text.words is not None
    assert text.types.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert text.words.tolist() == [-1, 0, 1, 2, -1, 3, 3, -1, -1, -1, 0, -1]
    longer_first = tokenizer.encode([("a a a a a", "red red"), ("boat", "a a a a a a")], 7)
    assert shown(tokenizer, longer_first) == ["[CLS] a a [SEP] red red [SEP]", "[CLS] boat [SEP] a a a [SEP]"]
    open_end = tokenizer.encode([("a", "red")], separator=False)
    assert shown(tokenizer, open_end) == ["[CLS] a [SEP] red"]


def test_agrees_with_the_library_of_bert(tmp_path: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(tokenizer.id_to_piece(id) for id in range(tokenizer.vocab_size)) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    ours = load_tokenizer(file)
    texts = ["Red BOATS, running.", "  ", "été dog\tcat\nthe", "unaffable unaffableness", "狗dog", "a" * 300]
    for text in texts:
        assert ours.encode([text]).ids.values.tolist() == theirs(text)["input_ids"]
    pairs = [("a red boat and a dog", "the cat, the dog"), ("a", "red red red red red red red")]
    for pair in pairs:
        expected = theirs(*pair, max_length=9, truncation="longest_first")
        got = ours.encode([pair], 9)
        assert got.types is not None
        assert got.ids.values.tolist() == expected["input_ids"]
        assert got.types.tolist() == expected["token_type_ids"]


def test_ids_decode_and_pieces(tokenizer: Tokenizer) -> None:
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.pieces("unaffable boats") == ["un", "##aff", "##able", "boat", "##s"]
    ids = tokenizer.encode(["unaffable red boats"]).ids.values
    assert tokenizer.decode(ids) == "unaffable red boats"
    assert tokenizer.decode(ids.tolist(), skip_special=False).startswith("[CLS]")
    with pytest.raises(InputError, match="not in the vocabulary"):
        tokenizer.id_to_piece(10_000)


def test_save_and_load(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tokenizer.save(tmp_path / "run")
    assert [path.name for path in file.parent.iterdir()] == ["tokenizer.json"]
    text = ["A red unaffable boat, é"]
    for again in (load_tokenizer(tmp_path / "run"), load_tokenizer(file), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode(text).ids.values.equal(tokenizer.encode(text).ids.values)


def test_stored_truncation_and_padding_are_ignored(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tokenizer.save(tmp_path)
    stored = json.loads(file.read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    stored["padding"] = {**padding, "pad_type_id": 0, "pad_token": "[PAD]"}
    file.write_text(json.dumps(stored))
    assert load_tokenizer(tmp_path).encode(["a a a a a a"]).ids.lengths.tolist() == [8]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_vocabulary_file(tmp_path: Path, ending: str) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a\u2028b", "red", "e"]
    (tmp_path / "vocab.txt").write_bytes(ending.join([*pieces, ""]).encode())
    loaded = load_tokenizer(tmp_path)
    assert loaded.vocab_size == len(pieces)
    assert loaded.pieces("RED É") == ["red", "e"]


def test_case_goes_by_the_configuration_or_the_pieces(tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join([*special, "red", "Red"]))
    assert load_tokenizer(file).pieces("Red red") == ["Red", "red"]
    assert load_tokenizer(file, lowercase=True).pieces("Red") == ["red"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(tmp_path).pieces("Red") == ["red"]


def test_training_is_repeatable_and_joins_letters() -> None:
    texts = [f"{first} {second}" for first in ("red", "green", "blue") for second in ("boat", "boats", "fruit")] * 4
    learned = [Tokenizer.train(texts, 80) for _ in range(3)]
    tables = [[one.id_to_piece(id) for id in range(one.vocab_size)] for one in learned]
    assert tables[0] == tables[1] == tables[2]
    assert tables[0][:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert learned[0].pieces("Green boat") == ["green", "boat"]
    assert learned[0].decode(learned[0].encode(["blue boats"]).ids.values) == "blue boats"
    assert "[UNK]" not in learned[0].pieces("tub")


def test_bad_vocabularies_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such vocabulary"):
        load_tokenizer(tmp_path / "vocab.txt")
    with pytest.raises(InputError, match="holds neither"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("hello\nworld\n")
    with pytest.raises(InputError, match=r"vocab\.txt: is no BERT vocabulary.*\[PAD\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: is no vocabulary"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_without_its_piece_for_unknown_words_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"[UNK]":1', '"[UNX]":1'))
    with pytest.raises(InputError, match=r"tokenizer\.json: .*\[UNK\], is missing"):
        load_tokenizer(tmp_path)
