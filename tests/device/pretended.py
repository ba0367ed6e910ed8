"""A pretended accelerator: tensors on a device of their own whose values lie on the CPU.

No GPU is needed to find what only a GPU would refuse. Every operation is looked at before it runs on the values: do the
devices of its tensors agree, does its generator belong there, does it make the host wait. Built on the backend that
torch leaves free for others (PrivateUse1) and a wrapper subclass of tensors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import coalign

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch takes no backend that is written in Python", allow_module_level=True)

NAME = "pretended"
ALONE = "COALIGN_TEST_ALONE"
SOURCE = Path(coalign.__file__).parent


class _Backend:
    """What torch asks of a backend's module."""

    def is_initialized(self) -> bool:
        return True

    is_available = is_initialized

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Nothing to seed: what is drawn without a generator is drawn by the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


@cache
def the_device() -> torch.device:
    """The device. Torch knows it from the first call on, for the rest of the process: autograd has a thread then, and
    no process that is forked afterwards can go backward. So a test that uses it runs `in_new_process`."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
    return torch.device(NAME, 0)


def in_new_process(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs in a process of its own: autograd counts the devices at its first backward pass, once."""
    if os.environ.get(ALONE):
        return test

    def run_there(request: pytest.FixtureRequest) -> None:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", request.node.nodeid]
        done = subprocess.run(
            command, cwd=request.config.rootpath, env={**os.environ, ALONE: "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]

    run_there.__name__, run_there.__module__, run_there.__doc__ = test.__name__, test.__module__, test.__doc__
    return run_there


aten = torch.ops.aten


@dataclass
class Findings:
    """`errors` are what CUDA would refuse; `waits` the operations for which the host waits; `copies` those from memory
    of the host that is not pinned. Each by what it is and where in the package, with how often."""

    errors: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        for found in (self.errors, self.waits, self.copies):
            found.clear()


FOUND = Findings()


def where() -> str:
    """The innermost line of the package that is running, and the one that called it."""
    lines: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(lines) < 3:
        file = Path(frame.f_code.co_filename)
        if SOURCE in file.parents:
            lines.append(f"{file.relative_to(SOURCE)}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)


class OnDevice(torch.Tensor):
    """A tensor of the device: `values` are what it holds."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, requires_grad: bool = False) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=the_device(),
            requires_grad=requires_grad,
        )
        made.values = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnDevice({self.values})"

    def tolist(self) -> Any:
        FOUND.waits[f"tolist @ {where()}"] += 1
        return self.values.tolist()

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        FOUND.copies[f"new_tensor @ {where()}"] += 1
        return OnDevice(self.values.new_tensor(data, dtype=kwargs.get("dtype")))

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a device tensor to numpy: copy it to host memory first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        FOUND.waits[f"pickle @ {where()}"] += 1
        return self.values.__reduce_ex__(protocol)


# The device's generators are ordinary ones that are told by the upper half of their seed.
_Generator = torch.Generator
_MARK = 0x2ABCDE1 << 32


class _DeviceGenerator(_Generator):
    def manual_seed(self, seed: int) -> Any:
        _Generator.manual_seed(self, (int(seed) % (1 << 32)) + _MARK)
        return self


class _Generators(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Generator)

    def __call__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type != NAME:
            return _Generator(device)
        return _DeviceGenerator().manual_seed(0)


class _GeneratorOfEither(metaclass=_Generators):
    """Stands in torch.Generator's place."""


def of_device(generator: torch.Generator) -> bool:
    return generator.initial_seed() >> 32 == _MARK >> 32


_WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.bincount.default,
}
_INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
_READING = {aten.index.Tensor, aten._unsafe_index.Tensor}
_COPYING = {aten.copy_.default, aten._to_copy.default, aten.lift_fresh.default, aten.copy.default}
_HOST_LENGTHS = {"aten::_pack_padded_sequence", "aten::_pad_packed_sequence"}


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Notes operands on the host where the operation is the device's, numbers without dimensions apart."""
    ours = any(isinstance(t, OnDevice) for t in tensors)
    host = [t for t in tensors if not isinstance(t, OnDevice)]
    name = func.name()
    if not ours or not host or func in _COPYING or name in _HOST_LENGTHS:
        return
    if func in _INDEXING:
        if not isinstance(args[0], OnDevice):
            FOUND.errors[f"{name}: indices on the device, values on the host @ {where()}"] += 1
            return
        given = args[2] if func not in _READING else None
        for tensor in host:
            if tensor is given and tensor.dim():
                FOUND.errors[f"{name}: values on the host are put into the device's @ {where()}"] += 1
            elif tensor is not given:
                FOUND.copies[f"{name}: index on the host @ {where()}"] += 1
        return
    for tensor in host:
        if tensor.dim():
            shape = tuple(tensor.shape)
            FOUND.errors[f"{name}: a tensor of the host, {tensor.dtype} {shape}, among the device's @ {where()}"] += 1


def _check_generator(func: Any, flat: list[Any], on_device: bool) -> None:
    for generator in flat:
        if isinstance(generator, _Generator) and of_device(generator) != on_device:
            sides = ("host", "device")
            FOUND.errors[
                f"{func.name()}: generator of the {sides[not on_device]}, tensor of the {sides[on_device]} @ {where()}"
            ] += 1


def _check_waits(func: Any, args: Any, kwargs: Any, ours: bool, want: str | None) -> None:
    name = func.name()
    if ours:
        masks = [t for t in args[1] if t is not None] if func in _INDEXING else []
        by_mask = any(t.dtype in (torch.bool, torch.uint8) for t in masks)
        one_value = func not in _READING and func in _INDEXING and args[2].numel() == 1
        if func in _WAITING or (by_mask and not one_value):
            FOUND.waits[f"{name}{' by a mask' if by_mask else ''} @ {where()}"] += 1
        if name == "aten::repeat_interleave.Tensor" and kwargs.get("output_size") is None:
            FOUND.waits[f"{name} without output_size @ {where()}"] += 1
        if func is aten._to_copy.default and want == "cpu":
            FOUND.waits[f"copy to the host @ {where()}"] += 1
    elif func is aten._to_copy.default and want == NAME and not _is_pinned(args[0]):
        FOUND.copies[f"copy to the device @ {where()}"] += 1
    if func is aten.copy_.default and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
        found = FOUND.copies if isinstance(args[0], OnDevice) else FOUND.waits
        found[f"copy_ @ {where()}"] += 1


def _is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor, "pinned", False)


def leaves(args: Any, kwargs: Any) -> list[Any]:
    """The arguments of an operation, those in lists one by one. (torch's own trees take most of a test's time.)"""
    flat: list[Any] = []
    for value in (*args, *kwargs.values()):
        flat.extend(value) if isinstance(value, list | tuple) else flat.append(value)
    return flat


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value, or those in a list, changed where they are tensors."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(each(change, own) for own in value) if type(value) in (list, tuple) else value


def _values(tensor: Tensor) -> Tensor:
    return tensor.values if isinstance(tensor, OnDevice) else tensor


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation: its checks, then itself on the values."""
    flat = leaves(args, kwargs)
    tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
    ours = any(isinstance(tensor, OnDevice) for tensor in tensors)
    device = kwargs.get("device")
    want = None if device is None else torch.device(device).type
    if not ours and want != NAME:
        _check_generator(func, flat, on_device=False)
        return func(*args, **kwargs)
    _check_devices(func, args, tensors)
    on_device = ours if want is None else want == NAME
    _check_generator(func, flat, on_device)
    _check_waits(func, args, kwargs, ours, want)
    plain = dict(kwargs)
    if device is not None:
        plain["device"] = torch.device("cpu")
    plain.pop("pin_memory", None)
    out = func(*each(_values, tuple(args)), **{name: each(_values, value) for name, value in plain.items()})
    if func in (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default):
        return out
    name = func.name()
    if name == "aten::_pack_padded_sequence":
        return OnDevice(out[0]), out[1]
    if name == "aten::_pad_packed_sequence":
        return OnDevice(out[0]), out[1]
    in_place = func._schema.is_mutable and args and isinstance(args[0], Tensor)
    if not (isinstance(args[0], OnDevice) if in_place else on_device):
        return out
    known = {id(t.values): t for t in tensors if isinstance(t, OnDevice)}
    return each(lambda t: known[id(t)] if id(t) in known else OnDevice(t), out)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def _from_data(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor or torch.as_tensor, which copy a list to a device."""

    def made(data: Any, *args: Any, **kwargs: Any) -> Tensor:
        device = kwargs.pop("device", None)
        if device is None or torch.device(device).type != NAME:
            return make(data, *args, **kwargs, device=device)
        if isinstance(data, OnDevice):
            return data if kwargs.get("dtype") is None else data.to(kwargs["dtype"])
        value = make(data, *args, **kwargs)
        return value.to(the_device())

    return made


def _module_to(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """nn.Module.to, which writes into its parameters; ours are of another class and are put in their places."""

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device = args[0] if args else kwargs.get("device")
        if not isinstance(device, str | torch.device):
            return original(self, *args, **kwargs)
        if any(isinstance(p, OnDevice) for p in self.parameters()) == (torch.device(device).type == NAME):
            return self
        moved: dict[int, Tensor] = {}
        for module in self.modules():
            for places in (module._parameters, module._buffers):
                for name, tensor in places.items():
                    if tensor is not None:
                        places[name] = moved.setdefault(id(tensor), _moved(tensor, torch.device(device)))
        return self

    return to


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        values = tensor.values if isinstance(tensor, OnDevice) else tensor.detach()
        held = OnDevice(values.clone()) if device.type == NAME else values.clone()
    return nn.Parameter(held, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else held


def _pin(tensor: Tensor) -> Tensor:
    if isinstance(tensor, OnDevice):
        raise RuntimeError("cannot pin a tensor of the device: only dense CPU tensors can be pinned")
    pinned = tensor.clone()
    pinned.pinned = True
    return pinned


@contextmanager
def pretended_device() -> Generator[Findings, None, None]:
    """The device exists inside; what is found is counted from here on."""
    FOUND.clear()
    the_device()
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "Generator", _GeneratorOfEither))
        for name in ("tensor", "as_tensor"):
            stack.enter_context(patch.object(torch, name, _from_data(getattr(torch, name))))
        stack.enter_context(patch.object(nn.Module, "to", _module_to(nn.Module.to)))
        stack.enter_context(patch.object(Tensor, "pin_memory", _pin))
        stack.enter_context(_Mode())
        yield FOUND
