"""The systems there are: made by name, loaded from files, converted.

Each module of `coalign.models` that declares `SYSTEM` is one system, of the module's name; `HEADS` in the
`<paper>_tasks` beside it are its task models. Nothing else registers them, and only what is asked for is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pkgutil
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import coalign.models
from coalign.checkpoints import StateMap, read_tensors
from coalign.checkpoints.hub import local_folder
from coalign.data.loaded import Loaded
from coalign.data.words.load import load_tokenizer, load_vocabulary
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import read_json, reader
from coalign.layers.embeddings import resize_positions
from coalign.layers.initialise import shapes_alone
from coalign.models.former import current
from coalign.types import Head, Model, System


def systems() -> Mapping[str, System]:
    """All systems by name: papers, sizes, objectives and the tasks that each has a head for."""
    entries = {name: entry for name in sorted(_modules()) if (entry := _system(name)) is not None}
    return types.MappingProxyType(entries)


def find(name: str) -> System:
    """The system of that name; imports no other. Errors: `InputError` that lists the names there are."""
    entry = _system(name)
    if entry is None:
        raise InputError(f"no system {name!r}; there are: {', '.join(systems())}")
    return entry


@cache
def _modules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(coalign.models.__path__) if module.ispkg)


@cache
def _system(name: str) -> System | None:
    """The system that the folder of this name declares, with its heads and sizes; None if there is none."""
    if name not in _modules():
        return None

    def offer(module: str, attribute: str, default: Any) -> Any:
        if importlib.util.find_spec(f"coalign.models.{name}.{module}") is None:
            return default
        return getattr(importlib.import_module(f"coalign.models.{name}.{module}"), attribute, default)

    entry: System | None = offer("model", "SYSTEM", None)
    if entry is None:
        return None
    heads = {**entry.heads, **offer("heads", "HEADS", {})}
    fields = ("of_weights", "of_config", "to_config")
    sizes = {field: offer("sizes", field.upper(), getattr(entry, field)) for field in fields}
    return dataclasses.replace(entry, heads=heads, **sizes)


def create(system: str, size: str | Any = "tiny", head: str | None = None, **settings: Any) -> Loaded:
    """A model with fresh weights, without a vocabulary.

    `size` is a row of the system's table of sizes, or a configuration; `settings` replace its fields. `head` asks
    for a task model ("vqa", "nlvr2" ...) instead of the pre-training one.
    """
    entry = find(system)
    config = _size(entry, size) if isinstance(size, str) else size
    names = {f.name for f in dataclasses.fields(config)}
    unknown = [name for name in settings if name not in names]
    if unknown:
        raise InputError(f"{system} has no setting {unknown[0]!r}; it has: {', '.join(sorted(names))}")
    return Loaded(_build(entry, dataclasses.replace(config, **settings), head)[0], source=system)


@reader
def load(
    path: str | Path,
    system: str | None = None,
    *,
    head: str | None = None,
    size: str | Any | None = None,
    layout: str | None = None,
    vocab: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Loaded:
    """A model with the weights of a file, in eval mode, with its vocabulary where there is one.

    `path` is one of our runs, the authors' file, a Hugging Face folder, or the address of a model that `coalign push`
    wrote: "hf://user/name", or "hf://user/name@revision" (see `coalign.checkpoints.hub`). For files that are not ours
    `system` says whose they are; size, head and layout are found by the tensors' names and shapes where they are not
    given. `image_size`, a side or height and width, resizes the position table as the system's authors do. `vocab` is
    a vocab.txt, tokenizer.json or folder; a run brings its own.
    """
    source, path = str(path), local_folder(path)
    ours = read_description(path)
    if "system" in ours:
        loaded = Loaded(_load_run(path, ours))
        if vocab is None and (path / "tokenizer.json").is_file():
            return dataclasses.replace(loaded, tokenizer=load_vocabulary(path), source=source).eval()
    elif system is None:
        raise InputError(f"{path}: not one of our runs; say whose file it is: load(..., system='albef')")
    else:
        loaded = _load_foreign(path, find(system), head, size, layout, image_size, ours)
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    return dataclasses.replace(loaded, tokenizer=tokenizer, source=source).eval()


def describe(model: nn.Module) -> dict[str, Any]:
    """The description by which `load` makes this model again: system, head and configuration."""
    for entry in _likely_first(type(model)):
        for head, offer in {None: entry, **entry.heads}.items():
            if type(model) is offer.model:
                config: Any = model.config
                return {"system": entry.name, "head": head, "config": dataclasses.asdict(config)}
    raise InputError(f"{type(model).__name__} is not the model of a registered system")


def convert(path: str | Path, out: str | Path, *, system: str, to: str = "original", **sizes: Any) -> None:
    """Reads a file and writes its weights in another layout of the system (see `System.weights`).

    `out` is a .safetensors file. Without an ending it is a folder that Hugging Face's library reads, where `to` is
    "transformers" and the system knows their config.json: weights, configuration and vocabulary.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: exists already; nothing was written")
    loaded = load(path, system, **sizes)
    model = loaded.model
    entry, offer = find(system), _offer_of(find(system), model)
    if to not in offer.weights:
        raise InputError(f"{entry.name} has no layout {to!r}; it has: {', '.join(offer.weights)}")
    names: StateMap = offer.weights[to](model.config)
    carried = loaded.carried if loaded.layout == to else None  # they belong to their layout alone
    tensors = names.export(model.state_dict(), carried)
    apart = {name: tensor.clone() for name, tensor in tensors.items()}
    part = out.with_name(f".{out.name}.part")
    try:
        if to == "transformers" and entry.to_config is not None and not out.suffix:
            labels = read_description(Path(path)).get("labels")
            _fill_folder(part, apart, entry.to_config(model, labels), loaded.tokenizer)
        else:
            save_file(apart, part)
        part.replace(out)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


