"""Names of CoCa's tensors in OpenCLIP's files."""

from __future__ import annotations

from coalign.checkpoints import Rename, Split, StateMap, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.models.coca.trunk import CocaConfig
from coalign.trunks.vit_names import fused_attention_rules, openai_block_rules, openai_rules


def open_clip(config: CocaConfig) -> StateMap:
    """OpenCLIP's `CoCa`."""
    decoder, cross = "text_decoder.", "decoder.cross.blocks.{i}."
    return StateMap(
        openai_rules("visual.", "image.", config.image),
        _pooler(config),
        Rename("visual.ln_post.{p}", "image_norm.{p}"),
        Transpose("visual.proj", "image_projection.weight"),
        Rename("text.token_embedding.weight", "text.word.weight"),
        Rename("text.positional_embedding", "text.position.weight"),
        Rename("text.cls_emb", "text.class_token"),
        openai_block_rules("text.transformer.resblocks.{i}.", "text.encoder.blocks.{i}."),
        Rename("text.ln_final.{p}", "text.norm.{p}"),
        Transpose("text.text_projection", "text_projection.weight"),
        openai_block_rules(f"{decoder}resblocks.{{i}}.", "decoder.encoder.blocks.{i}."),
        fused_attention_rules(f"{decoder}cross_attn.{{i}}.attn.", f"{cross}cross_attention."),
        Rename(f"{decoder}cross_attn.{{i}}.ln_1.{{p}}", f"{cross}cross_attention_norm.{{p}}"),
        Rename(f"{decoder}cross_attn.{{i}}.ln_1_kv.{{p}}", "decoder.context_norms.{i}.{p}"),
        Rename(f"{decoder}cross_attn.{{i}}.ln_2.{{p}}", f"{cross}feed_forward_norm.{{p}}"),
        Rename(f"{decoder}cross_attn.{{i}}.mlp.c_fc.{{p}}", f"{cross}feed_forward.up.{{p}}"),
        Rename(f"{decoder}cross_attn.{{i}}.mlp.c_proj.{{p}}", f"{cross}feed_forward.down.{{p}}"),
        Rename(f"{decoder}ln_final.{{p}}", "decoder.norm.{p}"),
        Transpose(f"{decoder}text_projection", "decoder.vocabulary.weight"),
        Rename("logit_scale", "scale"),
        Rename("logit_bias", "bias"),
    )


def _pooler(config: CocaConfig) -> list[Rule]:
    file, ours = "visual.attn_pool.", "pool."
    rules: list[Rule] = [
        Rename(f"{file}query", f"{ours}query"),
        Rename(f"{file}ln_q.{{p}}", f"{ours}query_norm.{{p}}"),
        Rename(f"{file}ln_k.{{p}}", f"{ours}key_norm.{{p}}"),
    ]
    if config.image.dim == config.embed_dim:
        return [*rules, *fused_attention_rules(f"{file}attn.", f"{ours}attention.")]
    parts = {"q": "query", "k": "key", "v": "value"}  # torch keeps matrices of different widths apart
    return [
        *rules,
        *(Rename(f"{file}attn.{p}_proj_weight", f"{ours}attention.{mine}.weight") for p, mine in parts.items()),
        Split(f"{file}attn.in_proj_bias", tuple(f"{ours}attention.{mine}.bias" for mine in parts.values())),
        Rename(f"{file}attn.out_proj.{{p}}", f"{ours}attention.out.{{p}}"),
    ]
