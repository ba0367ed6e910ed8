"""An experiment keeps what a run is, and refuses what would spoil it before anything is written."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import WORDS, ToyModel

import coalign.recipes
from coalign.data.core.batches import Batches
from coalign.data.core.quarantine import Quarantine
from coalign.data.core.samples import Problem, Where
from coalign.data.words.load import load_tokenizer, load_vocabulary
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.training.experiment import Experiment
from coalign.training.options import Epochs, RunOptions, Schedule
from coalign.training.run import Run
from coalign.training.tracking import read_metrics
from coalign.types import Batch, Images, Layout, Packed, Text

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def items(count: int = 12, seed: int = 0) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(3, 4, 4, generator=generator), torch.randint(3, WORDS, (4,), generator=generator))
        for _ in range(count)
    ]


def collate(chosen: list[tuple[Any, Any]], _: torch.Generator) -> Batch:
    ids = torch.cat([ids for _, ids in chosen])
    return Batch(
        text=Text(Packed(ids, Layout.of([4] * len(chosen)))),
        images=Images(torch.stack([pixels for pixels, _ in chosen])),
        ids=torch.arange(len(chosen)),
    )


def vocabulary(*words: str) -> Tokenizer:
    return Tokenizer.from_vocabulary([*SPECIAL, *words])


def train(
    out: Path, data: list[tuple[Any, Any]], steps: int = 4, tokenizer: Tokenizer | None = None, **options: Any
) -> Any:
    lr = options.pop("lr", 1e-3)
    with Experiment("toy", RunOptions(out=out, device="cpu", save_every=2, **options)) as experiment:
        experiment.quarantine.add(Problem(Where("table", options.get("seed", 0)), f"is broken at rate {lr}"))
        model = experiment.seeded(ToyModel)
        loader = Batches(data, collate, experiment.batch_size(4, len(data)), **experiment.loading)
        training = Schedule(steps=steps, lr=lr).training(experiment.options)
        experiment.keep("classes.json", json.dumps(["a", "b"]))
        result = experiment.fit(model, loader, training, {"system": "toy"}, tokenizer or vocabulary("a", "b"))
        experiment.close("coalign evaluate", "coalign index")
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_has_its_files_and_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", items())
    out = tmp_path / "run"
    assert (out / "model.safetensors").is_file() and json.loads((out / "classes.json").read_text()) == ["a", "b"]
    assert load_tokenizer(out).vocab_size == 7
    config = json.loads((out / "config.json").read_text())
    assert (config["recipe"], config["system"], config["training"]["steps"]) == ("toy", "toy", 4)
    prints = json.loads((out / "fingerprints.json").read_text())
    assert prints["data"]["samples"] == 12 and prints["vocabulary"]["pieces"] == 7
    assert "broken" in (out / "quarantine.jsonl").read_text()
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 4 steps (loss ") and said.endswith("next: coalign evaluate\nor: coalign index\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 2e-3}, r"training\.lr: 0\.001 before, 0\.002 now"),
        ({"tokenizer": vocabulary("a", "c")}, "another vocabulary"),
        ({"tokenizer": vocabulary("b", "a")}, "another vocabulary"),
        ({"data": items(13)}, r"data\.samples: 12 before, 13 now"),
        ({"data": items(12, seed=1)}, r"data\.content: .*--accept-changes"),
    ],
)
def test_a_run_of_other_settings_or_data_is_left_as_it_is(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    train(tmp_path / "run", items())
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        train(tmp_path / "run", **{"data": items(), "steps": 4} | change)
    assert contents(tmp_path / "run") == before


def test_other_data_is_gone_on_with_on_purpose(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, items())
    (out / "checkpoints" / "step-4" / "state.json").unlink()  # as if stopped after step 2
    with pytest.raises(InputError, match="other data"):
        train(out, items(16))
    result = train(out, items(16), accept_changes=True)
    assert (result.resumed_from, result.steps) == (2, 4)
    assert json.loads((out / "fingerprints.json").read_text())["data"]["samples"] == 16
    position = json.loads((out / "checkpoints" / "step-4" / "state.json").read_text())["loaders"][0]
    assert (position["epoch"], position["batch"]) == (1, 2)  # the epoch after that of the first data
    train(out, items(16))
    with pytest.raises(InputError, match="other data"):
        train(out, items(12))


def test_a_vocabulary_that_a_run_was_not_trained_with_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, items())
    assert load_vocabulary(out).vocab_size == 7
    vocabulary("b", "a").save(out)
    with pytest.raises(InputError, match="not the one that it was trained with"):
        load_vocabulary(out)
    (out / "fingerprints.json").unlink()  # of an older version
    assert load_vocabulary(out).vocab_size == 7


def test_another_vocabulary_is_noticed_in_a_run_of_an_older_version(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, items())
    (out / "fingerprints.json").unlink()
    vocabulary("b", "a").save(out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="another vocabulary"):
        train(out, items())
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_run_of_an_older_version_has_no_fingerprints_and_goes_on(tmp_path: Path) -> None:
    train(tmp_path / "run", items())
    (tmp_path / "run" / "fingerprints.json").unlink()
    assert train(tmp_path / "run", items()).resumed_from == 4
    assert (tmp_path / "run" / "fingerprints.json").is_file()


def test_one_training_at_a_time_and_none_in_a_folder_of_something_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, items())
    with Run(out).writing(), pytest.raises(InputError, match="another process is training"):
        train(out, items())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(InputError, match="not the configuration of a training run"):
        train(other, items())
    assert [path.name for path in other.iterdir() if path.name != ".lock"] == ["config.json"]


def test_nothing_is_left_of_a_training_that_did_not_begin(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no such data"),
        Experiment("toy", RunOptions(out=tmp_path / "run", device="cpu")) as experiment,
    ):
        assert isinstance(experiment.quarantine, Quarantine)
        raise InputError("no such data")
    assert not (tmp_path / "run").exists()


def test_epochs_are_counted_in_steps_of_several_batches() -> None:
    options = RunOptions(out=Path("x"), accumulate=2)
    assert Epochs(epochs=3.0).training(options, 5).steps == 8  # ceil(15 / 2)
    assert Epochs(epochs=3.0, max_steps=6).training(options, 5).steps == 6
    assert Epochs(epochs=3.0, steps=9).training(options, 5).steps == 9
    with pytest.raises(InputError, match="epochs"):
        Epochs(epochs=0.0).training(options, 5)


def test_the_seed_draws_the_weights_and_accumulation_makes_the_step_of_one_batch(tmp_path: Path) -> None:
    for seed in (0, 0, 1):
        train(tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}", items(), steps=1, seed=seed)
    first, again, other = (load_file(folder / "model.safetensors") for folder in sorted(tmp_path.iterdir()))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert read_metrics(sorted(tmp_path.iterdir())[0] / "metrics.jsonl")[0]["step"] == 1


def test_no_recipe_writes_before_its_lock_is_held_and_its_settings_stand() -> None:
    """In a function that trains, whatever writes comes after `begin` or `fit`."""
    names, trains = {"save", "save_file", "save_model", "write_text", "write_bytes", "replace_file", "write_corpus"}, 0
    for file in sorted(Path(coalign.recipes.__path__[0]).rglob("*.py")):
        for function in (
            node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
        ):
            calls = [(node.lineno, ast.unparse(node.func)) for node in ast.walk(function) if isinstance(node, ast.Call)]
            began = [line for line, call in calls if call in ("experiment.begin", "experiment.fit")]
            wrote = [line for line, call in calls if call.rpartition(".")[2] in names]
            trains += bool(began)
            assert not began or not wrote or min(began) < min(wrote), f"{file}, line {min(wrote)}"
    assert trains >= 12
