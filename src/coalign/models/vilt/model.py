"""ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision (Kim et al., ICML 2021, arXiv
2102.03334).

No detector and no image encoder: linearly embedded patches stand behind the words in one pre-norm transformer, which
starts as a ViT. Pre-training hides whole words (MLM) and swaps the image of half the texts (ITM), where the words are
also aligned with the patches by optimal transport (WPA). Images keep their proportions: a batch pads them with zeros,
each has its position table resized to its own grid, and of many patches a random set is kept.

Departures: which patches are real is said by `Images.sizes` (`real_patches="pixels"` is the original, which takes any
patch with a black corner for padding); padding is not computed; a wrong image comes from the batch, not from the whole
corpus; hidden words are drawn one by one at 15 %, not as exactly 15 % of a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.dropout import Dropout
from coalign.layers.embeddings import PatchEmbedding, TextEmbedding
from coalign.layers.heads import MaskedLMHead, Pooler
from coalign.layers.initialise import init_truncated
from coalign.layers.joint import Joint, same_items, with_words
from coalign.layers.transformer import Encoder
from coalign.models.vilt.names import original, transformers
from coalign.objectives.masked_lm import MaskedLM
from coalign.objectives.matching import Matching
from coalign.objectives.transport_alignment import TransportAlignment
from coalign.ops.alignment import AlignmentRecord, Method, log_odds
from coalign.ops.masking import Drawn, mask_tokens
from coalign.ops.packing import real_cells
from coalign.ops.pairing import draw_partners
from coalign.ops.patches import choose_patches, pack_patches, patches_of_pixels, patches_of_sizes, resized_positions
from coalign.ops.transport import Transport, transport
from coalign.trunks.bert import init_bert
from coalign.trunks.vit import VitConfig
from coalign.types import FREE, Batch, Draws, Encoding, Images, InputSpec, Model, Packed, Record, System, Text
from coalign.types.packed import change_tensors, to_device
from coalign.types.spec import ImageSpec, TextSpec


@dataclass(frozen=True)
class ViltConfig:
    """Sizes and settings; the defaults are the paper's ViLT-B/32 (section 4.2).

    `image` is the transformer, its `image_size` that of the position table. `modalities` is 3 for NLVR2, where the
    second image has a row of its own.
    """

    image: VitConfig = field(default_factory=lambda: VitConfig(image_size=384, patch_size=32, dropout=0.1))
    vocab_size: int = 30522
    max_text_length: int = 40
    text_eps: float = 1e-12
    modalities: int = 2
    input_size: int | None = None
    """Shorter side of the pictures that `prepare` makes; the table's where None. Positions are resized to any."""
    max_patches: int | None = 200
    """Patches an image keeps in training; None keeps all, as `encode` does."""
    real_patches: Literal["sizes", "pixels"] = "sizes"
    objectives: tuple[Literal["mlm", "itm"], ...] = ("mlm", "itm")
    alignment_weight: float = 0.1
    """Weight of the word-patch alignment beside ITM; 0 leaves it out."""
    mask_probability: float = 0.15
    mask_id: int = 103
    special_ids: tuple[int, ...] = (0, 101, 102)


_TINY = VitConfig(image_size=64, patch_size=16, dim=128, depth=4, heads=4, hidden_dim=512)
SIZES = {"base-32": ViltConfig(), "tiny": ViltConfig(_TINY)}


