"""Names of X-VLM's tensors in its authors' files, which have Swin, DeiT or CLIP's ViT."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from coalign.checkpoints import Constant, Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.trunks.bert import BertConfig, trunk_rules, word_head_rules
from coalign.trunks.swin import SwinConfig, swin_rules
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_names import clip_block_rules, flat_tables, timm_rules


@runtime_checkable
class Sizes(Protocol):
    """The part of the configuration that the names depend on: an `XvlmConfig`."""

    @property
    def image(self) -> VitConfig: ...

    @property
    def swin(self) -> SwinConfig | None: ...

    @property
    def text(self) -> BertConfig: ...

    @property
    def objectives(self) -> tuple[str, ...]: ...


def original(config: Sizes) -> StateMap:
    """The authors' files: pre-training ("bert." before the text's names, a word head, a box head), retrieval (none of
    these)."""
    bert = "bert." if "mlm" in config.objectives else ""
    table = f"text_encoder.{bert}embeddings.word_embeddings.weight"
    return StateMap(
        image_rules("vision_encoder.", "online.image.", config),
        trunk_rules(f"text_encoder.{bert}", "online.text.", config.text, position_ids=True),
        word_head_rules("text_encoder.cls.predictions.", "online.words.", table) if bert else [],
        Rename("vision_proj.{p}", "online.image_projection.{p}"),
        Rename("text_proj.{p}", "online.text_projection.{p}"),
        Rename("temp", "temperature"),
        head_rules("itm_head", "match_head"),
        head_rules("bbox_head", "box_head") if "box" in config.objectives else [],
    )


def image_rules(file: str, ours: str, config: Sizes) -> list[Rule]:
    """Swin's names, timm's of a ViT, or as the authors name CLIP's."""
    if config.swin is not None:
        return swin_rules(file, ours, config.swin)
    image = config.image
    if not image.first_norm:
        return timm_rules(file, ours)
    rows, columns = image.grid_size
    return [
        *flat_tables(f"{file}class_embedding", f"{file}pos_embed.weight", ours, image),
        Constant(f"{file}position_ids", lambda: torch.arange(1 + rows * columns)[None]),
        Rename(f"{file}patch_embed.weight", f"{ours}patch.projection.weight"),
        Rename(f"{file}pre_layrnorm.{{p}}", f"{ours}first_norm.{{p}}"),
        *clip_block_rules(f"{file}encoder.layers.{{i}}.", f"{ours}encoder.blocks.{{i}}."),
        Rename(f"{file}post_layernorm.{{p}}", f"{ours}encoder.norm.{{p}}"),
    ]


def head_rules(file: str, ours: str) -> list[Rule]:
    """A head of two layers with a norm between."""
    return [Rename(f"{file}.{n}.{{p}}", f"{ours}.{part}.{{p}}") for n, part in ((0, "up"), (1, "norm"), (3, "down"))]
