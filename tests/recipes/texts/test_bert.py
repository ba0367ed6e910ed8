"""The recipes of BERT on data with rules that a small model learns in seconds, through their files and runs."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import coalign
from coalign.data.texts.conll import read_conll
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import configure
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.recipes import find_recipe
from coalign.registry import describe
from coalign.tasks import find_task
from coalign.tasks.texts.tagging import most_frequent_tags, score_tags
from coalign.trunks.bert import BertConfig

NOISE = [f"w{i}" for i in range(12)]
WORDS = ["good", "bad", "mr", "in", "where", "who", "yes", "no", "?", *NOISE]
QUICK = {"epochs": 500.0, "lr": 5e-3, "batch_size": 16}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run with a small BERT that knows nothing yet."""
    folder = tmp_path_factory.mktemp("start") / "run"
    tokenizer = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    trunk = BertConfig(vocab_size=len(WORDS) + 5, dim=32, depth=2, heads=2, hidden_dim=64, positions=32, dropout=0.0)
    torch.manual_seed(0)
    model = Bert(BertPretrainingConfig(trunk))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(describe(model)))
    save_file(model.state_dict(), folder / "model.safetensors")
    tokenizer.save(folder)
    return str(folder)


def text(rng, *words, length=4):
    drawn = [rng.choice(NOISE) for _ in range(length)]
    for word in words:
        drawn.insert(rng.randrange(len(drawn) + 1), word)
    return " ".join(drawn)


def train(name, **fields):
    configure(find_recipe(name), **fields).run()


def evaluate(task, run, data, **fields):
    return find_task(task)(run, data, **fields).evaluate()


# ------------------------------------------------------------------------------------------------- classes and scores
def labelled(path, count, seed):
    rng = random.Random(seed)
    rows = [(text(rng, word), label) for word, label in [("good", "pos"), ("bad", "neg")] * (count // 2)]
    path.write_text("sentence\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in rows))
    return str(path)


def test_classes(start, tmp_path, capsys):
    data, dev = labelled(tmp_path / "train.tsv", 64, 0), labelled(tmp_path / "dev.tsv", 40, 1)
    run = tmp_path / "run"
    train("bert-classify", data=data, dev=dev, out=run, start=start, max_length=16, max_steps=30, **QUICK)
    printed = capsys.readouterr().out
    assert f"next: coalign evaluate {run}" in printed and "accuracy" in printed
    out = tmp_path / "predictions.tsv"
    result = evaluate("classification", run, dev, out=out)
    assert result.metrics["accuracy"] > 0.95 and result.extra["commonest_class"] == 0.5
    lines = out.read_text().splitlines()
    assert lines[0] == "index\tprediction" and lines[1].split("\t")[1] in ("pos", "neg") and len(lines) == 41
    with pytest.raises(InputError, match="exists already"):
        evaluate("classification", run, dev, out=out)
    unlabelled = tmp_path / "test.tsv"
    unlabelled.write_text("index\tsentence\n7\tw1 good w2\n8\tw1 bad w2\n")
    evaluate("classification", run, str(unlabelled), out=tmp_path / "p.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prediction"]) for row in rows] == [("7", "pos"), ("8", "neg")]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1.0)
    with pytest.raises(InputError, match="was trained for classification, not for tagging"):
        evaluate("tagging", run, Path(dev))


def test_what_is_wrong_with_a_table_is_said_before_training(start, tmp_path):
    data = labelled(tmp_path / "train.tsv", 8, 0)
    fields = {"data": data, "out": tmp_path / "run", "start": start, "max_length": 16}
    bad = tmp_path / "dev.tsv"
    bad.write_text("sentence\tlabel\nw1\tpos\nw2\tgreat\n")
    with pytest.raises(InputError, match=r"dev.tsv, row 3: label 'great' is not in the set .*: neg, pos"):
        train("bert-classify", **fields, dev=str(bad))
    bad.write_text("title\tlabel2\nw1\tpos\n")
    with pytest.raises(InputError, match="no column is recognised as the label; the columns there are: title, label2"):
        train("bert-classify", **{**fields, "data": str(bad)})
    with pytest.raises(InputError, match="--max-length 64: the model reads 32 pieces at most"):
        train("bert-classify", **{**fields, "max_length": 64})
    with pytest.raises(InputError, match="fresh weights need a vocabulary"):
        train("bert-classify", **{**fields, "start": "scratch"})
    bad.write_text("sentence\tlabel\n" + "w1\tpos\n" * 3 + "broken\n" * 3)
    with pytest.raises(InputError, match="at least two labels"):
        train("bert-classify", **{**fields, "data": str(bad)})
    assert not (tmp_path / "run").exists()


