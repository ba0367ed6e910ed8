"""The run of VideoBERT's tasks."""

from __future__ import annotations

from pathlib import Path

from coalign.arguments import load_run
from coalign.data.loaded import Loaded
from coalign.errors import InputError


def load_videobert(run: Path) -> Loaded:
    """The run. Errors: `InputError` where it is no VideoBERT."""
    from coalign.models.videobert.model import VideoBert

    loaded = load_run(run)
    if not isinstance(loaded.model, VideoBert):
        raise InputError(f"{run}: {type(loaded.model).__name__} has no visual words; give a run of VideoBERT")
    return loaded
