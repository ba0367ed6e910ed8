"""MIL-NCE: End-to-End Learning of Visual Representations from Uncurated Instructional Videos (Miech et al., CVPR 2020).

A video network (S3D-G) reads a few seconds of frames, a small text tower reads a sentence of the narration: words'
vectors, a layer, the maximum over the words, a layer. The dot product of the two says how well they go together.
Narration is early, late or beside the point: each clip comes with its K nearest sentences, of which the objective
asks that some are right (`objectives.mil_nce`).

As in the authors' code a sentence of fewer words than `max_words` also has the padding word, which takes part in the
maximum (`padding_counts`; it does not depend on the batch, since the number of slots is fixed). The similarity is the
plain dot product, without temperature or normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from coalign.checkpoints import Rename, StateMap
from coalign.checkpoints.statemap import Rule
from coalign.errors import InputError
from coalign.layers.aligning import Aligning
from coalign.layers.s3d import Branches, S3d, S3dConfig
from coalign.objectives.mil_nce import MilNce
from coalign.ops.alignment import AlignmentRecord, Rows
from coalign.ops.collectives import gather
from coalign.trunks.reading import text_of
from coalign.types import FREE, Batch, Draws, Encoding, InputSpec, Model, Packed, Record, System
from coalign.types.spec import TextSpec, VideoSpec


@dataclass(frozen=True)
class MilNceConfig:
    """Sizes and settings; the defaults are the released model's.

    `train_words`: whether the words' vectors (word2vec's, in the paper) are trained; the authors' are not. Gathered
    over processes, `gather_gradient` "local" is the authors': each process gets its own rows' gradient of its loss.
    `bag` "max" is Max+NCE, see `objectives.mil_nce`.
    """

    video: S3dConfig = field(default_factory=S3dConfig)
    dim: int = 512
    vocab_size: int = 66250
    word_dim: int = 300
    text_hidden_dim: int = 2048
    max_words: int = 16
    padding_counts: bool = True
    train_words: bool = False
    gather_gradient: Literal["local", "exact"] = "local"
    bag: Literal["sum", "max"] = "sum"
    frames: int = 32
    fps: float = 10.0
    image_size: int = 224


_MIDDLE: tuple[Branches, ...] = ((16, 24, 32, 8, 16, 16),) * 2 + ((48, 32, 64, 8, 24, 24),) * 7
_SMALL: tuple[Branches, ...] = ((8, 12, 16, 4, 4, 4),) * 9
SIZES = {
    "released": MilNceConfig(),
    "training": MilNceConfig(S3dConfig(space_to_depth=False), max_words=20, image_size=200),
    "small": MilNceConfig(
        S3dConfig((16, 16, 48), _MIDDLE),
        128,
        vocab_size=5000,
        word_dim=100,
        text_hidden_dim=256,
        frames=16,
        image_size=96,
    ),
    "tiny": MilNceConfig(
        S3dConfig((8, 8, 16), _SMALL), 32, vocab_size=2000, word_dim=32, text_hidden_dim=64, frames=8, image_size=64
    ),
}


class TextTower(nn.Module):
    """Words to a vector: W2 max over words(relu(W1 v + b1)) + b2 (section 3.3). Word 0 is the padding word."""

    def __init__(self, config: MilNceConfig) -> None:
        super().__init__()
        self.max_words, self.padding_counts = config.max_words, config.padding_counts
        self.word = nn.Embedding(config.vocab_size, config.word_dim)
        self.word.weight.requires_grad_(config.train_words)
        self.up = nn.Linear(config.word_dim, config.text_hidden_dim)
        self.out = nn.Linear(config.text_hidden_dim, config.dim)

    def forward(self, ids: Packed) -> Tensor:
        """[B, dim] of the packed word ids; words past `max_words` are not read, a text may have none."""
        layout = ids.layout
        read = layout.position < self.max_words
        if layout.hidden is not None:
            read = read & ~layout.hidden
        rows = self.up(self.word(ids.values)).relu() * read[:, None]  # none is below 0: what is not read adds nothing
        if layout.total:
            highest = ids.with_values(rows).to_padded().amax(1)
        else:
            highest = rows.new_zeros(len(ids), self.out.in_features)
        if self.padding_counts:
            count = torch.zeros_like(layout.lengths).index_add(0, layout.item, read.to(layout.lengths.dtype))
            padding = self.up(self.word.weight[0]).relu()
            highest = torch.where((count < self.max_words)[:, None], torch.maximum(highest, padding), highest)
        return self.out(highest)

    def alone(self, ids: Packed) -> Tensor:
        """[T, dim] the vector of every word as if it were the whole sentence."""
        rows = self.up(self.word(ids.values)).relu()
        if self.padding_counts and self.max_words > 1:
            rows = torch.maximum(rows, self.up(self.word.weight[0]).relu())
        return self.out(rows)


class MilNceModel(Aligning, Model):
    """Both towers. A batch has videos (`Video.frames`) and texts, K in a row for each video."""

    similarity: Literal["dot"] = "dot"
    """The similarity by which retrieval compares `vectors`: as in training, the plain product."""
    METHODS = ("similarity",)

    def __init__(self, config: MilNceConfig) -> None:
        super().__init__()
        self.config = config
        self.video = S3d(config.video)
        self.project = nn.Linear(config.video.width, config.dim)
        self.text = TextTower(config)
        self.objective = MilNce(bag=config.bag)

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        text = TextSpec(c.vocab_size, c.max_words, separator=False)
        return InputSpec(text, video=VideoSpec(c.image_size, c.frames, c.fps))

    def encode_frames(self, frames: Tensor, record: Record | None = None) -> tuple[Tensor, Tensor]:
        """[B, width] the mean over time and space of the last block, and [B, dim] its projection."""
        if frames.shape[2] != 3:
            raise InputError(f"frames are [B, T, 3, H, W], got {tuple(frames.shape)}")
        feature = self.video(frames, record).mean((2, 3, 4))
        return feature, self.project(feature)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """`pooled`: "text" and "video" [B, dim], whose dot product is the similarity, and "video_feature" [B, width].

        `vectors` are the same two, not of unit length (`similarity`). `record` holds every stage of the video network.
        """
        kept: Record | None = {} if record else None
        pooled: dict[str, Tensor] = {}
        if batch.video is not None and batch.video.frames is not None:
            pooled["video_feature"], pooled["video"] = self.encode_frames(batch.video.frames, kept)
        if batch.text is not None:
            pooled["text"] = self.text(batch.text.ids)
        if not pooled:
            raise InputError("MIL-NCE reads videos' frames (Video.frames), or texts: the batch has neither")
        vectors = {name: pooled[name] for name in ("text", "video") if name in pooled}
        return Encoding({}, pooled, vectors, kept or {})

    def alignment_record(self, batch: Batch) -> AlignmentRecord:
        """Words on the moments of the last block, averaged over space: the product of each word's vector with each
        moment's. Since the projection is linear, the mean over moments is the one-word sentence's similarity."""
        if batch.video is None or batch.video.frames is None or batch.text is None:
            raise InputError("MIL-NCE aligns words with the moments of frames (Video.frames): this batch lacks one")
        moments = self.project(self.video(batch.video.frames, None).mean((3, 4)).transpose(1, 2))
        lengths, count = batch.text.ids.host_lengths.tolist(), moments.shape[1]
        words = self.text.alone(batch.text.ids).split(lengths)
        return AlignmentRecord(
            Rows.of("text", lengths),
            Rows.of("video", [count] * len(lengths)),
            [(count,)] * len(lengths),
            similarity=[own @ seen.T for own, seen in zip(words, moments, strict=True)],
        )

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """MIL-NCE of all processes' clips and sentences; sentence k of clip i is text i · K + k."""
        del draws
        if batch.video is None or batch.video.frames is None:
            raise InputError("training needs videos' frames (Video.frames), the batch has none")
        texts, clips = len(text_of(batch).ids), len(batch.video.frames)
        if clips == 0 or texts % clips:
            raise InputError(f"{texts} texts cannot be shared evenly by {clips} clips")
        pooled = self.encode(batch).pooled
        return {"mil_nce": self.loss(pooled["video"], pooled["text"])}

    def loss(self, video: Tensor, text: Tensor) -> Tensor:
        """The objective of vectors [B, D] and [B · K, D] of this process."""
        video, text = (gather(x, self.config.gather_gradient) for x in (video, text))
        return self.objective((video @ text.T).unflatten(1, (video.shape[0], -1)))


