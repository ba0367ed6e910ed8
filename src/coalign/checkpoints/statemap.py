"""Declarative, invertible maps between the tensor names of a file and ours.

A `StateMap` is a list of rules. Read forwards it turns the authors' state dict into ours, backwards it writes theirs
again; on meta tensors it checks names and shapes alone. In a pattern `{i}` stands for a number, `{rest}` for
anything at all, and any other `{name}` for one part between dots:

    StateMap(
        Rename("blocks.{i}.norm1.{p}", "image.blocks.{i}.attention_norm.{p}"),
        Split("blocks.{i}.attn.qkv.{p}", ("blocks.{i}.query.{p}", "blocks.{i}.key.{p}", "blocks.{i}.value.{p}")),
        Tie("decoder.weight", "word_embeddings.weight"),
        Constant("position_ids", lambda: torch.arange(512)[None]),
        Carry("relation_head.{rest}"),
        Alias("{rest}LayerNorm.gamma", "{rest}LayerNorm.weight"),
    )
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from coalign.errors import InputError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rename:
    """The same tensor under another name. The other rules are kinds of it: `load` and `export` turn one side into the
    other, and `file` and `ours` may each be several names."""

    file: str | tuple[str, ...]
    ours: str | tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if isinstance(self.file, str) else self.file

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return tensors

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return tensors


@dataclass(frozen=True)
class Transpose(Rename):
    """The file's tensor with its dimensions permuted; by default those of a matrix exchanged ([in, out] kernels)."""

    order: tuple[int, ...] = (1, 0)

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[0].permute(self.order)]

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[0].permute(_inverse(self.order))]


@dataclass(frozen=True)
class Reshape(Rename):
    """The file's tensor, `file_shape`, permuted by `order` and then viewed as `our_shape` (heads of flax kernels)."""

    file_shape: tuple[int, ...] = ()
    our_shape: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        if tuple(tensors[0].shape) != self.file_shape:
            raise InputError(f"{self.files[0]} has shape {tuple(tensors[0].shape)}, expected {self.file_shape}")
        return [tensors[0].permute(self._order).reshape(self.our_shape)]

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        permuted = [self.file_shape[i] for i in self._order]
        return [tensors[0].reshape(permuted).permute(_inverse(self._order))]

    @property
    def _order(self) -> tuple[int, ...]:
        return self.order or tuple(range(len(self.file_shape)))


@dataclass(frozen=True)
class Split(Rename):
    """One tensor of the file is several of ours, end to end along `dim` (fused query, key and value).

    `sizes` are equal parts unless given; `transpose` exchanges the dimensions of each part afterwards.
    """

    dim: int = 0
    sizes: tuple[int, ...] | None = None
    transpose: bool = False

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        whole, parts = tensors[0], len(self.targets)
        sizes = self.sizes or (whole.shape[self.dim] // parts,) * parts
        if sum(sizes) != whole.shape[self.dim]:
            raise InputError(f"{self.files[0]} has {whole.shape[self.dim]} rows, the parts take {sum(sizes)}")
        return [part.T if self.transpose else part for part in whole.split(sizes, self.dim)]

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.cat([part.T if self.transpose else part for part in tensors], self.dim)]


@dataclass(frozen=True)
class Stack(Rename):
    """Several tensors of the file are one of ours, along a new dimension."""

    dim: int = 0

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.stack(list(tensors), self.dim)]

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return tensors[0].unbind(self.dim)


@dataclass(frozen=True)
class View(Rename):
    """The file's tensor viewed as `view` and then permuted by `order` (patch kernels that are stored as a matrix)."""

    file_shape: tuple[int, ...] = ()
    view: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        if tuple(tensors[0].shape) != self.file_shape:
            raise InputError(f"{self.files[0]} has shape {tuple(tensors[0].shape)}, expected {self.file_shape}")
        return [tensors[0].reshape(self.view).permute(self.order)]

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[0].permute(_inverse(self.order)).reshape(self.file_shape)]


