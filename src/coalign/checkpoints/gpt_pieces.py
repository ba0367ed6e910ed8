"""The released GPT: `params_0.npy` ... `params_9.npy` and `params_shapes.json` (openai/finetune-transformer-lm).

The arrays end to end are one long array, which the listed shapes divide: the position table, the word table, then
twelve tensors a block.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from coalign.checkpoints.arrays import read_array
from coalign.errors import InputError
from coalign.files import guarded, read_json

SHAPES = "params_shapes.json"
_BLOCK = (
    *("attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b", "ln_1/g", "ln_1/b"),
    *("mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b", "ln_2/g", "ln_2/b"),
)


def read_gpt_pieces(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of the folder, under the names of the authors' graph.

    The two tables, which that graph has joined, are "positions" and "model/we (token rows)".
    Errors: `InputError` for missing pieces, or pieces that do not add up to the listed shapes.
    """
    folder = Path(folder)
    shapes = _read_shapes(folder / SHAPES)
    pieces: list[Tensor] = []
    while (file := folder / f"params_{len(pieces)}.npy").is_file():
        with guarded(file):
            pieces.append(torch.from_numpy(read_array(file)).flatten())
    sizes = [math.prod(shape) for shape in shapes]
    total = sum(piece.numel() for piece in pieces)
    if not pieces or total != sum(sizes) or len({piece.dtype for piece in pieces}) > 1:
        raise InputError(
            f"{folder}: {len(pieces)} pieces hold {total} numbers, {SHAPES} lists {sum(sizes)}; "
            "it takes params_0.npy to params_9.npy"
        )
    blocks, rest = divmod(len(shapes) - 2, len(_BLOCK))
    if rest or blocks < 0:
        raise InputError(f"{folder / SHAPES}: lists {len(shapes)} tensors, expected 2 and 12 a block")
    names = ["positions", "model/we (token rows)"]
    names += [f"model/h{block}/{part}" for block in range(blocks) for part in _BLOCK]
    parts = torch.cat(pieces).split(sizes)
    return {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}


def _read_shapes(file: Path) -> list[list[int]]:
    shapes = read_json(file)
    if not isinstance(shapes, list) or not all(
        isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape) for shape in shapes
    ):
        raise InputError(f"{file}: not a list of shapes")
    return shapes
