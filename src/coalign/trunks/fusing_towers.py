"""Shared by ALBEF and X-VLM: a text encoder whose second half fuses the text with an image by cross-attention (Li et
al. 2021, section 3.1), and what a model with such towers shows, matches and encodes."""

from __future__ import annotations

from torch import Tensor, nn

from coalign.layers.aligning import Aligning
from coalign.layers.fusion import fuse, fuse_at, fuse_first, fuse_pairs
from coalign.layers.heads import MaskedLMHead
from coalign.ops.alignment import AlignmentRecord, Attended, Method, Rows, cosines
from coalign.ops.attention import Mask
from coalign.trunks.bert import BertConfig
from coalign.trunks.pair_towers import PairTowers
from coalign.trunks.swin import SwinConfig
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Encoding, Packed, Record

WHOLE = slice(None)


class FusingTowers(PairTowers):
    """Both encoders, their projections, and with `words` the predictor of hidden words."""

    def __init__(self, image: VitConfig | SwinConfig, text: BertConfig, embed_dim: int, words: bool) -> None:
        super().__init__(image, text, embed_dim)
        self.words = MaskedLMHead(text.dim, text.vocab_size, eps=text.eps) if words else None

    @property
    def cross_from(self) -> int:
        """The first block that fuses."""
        return self.text.config.cross_from

    def read(self, ids: Packed, record: Record | None = None) -> Packed:
        """The text half: states before any image is seen."""
        return self.text(ids, last=self.cross_from, record=record)

    def fuse(self, text: Packed, image: Packed, mask: Mask | None = None, record: Record | None = None) -> Packed:
        """The fusion half: text i looks at image i, or as `mask` says."""
        return fuse(self.text.encoder, self.cross_from, text, image, mask, record)

    def fuse_first(self, text: Packed, image: Packed, texts: Tensor, images: Tensor) -> Tensor:
        """The fused [CLS] rows [P, dim] of these pairs of text and image numbers."""
        return fuse_first(self.text.encoder, self.cross_from, text, image, (texts, images))

    def predict(self, text: Packed, image: Packed, rows: Tensor) -> Tensor:
        """Vocabulary logits [n, V] at these rows of the texts, whose other rows the last block does not compute."""
        if self.words is None:
            raise ValueError("this model was made without the masked-word objective")
        states = fuse_at(self.text.encoder, self.cross_from, text, image, rows)
        return self.words(states, self.text.embedding.word.weight)

    @property
    def patch_rows(self) -> tuple[slice, slice, int]:
        """Which of the tower's rows, and which of those that the text looks at, are one stream of places; and how many
        of that stream come before the patches."""
        return WHOLE, WHOLE, self.image.leading


class FusedPairs(Aligning):
    """A model with `towers` that fuse and a `match_head` on the fused [CLS]."""

    match_head: nn.Module

    @property
    def towers(self) -> FusingTowers:
        raise NotImplementedError

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States and unit vectors of what the batch holds; with both modalities also "fused" states and match logits of
        text i with image i, or with the whole image that it is about where the batch has `places`.

        With `record`: "image.{i}.attention", "text.{i}.attention", "fusion.{i}.cross_attention" and "...hidden".
        """
        kept: Record | None = {} if record else None
        tokens, vectors, pooled = dict[str, Packed](), dict[str, Tensor](), dict[str, Tensor]()
        if batch.images is not None:
            tokens["image"] = self.towers.see(batch.images, record=kept)
            vectors["image"] = self.towers.image_vector(tokens["image"])
        if batch.text is not None:
            tokens["text"] = self.towers.read(batch.text.ids, record=kept)
            vectors["text"] = self.towers.text_vector(tokens["text"])
        if batch.images is not None and batch.text is not None:
            text, image, mask = tokens["text"], tokens["image"], None
            if batch.places is not None:
                mask = Mask.between(text, image, batch.places.images)
            tokens["fused"] = self.towers.fuse(text, image, mask, record=kept)
            pooled["match_logits"] = self.match_head(tokens["fused"].first)
        return Encoding(tokens, pooled, vectors, kept or {})

    def match(self, images: Packed, texts: Packed, pairs: Tensor) -> Tensor:
        """Matching logits [P] of pairs [P, 2] of (image, text) numbers, from states that `encode` gave."""
        rows = fuse_pairs(self.towers.text.encoder, self.towers.cross_from, images, texts, pairs)
        return self.match_head(rows)[:, 1]

    @property
    def alignment_block(self) -> int:
        """The fusion block that shows alignment: the third, as in ALBEF's paper, or the last of fewer."""
        return min(self.towers.cross_from + 2, self.towers.text.config.depth - 1)

    @property
    def alignment_methods(self) -> tuple[Method, ...]:
        """Grad-CAM first, as in ALBEF's paper; where only the last fusion block could show it, it says nothing of
        words, since the matching logit reads that block's [CLS] row alone, and plain cross-attention is first."""
        if self.alignment_block == self.towers.text.config.depth - 1:
            return ("cross_attention", "rollout", "relevance", "similarity")
        return ("grad_cam", "cross_attention", "rollout", "relevance", "similarity")

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on patches, by the cross-attention of `alignment_block` (ALBEF, section 6.4) or through all blocks.

        "similarity" is the cosine of projected word and patch states; the papers train it on the first rows alone.
        """
        assert batch.text is not None
        towers, seen = self.towers, self.encode(batch, record=True)
        kept, image, text = seen.record, towers.image.config, towers.text.config
        own, looked, first = towers.patch_rows
        layers = [
            [Attended("image", "image", kept[f"image.{i}.attention"], own, own)] for i in range(towers.image.attended)
        ]
        for i in range(text.depth):
            part = "fusion" if i >= text.cross_from else "text"
            layers.append([Attended("text", "text", kept[f"{part}.{i}.attention"])])
            if part == "fusion":
                layers.append([Attended("text", "image", kept[f"fusion.{i}.cross_attention"], columns=looked)])
        words, count = batch.text.ids.host_lengths.tolist(), len(batch.text.ids)
        pieces = towers.text_projection(seen.tokens["text"].values)
        patches = towers.image_projection(seen.tokens["image"].to_padded()[:, looked][:, first:])
        block, (rows, columns) = self.alignment_block - text.cross_from, image.grid_size
        return AlignmentRecord(
            Rows.of("text", words),
            Rows.of("image", [rows * columns] * count, first),
            [(rows, columns)] * count,
            layers,
            score=seen.pooled["match_logits"][:, 1],
            similarity=cosines(seen.tokens["text"].with_values(pieces), Packed.uniform(patches)),
            cross_layer=block,
            grad_layer=block,
        )
