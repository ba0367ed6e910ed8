"""coalign: multimodal aligned representations in one package.

model = coalign.create("albef", size="tiny")
model = coalign.load("runs/quickstart")
encoding = model.encode(coalign.prepare(model, images=[image], texts=["a red boat"]))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalign.data.prepare import prepare
    from coalign.errors import InputError
    from coalign.registry import convert, create, load, systems

    def show(loaded: Any, images: Any, texts: Any, *, regions: Any = None, method: str = "auto") -> Any:
        """See `coalign.analysis.runs.viewer.show`, which needs an extra and so is not imported here."""


__version__ = "0.2.0"
__all__ = ["InputError", "__version__", "convert", "create", "load", "prepare", "show", "systems"]

_HOMES = {"InputError": "errors", "prepare": "data.prepare", "show": "analysis.runs.viewer"} | dict.fromkeys(
    ("convert", "create", "load", "systems"), "registry"
)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that `coalign --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
