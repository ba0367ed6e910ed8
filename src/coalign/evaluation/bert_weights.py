"""A BERT by the name of its weights, with its vocabulary: to fine-tune, to read words by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coalign.checkpoints import read_tensors
from coalign.checkpoints.packages import minilm_folder
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.bert.heads import BertTask
from coalign.models.bert.model import PRETRAINING_SIZES, Bert, BertPretrainingConfig, transformers
from coalign.models.bert.sizes import of_config, of_weights
from coalign.registry import load, read_description


def starting_weights(
    start: str, vocab: Path | None = None, size: str | None = None, seed: int = 0
) -> tuple[Bert | BertTask, Tokenizer]:
    """The model that `start` names, and its vocabulary.

    Raises:
        InputError: There are no such weights, they are no BERT's, or their vocabulary is not to be found.
    """
    if start == "scratch":
        if vocab is None:
            raise InputError("fresh weights need a vocabulary: --vocab vocab.txt (coalign vocab makes one)")
        tokenizer = load_tokenizer(vocab)
        return fresh(size or "tiny", tokenizer, seed=seed), tokenizer
    path = minilm_folder() if start == "minilm" else Path(start)
    folder = path if path.is_dir() else path.parent
    beside = next((folder for name in ("tokenizer.json", "vocab.txt") if (folder / name).is_file()), None)
    if vocab is None and beside is None:
        raise InputError(f"{start}: no vocab.txt or tokenizer.json beside the weights; name one with --vocab")
    tokenizer = load_tokenizer(vocab or folder)
    try:
        model = load(path, "bert").model
    except InputError:
        model = trunk_alone(path, seed)
        if model is None:
            raise
    if not isinstance(model, Bert | BertTask):
        raise InputError(f"{start}: is a {type(model).__name__}, not a BERT")
    if tokenizer.vocab_size > model.config.trunk.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, the weights of {start} {model.config.trunk.vocab_size}"
        )
    return model, tokenizer


def trunk_alone(path: Path, seed: int = 0) -> Bert | None:
    """The encoder of a Hugging Face file with heads that are none of ours, or without a pooler (masked words alone),
    whose pooler is then fresh; None where it is no BERT's."""
    tensors = read_tensors(path)  # which says so where there is no such file
    config = of_config(read_description(path)) or of_weights(tensors)
    if config is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Bert(replace(config, objectives=()))
    try:
        model.trunk.load_state_dict(transformers(config.trunk).load(tensors).state)
    except (InputError, RuntimeError):
        return None
    return model


def fresh(size: str, tokenizer: Tokenizer, *, seed: int = 0, **settings: Any) -> Bert:
    """A BERT of that size with fresh weights, for this vocabulary; `settings` replace fields of its configuration."""
    if size not in PRETRAINING_SIZES:
        raise InputError(f"bert has no size {size!r}; it has: {', '.join(PRETRAINING_SIZES)}")
    trunk = replace(PRETRAINING_SIZES[size].trunk, vocab_size=tokenizer.vocab_size)
    ids = {"cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id, "mask_id": tokenizer.mask_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bert(replace(BertPretrainingConfig(trunk), **ids, **settings))
