import json
import pickle

import numpy as np
import pytest
import torch

import coalign
from coalign.cli.main import main
from coalign.data.series.utterances import SeriesData, Utterance
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import configure
from coalign.recipes.series import (
    bert_mosi,
    concat_mosi,
    fusion_bert_mosi,
    fusion_mosi,
    mag_bert_mosi,
    mult_mosi,
    raven_mosi,
)
from coalign.recipes.series.sentiment_table import error_of, markdown, permutation_test, row
from coalign.tasks.series.event_pointing import Evaluate as EventPointing
from coalign.tasks.series.missing_modality import Evaluate as Missing
from coalign.tasks.series.sentiment import Evaluate
from coalign.tasks.series.stream_attention import Evaluate as Attention

WORLD = "world:joint,items=32,events=1"
SMALL = {"steps": 4, "evaluate_every": 2, "batch_size": 8, "quiet": True}
MULT = {"dim": 8, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A vocabulary of the world's words."""
    from coalign.worlds.speakers import ASPECTS, FILLERS

    words = [*ASPECTS, *(w for pair in ASPECTS.values() for w in pair), *FILLERS, "the", "was"]
    folder = tmp_path_factory.mktemp("vocabulary")
    Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]).save(folder)
    return folder


def mosi(path, n=10, **changes):
    """A small CMU-MOSI in MulT's form, with the sentiment in one feature of the text."""
    g = np.random.default_rng(0)

    def part(items):
        labels = g.uniform(-3, 3, size=(items, 1, 1))
        text = g.normal(size=(items, 6, 12))
        text[:, :, 0] = labels[:, 0]
        return {
            "text": text,
            "audio": g.normal(size=(items, 8, 5)),
            "vision": g.normal(size=(items, 7, 4)),
            "labels": labels,
        }

    path.write_bytes(pickle.dumps({"train": part(n) | changes, "valid": part(4), "test": part(5)}))
    return path


def test_mult_from_a_pickle_to_its_metrics_and_figure(tmp_path, capsys):
    data, run = mosi(tmp_path / "mosi_data_noalign.pkl"), tmp_path / "run"
    flags = [
        "--dim",
        "8",
        "--heads",
        "2",
        "--layers",
        "1",
        "--steps",
        "6",
        "--batch-size",
        "5",
        "--evaluate-every",
        "2",
    ]
    with pytest.raises(SystemExit) as done:
        main(["train", "mult-mosi", "--data", str(data), "--out", str(run), *flags])
    assert not done.value.code
    assert f"next: coalign evaluate {run} --data {data}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["evaluate", str(run), "--data", str(data), "--out", str(tmp_path / "answers.csv"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "sentiment"
    assert {"mae", "pearson", "acc7", "acc2", "acc2_nonzero", "f1", "f1_nonzero"} <= set(found["metrics"])
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0] == "id,label,logit"
    assert len(lines) == 6
    result = Attention(run, str(data), out=tmp_path / "a.png").evaluate()
    assert set(result.rows) == {
        f"{a} looks at {b}" for a in ("text", "audio", "vision") for b in ("text", "audio", "vision") if a != b
    }
    assert (tmp_path / "a.png").stat().st_size > 5000
    model = coalign.load(run).model
    assert model.config.streams[0].width == 12
    with pytest.raises(InputError, match="events are known of generated worlds alone"):
        EventPointing(run, str(data)).evaluate()


def test_events_are_pointed_at_by_every_method(tmp_path):
    world = "world:joint,lag=2,items=60"
    configure(mult_mosi.Recipe, data=world, out=tmp_path / "run", **MULT, **SMALL).run()
    found = EventPointing(tmp_path / "run", world, method="all", limit=4).evaluate()
    methods = ("cross_attention", "rollout", "grad_cam", "relevance")
    assert list(found.metrics) == [f"{figure}, {own}" for own in methods for figure in ("pointing", "share")]
    assert all(0 <= value <= 1 for value in found.metrics.values()) and 0.05 < found.extra["chance"] < 0.2
    assert len(found.extra["directions"]["rollout"]) == 6
    one = EventPointing(tmp_path / "run", world, limit=4).evaluate()
    assert dict(one.metrics) == {name: found.metrics[name] for name in one.metrics} and len(one.metrics) == 2


def test_the_weights_that_did_best_are_kept(tmp_path):
    data = mosi(tmp_path / "x.pkl", 16)
    recipe = configure(mult_mosi.Recipe, data=str(data), out=tmp_path / "run", **MULT, **SMALL | {"steps": 12})
    recipe.run()
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: value for line in lines for key, value in _flat(line).items() if key == "valid_mae"}
    assert best == {"step": min(scores, key=scores.get), "score": min(scores.values())}
    found = Evaluate(tmp_path / "run", str(data), "valid").evaluate()
    assert found.metrics["mae"] == pytest.approx(best["score"], abs=1e-5)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    recipe.run()  # nothing is left to do, and nothing changes
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def _flat(value):
    return {
        k: v
        for key, part in value.items()
        for k, v in (_flat(part).items() if isinstance(part, dict) else [(key, part)])
    }


