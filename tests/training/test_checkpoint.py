"""What is on disk: whole checkpoints, torn ones, tied tensors, several of them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import in_new_group_of
from safetensors.torch import load_file, load_model, save_file
from torch import nn
from toy import ToyModel, resumable, train

from coalign.checkpoints import read_tensors
from coalign.checkpoints.seal import sealed
from coalign.errors import InputError
from coalign.files import locked, remove_parts, replace_file, replace_folder, replacing
from coalign.training import checkpoint, run, sharded
from coalign.training.average import WeightAverage
from coalign.training.checkpoint import Progress, Snapshot, damage, is_whole, load_checkpoint, save_checkpoint
from coalign.training.loop import Callback
from coalign.training.optimiser import adamw, parameter_groups
from coalign.training.run import Run
from coalign.training.shard_files import is_able
from coalign.training.tracking import MetricsWriter, curves, read_metrics


def trained(model: nn.Module) -> torch.optim.AdamW:
    optimiser = adamw(parameter_groups(model, 0.1), 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    optimiser.step()
    return optimiser


def test_everything_comes_back(tmp_path: Path) -> None:
    model = ToyModel()
    model.image[1].weight.data = model.image[1].weight.data.T.contiguous().T  # a stride of its own
    optimiser, average = trained(model), WeightAverage(model, 0.5)
    state = torch.Generator().manual_seed(3).get_state()
    before = Progress(7, 1.5, [{"epoch": 1, "batch": 2}], [{"torch": state, "objectives": state.clone()}])
    save_checkpoint(tmp_path / "step-7", Snapshot.of(model, optimiser, average), before)

    other = ToyModel()
    other_optimiser, other_average = trained(other), WeightAverage(other, 0.5)
    after = load_checkpoint(tmp_path / "step-7", other, other_optimiser, other_average)
    assert (after.step, after.seconds, after.loaders) == (7, 1.5, before.loaders)
    assert torch.equal(after.generators[0]["torch"], state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.decoder.weight is other.words.weight
    names = average.state_dict()
    assert all(torch.equal(names[name], tensor) for name, tensor in other_average.state_dict().items())
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        moments, again = optimiser.state.get(mine, {}), other_optimiser.state.get(its, {})
        assert moments.keys() == again.keys()
        assert all(torch.equal(moments[key], again[key]) for key in moments)


def test_only_safetensors_and_json(tmp_path: Path) -> None:
    train(tmp_path, resumable(8))
    names = {file.suffix for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"}
    assert names == {".safetensors", ".json", ".jsonl"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["system"] == "toy" and config["training"]["steps"] == 8 and "torch" in config["versions"]


@pytest.mark.parametrize("harm", ["cut", "no state", "torn state", "missing file"])
def test_a_broken_checkpoint_is_passed_over(tmp_path: Path, harm: str) -> None:
    train(tmp_path / "run", resumable(21))
    run = Run(tmp_path / "run")
    assert [folder.name for folder in run.checkpoints()] == ["step-14", "step-21"]
    last = run.checkpoints()[-1]
    assert is_whole(last) and run.latest() == last
    if harm == "cut":
        file = last / "optimiser.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "no state":
        (last / "state.json").unlink()
    elif harm == "torn state":
        (last / "state.json").write_text('{"format": 1, "st')
    else:
        (last / "random.safetensors").unlink()
    latest = run.latest()
    assert latest is not None and latest.name == "step-14"
    again = train(tmp_path / "run", resumable(21))
    assert again.resumed_from == 14 and is_whole(last)


def test_the_remains_of_an_interrupted_write_do_no_harm(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        (part / "half").write_text("x")
        raise OSError("disk full")

    target = tmp_path / "step-1"
    replace_folder(target, lambda part: (part / "file").write_text("old"))
    with pytest.raises(OSError, match="disk full"):
        replace_folder(target, fail)
    assert [file.name for file in target.iterdir()] == ["file"]
    replace_folder(target, lambda part: (part / "file").write_text("new"))
    assert [(file.name, file.read_text()) for file in target.iterdir()] == [("file", "new")]
    replace_file(tmp_path / "f", lambda part: part.write_text("1"))
    with pytest.raises(OSError, match="nothing written"):
        replace_file(tmp_path / "f", _nothing)
    assert (tmp_path / "f").read_text() == "1"


def _nothing(part: Path) -> None:
    part.write_text("half")
    raise OSError("nothing written")


def test_weights_for_users_are_the_average_and_load_anywhere(tmp_path: Path) -> None:
    train(tmp_path, resumable(9))
    last = Run(tmp_path).latest()
    assert last is not None
    model = ToyModel()
    load_model(model, tmp_path / "model.safetensors")
    average = load_file(last / "average.safetensors")
    assert torch.equal(average["words.weight"], model.decoder.weight)
    assert not torch.equal(load_file(last / "model.safetensors")["image.1.weight"], average["image.1.weight"])


def test_another_model_is_an_input_error(tmp_path: Path) -> None:
    model = ToyModel()
    progress = Progress(1, 0.0, [{}], [{name: torch.get_rng_state() for name in ("torch", "objectives")}])
    save_checkpoint(tmp_path / "step-1", Snapshot.of(model, trained(model)), progress)
    other = ToyModel(queue=20)
    with pytest.raises(InputError, match="other than these"):
        load_checkpoint(tmp_path / "step-1", other, trained(other))


def test_steps_go_on_while_a_checkpoint_is_written_and_it_is_of_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "waited", resumable(9))
    later, write = threading.Event(), run.save_checkpoint

    def slow(folder: Path, state: Snapshot, progress: Progress) -> None:
        if progress.step == 7:
            assert later.wait(60), "no step was taken"
        write(folder, state, progress)

    monkeypatch.setattr(run, "save_checkpoint", slow)
    call = Callback(1, lambda _, step: later.set() if step == 8 else None)
    train(tmp_path / "beside", replace(resumable(9), background_saves=True), [call])
    for step in (7, 9):
        for name in ("model", "optimiser", "average", "random"):
            wanted, found = (
                load_file(tmp_path / folder / f"checkpoints/step-{step}/{name}.safetensors")
                for folder in ("waited", "beside")
            )
            assert wanted.keys() == found.keys()
            assert all(torch.equal(wanted[key], found[key]) for key in wanted), (step, name)
    published = [load_file(tmp_path / folder / "model.safetensors") for folder in ("waited", "beside")]
    assert all(torch.equal(published[0][key], published[1][key]) for key in published[0])


def test_what_goes_wrong_beside_the_steps_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(run, "save_checkpoint", full)
    with pytest.raises(OSError, match="no space left"):
        train(tmp_path, replace(resumable(20), background_saves=True))


def test_a_lost_weights_file_is_written_again(tmp_path: Path) -> None:
    train(tmp_path, resumable(5))
    wanted = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / ".model.safetensors.part", ignore_errors=True)
    train(tmp_path, resumable(5))
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_taken(tmp_path: Path) -> None:
    train(tmp_path, resumable(14))
    last = Run(tmp_path).latest()
    assert last == tmp_path / "checkpoints" / "step-14"
    flip(last / "model.safetensors")
    assert not is_whole(last) and damage(last) == "model.safetensors"
    assert Run(tmp_path).latest() == tmp_path / "checkpoints" / "step-7"
    state = tmp_path / "checkpoints" / "step-7" / "state.json"
    state.write_text(state.read_text().replace('"step": 7', '"step": 5'))
    assert damage(state.parent) == "state.json"
    flip(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="checksum"):
        read_tensors(tmp_path / "model.safetensors")


def flip(path: Path) -> None:
    """Changes one bit at the end of a file; the published weights may be the same file under a second name."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.unlink()
    path.write_bytes(data)


