"""Reconstructions and attention rollout as pictures, by function and by command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from coalign.analysis.runs.reconstruction import reconstruct, reconstruction_sheet
from coalign.analysis.runs.rollout import rollout_sheet, rollouts
from coalign.cli.commands.reconstruct import command as reconstruct_command
from coalign.cli.commands.rollout import command as rollout_command
from coalign.errors import InputError
from coalign.models.mae.model import Mae, MaeConfig
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.registry import describe
from coalign.training.run import Run
from coalign.trunks.vit import VitConfig

TRUNK = VitConfig(image_size=16, patch_size=4, dim=32, depth=2, heads=4, hidden_dim=64)


def photograph() -> Image.Image:
    ramp = np.linspace(0, 255, 16)
    return Image.fromarray(np.stack([ramp[None].repeat(16, 0), ramp[:, None].repeat(16, 1), np.full((16, 16), 90)], 2).astype(np.uint8))  # fmt: skip  # noqa: E501


def mae() -> Mae:
    torch.manual_seed(0)
    return Mae(MaeConfig(TRUNK, decoder_dim=24, decoder_depth=1, decoder_heads=3, decoder_hidden_dim=48))


def test_a_reconstruction_is_the_image_where_it_was_seen() -> None:
    (found,) = reconstruct(mae(), [photograph()], seed=3, side=16)
    image, masked, predicted = (np.asarray(picture).astype(int) for picture in found.pictures)
    assert np.abs(image - np.asarray(photograph())).max() <= 1  # normalised and back
    cells = np.abs(masked - image).reshape(4, 4, 4, 4, 3).max((1, 3, 4)) > 3  # patches that are hidden
    assert cells.sum() == 12
    where = cells.repeat(4, 0).repeat(4, 1)
    assert (predicted[~where] == image[~where]).all()
    assert np.abs(predicted - masked)[where].max() > 3
    again, other = reconstruct(mae(), [photograph()], 3, 16), reconstruct(mae(), [photograph()], 4, 16)
    assert again[0].masked.tobytes() == found.masked.tobytes() != other[0].masked.tobytes()
    sheet = reconstruction_sheet([found, found], 40)
    assert sheet.width > 6 * 40
    with pytest.raises(InputError, match="rebuilds no images"):
        reconstruct(nn.Linear(1, 1), [photograph()])


def test_a_rollout_marks_what_the_model_reads() -> None:
    """All heads attend to the second patch, so it holds the most."""
    model = Vit(VitClassifierConfig(TRUNK, 3)).eval()
    (found,) = rollouts(model, [photograph()])
    assert found.shares.shape == (4, 4) and torch.allclose(found.shares, model.rollout(_batch(model))[0])
    assert found.image.size == (16, 16) and found.drawn(64).size == (64, 64)
    sheet = rollout_sheet([found] * 2, ["a", "b"], 40)
    assert sheet.width > 4 * 40
    assert rollouts(mae(), [photograph()])[0].shares.sum() <= 1 + 1e-5
    with pytest.raises(InputError, match="has no attention rollout"):
        rollouts(nn.Linear(1, 1), [photograph()])


def _batch(model: Vit):
    from coalign.data.loaded import Loaded
    from coalign.data.prepare import prepare

    return prepare(Loaded(model), images=[photograph()]).images


def test_commands_write_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_model

    photograph().save(tmp_path / "a.png")
    for name, model in (("mae", mae()), ("vit", Vit(VitClassifierConfig(TRUNK, 3)))):
        run = Run(tmp_path / name, describe(model))
        run.begin({}, 0)
        save_model(model, str(run.weights))
    images = (tmp_path / "a.png", tmp_path / "a.png")
    assert reconstruct_command(tmp_path / "mae", images, tmp_path / "r.png") == 0
    assert rollout_command(tmp_path / "vit", images, tmp_path / "v.png") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "r.png"), str(tmp_path / "v.png")]
    assert Image.open(tmp_path / "r.png").size != Image.open(tmp_path / "v.png").size
    with pytest.raises(InputError, match="exists already"):
        rollout_command(tmp_path / "vit", images, tmp_path / "v.png")
