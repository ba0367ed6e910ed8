import json

import numpy as np
import pytest
import torch

from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.models.gpt.model import Gpt, released
from coalign.trunks.gpt import GptConfig

CONFIG = GptConfig(vocab_size=20, positions=6, dim=8, depth=2, heads=2)


def write(folder, model, pieces=10):
    """The layout of the release: all tensors end to end, in as many arrays."""
    tensors = released(CONFIG).export(model.state_dict())
    names = ["positions", "model/we (token rows)"]
    for block in range(CONFIG.depth):
        for layer in ("attn/c_attn", "attn/c_proj", "ln_1", "mlp/c_fc", "mlp/c_proj", "ln_2"):
            names += [f"model/h{block}/{layer}/{part}" for part in ("gb" if "ln" in layer else "wb")]
    assert sorted(names) == sorted(tensors)
    flat = torch.cat([tensors[name].flatten() for name in names]).numpy()
    for number, piece in enumerate(np.array_split(flat, pieces)):
        np.save(folder / f"params_{number}.npy", piece)
    shapes = [list(tensors[name].shape) for name in names]
    (folder / "params_shapes.json").write_text(json.dumps(shapes))


def test_the_model_comes_back(tmp_path):
    model, again = Gpt(CONFIG), Gpt(CONFIG)
    write(tmp_path, model)
    again.load_state_dict(released(CONFIG).load(read_tensors(tmp_path)).state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_what_is_wrong_is_said(tmp_path):
    write(tmp_path, Gpt(CONFIG))
    (tmp_path / "params_9.npy").rename(tmp_path / "elsewhere.npy")
    with pytest.raises(InputError, match=r"9 pieces hold .* numbers"):
        read_tensors(tmp_path)
    np.save(tmp_path / "params_9.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"params_9.npy: not a readable .npy"):
        read_tensors(tmp_path)
    (tmp_path / "params_shapes.json").write_text("[[1], 2]")
    with pytest.raises(InputError, match="not a list of shapes"):
        read_tensors(tmp_path)
    (tmp_path / "params_shapes.json").write_text("[")
    with pytest.raises(InputError, match="not JSON"):
        read_tensors(tmp_path)
