"""VideoBERT: A Joint Model for Video and Language Representation Learning (Sun et al., ICCV 2019, arXiv 1904.01766).

Features of short clips (S3D, 1.5 seconds) become visual words by hierarchical k-means (`ops.kmeans`), which follow the
text's words in one table. BERT reads "[CLS] words [>] visual words [SEP]", or either part alone. It predicts hidden
words of both kinds over the joint vocabulary, and says from [CLS] whether the text goes with the video (class 0: it
does).

No code or weights were released, and the public re-implementation takes the nearest of all leaves where the paper
descends the tree. What the paper leaves open: [>] is BERT's [unused0], visual words are of segment 1, a wrong text
comes from the batch, and its words are not predicted. `data.video_sentences` joins neighbouring sentences and takes
every n-th visual word only (section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checkpoints import Rename, StateMap
from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.heads import MaskedLMHead, Pooler
from coalign.layers.joint import Joint
from coalign.models.bert.heads import BertTask
from coalign.models.bert.model import Bert
from coalign.objectives.classification import Classification
from coalign.objectives.masked_lm import MaskedLM
from coalign.ops.alignment import AlignmentRecord, log_odds
from coalign.ops.kmeans import descend, grow, leaves
from coalign.ops.masking import IGNORED, Drawn, mask_tokens, predicted_rows
from coalign.ops.packing import insert_row
from coalign.ops.pairing import draw_partners
from coalign.trunks.bert import SIZES as BERT_SIZES
from coalign.trunks.bert import BertConfig, BertTrunk, init_bert
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, Record, System
from coalign.types.packed import to_device
from coalign.types.spec import StreamSpec, TextSpec


@dataclass(frozen=True)
class VideoBertConfig:
    """`trunk` is BERT with its text vocabulary; the leaves of a tree of `branching`^`levels` come after it."""

    trunk: BertConfig = field(default_factory=lambda: BERT_SIZES["large"])
    feature_width: int = 1024
    branching: int = 12
    levels: int = 4
    objectives: tuple[Literal["mlm", "align"], ...] = ("mlm", "align")
    mask_probability: float = 0.15
    mismatch_probability: float = 0.5
    max_text_length: int = 128
    join_id: int = 1
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103

    @property
    def joint(self) -> BertConfig:
        """BERT with the visual words in its table."""
        return replace(self.trunk, vocab_size=self.trunk.vocab_size + self.branching**self.levels)


SIZES = {
    "large": VideoBertConfig(),
    "base": VideoBertConfig(BERT_SIZES["base"]),
    "tiny": VideoBertConfig(BERT_SIZES["tiny"], branching=4, levels=2),
}


class VisualWords(nn.Module):
    """From features to visual words. The tree is kept with the weights and is not trained with them."""

    def __init__(self, width: int, branching: int, levels: int) -> None:
        super().__init__()
        self.width, self.branching, self.levels = width, branching, levels
        for level in range(levels):
            self.register_buffer(f"level{level}", torch.zeros(branching**level, branching, width))

    @property
    def tree(self) -> list[Tensor]:
        return [self.get_buffer(f"level{level}") for level in range(self.levels)]

    def path(self, features: Tensor) -> Tensor:
        """[T, levels] the child taken at each level."""
        if features.shape[-1] != self.width:
            raise InputError(f"clips have {features.shape[-1]} features, the tree was grown from {self.width}")
        return descend(features, self.tree)

    def forward(self, features: Tensor) -> Tensor:
        """[T] the leaf of each clip's feature."""
        return leaves(self.path(features), self.branching)

    @torch.no_grad()
    def plant(self, tree: Sequence[Tensor]) -> None:
        """Takes a tree that was grown before (`ops.kmeans.grow_from`)."""
        shapes = [[list(level.shape) for level in levels] for levels in (self.tree, tree)]
        if shapes[0] != shapes[1]:
            raise InputError(f"the tree has levels of {shapes[1]}, this model reads {shapes[0]}")
        for own, centres in zip(self.tree, tree, strict=True):
            own.copy_(centres)

    def grow(self, features: Tensor, *, steps: int = 20, generator: torch.Generator | None = None) -> None:
        """Finds the tree of these features [N, width] of the training set; do it once, before training."""
        self.plant(grow(features, self.branching, self.levels, steps=steps, generator=generator))