def _fill_folder(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Tokenizer | None
) -> None:
    """Files for Hugging Face's library; word pieces as vocab.txt: it adds their special tokens by its own rules."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if tokenizer is not None and tokenizer.is_byte_pairs:
        tokenizer.save(folder)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", "utf-8")
    elif tokenizer is not None:
        pieces = [tokenizer.id_to_piece(number) for number in range(tokenizer.vocab_size)]
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": tokenizer.lowercase}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", "utf-8")


def read_description(path: Path) -> dict[str, Any]:
    """The config.json in a folder, or Google's bert_config.json in it or beside its checkpoint; {} without one."""
    beside = path if path.is_dir() else path.parent
    for file in (path / "config.json", beside / "bert_config.json"):
        if file.is_file():
            description: Any = read_json(file)
            if isinstance(description, dict):
                return description  # pyright: ignore[reportUnknownVariableType]
    return {}


# ------------------------------------------------------------------------------------------------------------ parts
def _likely_first(kind: type) -> Iterator[System]:
    """The system whose folder defines the class; then all of them."""
    entry = _system(kind.__module__.removeprefix("coalign.models.").partition(".")[0])
    if entry is not None:
        yield entry
    yield from systems().values()


def _size(entry: System, size: str) -> Any:
    if size not in entry.sizes:
        raise InputError(f"{entry.name} has no size {size!r}; it has: {', '.join(entry.sizes)}")
    return entry.sizes[size]


def _offer_of(entry: System, model: nn.Module) -> System | Head:
    """The main model or the head whose class this is."""
    for offer in (entry, *entry.heads.values()):
        if type(model) is offer.model:
            return offer
    raise InputError(f"{type(model).__name__} is not a model of {entry.name}")


def _build(
    entry: System,
    config: Any,
    head: str | None,
    layout: str | None = None,
    shapes: Mapping[str, Tensor] | None = None,
) -> tuple[Model, System | Head]:
    """The model; with the arithmetic of a layout's authors where a layout is given, fitted to a file's shapes."""
    if head is not None and head not in entry.heads:
        raise InputError(f"{entry.name} has no head {head!r}; it has: {', '.join(entry.heads) or 'none'}")
    offer = entry if head is None else entry.heads[head]
    wanted = config if isinstance(offer, System) else offer.config(config)
    if isinstance(offer, Head) and offer.fit is not None and shapes is not None:
        wanted = offer.fit(wanted, shapes)
    change = None if layout is None else offer.for_layout.get(layout)
    return offer.model(wanted if change is None else change(wanted)), offer


def _load_run(path: Path, described: Mapping[str, Any]) -> Model:
    ours = current(described)
    entry = find(ours["system"])
    offer = entry if ours.get("head") is None else entry.heads[ours["head"]]
    config = from_plain(offer.config if isinstance(offer, System) else offer.config_type, ours["config"])
    tensors = read_tensors(path / "model.safetensors")
    _check_sizes(path, ours["config"], tensors)
    with shapes_alone():  # what does not fit is known before memory is taken
        model = offer.model(config)
    planned = model.state_dict()
    wrong = [name for name, tensor in tensors.items() if name in planned and planned[name].shape != tensor.shape]
    if wrong:
        sizes = f"{list(tensors[wrong[0]].shape)}, not {list(planned[wrong[0]].shape)}"
        raise InputError(f"{path}: weights do not fit its config.json: {wrong[0]} is {sizes}")
    astray = [*(name for name in planned if name not in tensors), *(name for name in tensors if name not in planned)]
    if astray:
        raise InputError(f"{path}: weights do not fit its config.json: {astray[:3]}")
    _with_memory(model).load_state_dict(tensors)
    return model


def _check_sizes(path: Path, config: Any, tensors: Mapping[str, Tensor], name: str = "config") -> None:
    """Refuses a configuration with numbers that no model of these weights has, before it is built."""
    most = max(1 << 24, sum(tensor.numel() for tensor in tensors.values()))
    if isinstance(config, Mapping):
        for key, value in config.items():
            _check_sizes(path, value, tensors, str(key))
    elif isinstance(config, list):
        for value in config:
            _check_sizes(path, value, tensors, name)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        most = len(tensors) if "depth" in name or "layers" in name else most
        if not abs(config) <= most:
            raise InputError(f"{path}: weights do not fit its config.json: {name} is {config}")


