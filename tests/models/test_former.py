"""Runs that earlier versions wrote still load: `runs_of_before/` holds their config.json and the names and shapes of
their weights ("momentum." has those of "online.")."""

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
from torch import Tensor

from coalign import registry
from coalign.errors import InputError
from coalign.models.compact.model import Compact
from coalign.models.former import current

RUNS = Path(__file__).parent / "runs_of_before"


def weights() -> dict[str, Tensor]:
    """Numbers that tell one tensor from another, without the memory for them."""
    grouped: dict[str, list[str]] = json.loads((RUNS / "weights.json").read_text("utf-8"))
    found: dict[str, Tensor] = {}
    for shape, names in grouped.items():
        size = [int(side) for side in shape.split(",") if side]
        for name in names:
            for full in (name, f"momentum.{name.removeprefix('online.')}") if name.startswith("online.") else (name,):
                number = torch.tensor(float(len(found)))
                found[full] = (number.long() if name in ("queue.ids", "queue.pointer", "step") else number).expand(size)
    return found


@pytest.mark.parametrize(("recipe", "alpha_steps"), [("quickstart", 18), ("albef-small", 1)])
def test_a_run_of_the_quick_start_s_albef_is_the_system_compact(recipe, alpha_steps, tmp_path, monkeypatch):
    copyfile(RUNS / f"{recipe}.json", tmp_path / "config.json")
    stored = weights()
    monkeypatch.setattr(registry, "read_tensors", lambda path: stored)
    model: Any = registry.load(tmp_path)
    model = getattr(model, "model", model)
    assert type(model) is Compact
    state = model.state_dict()
    assert state.keys() == stored.keys() and len(stored) == 430
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    assert (model.config.negative_sharpness, model.config.match_items, model.config.alpha_steps) == (
        0.2,
        48,
        alpha_steps,
    )
    assert model.word_patches is None and model.alignment_method == "cross_attention"
    assert model.input_spec.text.max_length == 40 and model.input_spec.text.separator


def test_a_run_of_the_paper_s_albef_stays_one():
    plain = {"image_pool": "class", "text_pool": "first", "text_hidden": None, "projection_dropout": 0.0}
    plain |= {"online_keys": False, "frozen_text": False, "negative_sharpness": 1.0}
    plain |= {"match_items": None, "word_items": None}
    kept = {"embed_dim": 64, "targets": "pairs", "alignment_block": None, "warm_momentum": False}
    before = {"system": "albef", "head": None, "config": {**kept, **plain}}
    assert current(before) == {"system": "albef", "head": None, "config": kept}
    head = {"system": "albef", "head": "nlvr2", "config": {"albef": {**kept, **plain}, "images": 2}}
    assert current(head)["config"] == {"albef": kept, "images": 2}
    assert current(current(before)) == current(before)
    with pytest.raises(InputError, match="no option 'word_items' any more"):
        current({**before, "config": {**kept, **plain, "word_items": 3}})
