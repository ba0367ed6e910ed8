"""Tasks about images: a run or an authors' file, its images, and its answers item by item."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coalign.arguments import OptionalName, OptionalPath, RunFolder, Switch, load_run, say
from coalign.data.core.batches import Batches
from coalign.data.loaded import Loaded
from coalign.data.pairs.loader import check_vocabulary
from coalign.data.questions.items import Item, ItemCollate
from coalign.data.questions.pictures import Pictures, open_pictures
from coalign.data.questions.vqa import read_answers
from coalign.errors import InputError
from coalign.evaluation.texts import check_out
from coalign.files import replace_file
from coalign.progress import with_progress
from coalign.types import Batch, Encoding, InputSpec, Model

ANSWERS = "answers.json"
"""The file in a run that says what the head's classes mean."""


@dataclass(frozen=True, kw_only=True)
class VisualTask:
    """Flags of all tasks about images."""

    run: RunFolder
    regions: OptionalPath = None
    """Region features, for models that read regions: what `coalign extract regions` wrote, or a published file."""
    images: OptionalPath = None
    """A folder of pictures, for models that read pictures."""
    system: OptionalName = None
    """Whose file RUN is, where it is no run but the authors' file or a Hugging Face folder."""
    head: OptionalName = None
    """Which of the system's heads such a file has; found by its tensors where it is not given."""
    vocab: OptionalPath = None
    """The vocabulary, where RUN brings none."""
    max_missing: float = 0.0
    """The largest fraction of images that may be missing; what is asked of them is left out."""
    batch_size: int = 32
    """Items at a time."""

    def load(self) -> Loaded:
        """The model, with a vocabulary that fits it."""
        loaded = load_run(self.run, self.system, head=self.head, vocab=self.vocab)
        check_vocabulary(loaded.spec, loaded.vocabulary)
        return loaded

    def pictures(self, spec: InputSpec) -> Pictures:
        """The images, as the model reads them."""
        return open_pictures(spec, self.regions, self.images)

    def present(self, items: Sequence[Item], pictures: Pictures) -> list[Item]:
        """The items whose images are there; says how many are left out."""
        missing = pictures.check((image for item in items for image in item.images), self.max_missing)
        kept = [item for item in items if not missing.intersection(item.images)]
        if len(kept) < len(items):
            say(f"{len(items) - len(kept)} of {len(items)} items are left out: {len(missing)} images are missing")
        return kept

    def classes(self, given: Path | None, count: int | None, fallback: Sequence[str] = ()) -> list[str]:
        """Names of the head's `count` classes (any number where None): by `given`, else the run, else `fallback`."""
        file = given or self.run / ANSWERS
        if given is None and not file.is_file():
            if fallback and len(fallback) == count:
                return list(fallback)
            raise InputError(f"{self.run}: does not say what answers there are; give their list by --answers")
        names = read_answers(file)
        if count is not None and len(names) != count:
            raise InputError(f"{file}: lists {len(names)} answers, the model has {count}")
        return names


@dataclass(frozen=True, kw_only=True)
class PredictingTask(VisualTask):
    """Those that write predictions."""

    out: OptionalPath = None
    """Write the predictions to this file."""
    overwrite: Switch = False
    """Replace that file if it exists."""

    def check_out(self, ending: str) -> None:
        """Refuses a file that exists, before any work."""
        check_out(self.out, self.overwrite, (ending,))

    def write(self, text: str) -> None:
        """Writes the predictions, whole or not at all."""
        if self.out is not None:
            replace_file(self.out, lambda part: part.write_text(text, encoding="utf-8"))

    def write_lines(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Predictions as JSON lines."""
        self.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@torch.no_grad()
def through(
    loaded: Loaded,
    items: Sequence[Item],
    pictures: Pictures,
    batch_size: int,
    read: Callable[[Encoding, Batch], Sequence[Tensor]],
    description: str = "answering",
) -> list[Tensor]:
    """Outputs of `read`, item by item, on the model's encoding of each batch, on the CPU and in the items' order."""
    collate = ItemCollate(loaded.spec, loaded.vocabulary, pictures)
    bare = [Item(item.id, item.images, item.texts) for item in items]  # evaluation shows the model no truth
    loader = Batches(bare, collate, batch_size, train=False, name=pictures.name)
    device, outputs = loaded.device, list[Tensor]()
    model = loaded.model
    encode = model.encode_pooled if read is logits and isinstance(model, Model) else model.encode
    for batch in with_progress(loader, description, len(loader), True):
        moved = batch.to(device)
        outputs += [part.float().cpu() for part in read(encode(moved), moved)]
    assert len(outputs) == len(items), "a task's head gives one output an item"
    return outputs


def logits(encoding: Encoding, _: Batch) -> Sequence[Tensor]:
    """The head's scores of each item.

    Raises:
        InputError: the model is not one of this task.
    """
    if "logits" not in encoding.pooled:
        raise InputError("this model has no head for the task; fine-tune one: coalign train vqa, nlvr2 ...")
    return list(encoding.pooled["logits"])


def class_scores(
    loaded: Loaded, items: Sequence[Item], pictures: Pictures, batch_size: int, form: tuple[str, ...]
) -> Tensor:
    """[items, classes] the head's scores, of a model whose targets have one of these forms."""
    if loaded.spec.answers.form not in form:
        raise InputError(
            f"this {type(loaded.model).__name__} was made for targets of the form {loaded.spec.answers.form!r}, "
            f"the task needs {' or '.join(form)}"
        )
    return torch.stack(through(loaded, items, pictures, batch_size, logits))
