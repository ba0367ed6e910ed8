"""CoCa's configuration, its text tower with a class row at the end, and its decoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.initialise import drawn_parameter
from coalign.layers.transformer import BlockConfig, Context, Encoder, TransformerBlock
from coalign.ops.attention import Mask
from coalign.trunks.text import TextConfig, init_by_depth
from coalign.trunks.vit import VitConfig
from coalign.types import Layout, Packed, Record
from coalign.types.spec import CLIP_MEAN, CLIP_STD


def image_tower(**sizes: object) -> VitConfig:
    """A ViT as CLIP's, whose rows are pooled without a norm of their own."""
    own = VitConfig(patch_size=32, eps=1e-5, patch_bias=False, first_norm=True, final_norm=False)
    return replace(own, **sizes)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class CocaConfig:
    """Sizes; the defaults are those of OpenCLIP's ViT-B-32.

    `text.positions` counts the words' and one for the class row. `queries` are the pooled rows, of which the first is
    the image's vector and the decoder sees the others. `late_mask` is OpenCLIP's mask of padding, one place too late:
    the class row sees the first padding row, and itself only in a text of full length; released weights were trained
    so. Without it the class row sees the words and itself.
    """

    image: VitConfig = field(default_factory=image_tower)
    text: TextConfig = field(default_factory=lambda: TextConfig(activation="gelu"))
    embed_dim: int = 512
    queries: int = 256
    pooler_heads: int = 8
    decoder_depth: int = 12
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    caption_weight: float = 2.0
    late_mask: bool = True
    start: int = 49406
    end: int = 49407
    padding: int = 0
    bias: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    locked: bool = False
    """The image tower is not trained; the pooling of its rows is."""

    @property
    def context(self) -> int:
        """The most ids a text may have."""
        return self.text.positions - 1


_LARGE = TextConfig(dim=768, heads=12, hidden_dim=3072, activation="gelu")

SIZES = {
    "tiny": CocaConfig(
        image_tower(image_size=64, patch_size=8, dim=128, depth=3, heads=4, hidden_dim=512),
        TextConfig(positions=33, dim=128, depth=2, heads=4, hidden_dim=512, activation="gelu"),
        embed_dim=128,
        queries=17,
        pooler_heads=4,
        decoder_depth=2,
        decoder_heads=4,
        decoder_hidden=512,
    ),
    "vit-b-32": CocaConfig(),
    "vit-l-14": CocaConfig(
        image_tower(patch_size=14, dim=1024, depth=24, heads=16, hidden_dim=4096),
        _LARGE,
        embed_dim=768,
        pooler_heads=12,
        decoder_heads=12,
        decoder_hidden=3072,
    ),
}