def _load_foreign(
    path: Path,
    entry: System,
    head: str | None,
    size: str | Any | None,
    layout: str | None,
    image_size: int | tuple[int, int] | None,
    described: Mapping[str, Any],
) -> Loaded:
    """Tries what was not said until names and shapes fit, on the meta device; then loads."""
    tensors = read_tensors(path)
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    if size is not None:
        sizes = [(size, _size(entry, size) if isinstance(size, str) else size)]
    else:
        config_of_file = None if entry.of_config is None or not described else entry.of_config(described)
        own = None if entry.of_weights is None else entry.of_weights(shapes)
        readings = [("of its config.json", config_of_file), ("of the file", own)]
        sizes = [*((name, config) for name, config in readings if config is not None), *entry.sizes.items()]
    heads = (None, *entry.heads) if head is None else (head,)
    closest: tuple[int, str] | None = None
    for size_name, config in sizes:
        for head_name in heads:
            with shapes_alone():
                model, offer = _build(entry, config, head_name, shapes=shapes)
            for layout_name, names in offer.weights.items():
                if layout not in (None, layout_name):
                    continue
                wrong = _misfits(model, names(model.config), shapes)
                if not wrong:
                    return _fill(entry, config, head_name, layout_name, tensors, image_size)
                if closest is None or len(wrong) < closest[0]:
                    where = f"size {size_name}, head {head_name or 'pre-training'}, layout {layout_name}"
                    closest = len(wrong), f"{where}: {'; '.join(dict.fromkeys(wrong[:3]))}"
    if closest is None:
        raise InputError(f"{path}: {entry.name} reads no files but its own runs, and this is none")
    raise InputError(f"{path}: no size of {entry.name} fits it; closest is {closest[1]}")


def _misfits(model: nn.Module, names: StateMap, shapes: Mapping[str, Tensor]) -> list[str]:
    try:
        with shapes_alone():
            state = names.load(shapes).state
    except (InputError, RuntimeError, ValueError, IndexError) as error:  # torch's, of a tensor of another rank
        return [(str(error) or type(error).__name__).splitlines()[0]] * max(1, len(shapes))
    ours = model.state_dict()
    wrong = [f"lacks {name}" for name in ours if name not in state]
    wrong += [f"{name} is left over" for name in state if name not in ours]
    return wrong + [
        f"{name} is {tuple(state[name].shape)}, not {tuple(ours[name].shape)}"
        for name in state
        if name in ours and state[name].shape != ours[name].shape
    ]


def _fill(
    entry: System,
    config: Any,
    head: str | None,
    layout: str,
    tensors: Mapping[str, Tensor],
    image_size: int | tuple[int, int] | None,
) -> Loaded:
    with shapes_alone():
        model, offer = _build(entry, config, head, layout, tensors)
    read = offer.weights[layout](model.config).load(tensors)
    if image_size is not None:
        small = model
        with shapes_alone():
            model, _ = _build(entry, entry.with_image_size(config, image_size), head, layout, tensors)
        for name, tensor in model.state_dict().items():
            if name in entry.position_tables and read.state[name].shape != tensor.shape:
                how: Any = entry.position_tables[name]
                method: Any = how(model.config) if callable(how) else how
                owners: list[Any] = [each.get_submodule(name.rpartition(".")[0]) for each in (small, model)]
                (old, prefix), (grid, _) = ((owner.grid_size, owner.prefix) for owner in owners)
                table = read.state[name].flatten(0, -2)
                new = resize_positions(table, grid, old_grid=old, prefix=prefix, method=method)
                read.state[name] = new.view_as(tensor)
    _with_memory(model).load_state_dict(read.state)
    return Loaded(model, layout=layout, carried=read.carried)


def _with_memory(model: Model) -> Model:
    """A model of shapes alone with memory of any content, for weights that fill all of it: initial numbers that are
    replaced at once would take longer than reading them. Its state has to hold every tensor, and no two modules the
    same one, which would become two (tests/test_registry.py looks at all systems)."""
    device = torch.get_default_device()

    def empty(tensor: Tensor) -> Tensor:  # with its strides; `to_empty` does the same and imports sympy for it
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    return model._apply(empty)  # pyright: ignore[reportPrivateUsage]


def from_plain(kind: Any, value: Any) -> Any:
    """A dataclass from the plain values of its JSON, nested ones and tuples included."""
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        hints = typing.get_type_hints(kind)
        unknown = [name for name in value if name not in hints]
        if unknown:
            raise InputError(f"{getattr(kind, '__name__', kind)} has no field {unknown[0]!r}")
        make: Any = kind
        return make(**{name: from_plain(hints[name], item) for name, item in value.items()})
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        inner = arguments[0] if arguments else Any
        return tuple(from_plain(inner, item) for item in value)
    for option in arguments:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return from_plain(option, value)
    return value
