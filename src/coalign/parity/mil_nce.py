"""Recorded cases of antoine77340/S3D_HowTo100M and MIL-NCE_HowTo100M, also those whose weights are made by a rule."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.data.words.word_list import WordList
from coalign.layers.initialise import shapes_alone
from coalign.layers.s3d import BLOCKS, Branches, S3dConfig
from coalign.models.mil_nce.model import MilNceConfig, MilNceModel, original
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.types import Packed

BRANCHES = ("conv_b0", "conv_b1_a", "conv_b1_b", "conv_b2_a", "conv_b2_b", "conv_b3_b")
PARTS = dict(zip(BRANCHES, ("one", "reduce_a", "filter_a", "reduce_b", "filter_b", "pooled"), strict=True))


def prefix_of(described: Described) -> str:
    return "module." if any(name.startswith("module.") for name in described.weights) else ""


def config_of(described: Described) -> MilNceConfig:
    """Sizes from the weights; the official ones, with what the config says, where a case stores none."""
    c, prefix = described.config, prefix_of(described)
    text = c.get("text") or {}
    max_words = text.get("max_words") or c.get("max_words", 16)
    if not described.weights:
        return MilNceConfig(
            S3dConfig(space_to_depth=c.get("space_to_depth", True)),
            dim=c["num_classes"],
            vocab_size=text["num_embeddings"],
            word_dim=text["word_embedding_dim"],
            text_hidden_dim=text["hidden_dim"],
            max_words=max_words,
        )

    def width(name: str) -> int:
        return described.shape(f"{prefix}{name}.conv1.weight")[0]

    blocks = tuple(cast(Branches, tuple(width(f"mixed_{b}.{branch}") for branch in BRANCHES)) for b in BLOCKS)
    stem = width("conv1"), width("conv_2b"), width("conv_2c")
    cells = described.shape(f"{prefix}conv1.conv1.weight")[1] == 24
    vocab_size, word_dim = described.shape(f"{prefix}text_module.word_embd.weight")
    return MilNceConfig(
        S3dConfig(stem, blocks, cells),
        dim=described.shape(f"{prefix}fc.bias")[0],
        vocab_size=vocab_size,
        word_dim=word_dim,
        text_hidden_dim=described.shape(f"{prefix}text_module.fc1.bias")[0],
        max_words=max_words,
    )


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return MilNceModel(config), original(config, prefix_of(described))


# ---------------------------------------------------------------------------------------------- weights made by a rule
def weights(case: Case) -> Mapping[str, Tensor]:
    """The case's weights, or those that its rule makes of the official names and shapes."""
    if case.weights:
        return case.weights
    with shapes_alone():
        model, names = build(case)
        shapes = names.export(model.state_dict())
    return {name: made(name, tensor.shape) for name, tensor in shapes.items()}


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1) that a hash makes of a name and a place (`weights_rule` in the metadata)."""
    h = np.arange(math.prod(shape), dtype=np.uint32)
    h *= np.uint32(0x9E3779B1)
    h += np.uint32(zlib.crc32(name.encode()))
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return (h / 2.0**32).reshape(shape)


def made(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the official state dict; its scale goes by its name, the first that fits."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = uniform(name, shape)
    if name.endswith("running_var"):
        u = 0.5 + u
    elif name.endswith("running_mean"):
        u = 0.4 * (u - 0.5)
    elif ".bn" in name and name.endswith("weight"):
        u = 0.8 + 0.4 * u
    elif name.endswith("bias"):
        u = 0.2 * (u - 0.5)
    elif name.endswith("word_embd.weight"):
        u = 2 * u - 1
    else:
        u = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
    return torch.from_numpy(u.astype(np.float32))


# ------------------------------------------------------------------------------------------------------------- running
@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    """Kept padding is every slot of a sentence as a word; packed, the words alone."""
    assert isinstance(model, MilNceModel)
    c, given, record = case.config, case.inputs, dict[str, Tensor]()
    video = given.get("video")
    if video is None:
        video = torch.from_numpy(uniform(c["key"], tuple(c["video"])).astype(np.float32))
    feature, vector = model.encode_frames(video.transpose(1, 2), record)
    ids = given["token_ids"]
    text = model.text(Packed.uniform(ids) if keep_padding else Packed.from_padded(ids, ids != 0))
    out: dict[str, Tensor | Packed] = {
        "mixed_5c_pooled": feature,
        "video_embedding": vector,
        "text_embedding": text,
        "similarity": text @ vector.T,
    }
    words = WordList(c.get("dictionary", ()), lowercase=c.get("code", "s3d") == "s3d")
    slots = model.config.max_words
    out["token_ids"] = words.text(c.get("sentences", ()), slots).ids.to_padded(slots)
    for name, value in record.items():
        if "." not in name:
            out[f"stage/{name}"] = value
            out[f"stage/{name}/channel_mean"] = value.mean((0, 2, 3, 4))
    for block in BLOCKS:
        stage = f"mixed_{block}"
        for theirs, ours in PARTS.items():
            out[f"{stage}/{theirs}"] = record[f"{stage}.{ours}"]
        for number in range(4):
            out[f"{stage}/gating_b{number}"] = record[f"{stage}.gate_{number}"]
    for number in range(len(c.get("loss_cases", ()))):
        out |= loss(given, model, f"loss{number}")
    return out


def loss(given: Mapping[str, Tensor], model: MilNceModel, name: str) -> dict[str, Tensor]:
    with torch.enable_grad():
        video, text = (given[f"{name}/{part}_embd"].detach().requires_grad_() for part in ("video", "text"))
        value = model.loss(video, text)
        grad_video, grad_text = torch.autograd.grad(value, (video, text))
    return {f"{name}/loss": value, f"{name}/grad_video": grad_video, f"{name}/grad_text": grad_text}


ADAPTOR = Adaptor(lambda d: re.match(r"mil[-_ ]?nce", d.system.lower()) is not None, build, run, weights=weights)
