"""Towers as files that run without this package: ONNX, and torch's exported programs (.pt2).

A tower is what makes the searched vectors of one modality: pixels [B, 3, H, W] in, or word pieces [B, L] with a mask
[B, L] of what is text, and unit vectors [B, d] out. B and L are fixed when it is exported; what is shorter is padded.
What is exported is held against the model on random inputs before the file gets its name.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coalign.data.loaded import Loaded
from coalign.errors import InputError
from coalign.extras import optional
from coalign.files import guarded, regular, replacing
from coalign.retrieval.embed import vectors_of
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Layout, Model, Packed, Text, needed

_onnx = optional("onnx")
_onnxruntime = optional("onnxruntime")

Modality = Literal["image", "text"]
LARGEST = 1e-4
"""The largest difference from the model's own vectors, whose length is 1, with which a file is written."""


class Tower(nn.Module):
    """The searched vectors of one modality, from plain tensors."""

    def __init__(self, model: Model, part: Modality) -> None:
        super().__init__()
        self.model = model
        self.part: Modality = part

    def forward(self, *given: Tensor) -> Tensor:
        return vectors_of(self.model.encode(batch_of(self.part, *given)), self.part)


def batch_of(part: Modality, *given: Tensor) -> Batch:
    """The batch of a tower's inputs: pixels [B, 3, H, W]; or ids [B, L] and mask [B, L]."""
    if part == "image":
        return Batch(images=Images(pixels=given[0]))
    ids, mask = given
    items, length = ids.shape
    layout = replace(Layout.uniform(items, length, ids.device), hidden=~mask.flatten())
    return Batch(text=Text(Packed(ids.flatten(), layout)))


def inputs_of(loaded: Loaded, part: Modality, batch_size: int, length: int | None = None) -> dict[str, Tensor]:
    """Random inputs of a tower, by name, in the shapes that it is exported for.

    Raises:
        InputError: The model does not read pictures of one size, or no texts.
    """
    spec, generator = loaded.spec, torch.Generator().manual_seed(0)
    if part == "image":
        if spec.image is None or spec.image.resize in ("proportion", "patches"):
            raise InputError(f"{type(loaded.model).__name__} reads no pictures of one size, so it has no image tower")
        return {"pixels": torch.randn(batch_size, 3, *spec.image.size, generator=generator)}
    longest = length or (None if spec.text is None else spec.text.max_length)
    if longest is None:
        raise InputError(f"{type(loaded.model).__name__} reads no texts, so it has no text tower")
    words = [f"{'a ' * (1 + item % 7)}" for item in range(batch_size)]
    return padded_text(
        loaded.vocabulary.encode(words, longest, needed(spec.text, "texts").separator), longest, batch_size
    )


def padded_text(text: Text, length: int, batch_size: int) -> dict[str, Tensor]:
    """Word pieces as ids [B, L] and mask [B, L]; texts that are missing in the batch are copies of the first."""
    ids, mask = text.ids.to_padded(), text.ids.padding_mask()
    short = length - ids.shape[1]
    if short < 0:
        raise InputError(f"a text has {ids.shape[1]} word pieces, the exported tower takes {length}")
    ids, mask = (nn.functional.pad(x, (0, short)) for x in (ids, mask))
    more = batch_size - len(ids)
    return {"ids": torch.cat([ids, ids[:1].expand(more, -1)]), "mask": torch.cat([mask, mask[:1].expand(more, -1)])}


