"""The run of VideoBERT's tasks."""

from __future__ import annotations

from pathlib import Path

from coalign.arguments import load_run
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.videobert.model import VideoBert


def load_videobert(run: Path) -> tuple[VideoBert, Tokenizer]:
    """The run's model and vocabulary. Errors: `InputError` where it is no VideoBERT."""
    loaded = load_run(run)
    if not isinstance(loaded.model, VideoBert):
        raise InputError(f"{run}: {type(loaded.model).__name__} has no visual words; give a run of VideoBERT")
    return loaded.model, loaded.vocabulary