class VideoBert(Aligning, Model):
    """BERT over words and visual words. A batch has texts, videos (`Video.features`, one row a clip), or both."""

    match_class = 0
    METHODS = ("grad_cam", "relevance", "rollout", "cross_attention", "similarity")

    def __init__(self, config: VideoBertConfig) -> None:
        super().__init__()
        self.config = config
        trunk = config.joint
        self.visual = VisualWords(config.feature_width, config.branching, config.levels)
        self.trunk = BertTrunk(trunk)
        self.pooler = Pooler(trunk.dim)
        self.words = MaskedLMHead(trunk.dim, trunk.vocab_size, eps=trunk.eps, activation=trunk.activation)
        self.match_head = nn.Linear(trunk.dim, 2)
        for part in (self.pooler, self.words, self.match_head):
            part.apply(init_bert)
        self.mlm, self.align = MaskedLM(), Classification()

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        return InputSpec(
            TextSpec(c.trunk.vocab_size, min(c.max_text_length, c.trunk.positions)),
            streams=StreamSpec({"video": c.feature_width}),
        )

    @torch.no_grad()
    def start_from(self, pretrained: Bert | BertTask) -> None:
        """Copies a pre-trained BERT of the same size, with its heads where it has them; the visual words stay new."""
        ours, theirs = self.trunk.state_dict(), pretrained.trunk.state_dict()
        words = theirs.pop("embedding.word.weight")
        for name, tensor in theirs.items():
            ours[name].copy_(tensor)
        ours["embedding.word.weight"][: words.shape[0]].copy_(words)
        if pretrained.pooler is not None:
            self.pooler.load_state_dict(pretrained.pooler.state_dict())
        if isinstance(pretrained, Bert) and pretrained.words is not None:
            head = pretrained.words.state_dict()
            self.words.bias[: words.shape[0]].copy_(head.pop("bias"))
            self.words.load_state_dict(head, strict=False)

    def tokens(self, video: Packed) -> Packed:
        """Ids of the visual words: the text's vocabulary, then the leaves."""
        return video.with_values(self.config.trunk.vocab_size + self.visual(video.values))

    def parts(self, batch: Batch) -> dict[str, Packed]:
        """The ids "text" and "video" that make the sequence, as many as the batch has of the two.

        Together: "[CLS] words [>]" and "visual words [SEP]"; a video alone begins with [CLS].
        """
        c, parts = self.config, dict[str, Packed]()
        if batch.text is not None:
            parts["text"] = batch.text.ids
        if batch.video is not None and batch.video.features is not None:
            video = self.tokens(batch.video.features)
            rows = video.offsets.new_full((len(video),), c.sep_id)
            video = insert_row(video, rows, video.max_length)
            if batch.text is None:
                video = insert_row(video, torch.full_like(rows, c.cls_id), 0)
            else:
                ids = batch.text.ids
                parts["text"] = ids.with_values(ids.values.masked_fill(ids.values == c.sep_id, c.join_id))
            parts["video"] = video
        if not parts:
            raise InputError("VideoBERT reads texts, clips' features (Video.features), or both: the batch has neither")
        if any(part.layout.hidden is not None for part in parts.values()):
            raise InputError("VideoBERT numbers positions through both parts: pack the batch without padding")
        return parts

    def read(self, parts: Mapping[str, Packed], record: Record | None = None) -> Packed:
        """States of the joint sequence of these ids."""
        sequence = join(parts)
        types = join(
            {name: x.with_values(torch.full_like(x.values, int(name == "video"))) for name, x in parts.items()}
        )
        return self.trunk(sequence, types.values, record=record, name="fused.")

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States "fused" of the whole sequence, and its parts "text" and "video" (with [SEP]); `pooled` has "fused",
        and "match_logits" where the batch has both. With `record`: "fused.{i}.attention" and "fused.{i}.hidden".
        """
        kept: Record | None = {} if record else None
        parts = self.parts(batch)
        states = self.read(parts, kept)
        tokens, pooled = {"fused": states}, {"fused": self.pooler(states.first)}
        if len(parts) == 2:
            tokens["text"], tokens["video"] = states.split(parts["text"].layout, parts["video"].layout)
            pooled["match_logits"] = self.match_head(pooled["fused"])
        else:
            tokens |= dict.fromkeys(parts, states)
        return Encoding(tokens, pooled, record=kept or {})

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on clips, the moments of a video."""
        parts = self.parts(batch)
        if len(parts) < 2:
            raise InputError("VideoBERT aligns the words of a text with the clips of a video: this batch lacks one")
        kept: Record = {}
        states = self.read(parts, kept)
        joint = Joint(states, parts["text"].layout, parts["video"].layout)
        score = log_odds(self.match_head(self.pooler(states.first)), self.match_class)
        return joint.alignment(kept, "fused.", after=1, score=score)

    def predict(self, states: Packed, rows: Tensor) -> Tensor:
        """Logits [n, words + leaves] at these rows only."""
        return self.words(states.values[rows], self.trunk.embedding.word.weight)

    @torch.no_grad()
    def fill(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [n, words] at the [MASK]s of the texts, seen with the clips where the batch has some (4.4: slots that
        verbs and objects fill); and [n] the item of each."""
        parts = self.parts(batch)
        if "text" not in parts:
            raise InputError("there are no texts with words to fill in")
        rows = (join(parts).values == self.config.mask_id).nonzero().squeeze(1)
        states = self.read(parts)
        return self.predict(states, rows)[:, : self.config.trunk.vocab_size], states.layout.item[rows]

    @torch.no_grad()
    def forecast(self, video: Packed) -> Tensor:
        """Logits [B, leaves] of the visual word that comes after these clips' features."""
        ids = self.tokens(video)
        rows = ids.offsets.new_full((len(ids),), 0)
        for id, place in ((self.config.cls_id, 0), (self.config.mask_id, None), (self.config.sep_id, None)):
            ids = insert_row(ids, rows + id, ids.max_length if place is None else place)
        masked = (ids.values == self.config.mask_id).nonzero().squeeze(1)
        return self.predict(self.read({"video": ids}), masked)[:, self.config.trunk.vocab_size :]

    # -------------------------------------------------------------------------------------------------- training
    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Hidden words of both kinds, and alignment where the batch has texts and videos (section 3.2)."""
        wanted = [name for name in self.config.objectives if draws.wants(name)]
        parts = self.parts(batch)
        if len(parts) < 2:
            wanted = [name for name in wanted if name != "align"]
        device = next(iter(parts.values())).layout.device
        d = Drawn(self.draw(parts, batch, draws.on_host, draws.choices, wanted), device)
        if len(parts) == 2:
            parts["text"] = parts["text"].select(d.host["partner"])
        shown = {name: x.with_values(d[f"{name}_input_ids"]) for name, x in parts.items()}
        states, losses = self.read(shown), dict[str, Tensor]()
        if "mlm" in wanted:
            labels = join({name: x.with_values(d[f"{name}_labels"]) for name, x in parts.items()}).values
            rows = predicted_rows(labels)
            losses["mlm"] = self.mlm(self.predict(states, rows), labels[rows])
        if "align" in wanted:
            losses["align"] = self.align(self.match_head(self.pooler(states.first)), d["mismatched"].long())
        return losses

    @torch.no_grad()
    def draw(
        self,
        parts: Mapping[str, Packed],
        batch: Batch,
        generator: torch.Generator | None,
        choices: Mapping[str, Tensor],
        wanted: Sequence[str],
    ) -> dict[str, Tensor]:
        """Every random choice of a step, by name: whose text, and which words are hidden. `choices` go first."""
        c, d = self.config, dict(choices)
        if len(parts) == 2:
            swap = c.mismatch_probability if "align" in wanted else 0.0
            size = len(parts["text"])
            if "partner" not in d:
                d["partner"] = draw_partners(size, batch.host.ids, probability=swap, generator=generator)
            d.setdefault("mismatched", d["partner"] != torch.arange(size))
        special = torch.tensor([c.cls_id, c.sep_id, c.join_id])
        device = next(iter(parts.values())).layout.device
        special = to_device(special, device)
        for name, own in parts.items():
            if f"{name}_input_ids" in d:
                continue
            x = own.select(d["partner"]) if name == "text" and "partner" in d else own
            d[f"{name}_input_ids"], labels = mask_tokens(
                x.values,
                ~torch.isin(x.values, special),
                probability=c.mask_probability if "mlm" in wanted else 0.0,
                mask_id=c.mask_id,
                vocab_size=c.joint.vocab_size,
                generator=generator,
            )
            wrong = (
                to_device(d["mismatched"].bool(), device)[x.layout.item]
                if "mismatched" in d
                else torch.zeros_like(labels).bool()
            )
            d[f"{name}_labels"] = labels.masked_fill(wrong, IGNORED)
        return d


def join(parts: Mapping[str, Packed]) -> Packed:
    """The sequence: the text's rows, then the video's."""
    return Packed.concat(parts["text"], parts["video"]) if len(parts) == 2 else next(iter(parts.values()))


# ------------------------------------------------------------------------------------------------------- checkpoints
def plain(config: VideoBertConfig) -> StateMap:
    """Our own names: there are no others."""
    del config
    return StateMap(Rename("{rest}", "{rest}"))


SYSTEM = System(
    name="videobert",
    title="VideoBERT: words and visual words in one sequence",
    paper="Sun et al., ICCV 2019, arXiv 1904.01766",
    model=VideoBert,
    config=VideoBertConfig,
    sizes=SIZES,
    weights={"coalign": plain},
    objectives=("mlm", "align"),
)
