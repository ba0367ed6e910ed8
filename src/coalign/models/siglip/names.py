"""Names of SigLIP's tensors: big_vision's files, with a name or one axis for each layer, Hugging Face's, OpenCLIP's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coalign.checkpoints import Carry, Layers, Rename, Reshape, Split, StateMap, Transpose, View
from coalign.checkpoints.statemap import Rule
from coalign.trunks.text import TextConfig
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_names import (
    clip_block_rules,
    flax_attention_rules,
    flax_block_rules,
    flax_dense_rules,
    flax_norm_rules,
    fused_attention_rules,
    openai_block_rules,
    timm_block_rules,
)


@runtime_checkable
class Sizes(Protocol):
    """The part of the configuration that the names depend on: a `SiglipConfig`."""

    @property
    def image(self) -> VitConfig: ...

    @property
    def text(self) -> TextConfig: ...


def original(config: Sizes) -> StateMap:
    """big_vision's .npz files, a name for each layer."""
    return _big_vision(config, stacked=False)


def original_stacked(config: Sizes) -> StateMap:
    """big_vision's .npz files whose layers are one axis (`scan`)."""
    return _big_vision(config, stacked=True)


def _big_vision(config: Sizes, *, stacked: bool) -> StateMap:
    image, text, head = config.image, config.text, "params/img/MAPHead_0/"
    (rows, columns), (height, width) = image.grid_size, image.patch
    embedding: Rule = Transpose("params/img/embedding/kernel", "image.patch.projection.weight", (3, 2, 0, 1))
    table = Rename("params/img/pos_embedding", "image.positions")
    if image.any_shape:
        flat, kernel = (height * width * 3, image.dim), (height, width, 3, image.dim)
        embedding = View("params/img/embedding/kernel", "image.patch.projection.weight", flat, kernel, (3, 2, 0, 1))
        table = Reshape(table.file, table.ours, (rows, columns, image.dim), (1, rows * columns, image.dim))
    return StateMap(
        embedding,
        table,
        Rename("params/img/embedding/bias", "image.patch.projection.bias"),
        _flax_blocks("params/img/Transformer/", "image.", image, stacked),
        flax_norm_rules("params/img/Transformer/encoder_norm", "image.encoder.norm"),
        Rename(f"{head}probe", "pool.probe"),
        flax_attention_rules(f"{head}MultiHeadDotProductAttention_0/", "pool.attention.", image.dim, image.heads),
        flax_norm_rules(f"{head}LayerNorm_0", "pool.norm"),
        flax_dense_rules(f"{head}MlpBlock_0/Dense_0", "pool.feed_forward.up"),
        flax_dense_rules(f"{head}MlpBlock_0/Dense_1", "pool.feed_forward.down"),
        Rename("params/txt/Embed_0/embedding", "text.word.weight"),
        Reshape(
            "params/txt/pos_embedding",
            "text.position.weight",
            (1, text.positions, text.dim),
            (text.positions, text.dim),
        ),
        _flax_blocks("params/txt/Encoder_0/", "text.", text, stacked),
        flax_norm_rules("params/txt/Encoder_0/encoder_norm", "text.encoder.norm"),
        flax_dense_rules("params/txt/head", "head"),
        Rename("params/t", "scale"),
        Rename("params/b", "bias"),
    )


def _flax_blocks(file: str, ours: str, config: VitConfig | TextConfig, stacked: bool) -> list[Rename]:
    rules = flax_block_rules(
        f"{file}encoderblock_{{i}}/", f"{ours}encoder.blocks.{{i}}.", config.dim, config.heads, (0, 1, 0)
    )
    return [Layers.of(rule, config.depth, "_") for rule in rules] if stacked else rules


def transformers(config: Sizes) -> StateMap:
    """Hugging Face's SiglipModel and Siglip2Model; files of older versions hold the numbers of the positions too."""
    image = config.image
    count, (height, width) = image.grid_size[0] * image.grid_size[1], image.patch
    embedding = Rename("vision_model.embeddings.patch_embedding.weight", "image.patch.projection.weight")
    if image.any_shape:
        flat, kernel = (image.dim, height * width * 3), (image.dim, height, width, 3)
        embedding = View(embedding.file, embedding.ours, flat, kernel, (0, 3, 1, 2))
    return StateMap(
        Carry("text_model.embeddings.position_ids"),
        Carry("vision_model.embeddings.position_ids"),
        embedding,
        Rename("vision_model.embeddings.patch_embedding.bias", "image.patch.projection.bias"),
        Reshape(
            "vision_model.embeddings.position_embedding.weight",
            "image.positions",
            (count, image.dim),
            (1, count, image.dim),
        ),
        clip_block_rules("vision_model.encoder.layers.{i}.", "image.encoder.blocks.{i}."),
        Rename("vision_model.post_layernorm.{p}", "image.encoder.norm.{p}"),
        Rename("vision_model.head.probe", "pool.probe"),
        fused_attention_rules("vision_model.head.attention.", "pool.attention."),
        Rename("vision_model.head.layernorm.{p}", "pool.norm.{p}"),
        Rename("vision_model.head.mlp.fc1.{p}", "pool.feed_forward.up.{p}"),
        Rename("vision_model.head.mlp.fc2.{p}", "pool.feed_forward.down.{p}"),
        Rename("text_model.embeddings.token_embedding.weight", "text.word.weight"),
        Rename("text_model.embeddings.position_embedding.weight", "text.position.weight"),
        clip_block_rules("text_model.encoder.layers.{i}.", "text.encoder.blocks.{i}."),
        Rename("text_model.final_layer_norm.{p}", "text.encoder.norm.{p}"),
        Rename("text_model.head.{p}", "head.{p}"),
        Rename("logit_scale", "scale"),
        Rename("logit_bias", "bias"),
    )


def open_clip(config: Sizes) -> StateMap:
    """OpenCLIP's files: timm's image tower, and scalars without an axis."""
    del config
    file = "visual.trunk."
    pair = [f"pool.attention.{part}.{{p}}" for part in ("key", "value")]
    return StateMap(
        Rename(f"{file}pos_embed", "image.positions"),
        Rename(f"{file}patch_embed.proj.{{p}}", "image.patch.projection.{p}"),
        timm_block_rules(f"{file}blocks.{{i}}.", "image.encoder.blocks.{i}."),
        Rename(f"{file}norm.{{p}}", "image.encoder.norm.{p}"),
        Rename(f"{file}attn_pool.latent", "pool.probe"),
        Rename(f"{file}attn_pool.q.{{p}}", "pool.attention.query.{p}"),
        Split(f"{file}attn_pool.kv.{{p}}", tuple(pair)),
        Rename(f"{file}attn_pool.proj.{{p}}", "pool.attention.out.{p}"),
        Rename(f"{file}attn_pool.norm.{{p}}", "pool.norm.{p}"),
        Rename(f"{file}attn_pool.mlp.fc1.{{p}}", "pool.feed_forward.up.{p}"),
        Rename(f"{file}attn_pool.mlp.fc2.{{p}}", "pool.feed_forward.down.{p}"),
        Rename("text.token_embedding.weight", "text.word.weight"),
        Rename("text.positional_embedding", "text.position.weight"),
        openai_block_rules("text.transformer.resblocks.{i}.", "text.encoder.blocks.{i}."),
        Rename("text.ln_final.{p}", "text.encoder.norm.{p}"),
        Rename("text.text_projection.{p}", "head.{p}"),
        Reshape("logit_scale", "scale", (), (1,)),
        Reshape("logit_bias", "bias", (), (1,)),
    )