def test_all_checkpoints_damaged_is_an_error_that_keeps_everything(tmp_path: Path) -> None:
    train(tmp_path, resumable(14))
    log = (tmp_path / "metrics.jsonl").read_text()
    for step in (7, 14):
        flip(tmp_path / "checkpoints" / f"step-{step}" / "optimiser.safetensors")
    with pytest.raises(InputError, match=r"all of its checkpoints are damaged .*step-7/optimiser.*step-14/optimiser"):
        train(tmp_path, resumable(14))
    assert (tmp_path / "metrics.jsonl").read_text() == log
    assert len(Run(tmp_path).checkpoints()) == 2


def test_what_a_killed_process_left_is_removed_and_modes_are_the_users(tmp_path: Path) -> None:
    train(tmp_path, resumable(14))
    (tmp_path / ".part.1.model.safetensors").write_text("half")
    (tmp_path / "checkpoints" / ".step-14.part").mkdir()
    shutil.copytree(tmp_path / "checkpoints" / "step-7", tmp_path / "checkpoints" / "step-3")  # killed before it went
    train(tmp_path, resumable(14))
    assert not [path for path in tmp_path.rglob("*") if "part" in path.name]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-14", "step-7"]
    before = os.umask(0o027)
    try:
        train(tmp_path / "new", resumable(7))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o640}, modes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    ask = Callback(1, lambda model, step: os.kill(os.getpid(), number) if step == 4 else None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", resumable(9), [ask])
    assert signal.getsignal(number) == before
    assert Run(tmp_path / "stopped").latest() == tmp_path / "stopped" / "checkpoints" / "step-5"
    assert train(tmp_path / "stopped", resumable(9)).resumed_from == 5
    train(tmp_path / "whole", resumable(9))
    for name in ("stopped", "whole"):
        assert (tmp_path / name / "model.safetensors").is_file()
    found, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_metrics_with_nulls_can_be_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path, resumable(7))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": null, "loss": null}\n[1]\n{"loss": 3}\n')
    assert train(tmp_path, resumable(7)).resumed_from == 7
    assert all(isinstance(record.get("step"), int) for record in read_metrics(tmp_path / "metrics.jsonl")[:7])
    curves(read_metrics(tmp_path / "metrics.jsonl"))


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    def fill(model: nn.Module, step: int) -> None:
        if step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"cannot be written: .*what was there before is whole"):
            train(tmp_path, resumable(14), [Callback(1, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert Run(tmp_path).latest() == tmp_path / "checkpoints" / "step-7"
    assert train(tmp_path, resumable(14)).resumed_from == 7
    assert not [path for path in tmp_path.rglob("*") if "part" in path.name]


def test_something_else_in_the_place_of_a_runs_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="a: is a folder, where a file of this name is written"):
        replace_file(tmp_path / "a", lambda part: part.write_text("1"))
    (tmp_path / "metrics.jsonl").symlink_to("metrics.jsonl")
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be read"):
        MetricsWriter(tmp_path / "metrics.jsonl")
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(InputError, match=r"\.lock: is a pipe or a device"), locked(tmp_path, "is training"):
        pass


def test_weights_that_find_no_room_are_told_with_their_folder(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(InputError, match=f"{tmp_path}: cannot be written"):
            sealed(save_file, {"a": torch.zeros(4000)})(tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_two_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as first, replacing(path) as second:  # as of two containers whose processes have one number
        first.write_text("whole")
        second.write_text("also whole")
        assert first != second
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    remove_parts(tmp_path)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.two.weight = self.one.weight


def test_the_first_process_alone_gathers_a_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tied()
    model.one.bias = nn.Parameter(torch.zeros(9)[:2])  # as what is gathered from unequal shards
    held = sharded.weights_of(model)
    assert len(held) == 5 and held["one.bias"].untyped_storage().nbytes() == 8
    monkeypatch.setattr(sharded, "rank", lambda: 1)
    assert sharded.weights_of(model) == {}


@pytest.mark.skipif(not is_able(), reason="this torch writes no shards as safetensors")
def test_shards_that_find_no_room_or_are_damaged_leave_the_checkpoint_before(tmp_path: Path) -> None:
    in_new_group_of(2, Path(__file__).with_name("toy_ranks.py"), "full_disk", tmp_path)
    for number in range(2):  # the other process learns of it too
        said = (tmp_path / f"said-{number}").read_text()
        assert f"{tmp_path / 'full' / 'checkpoints' / 'step-14'}: cannot be written: " in said, said
        assert (tmp_path / f"resumed-{number}").read_text() == "7"
    assert [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()] == ["step-7"]
    last, before = (tmp_path / "bits" / "checkpoints" / f"step-{number}" for number in (14, 7))
    assert damage(last) == damage(before) == ""
    (before / "shards" / "shard-00001-model-00002-of-00002.safetensors").write_bytes(b"of another")
    assert damage(before) == "shards/shard-00001-model-00002-of-00002.safetensors"
    next((last / "shards").iterdir()).unlink()
    assert damage(last).startswith("shards/shard-0000")


def test_a_sharded_model_lacks_nothing_but_tied_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "is_sharded", lambda model: True)
    model, other = Tied(), Tied()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "two.weight"}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint._load_weights(other, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "three.bias"}, tmp_path / "model.safetensors"
    )
    with pytest.raises(KeyError, match=r"three.bias is not in model.safetensors"):
        checkpoint._load_weights(other, tmp_path / "model.safetensors")