def test_a_text_longer_than_the_model_is_cut_and_said(start, tmp_path, capsys):
    rng = random.Random(0)
    data = tmp_path / "train.tsv"
    long = text(rng, length=60)
    data.write_text(f"sentence\tlabel\nw1\tpos\nw2\tneg\n{long}\tpos\n")
    train("bert-classify", data=str(data), out=tmp_path / "run", start=start, max_length=32, max_steps=1)
    assert "1 texts are longer than the model reads and were cut" in capsys.readouterr().err


def test_scores_of_pairs(start, tmp_path):
    rng = random.Random(0)
    rows = [
        (text(rng, length=2), text(rng, word, length=2), score) for word, score in [("good", 4.5), ("bad", 0.5)] * 40
    ]
    data = tmp_path / "sts.tsv"
    data.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{s}\n" for a, b, s in rows))
    run = tmp_path / "run"
    train("bert-classify", data=str(data), out=run, start=start, max_length=32, regression=True, max_steps=200, **QUICK)
    assert coalign.load(run).model.config.classes == 1
    assert evaluate("classification", run, str(data)).metrics["pearson"] > 0.9
    data.write_text("sentence1\tsentence2\tscore\na\tb\thigh\n")
    with pytest.raises(InputError, match="row 2: 'high' is no number"):
        train("bert-classify", data=str(data), out=tmp_path / "x", start=start, regression=True, max_length=32)


# -------------------------------------------------------------------------------------------------------------- tags
def tagged(path, count, seed):
    """Whoever follows "mr" is a person, up to two words; the same words are nobody elsewhere."""
    rng = random.Random(seed)
    blocks = []
    for _ in range(count):
        words = text(rng).split()
        tags = ["O"] * len(words)
        place = rng.randrange(len(words))
        words[place:place], tags[place:place] = ["mr", *text(rng, length=2).split()], ["O", "B-PER", "I-PER"]
        blocks.append("\n".join(f"{word} {tag}" for word, tag in zip(words, tags, strict=True)))
    path.write_text("\n\n".join(blocks) + "\n")
    return path


def test_tags(start, tmp_path):
    data, dev = tagged(tmp_path / "train.conll", 120, 0), tagged(tmp_path / "dev.conll", 30, 1)
    run = tmp_path / "run"
    train("bert-tag", data=data, dev=dev, out=run, start=start, max_length=16, scheme="iobes", max_steps=200, **QUICK)
    assert json.loads((run / "config.json").read_text())["labels"] == ["O", "B-PER", "E-PER"]
    out = tmp_path / "out.conll"
    result = evaluate("tagging", run, dev, out=out)  # the file has IOB2: spans are compared, whatever the scheme
    assert result.metrics["f1"] > 0.9
    baseline = score_tags(read_conll(dev), most_frequent_tags(read_conll(data), read_conll(dev)))
    assert baseline.metrics["f1"] < 0.5
    columns = out.read_text().splitlines()[0].split()
    assert len(columns) == 3
    bad = tmp_path / "bad.conll"
    bad.write_text("w1 O\nw2 B-LOC\n")
    with pytest.raises(InputError, match="label 'B-LOC' is not in the set"):
        train("bert-tag", data=data, dev=bad, out=tmp_path / "x", start=start, max_length=16)
    alone = tmp_path / "words.txt"
    alone.write_text("mr\nw1\nw2\n" + "w3\n" * 60)  # longer than the model reads: in parts, every word has its tag
    evaluate("tagging", run, alone, tag_column=0, out=tmp_path / "words.conll")
    assert len((tmp_path / "words.conll").read_text().split("\n")) == 64


