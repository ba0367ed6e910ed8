"""Recorded cases of facebookresearch/dinov2, and Hugging Face's layout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.dinov2.model import DinoV2, DinoV2Config
from coalign.models.dinov2.names import original, transformers
from coalign.models.dinov2.sizes import of_weights
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import size_hints
from coalign.trunks.vit import sides
from coalign.types import Images


def config_of(described: Described) -> DinoV2Config:
    """The sizes of the weights; how positions are resized, as the description says."""
    c = described.config
    facts = size_hints(described)
    if c.get("img_size"):
        facts = replace(facts, images=(sides(c["img_size"]), *facts.images))
    config = of_weights(described.weights, facts)
    if config is None:
        raise InputError(f"{described.path}: has the names of no known DINOv2")
    antialias, offset = c.get("interpolate_antialias"), c.get("interpolate_offset")
    return replace(
        config,
        antialias=config.antialias if antialias is None else bool(antialias),
        offset=config.offset if offset is None else float(offset),
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    names = transformers if "embeddings.mask_token" in described.weights else original
    return DinoV2(config), names(config)


@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    del keep_padding  # images of one size have none
    assert isinstance(model, DinoV2)
    pixels = case.inputs["image"]
    record: dict[str, Tensor] = {}
    seen = model.read(Images(pixels), case.inputs.get("masks"), record)
    rows, depth = seen.to_padded(), model.config.trunk.depth
    first, leading = model.trunk.prefix, model.trunk.leading
    blocks = [seen.with_values(record[f"image.{i}.hidden"]).to_padded() for i in range(depth)]
    out = {
        "embedded": seen.with_values(record["image.embedded"]).to_padded(),
        "prenorm": blocks[-1],
        "cls_token": rows[:, 0],
        "register_tokens": rows[:, first:leading],
        "patch_tokens": rows[:, leading:],
        **{f"block.{i}": block for i, block in enumerate(blocks)},
    }
    plain = model.read(Images(pixels), record=record) if "masks" in case.inputs else seen  # these see no masks
    count = sum(name.startswith("intermediate.") and name.endswith(".grid") for name in case.outputs)
    grid = tuple(side // own for side, own in zip(pixels.shape[2:], model.config.trunk.patch, strict=True))
    for place, i in enumerate(range(depth - count, depth)):
        normed = model.trunk.encoder.norm(plain.with_values(record[f"image.{i}.hidden"]).to_padded())
        out[f"intermediate.{place}.cls"] = normed[:, 0]
        out[f"intermediate.{place}.grid"] = normed[:, leading:].transpose(1, 2).unflatten(2, grid)
    return out


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("dinov2"), build, run)