def weights_digest(model: Model) -> str:
    """A model's parameters and buffers, with their names, in 32 hexadecimal digits (BLAKE2b)."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def export(loaded: Loaded, part: Modality, out: Path, batch_size: int = 1, length: int | None = None) -> float:
    """Writes the tower of a modality as .onnx or .pt2; returns the largest difference from the model's own vectors.

    Raises:
        InputError: The model has no such tower, or its similarity is no cosine; the ending is unknown; what is
            exported differs by more than `LARGEST`.
    """
    _check_unit(loaded.model)
    given = inputs_of(loaded, part, batch_size, length)
    tower = Tower(loaded.model.eval().cpu(), part)
    wanted = tower(*given.values())
    program: Any = torch.export.export(tower, tuple(given.values()), strict=False)
    shapes = {name: list(tensor.shape) for name, tensor in given.items()}
    about = json.dumps({"part": part, "shapes": shapes, "weights": weights_digest(loaded.model)})
    with replacing(out) as path:
        if out.suffix == ".pt2":
            save_program(program, path, about)
            output: Tensor = torch.export.load(path).module()(*given.values())
        elif out.suffix == ".onnx":
            written: Any = torch.onnx.export(program, input_names=list(given), output_names=["vectors"])
            proto: Any = written.model_proto
            _onnx.helper.set_model_props(proto, {"coalign": about})
            path.write_bytes(proto.SerializeToString())
            output = OnnxTower(path).run(given)
        else:
            raise InputError(f"{out}: should end in .onnx or .pt2")
        difference = float((output - wanted).abs().max())
        if not difference <= LARGEST:
            raise InputError(f"{out}: what was exported differs from the model by {difference:.1e}; nothing is written")
    return difference


def save_program(program: Any, path: Path, about: str) -> None:
    """Writes a .pt2. By way of memory: PyTorch ends the process where a file finds no room."""
    saved = io.BytesIO()
    torch.export.save(program, saved, extra_files={"coalign": about})
    path.write_bytes(saved.getbuffer())


def _check_unit(model: Model) -> None:
    if getattr(model, "similarity", "cosine") != "cosine":
        raise InputError(f"{type(model).__name__} compares vectors of any length; towers give unit vectors")


class OnnxTower:
    """A tower that `export` wrote, run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        self.path: Path = regular(path)
        try:
            self._session: Any = _onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
            about = json.loads(self._session.get_modelmeta().custom_metadata_map["coalign"])
            self.part: Modality = about["part"]
            self.shapes: dict[str, list[int]] = {
                str(name): [int(size) for size in shape] for name, shape in about["shapes"].items()
            }
            self.weights: str | None = about.get("weights")  # of none that was exported before digests were kept
            if self.part not in ("image", "text") or not self.shapes or self.batch_size < 1:
                raise ValueError(f"a tower of {self.part} that takes {about['shapes']}")
        except Exception as error:  # the library raises classes of its own
            raise InputError(f"{path}: is no tower that coalign export wrote ({error})") from error

    @property
    def batch_size(self) -> int:
        return next(iter(self.shapes.values()))[0]

    def run(self, given: Mapping[str, Tensor]) -> Tensor:
        """Vectors [B, d] of inputs in the shapes that the tower takes."""
        with guarded(self.path):
            return torch.from_numpy(self._session.run(None, {name: x.numpy() for name, x in given.items()})[0])


class OnnxModel(Model):
    """Exported towers in the place of a model that embeds: `dataclasses.replace(loaded, model=OnnxModel(...))`."""

    def __init__(self, spec: InputSpec, towers: Mapping[str, OnnxTower]) -> None:
        super().__init__()
        self._spec, self._towers = spec, towers

    @classmethod
    def of(cls, loaded: Loaded, files: Sequence[Path]) -> OnnxModel:
        """The towers in these files, which `export` wrote of this model.

        Raises:
            InputError: The model's similarity is no cosine; a tower is of other weights.
        """
        _check_unit(loaded.model)
        towers = {file: OnnxTower(file) for file in files}
        weights = weights_digest(loaded.model)
        for file, tower in towers.items():
            if tower.weights not in (None, weights):
                raise InputError(
                    f"{file}: was exported from other weights than those of {loaded.source}, such as before more "
                    f"training; export it again: coalign export RUN {file} --part {tower.part} --overwrite"
                )
        return cls(loaded.spec, {tower.part: tower for tower in towers.values()})

    @property
    def input_spec(self) -> InputSpec:
        return self._spec

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        del batch, draws
        raise InputError("exported towers are not trained; train the run that they were exported from")

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Vectors of the parts that the batch has. Errors: `InputError` where no tower of a part was given."""
        if record:
            raise InputError("exported towers keep no intermediates")
        vectors: dict[str, Tensor] = {}
        if batch.images is not None and batch.images.pixels is not None:
            vectors["image"] = self._run("image", batch)
        if batch.text is not None:
            vectors["text"] = self._run("text", batch)
        return Encoding({}, {}, vectors)

    def _run(self, part: Modality, batch: Batch) -> Tensor:
        tower = self._towers.get(part)
        if tower is None:
            raise InputError(f"no {part} tower is given; export it: coalign export RUN {part}.onnx --modality {part}")
        outputs: list[Tensor] = []
        for first in range(0, len(batch), tower.batch_size):
            count = min(tower.batch_size, len(batch) - first)
            outputs.append(tower.run(_slice(batch, tower, first, count))[:count])
        return torch.cat(outputs)


def _slice(batch: Batch, tower: OnnxTower, first: int, count: int) -> dict[str, Tensor]:
    if tower.part == "text":
        assert batch.text is not None
        text = Text(batch.text.ids.select(torch.arange(first, first + count)))
        return padded_text(text, tower.shapes["ids"][1], tower.batch_size)
    assert batch.images is not None and batch.images.pixels is not None
    pixels = batch.images.pixels[first : first + count]
    return {"pixels": torch.cat([pixels, pixels[:1].expand(tower.batch_size - count, -1, -1, -1)])}