class ViltTrunk(nn.Module):
    """Word and patch embeddings, the blocks with their final norm, and the pooler."""

    def __init__(self, config: ViltConfig) -> None:
        super().__init__()
        c, v = config, config.image
        self.config = config
        self.patch = PatchEmbedding(v.patch, v.dim)
        self.class_token = Parameter(torch.zeros(1, 1, v.dim))
        self.positions = Parameter(torch.zeros(1, 1 + math.prod(v.grid_size), v.dim))
        self.dropout = Dropout(v.dropout)
        self.encoder = Encoder(v.block, v.depth)
        self.apply(init_truncated)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        self.embedding = TextEmbedding(
            c.vocab_size, v.dim, positions=c.max_text_length, eps=c.text_eps, dropout=v.dropout
        )
        self.modality = nn.Embedding(c.modalities, v.dim)
        self.pooler = Pooler(v.dim)
        for part in (self.embedding, self.modality, self.pooler):
            part.apply(init_bert)

    def real(self, images: Images) -> Bool[Tensor, "b rows columns"]:
        """Which patches of a batch of images are real: on the host, where the images' sizes are."""
        pixels, patch = self._pixels(images), self.config.image.patch
        rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
        if self.config.real_patches == "pixels":
            return patches_of_pixels(pixels, patch).cpu()
        if images.sizes is not None:
            return patches_of_sizes(images.sizes, rows, columns, patch)
        return torch.ones(len(images), rows, columns, dtype=torch.bool)

    def patches(self, images: Images) -> Packed:
        """The numbers of all real patches of each image."""
        real = self.real(images).flatten(1)
        return pack_patches(choose_patches(real, None), real)

    def embed_image(self, images: Images, patches: Packed, source: Int[Tensor, " items"] | None = None) -> Packed:
        """[CLS] and patch rows with their positions. Item i shows image `source[i]` (its own where None)."""
        pixels = self._pixels(images)
        patches = change_tensors(patches, lambda tensor: to_device(tensor, pixels.device))
        real, item = self.real(images), patches.layout.item
        image = item if source is None else source[item]
        rows = self.patch.chosen(pixels, image, patches.values)
        shape = to_device(torch.stack([real[:, :, 0].sum(1), real[:, 0].sum(1)], 1), pixels.device)[image]
        row, column = patches.values // real.shape[2], patches.values % real.shape[2]
        rows = rows + resized_positions(self.positions[0, 1:], self.config.image.grid_size, shape, row, column)
        first = (self.class_token + self.positions[:, :1]).expand(len(patches), -1, -1)
        joined = Packed.concat(Packed.uniform(first), patches.with_values(rows))
        return joined.with_values(self.dropout(joined.values))

    def stream(
        self, text: Text, images: Images, patches: Packed | None = None, source: Tensor | None = None, *, kind: int = 1
    ) -> Joint:
        """The rows of words and patches that the blocks read; `kind` is the modality row of the images."""
        patches = self.patches(images) if patches is None else patches
        image = self.embed_image(images, patches, source)
        words = text.ids.with_values(self.embedding(text.ids, text.types) + self.modality.weight[0])
        return Joint.of(words, image.with_values(image.values + self.modality.weight[kind]))

    def forward(self, *given: Any, record: Record | None = None, first: bool = False, **options: Any) -> Joint:
        """States of what `stream` makes of `given`: of all rows, or of [CLS] alone."""
        return self.stream(*given, **options).through(self.encoder, record, first=first)

    def pool(self, joint: Joint) -> Tensor:
        return self.pooler(joint.rows.first)

    def _pixels(self, images: Images) -> Tensor:
        if images.pixels is None:
            raise InputError("ViLT reads pixels, and the batch holds none")
        (height, width), patch = images.pixels.shape[2:], self.config.image.patch
        if height % patch[0] or width % patch[1]:
            size = patch[0] if patch[0] == patch[1] else f"{patch[0]}x{patch[1]}"
            raise InputError(f"images of {height}x{width} pixels are no whole number of patches of {size}")
        return images.pixels


