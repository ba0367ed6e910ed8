"""Where the recipes of ViT and MAE start from: published files of any layout, runs, or fresh weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from torch import Tensor

from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.models.mae.model import Mae, MaeConfig, fine_tuning
from coalign.models.mae.names import encoder
from coalign.models.mae.sizes import of_weights
from coalign.models.vit.config import VitClassifierConfig
from coalign.models.vit.model import Vit
from coalign.recipes._start import sized, weights_flag
from coalign.registry import load

SCRATCH = "scratch"
VIT_HELP = (
    "Whose weights to start from: Google's .npz, timm's file, a Hugging Face folder, a run of a vit or mae recipe; or "
    "scratch, for fresh weights of --size."
)
MAE_HELP = (
    "Whose weights to start from: a run of mae-pretrain, the authors' file (mae_pretrain_vit_base.pth, whole or its "
    "encoder alone), a Hugging Face ViTMAE folder; or scratch, for fresh weights of --size."
)
VitStart = Annotated[str, weights_flag(VIT_HELP)]
MaeStart = Annotated[str, weights_flag(MAE_HELP)]

State = Mapping[str, Tensor]


def vit_start(start: str, size: str, layout: str | None) -> tuple[VitClassifierConfig, State]:
    """The configuration of what is started from, and its tensors (none where it starts from scratch)."""
    if start == SCRATCH:
        return sized("vit", size), {}
    model = (load(start) if is_run(start) else load(start, "vit", layout=layout)).model
    if isinstance(model, Mae):
        return fine_tuning(model.config), model.state_dict()
    if not isinstance(model, Vit):
        raise InputError(f"{start}: holds a {type(model).__name__}, not a ViT")
    return model.config, model.state_dict()


def mae_start(start: str, size: str) -> tuple[MaeConfig, State]:
    """The same for what MAE has pre-trained; of a file that has the encoder alone, the decoder is the paper's."""
    if start == SCRATCH:
        return sized("mae", size), {}
    if is_run(start):
        model = load(start).model
        if not isinstance(model, Mae):
            raise InputError(f"{start}: holds a {type(model).__name__}, not what mae-pretrain makes")
        return model.config, model.state_dict()
    tensors = read_tensors(start)
    config = of_weights(tensors)
    if config is None:
        raise InputError(f"{start}: has the tensors of no known masked auto-encoder")
    if "mask_token" in tensors or "decoder.mask_token" in tensors:
        whole = load(start, "mae").model
        assert isinstance(whole, Mae)
        return whole.config, whole.state_dict()
    return config, encoder(fine_tuning(config)).load(tensors).state


def classifier(config: VitClassifierConfig, state: State, source: str, image_size: int | None) -> Vit:
    """A new classifier on a pre-trained trunk, for images of `image_size`; the head and what is new stay as made.

    Raises:
        InputError: The trunk's tensors are missing, or of other shapes.
    """
    model = Vit(config)
    names = model.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name in names and not name.startswith("head")}
    wrong = [name for name, tensor in kept.items() if tensor.shape != names[name].shape]
    missing = [name for name in names if name.startswith("trunk.") and name not in kept]
    if state and (wrong or missing):
        raise InputError(f"{source}: does not hold the weights of this ViT ({(wrong or missing)[0]})")
    model.load_state_dict(kept, strict=False)
    if model.stem is not None and not state:
        model.load_stem()
    if image_size is not None:
        model.resize(image_size)
    return model


def is_run(start: str) -> bool:
    """Whether this is a folder that a recipe made."""
    return (Path(start) / "config.json").is_file() and (Path(start) / "metrics.jsonl").is_file()