@dataclass(frozen=True)
class Layers(Rename):
    """One tensor of the file holds a tensor of each layer, along its first dimension; `each` says how it is stored."""

    each: Rename = Rename("", "")

    def load(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.each.load([layer])[0] for layer in tensors[0]]

    def export(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.stack([self.each.export([layer])[0] for layer in tensors])]

    @staticmethod
    def of(rule: Rename, depth: int, part: str) -> Layers:
        """A block's rule for files that stack the blocks: "{i}" is gone from the file's name, with `part` before it."""
        assert isinstance(rule.file, str) and isinstance(rule.ours, str)
        ours = tuple(rule.ours.replace("{i}", str(i)) for i in range(depth))
        return Layers(rule.file.replace(f"{part}{{i}}", ""), ours, rule)


@dataclass(frozen=True)
class Tie:
    """`file` is a second name for the file's own `of`: dropped on loading once seen equal, written again on export."""

    file: str
    of: str


@dataclass(frozen=True)
class Constant:
    """A tensor of the file that follows from the configuration: dropped on loading, made again on export."""

    file: str
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Carry:
    """A tensor that the computation never reads: kept verbatim beside the model and exported again."""

    file: str


@dataclass(frozen=True)
class Default:
    """A tensor of ours that this layout of file does not hold: made on loading, left out on export."""

    ours: str
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Alias:
    """`file` is an older name of the file's own `of`: read as it, and never written."""

    file: str
    of: str


Rule = Rename | Tie | Constant | Carry | Default | Alias


@dataclass
class Loaded:
    """`state` goes into the model, `carried` stays beside it for the way back."""

    state: dict[str, Tensor]
    carried: dict[str, Tensor]