# ----------------------------------------------------------------------------------------------------------- answers
def asked(path, count, seed):
    """The answer is the word behind "in"; without one there is none."""
    rng = random.Random(seed)
    paragraphs = []
    for number in range(count):
        words = text(rng, length=6).split()
        place = rng.randrange(1, 5)
        words.insert(place, "in" if number % 3 else "no")
        context = " ".join(words)
        start = len(" ".join(words[: place + 1])) + 1
        answers = [{"text": words[place + 1], "answer_start": start}] if number % 3 else []
        qas = [{"id": str(number), "question": "where ?", "answers": answers, "is_impossible": not answers}]
        paragraphs.append({"context": context, "qas": qas})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def test_answers(start, tmp_path, capsys):
    data, dev = asked(tmp_path / "train.json", 120, 0), asked(tmp_path / "dev.json", 30, 1)
    run = tmp_path / "run"
    length = {"max_length": 12, "max_question": 4, "stride": 2}  # two windows a paragraph
    train("bert-squad", data=data, dev=dev, out=run, start=start, max_steps=250, **length, **QUICK)
    out, nbest = tmp_path / "answers.json", tmp_path / "nbest.json"
    result = evaluate("question-answering", run, dev, out=out, nbest=nbest)
    assert result.metrics["exact_match"] > 80
    assert result.extra["threshold"] == json.loads((run / "null_threshold.json").read_text())["null_threshold"]
    answers = json.loads(out.read_text())
    assert len(answers) == 30 and sum(answer == "" for answer in answers.values()) < 20
    assert "probability" in json.loads(nbest.read_text())["1"][0]
    none = evaluate("question-answering", run, dev, threshold=-1000.0)
    assert none.metrics["HasAns_exact_match"] == 0 and none.metrics["NoAns_exact_match"] == 100
    bad = json.loads(data.read_text())
    for paragraph in bad["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            question["answers"] = [{"text": "zebra", "answer_start": 0}]
            question["is_impossible"] = False
    data.write_text(json.dumps(bad))
    with pytest.raises(InputError, match="the answer is 'zebra', the paragraph has"):
        train("bert-squad", data=data, out=tmp_path / "x", start=start, **length)


# ----------------------------------------------------------------------------------------------------------- choices
def test_choices(start, tmp_path):
    rng = random.Random(0)
    lines = [",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"]
    for number in range(80):
        right = rng.randrange(4)
        endings = [text(rng, "yes" if place == right else "no", length=2) for place in range(4)]
        lines.append(f"{number},v,1,x,{text(rng)},w1,gold,{','.join(endings)},{right}")
    data = tmp_path / "swag.csv"
    data.write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    train("bert-choice", data=str(data), out=run, start=start, max_length=16, max_steps=40, **QUICK)
    result = evaluate("multiple-choice", run, str(data), out=tmp_path / "p.tsv")
    assert result.metrics["accuracy"] > 0.9 and result.extra["chance"] == 0.25
    two = tmp_path / "two.csv"
    two.write_text("context,ending0,ending1,label\nw1,yes,no,0\n")
    with pytest.raises(InputError, match="has 2 endings a question, the model chooses of 4"):
        evaluate("multiple-choice", run, str(two))


# ------------------------------------------------------------------------------------------------------ pre-training
def test_pretraining_from_plain_text(tmp_path, capsys):
    rng = random.Random(0)
    documents = []
    for _ in range(60):
        own = rng.sample(NOISE, 3)  # a document's sentences share words, so that a random one can be told
        documents.append(
            "\n".join(f"{rng.choice(own)} yes {rng.choice(own)} good {rng.choice(own)} ." for _ in range(6))
        )
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(documents))
    run = tmp_path / "run"
    fields = {"data": str(corpus), "out": run, "vocab_size": 60, "max_length": 24, "sentence_lines": True}
    train("bert-pretrain", **fields, steps=60, batch_size=16, lr=3e-3)
    result = evaluate("masked-lm", run, str(corpus), unigram_of=str(corpus), sentence_lines=True, max_batches=6)
    assert result.metrics["mlm_loss"] < result.extra["unigram_loss"] - 0.3
    assert 0.3 < result.extra["share_of_random_pairs"] < 0.7 and "nsp_accuracy" in result.metrics
    train("bert-pretrain", **fields, steps=60, batch_size=16, lr=3e-3)  # nothing is left to do
    assert "60 steps" in capsys.readouterr().out
    table = labelled(tmp_path / "t.tsv", 8, 0)
    train("bert-classify", data=table, out=tmp_path / "tuned", start=str(run), max_length=24, max_steps=1)
    assert (tmp_path / "tuned" / "tokenizer.json").read_text() == (run / "tokenizer.json").read_text()