class Vilt(Aligning, Model):
    """The pre-training model."""

    def __init__(self, config: ViltConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ViltTrunk(config)
        dim = config.image.dim
        self.words = MaskedLMHead(dim, config.vocab_size, tied=False, eps=config.text_eps)
        self.match_head = nn.Linear(dim, 2) if "itm" in config.objectives else None
        for head in (self.words, self.match_head):
            if head is not None:
                head.apply(init_bert)
        self.mlm, self.itm, self.alignment_loss = MaskedLM(), Matching(), TransportAlignment()

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of words and patches (the image's first row is its [CLS]), the pooled text [CLS], matching logits.

        With `record`: "joint.{i}.attention" [B, heads, L, L] over text rows, then image rows; "joint.{i}.hidden"; and
        the word-patch "transport.cost" and "transport.plan" [B, words, image rows].
        """
        kept: Record | None = {} if record else None
        joint = self.trunk(*pair_of(batch), record=kept)
        pooled = {"pooled": self.trunk.pool(joint)}
        if self.match_head is not None:
            pooled["match_logits"] = self.match_head(pooled["pooled"])
        if kept is not None:
            alignment = self.align(joint)
            kept |= {"transport.cost": alignment.cost, "transport.plan": alignment.plan}
        return Encoding(joint.tokens("image"), pooled, {}, kept or {})

    def align(self, joint: Joint) -> Transport:
        """Transport between words and patches, without either [CLS] and the text's last piece (section 3.2)."""
        text, image = joint.split()
        last = text.padding_mask().sum(1)[text.layout.item] - 1
        place = text.layout.position
        return transport(text, image, (place > 0) & (place < last), image.layout.position > 0)

    @property
    def alignment_methods(self) -> tuple[Method, ...]:
        with_score: tuple[Method, ...] = () if self.match_head is None else ("grad_cam", "relevance")
        return ("transport", "cross_attention", "rollout", *with_score, "similarity")

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on patches, each image's of its own grid."""
        text, images = pair_of(batch)
        patches, real = self.trunk.patches(images), self.trunk.real(images)
        kept: Record = {}
        joint = self.trunk(text, images, patches, record=kept)
        plan = real_cells(self.align(joint).plan[:, :, 1:], text.ids.layout, patches.layout)
        score = None if self.match_head is None else log_odds(self.match_logits(joint))
        shapes = [(int(own.any(1).sum()), int(own.any(0).sum())) for own in real]
        cells = [
            own // real.shape[2] * columns + own % real.shape[2]
            for own, (_, columns) in zip(patches.values.split(patches.host_lengths.tolist()), shapes, strict=True)
        ]
        return replace(joint.alignment(kept, before=1, score=score, plan=plan), shapes=shapes, cells=cells)

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """MLM; ITM with word-patch alignment ("wpa", its weight included). `choices` may hold what `draw` draws."""
        text, images = pair_of(batch)
        wanted = self.config.objectives if draws.only is None else draws.only
        shown = pair_of(batch.host)[1]
        real, device = self.trunk.real(shown).flatten(1), text.ids.layout.device
        drawn = Drawn(self.draw(batch.host, real, draws.on_host, draws.choices, wanted), device)
        losses: dict[str, Tensor] = {}
        if "mlm" in wanted:
            patches = pack_patches(drawn.host["select_mlm"], real[: len(text.ids)])
            stream = self.trunk.stream(with_words(text, drawn["mlm_input_ids"]), images, patches)
            read = stream.read(self.trunk.encoder, drawn.host_rows("mlm_labels"))
            losses["mlm"] = self.mlm(self.words(read.text), drawn["mlm_labels"][drawn.rows("mlm_labels")])
        if "itm" in wanted:
            source, matched = drawn["image_index"], drawn["matched"]
            patches = pack_patches(drawn.host["select_itm"], real[drawn.host["image_index"]])
            joint = self.trunk(text, images, patches, source, first=not self.config.alignment_weight)
            losses["itm"] = self.itm(self.match_logits(joint), matched.long())
            if self.config.alignment_weight:
                distance = self.align(joint).distance
                losses["wpa"] = self.config.alignment_weight * self.alignment_loss(distance, matched)
        return losses

    def draw(
        self,
        batch: Batch,
        real: Bool[Tensor, "b p"],
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
        wanted: Sequence[str],
    ) -> dict[str, Tensor]:
        """Every random choice of a step: hidden words [T], the image of each text [B], patches to keep [B, N]."""
        assert batch.text is not None
        c, drawn, text = self.config, dict(choices), batch.text
        size = len(text.ids)
        if "mlm" in wanted and "mlm_input_ids" not in drawn:
            special = torch.isin(text.ids.values, torch.tensor(c.special_ids))
            drawn["mlm_input_ids"], drawn["mlm_labels"] = mask_tokens(
                text.ids.values,
                ~special,
                probability=c.mask_probability,
                mask_id=c.mask_id,
                vocab_size=c.vocab_size,
                generator=generator,
                words=text.words,
            )
        if "itm" in wanted and "image_index" not in drawn:
            other = draw_partners(size, batch.ids, probability=1.0, generator=generator)
            swapped = torch.rand(size, generator=generator).argsort() >= size // 2
            drawn["image_index"] = torch.where(swapped, other, torch.arange(size))
            drawn["matched"] = same_items(drawn["image_index"], batch.ids)
        for name in ("mlm", "itm"):
            if name in wanted and f"select_{name}" not in drawn:
                shown = real[drawn["image_index"]] if name == "itm" else real
                drawn[f"select_{name}"] = choose_patches(shown, c.max_patches, generator)
        return drawn

    def match_logits(self, joint: Joint) -> Float[Tensor, "b 2"]:
        """Matching logits, 1: match."""
        if self.match_head is None:
            raise InputError("this ViLT was made without the matching objective")
        return self.match_head(self.trunk.pool(joint))


def input_spec_of(config: ViltConfig) -> InputSpec:
    side = config.input_size or config.image.image_size
    image = ImageSpec((side, side), resize="proportion", multiple=math.lcm(*config.image.patch))
    return InputSpec(TextSpec(config.vocab_size, config.max_text_length), image)


def pair_of(batch: Batch) -> tuple[Text, Images]:
    if batch.text is None or batch.images is None:
        raise InputError("ViLT reads a text with an image: this batch lacks one of them")
    return batch.text, batch.images


SYSTEM = System(
    name="vilt",
    title="ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision",
    paper="Kim et al., ICML 2021, arXiv 2102.03334",
    model=Vilt,
    config=ViltConfig,
    sizes=SIZES,
    weights={"original": original, "transformers": transformers},
    objectives=("mlm", "itm", "wpa"),
    with_image_size=lambda config, size: replace(config, input_size=size),
)