# ------------------------------------------------------------------------------------------------------- checkpoints
def _convolution(file: str, ours: str, separable: bool = False) -> list[Rule]:
    rules: list[Rule] = []
    for number, part in (("1", "space"), ("2", "time"))[: 1 + separable]:
        rules.append(Rename(f"{file}conv{number}.weight", f"{ours}{part}.weight"))
        rules.append(Rename(f"{file}bn{number}.{{p}}", f"{ours}{part}_norm.{{p}}"))
    return rules


def original(config: MilNceConfig, prefix: str = "") -> StateMap:
    """The authors' S3D: the released file; `prefix` "module." for those of their training script."""
    del config
    block, ours = f"{prefix}mixed_{{b}}.", "video.blocks.{b}."
    rules = [
        *_convolution(f"{prefix}conv1.", "video.conv1."),
        *_convolution(f"{prefix}conv_2b.", "video.conv_2b."),
        *_convolution(f"{prefix}conv_2c.", "video.conv_2c.", separable=True),
        Rename(f"{prefix}gating.fc.{{p}}", "video.gate.weigh.{p}"),
    ]
    parts = {"b0": "one", "b1_a": "reduce_a", "b1_b": "filter_a", "b2_a": "reduce_b", "b2_b": "filter_b"}
    for theirs, mine in (parts | {"b3_b": "pooled"}).items():
        rules += _convolution(f"{block}conv_{theirs}.", f"{ours}{mine}.", separable=mine.startswith("filter"))
    for number in range(4):
        rules.append(Rename(f"{block}gating_b{number}.fc.{{p}}", f"{ours}gates.{number}.weigh.{{p}}"))
    for theirs, mine in (("fc", "project"), ("text_module.fc1", "text.up"), ("text_module.fc2", "text.out")):
        rules.append(Rename(f"{prefix}{theirs}.{{p}}", f"{mine}.{{p}}"))
    rules.append(Rename(f"{prefix}text_module.word_embd.weight", "text.word.weight"))
    return StateMap(rules)


SYSTEM = System(
    name="mil_nce",
    title="MIL-NCE: video and narration that is not always in time",
    paper="Miech et al., CVPR 2020, arXiv 1912.06430",
    model=MilNceModel,
    config=MilNceConfig,
    sizes=SIZES,
    weights={"original": original},
    objectives=("mil_nce",),
)
