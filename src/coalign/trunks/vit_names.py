"""Names of a ViT trunk's tensors in timm's, Hugging Face's, flax's and OpenAI's files; systems with a ViT inside share
them. `file` and `ours` are prefixes."""

from __future__ import annotations

from coalign.checkpoints import Rename, Reshape, Split, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.trunks.vit import VitConfig


def timm_rules(file: str, ours: str) -> list[Rule]:
    """timm's names of a trunk, the original's too in ALBEF and MAE."""
    return [
        Rename(f"{file}cls_token", f"{ours}class_token"),
        Rename(f"{file}pos_embed", f"{ours}positions"),
        Rename(f"{file}patch_embed.proj.{{p}}", f"{ours}patch.projection.{{p}}"),
        *timm_block_rules(f"{file}blocks.{{i}}.", f"{ours}encoder.blocks.{{i}}."),
        Rename(f"{file}norm.{{p}}", f"{ours}encoder.norm.{{p}}"),
    ]


def timm_block_rules(block: str, mine: str) -> list[Rule]:
    """timm's names of one block."""
    return [
        Rename(f"{block}norm1.{{p}}", f"{mine}attention_norm.{{p}}"),
        Split(
            f"{block}attn.qkv.{{p}}",
            (f"{mine}attention.query.{{p}}", f"{mine}attention.key.{{p}}", f"{mine}attention.value.{{p}}"),
        ),
        Rename(f"{block}attn.proj.{{p}}", f"{mine}attention.out.{{p}}"),
        Rename(f"{block}norm2.{{p}}", f"{mine}feed_forward_norm.{{p}}"),
        Rename(f"{block}mlp.fc1.{{p}}", f"{mine}feed_forward.up.{{p}}"),
        Rename(f"{block}mlp.fc2.{{p}}", f"{mine}feed_forward.down.{{p}}"),
    ]


def transformers_rules(file: str, ours: str) -> list[Rule]:
    """Hugging Face's names of a trunk (ViT, ViTMAE), as hub files have them."""
    return [
        Rename(f"{file}embeddings.cls_token", f"{ours}class_token"),
        Rename(f"{file}embeddings.position_embeddings", f"{ours}positions"),
        Rename(f"{file}embeddings.patch_embeddings.projection.{{p}}", f"{ours}patch.projection.{{p}}"),
        *transformers_block_rules(f"{file}encoder.layer.{{i}}.", f"{ours}encoder.blocks.{{i}}."),
        Rename(f"{file}layernorm.{{p}}", f"{ours}encoder.norm.{{p}}"),
    ]


def transformers_block_rules(block: str, mine: str) -> list[Rule]:
    """Hugging Face's names of one block."""
    names = {
        "layernorm_before": "attention_norm",
        "attention.attention.query": "attention.query",
        "attention.attention.key": "attention.key",
        "attention.attention.value": "attention.value",
        "attention.output.dense": "attention.out",
        "layernorm_after": "feed_forward_norm",
        "intermediate.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
    }
    return [Rename(f"{block}{theirs}.{{p}}", f"{mine}{ours}.{{p}}") for theirs, ours in names.items()]


def flax_dense_rules(file: str, ours: str) -> list[Rename]:
    """A dense layer of flax: its kernel is [in, out]."""
    return [Transpose(f"{file}/kernel", f"{ours}.weight"), Rename(f"{file}/bias", f"{ours}.bias")]


def flax_norm_rules(file: str, ours: str) -> list[Rename]:
    return [Rename(f"{file}/scale", f"{ours}.weight"), Rename(f"{file}/bias", f"{ours}.bias")]


def flax_attention_rules(file: str, ours: str, dim: int, heads: int) -> list[Rename]:
    """Multi-head attention of flax: kernels have an axis for the heads."""
    width, rules = dim // heads, list[Rename]()
    for part in ("query", "key", "value"):
        kernel, bias = f"{file}{part}/kernel", f"{file}{part}/bias"
        rules += [
            Reshape(kernel, f"{ours}{part}.weight", (dim, heads, width), (dim, dim), (1, 2, 0)),
            Reshape(bias, f"{ours}{part}.bias", (heads, width), (dim,)),
        ]
    return [
        *rules,
        Reshape(f"{file}out/kernel", f"{ours}out.weight", (heads, width, dim), (dim, dim), (2, 0, 1)),
        Rename(f"{file}out/bias", f"{ours}out.bias"),
    ]


