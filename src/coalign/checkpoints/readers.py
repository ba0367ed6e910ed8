"""Readers for the files that weights come in. Files from outside are data: nothing in them is run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coalign.checkpoints import safe_pickle
from coalign.checkpoints.arrays import read_arrays
from coalign.checkpoints.gpt_pieces import SHAPES, read_gpt_pieces
from coalign.checkpoints.seal import is_intact
from coalign.checkpoints.tensorflow import is_tensorflow, read_tensorflow
from coalign.errors import InputError
from coalign.files import guarded, read_json, reader, regular

_CONTAINERS = ("model", "state_dict", "model_state_dict", "module")


@reader
def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a weights file by name: .safetensors, .pt/.pth/.bin/.ckpt, .npz, .pdparams (Paddle); or a folder
    that holds one.

    A folder may split its weights over shards that `*.index.json` lists (Hugging Face). Also a TensorFlow checkpoint
    (see `read_tensorflow`) and the released GPT's folder (see `read_gpt_pieces`).
    Errors: `InputError` that names the file, for a missing, broken or unknown one, or one that holds code.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".index" or (not path.is_file() and is_tensorflow(path)):
        return read_tensorflow(path)
    regular(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            if not is_intact(path):
                raise InputError(f"{path}: is damaged: its content is not what was written (the checksum differs)")
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                # safetensors' own way to store a shared tensor once: {name left out: name kept}
                ties = {name: kept for name, kept in (file.metadata() or {}).items() if kept in tensors}
                return tensors | {name: tensors[kept] for name, kept in ties.items() if name not in tensors}
        except SafetensorError as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from None
    if suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in read_arrays(path).items()}
    if suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar"):
        return _read_torch(path)
    if suffix == ".pdparams":
        return _read_paddle(path)
    raise InputError(
        f"{path}: unknown kind of weights file; expected .safetensors, .pt, .pth, .bin, .ckpt, .npz, .pdparams, .index "
        "or a folder"
    )


def _read_paddle(path: Path) -> dict[str, Tensor]:
    """Paddle's pickle of a dict of arrays, or of (name, array), with large ones in slices. Nothing in it is run."""
    content: Any = safe_pickle.load(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no state dict (arrays by name)")
    tensors: dict[str, Any] = {
        str(name): value[1] if isinstance(value, tuple) and len(value) == 2 else value
        for name, value in content.items()
        if not str(name).endswith("@@")
    }
    slices: Any = content.get("UnpackBigParamInfor@@") or {}
    if not isinstance(slices, dict):
        raise InputError(f"{path}: damaged: it does not say which slices make which array")
    for name, cut in slices.items():
        try:
            pieces = [tensors.pop(piece) for piece in cut["slices"]]
            tensors[str(name)] = np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(cut["OriginShape"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: the slices of {name} do not make a whole ({error})") from None
    arrays = {
        name: value for name, value in tensors.items() if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    }
    if not arrays:
        raise InputError(f"{path}: holds no state dict (arrays by name)")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _read_torch(path: Path) -> dict[str, Tensor]:
    _check_zip(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=None)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, and loading it would run code. Where you trust it, re-save its weights "
            f"once, beside its own code: python -c \"import torch; m = torch.load('{path.name}', weights_only=False); "
            f"torch.save(m.state_dict() if hasattr(m, 'state_dict') else m['model'], 'weights.pth')\" "
            f"({str(error).splitlines()[0]})"
        ) from None
    except Exception as error:  # a damaged file breaks in any of its parts
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable PyTorch file ({said})") from None
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"{path}: holds no state dict (tensors by name)")
    if all(name.startswith("module.") for name in tensors):  # saved from DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _check_zip(path: Path) -> None:
    """Refuses a zip of PyTorch whose parts are compressed, as PyTorch writes none: they could be of any size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise InputError(f"{path}: not a readable PyTorch file (its parts are compressed)")


def _read_folder(folder: Path) -> dict[str, Tensor]:
    for index in sorted(folder.glob("*.index.json")):
        with guarded(index):
            files = sorted(set(read_json(index)["weight_map"].values()))
            if any(Path(name).name != name for name in files):
                raise InputError(f"{index}: names a file outside of its folder")
        return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
    if (folder / SHAPES).is_file():
        return read_gpt_pieces(folder)
    if is_tensorflow(folder):
        return read_tensorflow(folder)
    raise InputError(f"{folder}: no model.safetensors, pytorch_model.bin or TensorFlow .index in this folder")
