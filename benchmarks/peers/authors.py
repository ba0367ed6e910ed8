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
from torch import Tensor, nn


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

    xbert.BertModel.get_head_mask = lambda _self, _mask, layers: [None] * layers
    xbert.BertModel.invert_attention_mask = lambda _self, mask: (1.0 - mask[:, None, None].float()) * -10000.0
    return xbert


def bert(folder: Path, **sizes: Any) -> nn.Module:
    """ALBEF's text encoder with its fusion half, without a pooler."""
    xbert = albef(folder)
    config = transformers.BertConfig(**sizes)
    xbert.BertModel.init_weights = lambda self: self.apply(self._init_weights)
    return xbert.BertModel(config, add_pooling_layer=False)


def pretraining(folder: Path, image: dict[str, Any], text: dict[str, Any], **settings: Any) -> Any:
    """ALBEF's pre-training model, whose own constructor knows the paper's sizes alone, with towers of these sizes."""
    xbert = albef(folder)
    from models.model_pretrain import ALBEF  # pyright: ignore
    from models.vit import VisionTransformer  # pyright: ignore

    xbert.BertPreTrainedModel.init_weights = lambda self: self.apply(self._init_weights)
    xbert.BertForMaskedLM.tie_weights = lambda _self: None
    model = ALBEF.__new__(ALBEF)
    nn.Module.__init__(model)
    config = transformers.BertConfig(**text)
    for copy in ("", "_m"):
        setattr(model, f"visual_encoder{copy}", VisionTransformer(**image))
        encoder = xbert.BertForMaskedLM(config)
        encoder.cls.predictions.decoder.weight = encoder.bert.embeddings.word_embeddings.weight
        setattr(model, f"text_encoder{copy}", encoder)
        setattr(model, f"vision_proj{copy}", nn.Linear(image["embed_dim"], settings["embed_dim"]))
        setattr(model, f"text_proj{copy}", nn.Linear(config.hidden_size, settings["embed_dim"]))
    model.itm_head = nn.Linear(config.hidden_size, 2)
    model.temp = nn.Parameter(torch.tensor(settings["temperature"]))
    model.queue_size, model.momentum = settings["queue_size"], settings["momentum"]
    model.mlm_probability, model.tokenizer = settings["mask_probability"], None
    parts = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
    model.model_pairs = [[getattr(model, name), getattr(model, f"{name}_m")] for name in parts]
    model.copy_params()
    for kind in ("image", "text"):
        queue = torch.randn(settings["embed_dim"], settings["queue_size"])
        model.register_buffer(f"{kind}_queue", nn.functional.normalize(queue, dim=0))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    return model


def mae(folder: Path, **sizes: Any) -> nn.Module:
    """MAE's pre-training model, on the blocks of the installed timm."""
    if not (folder / "models_mae.py").is_file():
        sys.exit(f"--authors {folder}: no models_mae.py")
    sys.path.insert(0, str(folder))
    import numpy as np
    import timm.models.vision_transformer as vision

    np.float = float  # pyright: ignore
    block = vision.Block

    def without_scale(*given: Any, **named: Any) -> nn.Module:
        assert named.pop("qk_scale", None) is None  # timm has no such argument any more
        return block(*given, **named)

    vision.Block = without_scale  # pyright: ignore
    from models_mae import MaskedAutoencoderViT  # pyright: ignore

    vision.Block = block
    return MaskedAutoencoderViT(**sizes)
