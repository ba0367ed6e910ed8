"""Libraries that not everybody needs: the extra that brings each, and modules that are imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from coalign.errors import InputError

EXTRAS = {
    "pyarrow": "tables",
    "sklearn": "metrics",
    "scipy": "metrics",
    "matplotlib": "figures",
    "huggingface_hub": "hub",
    "datasets": "hub",
    "lancedb": "retrieval",
    "umap": "analysis",
    "plotly": "analysis",
    "gensim": "analysis",
    "imagehash": "analysis",
    "datasketch": "analysis",
    "py3langid": "analysis",
    "krippendorff": "analysis",
    "starlette": "serve",
    "uvicorn": "serve",
    "anyio": "serve",
    "anywidget": "notebook",
    "h5py": "features",
    "msgpack": "features",
    "av": "video",
    "soundfile": "audio",
    "faiss": "faiss",
    "fsspec": "cloud",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
}
"""The extra of each library, by the name that Python imports."""


class MissingError(ImportError, InputError):
    """A library that is not installed. The message names it and the extra that brings it."""


def missing(module: str) -> MissingError | None:
    """The error for a module that cannot be imported; None where no extra brings it."""
    library = module.partition(".")[0]
    if library not in EXTRAS:
        return None
    return MissingError(f"{library} is not installed: pip install 'coalign[{EXTRAS[library]}]'", name=module)


def optional(module: str) -> Any:
    """The module, imported when something of it is first used: `pq = optional("pyarrow.parquet")`.

    Raises:
        MissingError: It is used and is not installed.
    """
    return _Optional(module)


class _Optional:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by pickle, inspect and the like
            raise AttributeError(name)
        try:
            module = importlib.import_module(self._module)
        except ModuleNotFoundError as error:
            known = missing(error.name or "")
            if known is None:
                raise
            raise known from None
        value = getattr(module, name)
        self.__dict__[name] = value
        return value
