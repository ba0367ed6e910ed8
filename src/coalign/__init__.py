"""coalign: multimodal aligned representations in one package.

model = coalign.create("albef", size="tiny")
model = coalign.load("runs/quickstart")
encoding = model.encode(coalign.prepare(model, images=[image], texts=["a red boat"]))
"""

from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.registry import convert, create, load, systems

__version__ = "0.1.0"
__all__ = ["InputError", "__version__", "convert", "create", "load", "prepare", "systems"]
