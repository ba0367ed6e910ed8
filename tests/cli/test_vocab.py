import pytest

from coalign.cli.commands import run_command
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError


def test_a_vocabulary_of_plain_text(tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("The boats sail.\nA boat sails.\n\nBoating is sailing.\n" * 5)
    out = tmp_path / "vocabulary"
    assert run_command("vocab", [str(corpus), "--size", "60", "--out", str(out)]) == 0
    assert "word pieces" in capsys.readouterr().out
    tokenizer = load_tokenizer(out)
    assert load_tokenizer(out / "vocab.txt").ids("the boats") == tokenizer.ids("the boats")
    assert tokenizer.lowercase and "boat" in (out / "vocab.txt").read_text().split("\n")
    with pytest.raises(InputError, match="exists already"):
        run_command("vocab", [str(corpus), "--out", str(out)])
    run_command("vocab", [str(corpus), "--size", "60", "--cased", "--out", str(tmp_path / "cased")])
    assert not load_tokenizer(tmp_path / "cased").lowercase


def test_the_corpus_is_read_as_a_stream():
    class Corpus:
        passes = 0

        def __iter__(self):
            Corpus.passes += 1
            yield from ["a boat", "a boat sails"] * 5

    tokenizer = Tokenizer.train(Corpus(), 40)
    assert Corpus.passes == 2  # nothing keeps it in between
    assert tokenizer.ids("boat") == Tokenizer.train(iter(["a boat", "a boat sails"] * 5), 40).ids("boat")
