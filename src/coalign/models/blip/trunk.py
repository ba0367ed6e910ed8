"""BLIP's configuration, its towers and its decoders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from coalign.layers.attention import Attention
from coalign.layers.dropout import Dropout
from coalign.layers.fusion import fuse_first, fuse_pairs
from coalign.layers.heads import MaskedLMHead
from coalign.layers.transformer import Context, TransformerBlock
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig, BertTrunk, init_bert
from coalign.trunks.pair_towers import PairConfig, PairTowers, pair_spec
from coalign.trunks.vit import VitConfig
from coalign.types import InputSpec, Packed, Record


def text_tower(**sizes: object) -> BertConfig:
    """BERT as BLIP has it: no segments, cross-attention in every block; two rows of its word table are markers."""
    own = BertConfig(vocab_size=30524, types=0, context_dim=768, optional_context=True)
    return replace(own, **sizes)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class BlipConfig(PairConfig):
    """Sizes and settings; the defaults are the paper's pre-training with ViT-B (section 4.1).

    The word table's last `markers` rows stand for no word: [DEC], which begins what the decoder reads, and [ENC],
    which begins what the encoder reads beside an image.
    """

    image: VitConfig = field(default_factory=VitConfig)
    text: BertConfig = field(default_factory=text_tower)
    queue_size: int = field(default=57600, kw_only=True)
    objectives: tuple[Literal["itc", "itm", "lm"], ...] = ("itc", "itm", "lm")
    smoothing: float = 0.1
    negative_floor: float = 1e-4
    """The summand of the probabilities by which hard negatives are drawn."""
    sep_id: int = 102
    markers: int = 2
    encode_marker: bool = True
    """Whether [ENC] begins texts that are matched; the original's class for matching alone keeps [CLS]."""
    prompt: tuple[int, ...] = ()
    """The ids that captions begin with ("a picture of")."""

    @property
    def decode_id(self) -> int:
        """The id of [DEC]."""
        return self.text.vocab_size - 2

    @property
    def encode_id(self) -> int:
        """The id of [ENC]."""
        return self.text.vocab_size - 1


def _tiny(image_size: int, patch_size: int) -> BlipConfig:
    image = VitConfig(image_size=image_size, patch_size=patch_size, dim=128, depth=2, heads=4, hidden_dim=512)
    text = text_tower(dim=128, depth=2, heads=4, hidden_dim=512, context_dim=128)
    return BlipConfig(image, text, embed_dim=64, queue_size=1024)


_LARGE = VitConfig(dim=1024, depth=24, heads=16, hidden_dim=4096)

SIZES = {
    "tiny": _tiny(64, 16),
    "base-224": BlipConfig(),
    "base-384": BlipConfig(VitConfig(image_size=384)),
    "base-480": BlipConfig(VitConfig(image_size=480)),
    "large-224": BlipConfig(_LARGE, text_tower(context_dim=1024)),
    "large-384": BlipConfig(replace(_LARGE, image_size=384), text_tower(context_dim=1024)),
}


class BlipTowers(PairTowers):
    """Parts with a momentum copy: image encoder, text encoder and projections. The text encoder reads a text alone, or
    with an image in view through the cross-attention of its blocks (section 3.1)."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config.image, config.text, config.embed_dim)
        self.config = config

    def marked(self, ids: Packed) -> Packed:
        """Texts that are read beside an image: [ENC] in the place of [CLS]."""
        return begun(ids, self.config.encode_id) if self.config.encode_marker else ids

    def fuse(self, ids: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """States of text i with image i in view, or as `mask` says."""
        context = Context(image.values, mask or Mask.between(ids, image))
        return self.text(self.marked(ids), context=context, record=record, name="fusion.")

    def embed(self, ids: Packed) -> Packed:
        """The blocks' input for texts that are matched: `fuse_first` and `fuse_pairs` take it."""
        return ids.with_values(self.text.embedding(self.marked(ids)))

    def fuse_first(self, ids: Packed, image: Packed, texts: Tensor, images: Tensor) -> Tensor:
        """The first rows [P, dim] of these pairs of text and image numbers."""
        return fuse_first(self.text.encoder, 0, self.embed(ids), image, (texts, images))

    def fuse_pairs(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """The first rows [P, dim] of `pairs` [P, 2] of (image, text) numbers; `texts` as `embed` gives them."""
        return fuse_pairs(self.text.encoder, 0, images, texts, pairs)


class SelfAttention(nn.Module):
    """A block's self-attention with its norm: all that a tied decoder has of its own."""

    def __init__(self, text: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(text.dim, heads=text.heads, dropout=text.dropout)
        self.attention_norm = nn.LayerNorm(text.dim, text.eps)
        self.dropout = Dropout(text.dropout)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        return self.attention_norm(x + self.dropout(self.attention(x, mask)))


class TiedDecoder(nn.Module):
    """The decoder of pre-training: everything but self-attention is the text encoder's (section 3.2, "LM")."""

    def __init__(self, text: BertConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SelfAttention(text) for _ in range(text.depth))
        self.words = MaskedLMHead(text.dim, text.vocab_size, eps=text.eps)
        self.apply(init_bert)

    def forward(self, encoder: BertTrunk, ids: Packed, memory: Packed, items: Tensor | None = None) -> Packed:
        """States of texts that begin with [DEC], by the embeddings and blocks of `encoder`, whose configuration is this
        decoder's; each word sees those before it. Text i looks at item i of the memory, or at `items[i]`."""
        mask, x = Mask.within(ids, causal=1), encoder.embedding(ids)
        context = Context(memory.values, Mask.between(ids, memory, items))
        for own, block in zip(self.blocks, encoder.encoder.blocks, strict=True):
            assert isinstance(block, TransformerBlock)
            x = block.across(own(x, mask), ids.layout, context)
        return ids.with_values(x)

    def logits(self, encoder: BertTrunk, rows: Tensor) -> Tensor:
        """Logits [n, V] of the word after these states."""
        return self.words(rows, encoder.embedding.word.weight)


def begun(ids: Packed, marker: int) -> Packed:
    """The texts with `marker` as their first id."""
    return ids.with_values(ids.values.index_fill(0, ids.layout.first, marker))


def input_spec_of(config: BlipConfig) -> InputSpec:
    """Texts begin with [CLS] and end with [SEP]; markers are no part of the vocabulary."""
    return pair_spec(config, config.image, config.text.vocab_size - config.markers, separator=True)
