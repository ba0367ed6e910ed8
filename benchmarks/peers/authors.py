"""The authors' code from a checkout, imported beside libraries that are newer than it.

What it imports from transformers has moved or gone since; where a name is missing, the few lines that stand for it here
do what it did. Nothing of the checkout is changed.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor


def _chunked(forward: Any, chunk: int, dim: int, *given: Tensor) -> Any:
    assert not chunk
    del dim
    return forward(*given)


def _decorate(*_: object, **__: object) -> Any:
    return lambda function: function


def albef(folder: Path) -> types.ModuleType:
    """ALBEF's `models.xbert`."""
    if not (folder / "models" / "xbert.py").is_file():
        sys.exit(f"--authors {folder}: no models/xbert.py")
    sys.path.insert(0, str(folder))
    import transformers.modeling_utils as modeling

    old: Any = types.ModuleType("transformers.file_utils")
    old.ModelOutput = transformers.utils.ModelOutput
    for name in ("code_sample_docstrings", "start_docstrings", "start_docstrings_to_model_forward"):
        setattr(old, f"add_{name}", _decorate)
    old.replace_return_docstrings = _decorate
    sys.modules["transformers.file_utils"] = old
    for name, stand_in in (
        ("apply_chunking_to_forward", _chunked),
        ("find_pruneable_heads_and_indices", None),
        ("prune_linear_layer", None),
    ):
        if not hasattr(modeling, name):
            setattr(modeling, name, stand_in)
    from models import xbert  # pyright: ignore

    return xbert


def bert(folder: Path, **sizes: Any) -> torch.nn.Module:
    """ALBEF's text encoder with its fusion half, without a pooler."""
    xbert = albef(folder)
    config = transformers.BertConfig(**sizes)
    xbert.BertModel.get_head_mask = lambda _self, _mask, layers: [None] * layers
    xbert.BertModel.invert_attention_mask = lambda _self, mask: (1.0 - mask[:, None, None].float()) * -10000.0
    xbert.BertModel.init_weights = lambda self: self.apply(self._init_weights)
    return xbert.BertModel(config, add_pooling_layer=False)