def flax_block_rules(file: str, ours: str, dim: int, heads: int, numbers: tuple[int, int, int]) -> list[Rename]:
    """flax's names of one block; `numbers` are those of attention, second norm and MLP within it."""
    attention, norm, mlp = numbers
    return [
        *flax_attention_rules(f"{file}MultiHeadDotProductAttention_{attention}/", f"{ours}attention.", dim, heads),
        *flax_norm_rules(f"{file}LayerNorm_0", f"{ours}attention_norm"),
        *flax_norm_rules(f"{file}LayerNorm_{norm}", f"{ours}feed_forward_norm"),
        *flax_dense_rules(f"{file}MlpBlock_{mlp}/Dense_0", f"{ours}feed_forward.up"),
        *flax_dense_rules(f"{file}MlpBlock_{mlp}/Dense_1", f"{ours}feed_forward.down"),
    ]


def openai_rules(file: str, ours: str, image: VitConfig) -> list[Rule]:
    """OpenAI's and OpenCLIP's names of a trunk, but for the norm after the blocks."""
    return [
        *flat_tables(f"{file}class_embedding", f"{file}positional_embedding", ours, image),
        Rename(f"{file}conv1.weight", f"{ours}patch.projection.weight"),
        Rename(f"{file}ln_pre.{{p}}", f"{ours}first_norm.{{p}}"),
        *openai_block_rules(f"{file}transformer.resblocks.{{i}}.", f"{ours}encoder.blocks.{{i}}."),
    ]


def flat_tables(token: str, positions: str, ours: str, image: VitConfig) -> list[Rule]:
    """Class token [D] and positions [1 + N, D] of files that have no axis for the batch."""
    rows, columns = image.grid_size
    table = (1 + rows * columns, image.dim)
    return [
        Reshape(token, f"{ours}class_token", (image.dim,), (1, 1, image.dim)),
        Reshape(positions, f"{ours}positions", table, (1, *table)),
    ]


def openai_block_rules(block: str, mine: str) -> list[Rule]:
    """OpenAI's and OpenCLIP's names of one block: torch's multi-head attention with fused inputs."""
    return [
        *fused_attention_rules(f"{block}attn.", f"{mine}attention."),
        Rename(f"{block}ln_1.{{p}}", f"{mine}attention_norm.{{p}}"),
        Rename(f"{block}ln_2.{{p}}", f"{mine}feed_forward_norm.{{p}}"),
        Rename(f"{block}mlp.c_fc.{{p}}", f"{mine}feed_forward.up.{{p}}"),
        Rename(f"{block}mlp.c_proj.{{p}}", f"{mine}feed_forward.down.{{p}}"),
    ]


def fused_attention_rules(file: str, ours: str) -> list[Rule]:
    """torch's `MultiheadAttention`: query, key and value in one matrix and one bias."""
    return [
        *(
            Split(f"{file}in_proj_{p}", (f"{ours}query.{p}", f"{ours}key.{p}", f"{ours}value.{p}"))
            for p in ("weight", "bias")
        ),
        Rename(f"{file}out_proj.{{p}}", f"{ours}out.{{p}}"),
    ]


def clip_block_rules(block: str, mine: str) -> list[Rule]:
    """Hugging Face's names of one block of CLIP, SigLIP and their kin."""
    names = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.out_proj": "attention.out",
        "layer_norm1": "attention_norm",
        "layer_norm2": "feed_forward_norm",
        "mlp.fc1": "feed_forward.up",
        "mlp.fc2": "feed_forward.down",
    }
    return [Rename(f"{block}{theirs}.{{p}}", f"{mine}{ours}.{{p}}") for theirs, ours in names.items()]
