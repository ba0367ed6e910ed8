"""The GPT recipes on small files, from the command line's fields to an evaluation."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coalign import prepare
from coalign.cli.commands import vocab
from coalign.data.texts.documents import open_documents
from coalign.data.words.load import load_tokenizer
from coalign.errors import InputError
from coalign.flags import configure
from coalign.models.gpt.heads import GptClassifier, GptMultipleChoice, GptSimilarity
from coalign.models.gpt.model import Gpt, released, transformers
from coalign.recipes.texts import gpt_choice, gpt_classify, gpt_entail, gpt_pretrain, gpt_similarity
from coalign.registry import convert, load
from coalign.tasks.texts import classification, language_model, multiple_choice
from coalign.training.experiment import Experiment
from coalign.trunks.gpt import GptConfig

GOOD, BAD = ("sun warm bright day", "happy bright sun"), ("rain cold dark night", "sad dark rain")
SMALL = {"size": "tiny", "vocab_size": 80, "max_length": 32, "batch_size": 8, "lr": 1e-3}


def sentences(count, seed=0):
    """(text, class) with the words of the class in a random order."""
    rng = random.Random(seed)
    for number in range(count):
        words = (GOOD, BAD)[number % 2][rng.randrange(2)].split()
        rng.shuffle(words)
        yield " ".join(words), ("good", "bad")[number % 2]


def table(path, rows, header):
    path.write_text("\n".join(["\t".join(header), *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "c.txt"
    file.write_text("\n\n".join(text for text, _ in sentences(60)))
    return file


@pytest.fixture(scope="module")
def pretrained(corpus):
    out = corpus.parent / "pre"
    short = {"steps": 12, "save_every": 6, **SMALL}
    configure(gpt_pretrain.Recipe, data=str(corpus), out=out, held_out=str(corpus), **short).run()
    return out


def test_pretraining_learns_and_is_measured_beside_frequencies(pretrained, corpus):
    logged = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["evaluation"]["held_out_loss"] for row in logged if "evaluation" in row]
    assert len(held_out) == 2 and held_out[1] < held_out[0]
    result = language_model.Evaluate(pretrained, str(corpus)).evaluate()
    assert result.metrics["loss"] == pytest.approx(held_out[1], rel=1e-4)
    assert result.metrics["perplexity"] == pytest.approx(2.718281828 ** result.metrics["loss"], rel=1e-4)
    loaded = load(pretrained)
    counts = torch.zeros(loaded.model.config.vocab_size, dtype=torch.float64)
    pieces = [loaded.vocabulary.ids(text) for text, _ in sentences(60)]
    for ids in pieces:
        counts += torch.bincount(torch.tensor(ids), minlength=len(counts))
    chances = (counts + 1) / (counts + 1).sum()
    losses = [-chances[id].log().item() for ids in pieces for id in ids[1:]]
    assert result.extra["unigram_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.count == len(losses)


def test_fresh_weights_may_follow_the_width(corpus, tmp_path):
    """0.02 everywhere, as in the paper; or Xavier's deviation, 1/√width of the embeddings."""
    for how, layers, table in (("paper", 0.02, 0.02), ("xavier", (2 / (128 + 512)) ** 0.5, 128**-0.5)):
        given = {**SMALL, "steps": 1, "lr": 1e-12, "initialiser": how}
        configure(gpt_pretrain.Recipe, data=str(corpus), out=tmp_path / how, **given).run()
        trunk = load(tmp_path / how).model.trunk
        assert trunk.encoder.blocks[0].feed_forward.up.weight.std().item() == pytest.approx(layers, rel=0.05)
        assert trunk.word.weight.std().item() == pytest.approx(table, rel=0.05)


def test_pretraining_goes_on_with_the_corpus_it_has(pretrained, corpus, tmp_path):
    whole = tmp_path / "whole"
    recipe = configure(gpt_pretrain.Recipe, data=str(corpus), out=whole, steps=12, save_every=6, **SMALL)
    recipe.run()
    before = load(whole).model.state_dict()
    shutil.rmtree(whole / "checkpoints" / "step-12")
    recipe.run()  # from step 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in load(whole).model.state_dict().items())
    with pytest.raises(InputError, match=r"other settings .*corpus\.vocabulary"):
        configure(gpt_pretrain.Recipe, data=str(corpus), out=whole, **{**SMALL, "vocab_size": 60}).run()


