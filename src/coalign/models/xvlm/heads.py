"""X-VLM's task models: retrieval, which is the model without words to predict and without boxes; `HEADS`."""

from __future__ import annotations

from dataclasses import replace

from coalign.models.xvlm.model import Xvlm
from coalign.models.xvlm.names import original
from coalign.models.xvlm.trunk import XvlmConfig
from coalign.types import Head


def for_retrieval(config: XvlmConfig) -> XvlmConfig:
    """Contrast and matching alone, and a free temperature (the authors' retrieval fine-tuning)."""
    return replace(config, objectives=("itc", "itm"), clamp_temperature=False)


HEADS = {"retrieval": Head(Xvlm, XvlmConfig, for_retrieval, {"original": original})}
