"""Two processes on gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from groups import in_new_group_of
from toy import ToyLoader, ToyModel, resumable
from toy_ranks import EXACT, STEPS

from coalign.ops.collectives import gather, rank, world_size
from coalign.training.distributed import process_group
from coalign.training.loop import fit
from coalign.training.run import Run
from coalign.training.tracking import read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    in_new_group_of(2, Path(__file__).with_name("toy_ranks.py"), "train_and_check", folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


def test_gather_and_its_two_gradients(ranks: list[dict[str, Any]]) -> None:
    rows = torch.cat([torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3) + 10])
    weight = torch.arange(12.0).view(4, 3)
    for r, found in enumerate(ranks):
        got, own = found["gather"], slice(2 * r, 2 * r + 2)
        assert torch.equal(got["local value"], rows) and torch.equal(got["exact value"], rows)
        assert torch.equal(got["local gradient"], weight[own] * (r + 1))
        assert torch.equal(got["exact gradient"], weight[own] * 3)  # (1 + 2) times
        assert got["none"].tolist() == [0.0, 1.0]


def test_gradients_are_averaged_where_some_rank_has_one(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        both, one, none, strided, double = found["averaged"]
        assert torch.equal(both, torch.full((3, 2), 1.5))
        assert torch.equal(one, torch.full((3, 2), 4.0))
        assert none is None
        assert torch.equal(strided, torch.arange(6.0).view(2, 3).T * 1.5)
        assert torch.equal(double, torch.full((2,), 0.5).double())


def test_broadcast_gives_rank_0s_tensors_of_every_type(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["broadcast"] for found in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["brain_float"].tolist() == [0, 0, 0] and first["boolean"].item() is True


def test_unequal_batches_are_an_input_error(ranks: list[dict[str, Any]]) -> None:
    assert all("batches of [3, 4] items" in found["unequal"] for found in ranks)


def test_exact_gather_makes_the_step_of_one_process_on_the_joined_batch(
    ranks: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(100)
    single = ToyModel(**EXACT)
    fit(single, ToyLoader(), resumable(STEPS), Run(tmp_path))
    for found in ranks:
        for name, tensor in single.state_dict().items():
            torch.testing.assert_close(found["models"]["exact"][name], tensor, rtol=1e-4, atol=1e-5)
    curve, wanted = (
        [record["loss"] for record in read_metrics(f / "metrics.jsonl")] for f in (folder / "exact", tmp_path)
    )
    assert curve == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["whole", "albef"])
def test_weights_queues_and_momentum_are_equal_on_all_ranks(ranks: list[dict[str, Any]], kind: str) -> None:
    first, second = (found["models"][kind] for found in ranks)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    if kind == "whole":
        assert (first["queue.ids"] >= 0).all()  # filled by both
    else:
        assert first["queue.pointer"].item() == 4 * STEPS % 12  # four pairs a step, two from each


def test_a_stopped_group_resumes_bit_for_bit(ranks: list[dict[str, Any]], folder: Path) -> None:
    assert [found["resumed from"] for found in ranks] == [7, 7]
    whole, stopped = (
        [(record["step"], record["losses"]) for record in read_metrics(folder / name / "metrics.jsonl")]
        for name in ("whole", "stopped")
    )
    assert len(whole) == STEPS and stopped == whole


def test_products_on_a_gpu_are_tf32_as_long_as_a_training_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for device, inside in (("cuda:1", "high"), ("cpu", "highest")):
        with process_group(device):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == "highest"


def test_one_process_is_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as device:
        assert (device, rank(), world_size()) == (torch.device("cpu"), 0, 1)
        x = torch.ones(2, requires_grad=True)
        assert gather(x, grad="exact") is x and gather(x, grad="local") is x
        assert not gather(x).requires_grad
