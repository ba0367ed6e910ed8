"""Recorded cases of VideoBERT's tokenisation, made from the paper's words: no code was released."""

from __future__ import annotations

import re

from torch import nn

from coalign.checkpoints import Rename, StateMap
from coalign.models.videobert.model import VisualWords
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs


def build(described: Described) -> tuple[nn.Module, StateMap]:
    _, branching, width = described.shape("level0")
    words = VisualWords(width, branching, described.count("level{}"))
    return words, StateMap(Rename("level{i}", "level{i}"))


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    del keep_padding
    assert isinstance(model, VisualWords)
    leaf = model(case.inputs["features"])
    return {
        "path": model.path(case.inputs["features"]),
        "leaf": leaf,
        "token_ids": case.config["text_vocab_size"] + leaf,
    }


ADAPTOR = Adaptor(lambda d: re.match(r"videobert", d.system.lower()) is not None, build, run)
