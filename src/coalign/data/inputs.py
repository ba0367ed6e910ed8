"""The input specification, the vocabulary and the device of a model, as loaders and tasks need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from coalign.data.prepare import prepare
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import Encoding, InputSpec, Model

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, Modality] = ("image", "text")


def inputs_of(model: nn.Module) -> tuple[InputSpec, Tokenizer]:
    """What the model reads and its vocabulary. Raises InputError where it has none."""
    tokenizer = getattr(model, "tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise InputError(
            f"this {type(model).__name__} has no vocabulary; put its tokenizer.json or vocab.txt into the run"
        )
    spec: Any = model.input_spec
    return spec, tokenizer


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights lie."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def encode(model: nn.Module, modality: Modality, items: Sequence[Any]) -> Encoding:
    """The encoding of some texts, or of some pictures, on the model's device."""
    assert isinstance(model, Model)
    batch = prepare(model, images=items) if modality == "image" else prepare(model, texts=items)
    return model.encode(batch.to(device_of(model)))