def test_a_corpus_cut_in_half_under_its_name_is_noticed(corpus, tmp_path):
    data, out = tmp_path / "corpus.txt", tmp_path / "run"
    data.write_bytes(corpus.read_bytes())
    before = open_documents(str(tmp_path)).fingerprint()
    (tmp_path / "metrics.jsonl").write_text("{}")  # a run beside the texts
    assert open_documents(str(tmp_path)).fingerprint() == before
    recipe = configure(gpt_pretrain.Recipe, data=str(data), out=out, steps=2, save_every=1, **SMALL)
    recipe.run()
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    text = data.read_text("utf-8")
    data.write_text(text[: text.index("\n\n", len(text) // 2)], "utf-8")
    with pytest.raises(InputError, match=r"started with another corpus\.json"):
        recipe.run()
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_classification_is_learned_and_starts_from_the_pretrained_trunk(pretrained, tmp_path):
    train = table(tmp_path / "train.tsv", sentences(48, 1), ("sentence", "label"))
    dev = table(tmp_path / "dev.tsv", sentences(16, 2), ("sentence", "label"))
    fields = {"data": train, "out": tmp_path / "run", "start": pretrained}
    recipe = configure(gpt_classify.Recipe, **fields, steps=20, batch_size=8, lr=1e-3)
    with Experiment("test", recipe.options) as experiment:
        model, _ = recipe.start.model(experiment, GptClassifier, list, classes=2)
    trunk = load(pretrained).model.trunk
    assert model.config.gpt.special == 3 and torch.equal(model.trunk.word.weight[:-3], trunk.word.weight)
    recipe.run()
    result = classification.Evaluate(tmp_path / "run", dev, out=tmp_path / "p.tsv").evaluate()
    assert result.metrics["accuracy"] == 1.0
    assert (tmp_path / "p.tsv").read_text().splitlines()[0] == "index\tprediction"
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(logged["losses"]) == {"task", "lm"}


def test_the_auxiliary_loss_can_be_left_out(tmp_path):
    train = table(tmp_path / "t.tsv", sentences(16), ("sentence", "label"))
    configure(gpt_classify.Recipe, data=train, out=tmp_path / "run", steps=2, warmup=0.75, lm_weight=0.0, **SMALL).run()
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(logged["losses"]) == {"task"} and logged["lr"] == SMALL["lr"]  # by default half of it


def test_entailment_and_similarity(tmp_path, capsys):
    pairs = [(a, b, "yes" if x == y else "no") for (a, x), (b, y) in zip(sentences(16), sentences(16, 3), strict=True)]
    data = table(tmp_path / "t.tsv", pairs, ("premise", "hypothesis", "label"))
    with pytest.raises(InputError, match="at least two labels"):
        configure(gpt_entail.Recipe, data=data, out=tmp_path / "e", steps=2, **SMALL).run()
    pairs[0] = (*pairs[0][:2], "no")
    data = table(tmp_path / "t.tsv", pairs, ("premise", "hypothesis", "label"))
    configure(gpt_entail.Recipe, data=data, dev=data, out=tmp_path / "e", steps=2, **SMALL).run()
    assert "accuracy" in capsys.readouterr().out
    assert isinstance(load(tmp_path / "e").model, GptClassifier)
    scores = [(a, b, number / 4) for number, (a, b, _) in enumerate(pairs)]
    data = table(tmp_path / "s.tsv", scores, ("sentence1", "sentence2", "score"))
    configure(gpt_similarity.Recipe, data=data, out=tmp_path / "s", steps=2, regression=True, **SMALL).run()
    model = load(tmp_path / "s").model
    assert isinstance(model, GptSimilarity) and model.config.classes == 1
    result = classification.Evaluate(tmp_path / "s", data).evaluate()
    assert set(result.metrics) == {"pearson", "spearman", "mse"} and result.count == 16


def test_story_cloze(tmp_path):
    header = ["InputStoryid", *(f"InputSentence{n}" for n in range(1, 5))]
    header += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    rows = [
        [f"s{n}", text, text, text, text, "the end", "no end" if n % 3 else "dark", 1 + n % 2]
        for n, (text, _) in enumerate(sentences(16))
    ]
    (tmp_path / "s.csv").write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")
    configure(gpt_choice.Recipe, data=str(tmp_path / "s.csv"), out=tmp_path / "run", steps=2, **SMALL).run()
    assert isinstance(load(tmp_path / "run").model, GptMultipleChoice)
    result = multiple_choice.Evaluate(tmp_path / "run", str(tmp_path / "s.csv")).evaluate()
    assert result.count == 16 and result.extra["chance"] == 0.5


# ------------------------------------------------------------------------------------------------ where a model starts
@pytest.fixture
def published(tmp_path):
    """A small model in both published forms, with the vocabulary files that lie beside each."""
    config = GptConfig(vocab_size=8, positions=32, dim=64, depth=1, heads=1)
    model = Gpt(config)
    table = {"<unk>": 0, "a": 1, "b": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5, "c</w>": 6, "d</w>": 7}
    authors, hugging = tmp_path / "authors", tmp_path / "hf"
    names_of = {authors: ("encoder_bpe_40000.json", "vocab_40000.bpe"), hugging: ("vocab.json", "merges.txt")}
    for folder, names in names_of.items():
        folder.mkdir()
        (folder / names[0]).write_text(json.dumps(table))
        (folder / names[1]).write_text("#version: 0.2\na b</w>\n")
    exported = released(config).export(model.state_dict())
    layers = ("attn/c_attn", "attn/c_proj", "ln_1", "mlp/c_fc", "mlp/c_proj", "ln_2")
    names = [f"model/h0/{layer}/{part}" for layer in layers for part in ("gb" if "ln" in layer else "wb")]
    pieces = {name: exported[name] for name in ("positions", "model/we (token rows)", *names)}
    flat = np.concatenate([tensor.numpy().ravel() for tensor in pieces.values()])
    for number, part in enumerate(np.array_split(flat, 10)):
        np.save(authors / f"params_{number}.npy", part)
    (authors / "params_shapes.json").write_text(json.dumps([list(tensor.shape) for tensor in pieces.values()]))
    tensors = {name: tensor.clone() for name, tensor in transformers(config).export(model.state_dict()).items()}
    save_file(tensors, hugging / "model.safetensors")
    (hugging / "config.json").write_text(json.dumps({"model_type": "openai-gpt", "n_head": 1}))
    return model, authors, hugging


def test_fine_tuning_starts_from_published_folders(published, tmp_path):
    model, authors, hugging = published
    data = table(tmp_path / "t.tsv", [("ab c", "x"), ("d b", "y")] * 4, ("sentence", "label"))
    for folder, joint in ((authors, True), (hugging, False)):
        out = tmp_path / f"run-{joint}"
        recipe = configure(gpt_classify.Recipe, data=data, out=out, start=folder, steps=1, batch_size=4)
        with Experiment("test", recipe.options) as experiment:
            tuned, tokenizer = recipe.start.model(experiment, GptClassifier, list, classes=2)
        assert tuned.config.gpt.joint_softmax is joint
        assert torch.equal(tuned.trunk.word.weight[:8], model.trunk.word.weight)
        assert tokenizer.ids("ab c") == [5, 6]
        recipe.run()
    (hugging / "merges.txt").unlink()
    with pytest.raises(InputError, match="has no vocabulary"):
        configure(gpt_classify.Recipe, data=data, out=tmp_path / "r", start=hugging).run()


def test_what_is_no_gpt_is_said(tmp_path, pretrained):
    data = table(tmp_path / "t.tsv", sentences(8), ("sentence", "label"))
    with pytest.raises(InputError, match="gpt has no size 'huge'"):
        configure(gpt_classify.Recipe, data=data, out=tmp_path / "r", size="huge").run()
    run = tmp_path / "run"
    configure(gpt_classify.Recipe, data=data, out=run, steps=1, **SMALL).run()
    with pytest.raises(InputError, match="is fine-tuned"):
        configure(gpt_pretrain.Recipe, data=str(Path(pretrained).parent / "c.txt"), out=tmp_path / "p", start=run).run()
    with pytest.raises(InputError, match="is no language model"):
        language_model.Evaluate(run, str(Path(pretrained).parent / "c.txt")).evaluate()
    unknown = table(tmp_path / "u.tsv", [("sun", "ugly")], ("sentence", "label"))
    with pytest.raises(InputError, match="'ugly' is not in the set"):
        classification.Evaluate(run, unknown).evaluate()


def test_a_run_becomes_a_folder_that_transformers_loads(pretrained, tmp_path):
    hf = pytest.importorskip("transformers")
    convert(pretrained, tmp_path / "hf", system="gpt", to="transformers")
    theirs, info = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours = load(pretrained)
    ids = hf.AutoTokenizer.from_pretrained(tmp_path / "hf")("Sun, bright rain")["input_ids"]
    assert ids == ours.vocabulary.ids("Sun, bright rain")
    states = ours.encode(prepare(ours, texts=["Sun, bright rain"])).tokens["text"]
    logits = states.values @ ours.model.trunk.word.weight.T
    assert torch.allclose(theirs(torch.tensor([ids])).logits[0], logits, atol=1e-4)
    again = load(tmp_path / "hf", "gpt").model
    assert torch.equal(again.trunk.word.weight, ours.model.trunk.word.weight)
    assert again.config.heads == ours.model.config.heads


def test_a_vocabulary_is_learned_by_command(corpus, tmp_path, capsys):
    vocab.command(str(corpus), tmp_path / "v", 60, byte_pairs=True)
    assert "byte pairs" in capsys.readouterr().out
    assert "sun</w>" in load_tokenizer(tmp_path / "v").pieces("sun")
    with pytest.raises(InputError, match="exists already"):
        vocab.command(str(corpus), tmp_path / "v", 60, byte_pairs=True)
