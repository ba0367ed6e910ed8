"""Tokens around a text that are not BERT's: CLIP's byte pairs, SentencePiece with an end alone, Gemma's spaces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from coalign.data.words import clip_pairs
from coalign.data.words.clip_pairs import END, START, byte_letters, read_clip_merges
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

MERGES = [("b", "o"), ("bo", "a"), ("boa", "t</w>"), ("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "f")]
TEXTS = ["A red  boat!", "café, it's 42\n boats", "日本", "", "boat<|endoftext|>"]


def table() -> dict[str, int]:
    letters = byte_letters()
    listed = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in MERGES), START, END]
    return {piece: number for number, piece in enumerate(listed)}


def write(folder: Path) -> Path:
    (folder / "vocab.json").write_text(json.dumps(table()), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES), "utf-8")
    return folder


def test_clips_files_give_transformers_ids(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    theirs = hf.CLIPTokenizer(vocab=table(), merges=MERGES)
    ours = load_tokenizer(write(tmp_path))
    for text in TEXTS:
        assert ours.encode([text]).ids.values.tolist() == theirs(text)["input_ids"]
    theirs.save_pretrained(tmp_path / "hf")
    again = load_tokenizer(tmp_path / "hf")  # its tokenizer.json
    both = ours.encode(TEXTS), again.encode(TEXTS)
    assert both[0].ids.values.equal(both[1].ids.values) and both[0].words.equal(both[1].words)
    assert (again.start, again.end) == (ours.start, ours.end)


def test_what_clip_reads_and_gives_back(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    text = tokenizer.encode(["A red boat!"])
    pieces = [tokenizer.id_to_piece(id) for id in text.ids.values.tolist()]
    assert pieces == [START, "a</w>", "red</w>", "boat</w>", "!</w>", END]
    assert text.words is not None and text.words.tolist() == [-1, 0, 1, 2, 3, -1]
    assert tokenizer.words("A café, it's") == ["a", "café", ",", "it", "'s"]
    assert tokenizer.decode(tokenizer.ids("A red boat, café")) == "a red boat , café"
    cut = tokenizer.encode(["a red boat !"], 4).ids.values.tolist()
    assert [tokenizer.id_to_piece(id) for id in cut] == [START, "a</w>", "red</w>", END]
    assert tokenizer.encode(["a"], separator=False).ids.values.tolist() == [tokenizer.start, table()["a</w>"]]
    tokenizer.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").encode(TEXTS).ids.values.equal(tokenizer.encode(TEXTS).ids.values)
    assert tokenizer.pad_id == tokenizer.end and tokenizer.lowercase


@pytest.mark.parametrize("packed", [True, False])
def test_the_authors_list_of_merges(tmp_path: Path, packed: bool) -> None:
    lines = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *(f"{a} {b}" for a, b in MERGES), "t o", "o x"])
    file = tmp_path / f"bpe_simple_vocab_16e6.txt{'.gz' * packed}"
    file.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    inner = read_clip_merges(file, len(table()))
    assert inner.get_vocab() == table()
    whole = load_tokenizer(file)
    assert whole.vocab_size == len(table()) + 2 and whole.ids("boat") == [table()["boat</w>"]]
    file.write_bytes(b"no gzip" if packed else b"head\na b c\n")
    with pytest.raises(InputError, match=r"cannot be read|line 2 has 3 pieces"):
        load_tokenizer(file)


def unigram(**parts: object) -> tokenizers.Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581a", -1.0), ("\u2581boat", -2.0), ("s", -3.0)]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.add_special_tokens(["<pad>", "</s>", "<unk>"])
    for name, part in parts.items():
        setattr(inner, name, part)
    return inner


def test_a_text_that_ends_and_does_not_begin(tmp_path: Path) -> None:
    ending = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    spaces = pre_tokenizers.Metaspace()
    unigram(pre_tokenizer=spaces, post_processor=ending, decoder=decoders.Metaspace()).save(
        str(tmp_path / "tokenizer.json")
    )
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.start, tokenizer.end, tokenizer.pad_id) == (None, 1, 0)
    text = tokenizer.encode(["a boats", ""])
    assert text.ids.values.tolist() == [3, 4, 5, 1, 1] and text.ids.lengths.tolist() == [4, 1]
    assert text.words is not None and text.words.tolist() == [0, 1, 1, -1, -1]
    assert tokenizer.encode(["a boats"], 3).ids.values.tolist() == [3, 4, 1]
    pair = tokenizer.encode([("a", "boat")])
    assert pair.ids.values.tolist() == [3, 1, 4, 1] and pair.types is not None and pair.types.tolist() == [0, 0, 1, 1]
    assert tokenizer.words("a boats") == ["a", "boats"] and tokenizer.decode([3, 4, 5, 1]) == "a boats"


def test_words_that_are_not_split_before_pieces_are_looked_up() -> None:
    around = processors.TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 0)])
    spaces = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer = Tokenizer(unigram(normalizer=spaces, post_processor=around))
    text = tokenizer.encode(["a boats a"])
    assert (tokenizer.start, tokenizer.end) == (0, None) and text.ids.values.tolist() == [0, 3, 4, 5, 3]
    assert text.words is not None and text.words.tolist() == [-1, 0, 1, 1, 2]
    assert tokenizer.words("a boats a") == ["a", "boats", "a"]
    with pytest.raises(InputError, match="no token between two texts"):
        tokenizer.encode([("a", "a")])


def test_merges_that_unpack_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_pairs, "LONGEST", 1 << 12)
    file = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    file.write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(InputError, match="holds more than 4096 bytes"):
        read_clip_merges(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"holds more|cannot be read"):
        read_clip_merges(file)
