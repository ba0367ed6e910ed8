"""Zero-shot action classification by filling the slots of a sentence (VideoBERT, Sun et al. 2019, section 4.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalPath, RunFolder, say
from coalign.data.videos.clip_features import ClipFeatures, rows_within
from coalign.data.videos.files import table_rows, times_of
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.files import write_table
from coalign.models.videobert.model import VideoBert
from coalign.tasks.videos._visual_words import load_videobert
from coalign.tasks.videos.next_visual_word import hits
from coalign.types import Batch, Packed, Text, Video

TEMPLATE = "now let me show you how to [MASK] the [MASK]."
CUTS = (1, 5)
SHOWN = 12  # clips in the picture


@dataclass(frozen=True)
class Clip:
    """A stretch of a video with the words that fill the slots."""

    video: str
    start: float
    end: float
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Evaluate:
    """Words that VideoBERT puts into the slots of a sentence about a clip: top-1 and top-5 accuracy, a slot at a time.

    No labels are trained on. All words of the vocabulary compete. "language" is the same model without the clip, as in
    the paper; "frequent" always gives the data's most frequent answers, which no model knows.
    """

    run: RunFolder
    data: Annotated[Path, arg(metavar="FILE")]
    """A .csv with columns video_id, start, end (seconds) and one a slot, by default verb and object."""
    features: Annotated[Path, arg(metavar="FOLDER")]
    """Features of these videos (`coalign extract video`)."""
    template: str = TEMPLATE
    """The sentence, with as many [MASK] as there are slots."""
    slots: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("verb", "object")
    """The columns of the words that fill them, in their order."""
    among_answers: Annotated[bool, arg(help_behavior_hint="")] = False
    """Let only the data's own answers compete, not all words."""
    batch_size: int = 64
    out: OptionalPath = None
    """A .png with some clips and what was filled in, which needs --videos; or a .csv with all."""
    videos: OptionalPath = None
    """The folder of the videos."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        model, tokenizer = load_videobert(self.run)
        if self.out is not None and self.out.suffix != ".csv" and self.videos is None:
            raise InputError("--out draws frames: it needs --videos; or give a .csv")
        features = ClipFeatures(self.features)
        clips, missing = read_clips(self.data, self.slots, features)
        text = tokenizer.encode_for([self.template], model.input_spec)
        masks = int((text.ids.values == tokenizer.mask_id).sum())
        if masks != len(self.slots):
            raise InputError(f"--template has {masks} [MASK], and there are {len(self.slots)} slots: {self.slots}")
        seen = torch.cat(
            [
                self.fill(model, text, [self.shown(features, clip) for clip in clips[at : at + self.batch_size]])
                for at in range(0, len(clips), self.batch_size)
            ]
        )
        alone = self.fill(model, text, None).expand(len(clips), -1, -1)
        metrics: dict[str, float] = {}
        unknown: set[str] = set()
        for place, slot in enumerate(self.slots):
            answers = [clip.answers[place] for clip in clips]
            ids = [own[0] if len(own := tokenizer.ids(word)) == 1 else -1 for word in answers]
            unknown |= {word for word, id in zip(answers, ids, strict=True) if id < 0}
            for name, scores in (("", seen[:, place]), ("language_", alone[:, place])):
                metrics |= {f"{name}{slot}_top{cut}": self.right(scores, ids, cut) for cut in CUTS}
            common = Counter(answers).most_common()
            metrics |= {f"frequent_{slot}_top{cut}": sum(n for _, n in common[:cut]) / len(clips) for cut in CUTS}
        if missing:
            say(f"{self.features}: has no features of {missing} videos of {self.data}; left out")
        if unknown:
            say(f"not one piece in the vocabulary, so never right: {', '.join(sorted(unknown)[:8])}")
        if self.out is not None:
            self.write(tokenizer, clips, seen)
        extra = {"missing_videos": missing, "words_in_pieces": len(unknown), "template": self.template}
        return TaskResult(metrics, len(clips), extra)

    def right(self, scores: Tensor, ids: Sequence[int], cut: int) -> float:
        """The share of clips whose answer is among the first."""
        known = torch.tensor(ids)
        if self.among_answers:
            kept = known.unique()
            kept = kept[kept >= 0]
            hidden = torch.ones(scores.shape[1], dtype=torch.bool).index_fill(0, kept, False)
            scores = scores.masked_fill(hidden, -torch.inf)
        usable = known >= 0
        if not usable.any():
            return 0.0
        return hits(scores[usable], known[usable], cut) * float(usable.float().mean())

    @staticmethod
    def shown(features: ClipFeatures, clip: Clip) -> Tensor:
        rows, times = features.read(clip.video)
        first, end = rows_within(times, clip.start, clip.end)
        return rows[first:end].float()

    @staticmethod
    def fill(model: VideoBert, text: Text, clips: Sequence[Tensor] | None) -> Tensor:
        """[B, slots, words] scores of the words in each slot; of the sentence alone where there are no clips."""
        count = 1 if clips is None else len(clips)
        repeated = Text(text.ids.select([0] * count))
        video = None if clips is None else Video(features=Packed.from_items(list(clips)))
        logits, _ = model.fill(Batch(text=repeated, video=video).to(next(model.parameters()).device))
        return logits.float().cpu().unflatten(0, (count, -1))

    def write(self, tokenizer: Any, clips: Sequence[Clip], scores: Tensor) -> None:
        """The first words of every slot, as a table or as a picture."""
        assert self.out is not None
        first = scores.topk(CUTS[-1], -1).indices
        words = [[[tokenizer.id_to_piece(id) for id in slot] for slot in clip] for clip in first.tolist()]
        if self.out.suffix == ".csv":
            names = ["video_id", "start", "end", *(f"{name}{k}" for name in self.slots for k in range(1, 6))]
            rows = [
                [clip.video, clip.start, clip.end, *(word for slot in own for word in slot)]
                for clip, own in zip(clips, words, strict=True)
            ]
            write_table(self.out, [names, *rows])
            return
        from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
        from coalign.analysis.runs.visual_words import Frames
        from coalign.data.images.pictures import save_picture

        assert self.videos is not None
        frames = Frames(self.videos, 160)
        cells: list[Cell] = []
        for place in range(0, len(clips), max(len(clips) // SHOWN, 1)):
            clip, own = clips[place], words[place]
            right = [slot[0] for slot in own] == list(clip.answers)
            said = " · ".join(slot[0] for slot in own)
            picture = frames.at(clip.video, (clip.start + clip.end) / 2)
            cells.append(Cell(picture, said if right else f"{said} (is {' · '.join(clip.answers)})", right=right))
        save_picture(contact_sheet(cells[:SHOWN], 4, 160, self.template), self.out)


def read_clips(path: Path, slots: Sequence[str], features: ClipFeatures) -> tuple[list[Clip], int]:
    """The rows whose videos have features, and how many videos have none.

    Raises:
        InputError: A column lacks, a row has no times, or none of the videos has features.
    """
    clips: list[Clip] = []
    missing: set[str] = set()
    rows = table_rows(path, {"video_id": ("video_id", "video"), **{slot: (slot,) for slot in slots}})
    for line, row in rows:
        times = times_of(path, line, row)
        if times is None:
            raise InputError(f"{path}: line {line}: needs start and end, in seconds")
        if row["video_id"] not in features:
            missing.add(row["video_id"])
            continue
        clips.append(Clip(row["video_id"], *times, tuple(row[slot].strip().lower() for slot in slots)))
    if not clips:
        raise InputError(f"{path}: none of its videos has features in {features.folder}")
    return clips, len(missing)
