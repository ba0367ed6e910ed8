"""What VideoBERT's tasks share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coalign.arguments import load_run
from coalign.errors import InputError


def load_videobert(run: Path) -> Any:
    """The run's model. Errors: `InputError` where it is no VideoBERT."""
    from coalign.models.videobert.model import VideoBert

    model = load_run(run)
    if not isinstance(model, VideoBert):
        raise InputError(f"{run}: {type(model).__name__} has no visual words; give a run of VideoBERT")
    return model