class ClassLastText(nn.Module):
    """A causal text tower with a class row after the text, at the last position of the table. The norm is on that row
    alone; the decoder reads the words as they are."""

    def __init__(self, config: CocaConfig) -> None:
        super().__init__()
        c = config.text
        self.config = config
        self.word = nn.Embedding(c.vocab_size, c.dim)
        self.position = nn.Embedding(c.positions, c.dim)
        self.class_token = drawn_parameter(c.dim, std=0.01)
        self.encoder = Encoder(c.block, c.depth, final_norm=False)
        self.norm = nn.LayerNorm(c.dim, c.eps)
        nn.init.normal_(self.word.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.01)
        init_by_depth(self.encoder, c.dim, c.depth)

    def forward(self, ids: Packed, record: Record | None = None) -> tuple[Packed, Tensor]:
        """Rows of the words, and the normed class row [B, dim] of each text.

        `record` gets "text.{i}.hidden" and "text.{i}.attention", whose last row is the class row's.
        """
        words, last = self.embed(ids), self._last(ids)
        whole = Packed.concat(words, last)
        layout = replace(whole.layout, hidden=self._hidden(ids, whole.layout))
        x = self.encoder(whole.values, Mask.within(layout, 1), record=record, name="text.")
        ends = layout.offsets[1:] - 1
        return whole.with_values(x).split(ids.layout, last.layout)[0], self.norm(x[ends])

    def words(self, ids: Packed) -> Packed:
        """Rows of the words alone: they see nothing of what follows."""
        x = self.embed(ids).values
        return ids.with_values(self.encoder(x, Mask.within(ids, 1)))

    def embed(self, ids: Packed) -> Packed:
        """Words and positions, before the blocks. Errors: `InputError` for a text that is too long."""
        if ids.max_length > self.config.context:
            raise InputError(f"a text has {ids.max_length} pieces, the model {self.config.context} positions")
        return ids.with_values(self.word(ids.values) + self.position(ids.layout.position))

    def _last(self, ids: Packed) -> Packed:
        """The class row, with `late_mask` after a row of padding, unless that was kept."""
        count, table = len(ids), self.position.weight
        rows = (self.class_token + table[-1]).expand(count, 1, -1)
        if self.config.late_mask and ids.layout.hidden is None:
            place = ids.lengths.clamp(max=self.config.context - 1)
            rows = torch.cat([(self.word.weight[self.config.padding] + table[place])[:, None], rows], 1)
        return Packed.uniform(rows)

    def _hidden(self, ids: Packed, whole: Layout) -> Tensor | None:
        """[T] the rows that none sees. Of kept padding those of padding, with `late_mask` one later."""
        kept = ids.layout.hidden
        if kept is not None:
            padding, visible = kept.view(len(ids), -1), kept.new_zeros(len(ids), 1)
            return torch.cat([visible, padding] if self.config.late_mask else [padding, visible], 1).flatten()
        if not self.config.late_mask:
            return None
        full = ids.lengths == self.config.context
        hidden = torch.zeros(whole.total, dtype=torch.bool, device=ids.values.device)
        ends = whole.offsets[1:]
        return hidden.index_copy(0, ends - 2, full).index_copy(0, ends - 1, ~full)


class Decoder(nn.Module):
    """Causal blocks over the words' rows and cross-attention to the image's queries, in turn; then a norm and the
    vocabulary."""

    def __init__(self, config: CocaConfig) -> None:
        super().__init__()
        c, text = config, config.text
        own = BlockConfig(
            text.dim, c.decoder_heads, c.decoder_hidden, norm="pre", eps=text.eps, activation=text.activation
        )
        across = replace(own, self_attention=False, context_dim=text.dim)
        self.encoder = Encoder(own, c.decoder_depth, final_norm=False)
        self.cross = Encoder(across, c.decoder_depth, final_norm=False)
        self.context_norms = nn.ModuleList(nn.LayerNorm(text.dim, text.eps) for _ in range(c.decoder_depth))
        self.norm = nn.LayerNorm(text.dim, text.eps)
        self.vocabulary = nn.Linear(text.dim, text.vocab_size, bias=False)
        for part in (self.encoder, self.cross):
            init_by_depth(part, text.dim, c.decoder_depth)
        nn.init.normal_(self.vocabulary.weight, std=text.dim**-0.5)

    def forward(
        self, words: Packed, queries: Packed, items: Tensor | None = None, record: Record | None = None
    ) -> Packed:
        """States after the norm. `record` gets "decoder.{i}.attention", "decoder.{i}.hidden",
        "decoder.{i}.cross_attention" and "decoder.{i}.cross_hidden"."""
        mask = Mask.within(replace(words.layout, hidden=None), 1)  # padding follows the words, which see none of it
        seen, x = Mask.between(words, queries, items), words.values
        for i, (own, across, norm) in enumerate(
            zip(self.encoder.blocks, self.cross.blocks, self.context_norms, strict=True)
        ):
            assert isinstance(across, TransformerBlock)
            name = f"decoder.{i}."
            x = own(x, mask, record=record, name=name)
            if record is not None:
                record[f"{name}hidden"] = x
            x = across.across(x, words.layout, Context(norm(queries.values), seen), record=record, name=name)
            if record is not None:
                record[f"{name}cross_hidden"] = x
        return words.with_values(self.norm(x))

    def logits(self, rows: Tensor) -> Tensor:
        """Logits [n, V] of the word after these states."""
        return self.vocabulary(rows)
