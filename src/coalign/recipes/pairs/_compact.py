"""The compact system before training: frozen EfficientNet-lite0 and MiniLM, and a fusion block that starts from
MiniLM's last. Extras: `minilm` and `efficientnet`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coalign.checkpoints import read_tensors
from coalign.checkpoints.packages import minilm_folder
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.layers.convolution import EfficientNetLite0, EfficientNetStem
from coalign.models.bert.model import transformers
from coalign.models.compact.model import Compact
from coalign.models.compact.towers import TEXT_BLOCKS, CompactConfig
from coalign.registry import describe
from coalign.training.loop import TrainConfig

RETRIEVAL = {"k": 16, "weight": 0.02, "hubness": 0.15}
"""Re-ranking the k best: score = similarity - hubness * the answer's + weight * log P(match); see docs/results.md."""

TRAINING = TrainConfig(
    steps=900,
    lr=1e-3,
    weight_decay=0.05,
    warmup=30,
    clip=3.0,
    frozen=("online.text.embedding", *(f"online.text.encoder.blocks.{i}" for i in range(TEXT_BLOCKS))),
    lr_multipliers={"temperature": 0.1},
    objectives=("itc", "itm", "mlm"),
    every={"itm": 2, "mlm": 4},
    loss_weights={"mlm": 0.3},
    # avx512_bf16 alone is slower than fp32: its products were measured at 0.6 of the speed
    precision="bf16" if getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16") else "fp32",
    threads=2,
    save_every=300,
)


def compact(steps: int, seed: int = 0, config: CompactConfig | None = None) -> Compact:
    """The model before training. `steps` is what the distillation's weight grows over, a third."""
    folder = minilm_folder()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Compact(replace(config or CompactConfig(), alpha_steps=max(steps * 3 // 10, 1)))
    start_from_minilm(model, folder)
    if model.stem is not None:
        model.stem.load_state_dict(EfficientNetStem(EfficientNetLite0.pretrained()).state_dict())
    model.momentum.load_state_dict(model.online.state_dict())
    return model


@cache
def tokenizer() -> Tokenizer:
    """MiniLM's, which the model reads."""
    return Tokenizer.load(minilm_folder())


def start_from_minilm(model: Compact, folder: Path) -> None:
    """Text half: MiniLM's embeddings and blocks. Fusion block: MiniLM's last, with a cross-attention of its own."""
    sizes = replace(model.config.text, depth=TEXT_BLOCKS, context_dim=None)
    state = transformers(sizes).load(read_tensors(folder)).state
    names = model.online.text.state_dict()
    last, fusion = f"encoder.blocks.{TEXT_BLOCKS - 1}.", f"encoder.blocks.{TEXT_BLOCKS}."
    state |= {name.replace(last, fusion): tensor for name, tensor in state.items() if name.startswith(last)}
    wanted = {name: tensor for name, tensor in state.items() if name in names}
    missing = [name for name in names if name not in wanted and "cross_attention" not in name]
    if missing:
        raise InputError(f"{folder}: lacks {missing[0]} and is not the MiniLM that this recipe starts from")
    model.online.text.load_state_dict(wanted, strict=False)
    for name, parameter in model.online.text.named_parameters():
        if "cross_attention." in name and parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=torch.Generator().manual_seed(1))


def run_description(model: Compact, recipe: str) -> dict[str, Any]:
    return describe(model) | {"recipe": recipe, "retrieval": RETRIEVAL}
