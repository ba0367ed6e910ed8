"""`Model`: what training, retrieval and analysis know of a model; `System`: what a paper's folder declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from coalign.types.batch import Batch
from coalign.types.packed import Packed, Record
from coalign.types.spec import InputSpec


@dataclass(frozen=True, eq=False)
class Encoding:
    """A model's encoding of a batch.

    `tokens` are states by modality ("text", "image", "regions", "fused" ...); `pooled` are [B, D] vectors by name;
    `vectors` are [B, D] in the space that retrieval searches, of unit length unless the model's `similarity` is "dot";
    `record` holds the named intermediates that were asked for.
    """

    tokens: Mapping[str, Packed]
    pooled: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    vectors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    record: Record = field(default_factory=dict[str, Tensor])

    def matched(self, modality: str) -> Packed:
        """The rows that the model's `match` reads: its states, unless it gives rows of their own for that."""
        return self.tokens.get(f"{modality}_matched", self.tokens[modality])


@dataclass(frozen=True, eq=False)
class Draws:
    """Where the random choices of `losses` come from, and which objectives are computed.

    `generator` draws what `choices` has not, by the names of the model's `draw`; None is torch's own generator. `only`
    names the objectives; None is all that the model's configuration has. What decides the size of something is drawn on
    the host, by `on_host`, so that no step asks the device for a number.
    """

    generator: torch.Generator | None = None
    choices: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    only: Sequence[str] | None = None
    host: torch.Generator | None = None

    @property
    def on_host(self) -> torch.Generator | None:
        """The generator of the host: the same one where all is computed there."""
        if self.host is not None or self.generator is None:
            return self.host
        return self.generator if self.generator.device.type == "cpu" else None

    def wants(self, objective: str) -> bool:
        """Whether an objective is computed."""
        return self.only is None or objective in self.only


FREE = Draws()
"""Choices from torch's own generator; all objectives."""


class Model(nn.Module, ABC):
    """The module that every system inherits, and all that training, retrieval and analysis know of it.

    Each has a `config`, the frozen dataclass from which the registry makes it again. Nothing changes state inside
    `encode` or `losses`.
    """

    @property
    @abstractmethod
    def input_spec(self) -> InputSpec:
        """The data that it asks for."""

    @abstractmethod
    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States and vectors of a batch; with `record` the named intermediates too."""

    def encode_pooled(self, batch: Batch) -> Encoding:
        """`encode` for its `pooled` and `vectors`: a model may leave out the states that these do not need."""
        encode: Any = self.encode
        return encode(batch)

    @abstractmethod
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The objectives by name."""

    def before_step(self) -> None:
        """Runs before a training step's forward pass: momentum update, temperature clamp. By default nothing."""

    def after_step(self) -> None:
        """Runs after the optimiser's step: enqueue. By default nothing."""


@runtime_checkable
class Matcher(Protocol):
    """The interface of a model that re-ranks."""

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """The matching logit [P] of each pair [P, 2] (image index, text index) of tokens.

        Projects each image's cross-attention keys and values once and serves all its texts with them.
        """
        ...


@dataclass(frozen=True)
class Head:
    """A task model of a system: `config` makes its configuration, a `config_type`, from one of the system's sizes.

    `fit` changes that to what names and shapes of a file say, such as the number of classes.
    """

    model: type[Model]
    config_type: type
    config: Callable[[Any], Any]
    weights: Mapping[str, Callable[[Any], Any]]
    for_layout: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict[str, Callable[[Any], Any]])
    fit: Callable[[Any, Mapping[str, Tensor]], Any] | None = None


@dataclass(frozen=True)
class System:
    """One published system, as its folder in `models/` declares it. The registry collects these.

    `weights` are the state maps by layout name (see `checkpoints`), each a function of the configuration; `heads` are
    the task models by task name. `for_layout` changes the configuration to what the authors of a layout computed with
    its weights, where names and shapes do not tell (which GELU). `position_tables` names the tables that another image
    size resizes, and how, or a function of the configuration that says how; `with_image_size` is the configuration of
    that size. `of_weights` reads a configuration off the names and shapes of a file that is none of `sizes`,
    `of_config` off the config.json that lies beside it; `to_config` writes that of a model, and of the names of its
    classes where it has some, so that the layout "transformers" is a folder. `sizes.py` in the
    paper's folder may offer them as `OF_WEIGHTS`, `OF_CONFIG` and `TO_CONFIG`.
    """

    name: str
    title: str
    paper: str
    model: type[Model]
    config: type
    sizes: Mapping[str, Any]
    weights: Mapping[str, Callable[[Any], Any]]
    objectives: tuple[str, ...] = ()
    heads: Mapping[str, Head] = field(default_factory=dict[str, Head])
    for_layout: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict[str, Callable[[Any], Any]])
    position_tables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    with_image_size: Callable[[Any, Any], Any] = lambda config, size: replace(config, image_size=size)
    of_weights: Callable[[Mapping[str, Tensor]], Any] | None = None
    of_config: Callable[[Mapping[str, Any]], Any] | None = None
    to_config: Callable[[Any, Sequence[str] | None], dict[str, Any]] | None = None