class StateMap:
    """Rules in order of precedence: a name goes by the first rule that matches it."""

    def __init__(self, *rules: Rule | Iterable[Rule]) -> None:
        self.rules: list[Rule] = []
        for rule in rules:
            if isinstance(rule, Rename | Tie | Constant | Carry | Default | Alias):
                self.rules.append(rule)
            else:
                self.rules.extend(rule)
        self._aliases = [rule for rule in self.rules if isinstance(rule, Alias)]
        self._exact: dict[str, tuple[int, int]] = {}  # names without a pattern, and patterns, by rule and place in it
        self._patterns: list[tuple[int, int, re.Pattern[str]]] = []
        for number, rule in enumerate(self.rules):
            if isinstance(rule, Default | Alias):
                continue
            for place, pattern in enumerate(rule.files if isinstance(rule, Rename) else (rule.file,)):
                if "{" in pattern:
                    self._patterns.append((number, place, _compile(pattern)))
                else:
                    self._exact.setdefault(pattern, (number, place))

    def load(self, file: State) -> Loaded:
        """The file's tensors under our names. A name that no rule knows is an error that lists all such names."""
        file = {self._current(name): tensor for name, tensor in file.items()}
        loaded = Loaded({}, {})
        for rule in self.rules:
            if isinstance(rule, Default):
                loaded.state[rule.ours] = rule.make()
        groups: dict[tuple[int, str], dict[int, Tensor]] = {}
        bindings: dict[tuple[int, str], dict[str, str]] = {}
        unknown: list[str] = []
        for name, tensor in file.items():
            match = self._find(name)
            if match is None:
                unknown.append(name)
                continue
            number, place, binding = match
            rule = self.rules[number]
            if isinstance(rule, Tie):
                _same_or_error(name, tensor, rule.of.format_map(binding), file)
            elif isinstance(rule, Carry):
                loaded.carried[name] = tensor
            elif isinstance(rule, Rename):
                key = (number, repr(sorted(binding.items())))
                groups.setdefault(key, {})[place] = tensor
                bindings[key] = binding
        if unknown:
            raise InputError(f"{len(unknown)} tensors that this layout does not have: {_some(unknown)}")
        for key, parts in groups.items():
            rule, binding = self.rules[key[0]], bindings[key]
            assert isinstance(rule, Rename)
            missing = [rule.files[i].format_map(binding) for i in range(len(rule.files)) if i not in parts]
            if missing:
                raise InputError(f"the file lacks {_some(missing)}")
            for pattern, tensor in zip(
                rule.targets, rule.load([parts[i] for i in range(len(rule.files))]), strict=True
            ):
                loaded.state[pattern.format_map(binding)] = tensor
        return loaded

    def export(self, ours: State, carried: State | None = None) -> dict[str, Tensor]:
        """Our tensors under the file's names; a tensor of ours that no rule writes is an error."""
        out: dict[str, Tensor] = {}
        used = {rule.ours for rule in self.rules if isinstance(rule, Default)}
        for rule in self.rules:
            if not isinstance(rule, Rename):
                continue
            first = rule.targets[0]
            pattern = _compile(first)
            for name in ours if "{" in first else (first,) if first in ours else ():
                match = None if name in used else pattern.fullmatch(name)
                if match is None:
                    continue
                binding = match.groupdict()
                names = [pattern.format_map(binding) for pattern in rule.targets]
                if any(part not in ours for part in names):
                    continue
                used.update(names)
                tensors = rule.export([ours[part] for part in names])
                for file, tensor in zip(rule.files, tensors, strict=True):
                    out[file.format_map(binding)] = tensor.contiguous()
        left = [name for name in ours if name not in used]
        if left:
            raise InputError(f"{len(left)} tensors of ours have no name in this layout: {_some(left)}")
        out.update(carried or {})
        for rule in self.rules:
            if isinstance(rule, Constant):
                out[rule.file] = rule.make()
        for rule in self.rules:
            if isinstance(rule, Tie):
                for name in list(out):
                    binding = _match(rule.of, name)
                    if binding is not None:
                        out[rule.file.format_map(binding)] = out[name]
        return out

    def _current(self, name: str) -> str:
        """The name that this layout uses today: all aliases applied, one after the other."""
        for rule in self._aliases:
            binding = _match(rule.file, name)
            if binding is not None:
                name = rule.of.format_map(binding)
        return name

    def _find(self, name: str) -> tuple[int, int, dict[str, str]] | None:
        """Of the first rule for a name: number, place among its names, and what the parts of the pattern stand for."""
        exact = self._exact.get(name)
        for number, place, pattern in self._patterns:
            if exact is not None and exact < (number, place):
                break
            match = pattern.fullmatch(name)
            if match is not None:
                return number, place, match.groupdict()
        return None if exact is None else (*exact, {})


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    out = re.escape(parts[0])
    seen: set[str] = set()
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        kind = r"\d+" if re.fullmatch(r"[ijk]", name) else ".*" if name == "rest" else r"[^.]+"
        out += f"(?P={name})" if name in seen else f"(?P<{name}>{kind})"
        out += re.escape(literal)
        seen.add(name)
    return re.compile(out)


def _match(pattern: str, name: str) -> dict[str, str] | None:
    if "{" not in pattern:
        return {} if pattern == name else None
    match = _compile(pattern).fullmatch(name)
    return None if match is None else match.groupdict()


def _inverse(order: tuple[int, ...]) -> list[int]:
    return [order.index(i) for i in range(len(order))]


def _same_or_error(name: str, tensor: Tensor, of: str, file: State) -> None:
    other = file.get(of)
    if other is None:
        raise InputError(f"{name} is a copy of {of}, which the file lacks")
    if tensor.shape != other.shape or not (tensor.is_meta or torch.equal(tensor, other)):
        raise InputError(f"{name} should equal {of} and does not: this file was not trained with tied weights")


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def own_names(config: object) -> StateMap:
    """The layout of a system that has no other: our names."""
    del config
    return StateMap(Rename("{rest}", "{rest}"))
