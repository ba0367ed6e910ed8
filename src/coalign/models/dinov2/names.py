"""Names of DINOv2's tensors: the authors' and Hugging Face's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coalign.checkpoints import Alias, Rename, Split, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_names import timm_rules, transformers_rules


@runtime_checkable
class Sizes(Protocol):
    """The part of the configuration that the names depend on: a `DinoV2Config`."""

    @property
    def trunk(self) -> VitConfig: ...


_BLOCK = "trunk.encoder.blocks.{i}."


def original(config: Sizes) -> StateMap:
    """The authors' .pth files; those of chunked blocks are read too."""
    return StateMap(
        Alias("blocks.{j}.{i}.{rest}", "blocks.{i}.{rest}"),
        Rename("mask_token", "mask_token"),
        Rename("register_tokens", "trunk.registers"),
        _scales("blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma"),
        _gated("blocks.{i}.mlp.w12.{p}", "blocks.{i}.mlp.w3.{p}") if config.trunk.gated else [],
        timm_rules("", "trunk."),
    )


def transformers(config: Sizes) -> StateMap:
    """Hugging Face's Dinov2Model and Dinov2WithRegistersModel, as the released files name them."""
    layer = "encoder.layer.{i}."
    return StateMap(
        Rename("embeddings.mask_token", "mask_token"),
        Rename("embeddings.register_tokens", "trunk.registers"),
        _scales(f"{layer}layer_scale1.lambda1", f"{layer}layer_scale2.lambda1"),
        _gated(f"{layer}mlp.weights_in.{{p}}", f"{layer}mlp.weights_out.{{p}}") if config.trunk.gated else [],
        Rename(f"{layer}norm1.{{p}}", f"{_BLOCK}attention_norm.{{p}}"),
        Rename(f"{layer}norm2.{{p}}", f"{_BLOCK}feed_forward_norm.{{p}}"),
        Rename(f"{layer}mlp.fc1.{{p}}", f"{_BLOCK}feed_forward.up.{{p}}"),
        Rename(f"{layer}mlp.fc2.{{p}}", f"{_BLOCK}feed_forward.down.{{p}}"),
        transformers_rules("", "trunk."),
    )


def _scales(first: str, second: str) -> list[Rule]:
    return [Rename(first, f"{_BLOCK}attention_scale"), Rename(second, f"{_BLOCK}feed_forward_scale")]


def _gated(both: str, down: str) -> list[Rule]:
    return [
        Split(both, (f"{_BLOCK}feed_forward.gate.{{p}}", f"{_BLOCK}feed_forward.up.{{p}}")),
        Rename(down, f"{_BLOCK}feed_forward.down.{{p}}"),
    ]