RECIPES = {
    "mult": (mult_mosi.Recipe, MULT),
    "mult-ctc": (mult_mosi.Recipe, {**MULT, "aligned": ("audio", "vision")}),
    "raven": (raven_mosi.Recipe, {"dim": 8, "nonverbal_dim": 4}),
    **{
        kind: (fusion_mosi.Recipe, {"fusion": kind, "state_dim": 8, "tensor_dim": 2})
        for kind in ("early", "late", "decision", "tensor")
    },
    "bert": (bert_mosi.Recipe, {}),
    "mag-bert": (mag_bert_mosi.Recipe, {"gate_after": 1}),
    "concat": (concat_mosi.Recipe, {}),
    "tensor-bert": (fusion_bert_mosi.Recipe, {"fusion": "tensor", "state_dim": 8, "tensor_dim": 2}),
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_trains_and_is_evaluated(tmp_path, vocabulary, name):
    recipe, fields = RECIPES[name]
    words = {"start": "scratch", "size": "tiny", "vocab": vocabulary} if "bert" in name or name == "concat" else {}
    configure(recipe, data=WORLD, out=tmp_path, **fields, **words, **SMALL).run()
    result = Evaluate(tmp_path, WORLD).evaluate()
    assert result.count == 8
    assert np.isfinite(result.metrics["mae"])
    if name in ("mag-bert", "mult"):
        missing = Missing(tmp_path, WORLD, noise=(1.0,)).evaluate()
        streams = ["words", "visual", "acoustic"] if words else ["text", "audio", "vision"]
        assert list(missing.rows) == streams
        assert all(found["dropped"]["mae"] != missing.clean["mae"] for found in missing.rows.values())


def test_emotions_and_humour_are_answered(tmp_path):
    for name, labels in (
        ("iemocap", np.eye(2)[np.random.default_rng(0).integers(0, 2, (10, 4))]),
        ("humor", np.arange(10) % 2),
    ):
        content = pickle.loads(mosi(tmp_path / f"{name}.pkl").read_bytes())
        for part in content.values():
            part["labels"] = labels[: len(part["labels"])]
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
        configure(mult_mosi.Recipe, data=str(tmp_path / f"{name}.pkl"), out=tmp_path / name, **MULT, **SMALL).run()
        metrics = Evaluate(tmp_path / name, str(tmp_path / f"{name}.pkl")).evaluate().metrics
        assert ("accuracy_happy" in metrics) == (name == "iemocap")
        assert "accuracy" in metrics
    with pytest.raises(InputError, match="the run answers emotions of neutral, happy"):
        Evaluate(tmp_path / "iemocap", str(tmp_path / "humor.pkl")).evaluate()


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("mult-mosi", {"a": 1}, "has no splits"),
        ("mag-bert-mosi", None, "has no words, only features of them, and MAG-BERT reads words"),
        ("mult-mosi", b"not a pickle", "not a readable pickle"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, capsys, command, content, message):
    path = mosi(tmp_path / "x.pkl")
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(SystemExit) as done:
        main(["train", command, "--data", str(path), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err.strip().splitlines()
    assert done.value.code == 2
    assert message in said[-1]
    assert not (tmp_path / "run").exists()


def test_streams_of_the_data_decide_the_model(tmp_path):
    data = mosi(tmp_path / "x.pkl")
    recipe = configure(mult_mosi.Recipe, data=str(data), streams=("text", "vision"), **MULT)
    model = recipe.make(recipe.series.open())
    assert [s.name for s in model.config.streams] == ["text", "vision"]
    with pytest.raises(InputError, match="has no stream 'smell'; it has: text, audio, vision"):
        configure(mult_mosi.Recipe, data=str(data), streams=("smell",)).run()
    with pytest.raises(InputError, match="RAVEN reads word vectors"):
        configure(raven_mosi.Recipe, data=str(data), streams=("audio", "vision")).run()


# ------------------------------------------------------------------------------------------------------- the table
def test_the_table_trains_what_it_names_once(tmp_path, capsys):
    words = ["train", "sentiment-table", "--data", WORLD, "--out", str(tmp_path), "--systems", "late", "early"]
    words += ["--seeds", "2", "--steps", "3", "--options", "early.state-dim=8", "late.hidden-dim=8"]
    tables = []
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            main(words)
        assert not done.value.code
        tables.append((tmp_path / "table.md").read_text())
    assert tables[0] == tables[1]
    assert json.loads((tmp_path / "early-1" / "config.json").read_text())["config"]["state_dim"] == 8
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["systems"]["late"]["difference"] == 0
    maes = [run["mae"] for run in found["runs"]["early"]]
    assert found["systems"]["early"]["metrics"]["mae"]["mean"] == pytest.approx(np.mean(maes))
    assert found["systems"]["early"]["metrics"]["mae"]["sd"] == pytest.approx(np.std(maes, ddof=1))
    for option, message in (("mult", "SYSTEM.FIELD=VALUE"), ("late.size=3", "late has no field 'size'")):
        with pytest.raises(SystemExit):
            main([*words[:-1], option])
        assert message in capsys.readouterr().err


def test_the_paired_tests():
    g = np.random.default_rng(0)
    noise = g.normal(size=400)
    assert permutation_test(noise - noise.mean()) > 0.9
    assert permutation_test(noise + 0.3) < 0.001
    under_null = [permutation_test(g.normal(size=30), rounds=499, seed=i) for i in range(100)]
    assert 0.0 <= np.mean(np.array(under_null) < 0.1) <= 0.2
    errors = [np.array([1.0, 2.0, 3.0]) + 0.1 * i for i in range(3)]
    better = [e - 0.5 + 0.01 * i for i, e in enumerate(errors)]
    metrics = [{"mae": float(e.mean())} for e in better]
    found = row(metrics, better, errors)
    assert found["difference"] == pytest.approx(-0.49)
    assert found["p_seeds"] < 0.001
    table = markdown({"a": row(metrics, errors, errors), "b": found}, "a")
    assert "-0.490 | < 0.001" in table
    items = [Utterance(str(i), {}, torch.tensor([1, 0])) for i in range(2)]
    logits = np.array([[0.0, 1, 1, 0], [1, 0, 0, 1]])
    assert error_of(logits, items, SeriesData("d", {}, "emotions", ("a", "b"))).tolist() == [0, 1]
