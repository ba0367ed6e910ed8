"""Images to classes by the names alone: the class with the nearest texts (CLIP, Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.arguments import OptionalName, OptionalPath, RunFolder, Switch, load_run
from coalign.data.core.quarantine import Quarantine
from coalign.data.images.labelled_images import Classes
from coalign.data.images.transforms import ImageOptions
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.evaluation.images import ImageData
from coalign.evaluation.result import TaskResult
from coalign.files import read_text, reader
from coalign.tasks.images.image_classification import ClassifiedImages
from coalign.types import Batch, Encoding

TEMPLATES = ("a photo of a {}.",)
"""CLIP's own (section 3.1.4)."""


@dataclass(frozen=True)
class Evaluate(ClassifiedImages):
    """Classes of images by prompts: top-1 and top-5 accuracy of a model that was never trained on the classes.

    Each class is the mean of its prompts' vectors, one prompt a template. Images of classes that the list lacks are
    listed and not counted.
    """

    run: RunFolder
    """A run, or with --system the authors' file."""
    data: ImageData
    classes: OptionalPath = None
    """The list of classes (.txt, .json), whose names, or the words beside them, are put into the prompts. By default
    the data's own."""
    templates: OptionalPath = None
    """A .txt with a prompt a line; {} stands for the class. By default "a photo of a {}."."""
    system: OptionalName = None
    """Whose file RUN is, where it is not a run: clip or siglip."""
    vocab: OptionalPath = None
    """With --system: the model's vocabulary."""
    crop: Switch = False
    """Size the shorter side and cut the middle out, as CLIP does. By default pictures are sized as the model says."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        self.check_out()
        listed = Classes.load(self.classes) if self.classes else None
        if listed is not None and not listed.names:
            raise InputError(f"{self.classes}: lists no class")
        templates = read_templates(self.templates) if self.templates else TEMPLATES
        options: dict[str, Any] = {} if self.vocab is None else {"vocab": self.vocab}
        loaded = load_run(self.run, self.system, **options)
        quarantine = Quarantine()
        data = self.read(self.data, listed, quarantine)
        model = ZeroShot(loaded, class_vectors(loaded, data.labelled.classes.shown, templates))
        how = ImageOptions(resize="crop" if self.crop else None)
        result = self.classify(model, loaded.spec, data, how, quarantine)
        return TaskResult(result.metrics, result.count, {**result.extra, "templates": len(templates)})


class ZeroShot(nn.Module):
    """A dual encoder with a vector a class as a classifier: logits are cosines times 100."""

    def __init__(self, loaded: Loaded, vectors: Tensor) -> None:
        super().__init__()
        self.model, self.loaded = loaded.model, loaded
        self.register_buffer("vectors", vectors)

    def encode(self, batch: Batch) -> Encoding:
        vectors = self.loaded.encode(Batch(images=batch.images)).vectors["image"]
        return Encoding({}, {"logits": 100.0 * vectors @ self.get_buffer("vectors").T})


@torch.no_grad()
def class_vectors(loaded: Loaded, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
    """[C, D] of unit length: the mean of each class's prompts.

    Raises:
        InputError: The model gives no vectors of texts.
    """
    vectors: list[Tensor] = []
    for template in templates:
        prompts = [template.replace("{}", name) for name in names]
        parts = [prompts[i : i + 64] for i in range(0, len(prompts), 64)]
        seen = [loaded.encode(prepare(loaded, texts=part)).vectors for part in parts]
        if any("text" not in part for part in seen):
            raise InputError(f"a {type(loaded.model).__name__} gives no vectors of texts alone")
        vectors.append(torch.cat([part["text"] for part in seen]))
    return F.normalize(torch.stack(vectors).mean(0), dim=-1)


@reader
def read_templates(path: Path) -> tuple[str, ...]:
    """The prompts in a file, a line each.

    Raises:
        InputError: There is none, or one has no place for the class.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    without = [number for number, line in enumerate(lines, 1) if "{}" not in line]
    if not lines or without:
        what = f"line {without[0]} has no {{}} for the class" if without else "holds no prompt"
        raise InputError(f"{path}: {what}")
    return tuple(lines)
