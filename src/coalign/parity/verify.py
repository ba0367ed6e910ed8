"""`coalign verify`: a recorded case of an original implementation against ours, and manifests by names and shapes.

Each system has one adaptor, a module of this package with `ADAPTOR`. It is chosen by what the file says of itself,
never by the file's name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import coalign.parity
from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.files import read_json
from coalign.layers.initialise import shapes_alone
from coalign.parity.case import Case, Described, read_case, read_manifest
from coalign.parity.compare import Line, compare, worse
from coalign.types import Packed

Outputs = Mapping[str, Tensor | Packed]
DEVIATIONS = ("y_merhs_as_is", "y_leaderj_as_is", "nearest_leaf_flat")
"""Outputs that record other people's deviations from a paper: not ours to reproduce."""


@dataclass(frozen=True)
class Adaptor:
    """How one system's recorded cases are run.

    * `claims`: is this description of the system?
    * `build`: the model and the state map of the description's layout, sizes from its config or its weights. It is
      also called under the meta device, and reads shapes only. (None, None) where a case has no model.
    * `run`: named outputs of a loaded model. With `keep_padding` every recorded row is computed; without, packed
      rows only, and outputs that are `Packed` are held against the real rows. `run` may also return recorded
      metadata results by the names that `also` lists.
    """

    claims: Callable[[Described], bool]
    build: Callable[[Described], tuple[nn.Module | None, StateMap | None]]
    run: Callable[[Case, nn.Module | None, bool], Outputs]
    also: Callable[[Case], Sequence[Line]] | None = None
    json: Callable[[Any, Path], Sequence[Line] | None] | None = None
    weights: Callable[[Case], Mapping[str, Tensor]] | None = None


@cache
def adaptors() -> tuple[Adaptor, ...]:
    """The adaptors of this package's modules."""
    modules = (
        importlib.import_module(f"coalign.parity.{m.name}") for m in pkgutil.iter_modules(coalign.parity.__path__)
    )
    return tuple(module.ADAPTOR for module in modules if hasattr(module, "ADAPTOR"))


def adaptor_for(described: Described) -> Adaptor:
    for adaptor in adaptors():
        if adaptor.claims(described):
            return adaptor
    raise InputError(f"{described.path}: no adaptor for system {described.system!r}, task {described.task!r}")


def verify(path: str | Path) -> list[Line]:
    """One line an output of the case at `path`; the weights' way in and back is a line too.

    Errors: `InputError` where the file cannot be read or is of an unknown system.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _verify_json(path)
    case = read_case(path)
    if not case.outputs:
        raise InputError(f"{path}: holds no output/... to compare with")
    adaptor = adaptor_for(case)
    model, lines = load(case, adaptor)
    padded = adaptor.run(case, model, True)
    packed = adaptor.run(case, load(case, adaptor)[0], False)
    for name, recorded in case.outputs.items():
        if name in DEVIATIONS:
            lines.append(Line(name, "skip", note="another implementation's deviation from the paper"))
        elif name not in padded:
            lines.append(Line(name, "FAIL", note="not produced"))
        else:
            line = compare(name, _padded(padded[name], recorded), recorded)
            if name in packed:
                line = worse(line, _compare_packed(name, packed[name], recorded), "packed")
            lines.append(line)
    return lines + list(adaptor.also(case) if adaptor.also else [])


def load(case: Case, adaptor: Adaptor) -> tuple[nn.Module | None, list[Line]]:
    """The case's model with its weights, strictly loaded, and a line on whether they come back the same."""
    model, names = adaptor.build(case)
    weights = adaptor.weights(case) if adaptor.weights else case.weights
    if model is None or names is None:
        return None, []
    loaded = names.load(weights)
    missing, unexpected = model.load_state_dict(loaded.state, strict=False)
    if missing or unexpected:
        return model.eval(), [Line("weights", "FAIL", note=_difference(missing, unexpected))]
    back = names.export(model.state_dict(), loaded.carried)
    note = _difference([n for n in weights if n not in back], [n for n in back if n not in weights])
    changed = [n for n in weights if n in back and not torch.equal(weights[n], back[n].to(weights[n].dtype))]
    if changed:
        note = "; ".join(filter(None, (note, f"changed on the way back: {', '.join(changed[:3])}")))
    return model.eval(), [Line("weights", "FAIL" if note else "ok", note=note)]


def verify_manifest(path: str | Path) -> list[Line]:
    """Names and shapes of every entry, both ways, on the meta device: nothing missing, nothing left over."""
    return [verify_entry(file, described) for file, described in read_manifest(path)]


def verify_entry(file: str, described: Described) -> Line:
    adaptor = adaptor_for(described)
    try:
        with shapes_alone():
            model, names = adaptor.build(described)
            if model is None or names is None:
                return Line(file, "FAIL", note="no model for this entry")
            loaded = names.load(described.weights)
            back = names.export(loaded.state, loaded.carried)
    except (InputError, ValueError) as error:
        return Line(file, "FAIL", note=str(error))
    ours = model.state_dict()
    notes = [
        _difference([n for n in ours if n not in loaded.state], [n for n in loaded.state if n not in ours]),
        _shapes(loaded.state, ours),
        _difference([n for n in described.weights if n not in back], [n for n in back if n not in described.weights]),
        _shapes(back, described.weights),
    ]
    note = "; ".join(filter(None, notes))
    return Line(file, "FAIL" if note else "ok", note=note or f"{len(described.weights)} tensors")


def _verify_json(path: Path) -> list[Line]:
    content = read_json(path)
    for adaptor in adaptors():
        lines = adaptor.json(content, path) if adaptor.json else None
        if lines is not None:
            return list(lines)
    raise InputError(f"{path}: not a recorded case of a known system")


def _padded(output: Tensor | Packed, recorded: Tensor) -> Tensor:
    if not isinstance(output, Packed):
        return output
    width = recorded.shape[1] if recorded.dim() > 1 and recorded.shape[1] >= output.max_length else None
    return output.to_padded(width)


def _compare_packed(name: str, output: Tensor | Packed, recorded: Tensor) -> Line:
    if not isinstance(output, Packed):
        return compare(name, output, recorded)
    padded = _padded(output, recorded)
    return compare(name, padded, recorded, rows=output.padding_mask(padded.shape[1]))


def _difference(missing: Sequence[str], extra: Sequence[str]) -> str:
    def some(names: Sequence[str]) -> str:
        return ", ".join(list(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    parts = [f"missing: {some(missing)}" if missing else "", f"left over: {some(extra)}" if extra else ""]
    return "; ".join(filter(None, parts))


def _shapes(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    wrong = [f"{n} {tuple(a[n].shape)} for {tuple(b[n].shape)}" for n in a if n in b and a[n].shape != b[n].shape]
    return f"shapes: {', '.join(wrong[:3])}" if wrong else ""
