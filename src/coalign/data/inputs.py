"""Encodings of texts or pictures, and the device of a model, as tasks and search need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.types import Encoding

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, Modality] = ("image", "text")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights lie."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def encode(loaded: Loaded, modality: Modality, items: Sequence[Any]) -> Encoding:
    """The encoding of some texts, or of some pictures, on the model's device."""
    return loaded.encode(prepare(loaded, images=items) if modality == "image" else prepare(loaded, texts=items))
