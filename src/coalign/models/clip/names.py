"""Names of CLIP's tensors: OpenAI's archives, OpenCLIP's files, Hugging Face's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coalign.checkpoints import Carry, Rename, StateMap, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.models.clip.resnet import ResNetConfig
from coalign.trunks.text import TextConfig
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_names import clip_block_rules, flat_tables, openai_block_rules, openai_rules


@runtime_checkable
class Sizes(Protocol):
    """The part of the configuration that the names depend on: a `ClipConfig`."""

    @property
    def image(self) -> VitConfig: ...

    @property
    def text(self) -> TextConfig: ...

    @property
    def resnet(self) -> ResNetConfig | None: ...


def openai(config: Sizes) -> StateMap:
    """OpenAI's archives, with the three numbers that their reader drops."""
    scalars = [Carry(name) for name in ("input_resolution", "context_length", "vocab_size")]
    return StateMap(scalars, open_clip(config).rules)


def open_clip(config: Sizes) -> StateMap:
    """OpenCLIP's `CLIP`, whose names are OpenAI's."""
    return StateMap(_image(config), _text(""), _SCALARS)


def open_clip_custom(config: Sizes) -> StateMap:
    """OpenCLIP's `CustomTextCLIP`: the text tower's names have a prefix."""
    return StateMap(_image(config), _text("text."), _SCALARS)


_SCALARS: list[Rule] = [Rename("logit_scale", "scale"), Rename("logit_bias", "bias")]


def _text(file: str) -> list[Rule]:
    return [
        Rename(f"{file}token_embedding.weight", "text.word.weight"),
        Rename(f"{file}positional_embedding", "text.position.weight"),
        *openai_block_rules(f"{file}transformer.resblocks.{{i}}.", "text.encoder.blocks.{i}."),
        Rename(f"{file}ln_final.{{p}}", "text.encoder.norm.{p}"),
        Transpose(f"{file}text_projection", "text_projection.weight"),
    ]


def _image(config: Sizes) -> list[Rule]:
    if config.resnet is not None:
        attention = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "c_proj": "out"}
        stages = range(len(config.resnet.blocks))
        return [
            Rename("visual.attnpool.positional_embedding", "image.positions"),
            *(
                Rename(f"visual.attnpool.{theirs}.{{p}}", f"image.pool.{ours}.{{p}}")
                for theirs, ours in attention.items()
            ),
            *(Rename(f"visual.layer{n + 1}.{{rest}}", f"image.stages.{n}.{{rest}}") for n in stages),
            *(Rename(f"visual.{part}{{i}}.{{p}}", f"image.{part}{{i}}.{{p}}") for part in ("conv", "bn")),
        ]
    return [
        *openai_rules("visual.", "image.", config.image),
        Rename("visual.ln_post.{p}", "image.encoder.norm.{p}"),
        Transpose("visual.proj", "image_projection.weight"),
    ]


def transformers(config: Sizes) -> StateMap:
    """Hugging Face's CLIPModel; files of older versions hold the numbers of the positions too."""
    return StateMap(
        Carry("text_model.embeddings.position_ids"),
        Carry("vision_model.embeddings.position_ids"),
        Rename("text_model.embeddings.token_embedding.weight", "text.word.weight"),
        Rename("text_model.embeddings.position_embedding.weight", "text.position.weight"),
        clip_block_rules("text_model.encoder.layers.{i}.", "text.encoder.blocks.{i}."),
        Rename("text_model.final_layer_norm.{p}", "text.encoder.norm.{p}"),
        Rename("text_projection.weight", "text_projection.weight"),
        flat_tables(
            "vision_model.embeddings.class_embedding",
            "vision_model.embeddings.position_embedding.weight",
            "image.",
            config.image,
        ),
        Rename("vision_model.embeddings.patch_embedding.weight", "image.patch.projection.weight"),
        Rename("vision_model.pre_layrnorm.{p}", "image.first_norm.{p}"),
        clip_block_rules("vision_model.encoder.layers.{i}.", "image.encoder.blocks.{i}."),
        Rename("vision_model.post_layernorm.{p}", "image.encoder.norm.{p}"),
        Rename("visual_projection.weight", "image_projection.weight"),
        _SCALARS,
    )
