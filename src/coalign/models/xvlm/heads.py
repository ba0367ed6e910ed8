"""X-VLM's task models, which are the model with some of its objectives; `HEADS`. Of the authors' files the fine-tuned
one of grounding, which lacks the projections, is not read."""

from __future__ import annotations

from dataclasses import replace

from coalign.models.xvlm.model import Xvlm
from coalign.models.xvlm.names import original
from coalign.models.xvlm.trunk import XvlmConfig
from coalign.types import Head


def for_retrieval(config: XvlmConfig) -> XvlmConfig:
    """Contrast and matching alone, and a free temperature (the authors' retrieval fine-tuning)."""
    return replace(config, objectives=("itc", "itm"), clamp_temperature=False)


def for_grounding(config: XvlmConfig) -> XvlmConfig:
    """Boxes alone (section 4.4: visual grounding)."""
    return replace(config, objectives=("box",))


HEADS = {
    "grounding": Head(Xvlm, XvlmConfig, for_grounding, {}),
    "retrieval": Head(Xvlm, XvlmConfig, for_retrieval, {"original": original}),
}
