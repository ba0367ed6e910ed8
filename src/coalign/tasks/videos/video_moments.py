"""ActBERT's objectives on held-out narrated videos: masked words, regions, actions, and which text goes where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import OptionalPath, RunFolder, load_run, run_config, say
from coalign.data.videos.clip_features import ClipFeatures
from coalign.data.videos.moments import ActionLabels, Moments, NarratedMoment, read_action_labels
from coalign.data.videos.narrated import open_narrated
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.models.actbert.model import ActBert
from coalign.ops.packing import moved_rows
from coalign.ops.pairing import take_texts
from coalign.progress import with_progress
from coalign.retrieval.metrics import CUTS, ranks, summarise
from coalign.types import Batch

ROWS, BEST = 6, 4  # texts in the picture, and moments of each


@dataclass(frozen=True)
class Evaluate:
    """Accuracy of ActBERT's four objectives on held-out videos, and text to video retrieval by its matching.

    Words: each word piece is hidden in turn. Regions, actions: all of one kind are hidden, and the likeliest class is
    held against the given one. Retrieval: each text is judged with each of --gallery moments; texts that are alike are
    one. Chance and the share of the most frequent answer stand beside the figures.
    """

    run: RunFolder
    data: Annotated[Path, arg(metavar="FOLDER")]
    """A folder of videos with subtitles beside them."""
    features: Annotated[Path, arg(metavar="FOLDER")]
    """Features of their clips."""
    regions: Annotated[Path, arg(metavar="PATH")]
    """Regions of their frames."""
    captions: OptionalPath = None
    """Where subtitles are instead."""
    actions: OptionalPath = None
    """Labels of actions: a .csv with columns video_id, start, end, label."""
    gallery: int = 100
    """Moments among which a text's own is searched; 0 leaves retrieval out."""
    most: int = 1000
    """Sentences that are used at most."""
    batch_size: int = 64
    seed: int = 0
    """Draws the sentences and the gallery."""
    out: OptionalPath = None
    """A .png to write: some texts, and the moments that go best with them."""

    def evaluate(self) -> TaskResult:
        """Measures the run."""
        from coalign.data.regions.files import open_regions
        from coalign.data.videos.regions import VideoRegions

        loaded = load_run(self.run)
        model = loaded.model
        if not isinstance(model, ActBert):
            raise InputError(f"{self.run}: {type(model).__name__} reads no actions and regions; give a run of ActBERT")
        features, regions = ClipFeatures(self.features), VideoRegions(open_regions(self.regions))
        opened = open_narrated(self.data, captions=self.captions)
        said = opened.said(self.data, features=features, regions=regions)
        items = [NarratedMoment(video, narration) for video, each in said.items() for narration in each]
        generator = torch.Generator().manual_seed(self.seed)
        items = [items[place] for place in torch.randperm(len(items), generator=generator)[: self.most].tolist()]
        config = run_config(self.run)
        labels = self.labels(config)
        make = Moments(features, regions, labels, loaded.spec, loaded.vocabulary, float(config.get("around", 0.0)))
        metrics: dict[str, float] = {}
        parts = [items[at : at + self.batch_size] for at in range(0, len(items), self.batch_size)]
        pairs: dict[str, list[Tensor]] = {"words": [], "regions": [], "actions": []}
        with torch.no_grad():
            for part in with_progress(parts, "hidden words, regions, actions", len(parts), True):
                batch = make(part).to(next(model.parameters()).device)
                pairs["words"].append(hidden_words(model, batch))
                if (
                    batch.regions is not None
                    and batch.regions.classes is not None
                    and "regions" in model.config.objectives
                ):
                    pairs["regions"].append(hidden_regions(model, batch))
                if labels is not None and "actions" in model.config.objectives:
                    pairs["actions"].append(hidden_actions(model, batch))
        for name, each in pairs.items():
            if each:
                both = torch.cat(each)
                if len(both):
                    metrics[f"{name}_accuracy"] = float((both[:, 0] == both[:, 1]).float().mean())
                    metrics[f"{name}_most_frequent"] = float(torch.bincount(both[:, 1]).max()) / len(both)
        extra: dict[str, Any] = {}
        if self.out is not None and not self.gallery:
            raise InputError("--out draws what was found: it needs --gallery")
        if self.gallery:
            chosen = different(items)[: self.gallery]
            if len(chosen) < 2:
                raise InputError(f"{self.data}: all its sentences are one; give --gallery 0")
            scores, own = match_all(model, make, chosen, self.batch_size), torch.arange(len(chosen))
            rank = ranks(scores, own, own)
            metrics |= {f"retrieval_{name}": value for name, value in summarise(rank, CUTS).items()}
            if self.out is not None:
                self.draw(chosen, scores)
            extra = {"gallery": len(chosen), "chance_recall_1": 1 / len(chosen)}
        return TaskResult(metrics, len(items), extra)

    def draw(self, items: Sequence[NarratedMoment], scores: Tensor) -> None:
        """Some texts, a row each: their own moment, and the likeliest ones; green is right."""
        from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
        from coalign.analysis.runs.visual_words import Frames
        from coalign.data.images.pictures import save_picture

        assert self.out is not None
        frames, cells = Frames(self.data, 128), list[Cell]()
        best = min(BEST, len(items))
        for text in range(min(ROWS, len(items))):
            for place in (text, *scores[text].topk(best).indices.tolist()):
                item = items[place]
                picture = frames.at(item.video, (item.narration.start + item.narration.end) / 2)
                is_query = len(cells) % (best + 1) == 0
                cells.append(Cell(picture, item.narration.text, right=None if is_query else place == text))
        title = "A text and its own moment · the moments that go best with it, each with its own words"
        save_picture(contact_sheet(cells, best + 1, 128, title), self.out)

    def labels(self, config: dict[str, Any]) -> ActionLabels | None:
        """The actions, numbered as the run numbers them."""
        names = config.get("actions")
        if self.actions is None:
            if names:
                say("no --actions: hidden actions are left out")
            return None
        if not names:
            raise InputError(f"{self.run}: was trained without actions' labels; leave --actions out")
        return read_action_labels(self.actions, names)


def hidden_words(model: ActBert, batch: Batch) -> Tensor:
    """[N, 2] the likeliest piece and the true one at every place that is no special token, each hidden in turn."""
    assert batch.text is not None and batch.regions is not None
    c, ids = model.config, batch.text.ids
    special = torch.tensor([c.pad_id, c.cls_id, c.sep_id], device=ids.values.device)
    places = (~torch.isin(ids.values, special)).nonzero().squeeze(1)
    scores: list[Tensor] = []
    longest = int(ids.layout.position[places].max()) + 1 if len(places) else 0
    for position in range(longest):  # the same place of all texts at once
        rows = places[ids.layout.position[places] == position]
        if not len(rows):
            continue
        shown = ids.values.index_fill(0, rows, c.mask_id)
        hidden = replace(batch, text=replace(batch.text, ids=ids.with_values(shown)))
        logits = model.predict(model.encode(hidden).tokens["text"], rows)
        scores.append(torch.stack([logits.argmax(1), ids.values[rows]], 1))
    return torch.cat(scores).cpu() if scores else torch.zeros(0, 2, dtype=torch.int64)


def hidden_regions(model: ActBert, batch: Batch) -> Tensor:
    """[N, 2] the likeliest class and the given one of all regions, whose features are hidden."""
    regions = batch.regions
    assert regions is not None and regions.classes is not None
    blank = regions.features.with_values(torch.zeros_like(regions.features.values))
    seen = model.encode(replace(batch, regions=replace(regions, features=blank)))
    rows = torch.arange(regions.features.layout.total, device=blank.values.device)
    states = seen.tokens["regions"].values[moved_rows(regions.features.layout, rows, 0)]
    return torch.stack([model.region_head(states).argmax(1), regions.classes.argmax(1)], 1).cpu()


def hidden_actions(model: ActBert, batch: Batch) -> Tensor:
    """[N, 2] the likeliest class and the given one of all actions with a label, whose features are hidden."""
    assert batch.video is not None and batch.video.features is not None
    actions, labels = batch.video.features, batch.labels.require("action")
    blank = actions.with_values(torch.zeros_like(actions.values))
    seen = model.encode(replace(batch, video=replace(batch.video, features=blank)))
    known = (labels >= 0).nonzero().squeeze(1)
    return torch.stack([model.action_head(seen.tokens["actions"].values[known]).argmax(1), labels[known]], 1).cpu()


def different(items: Sequence[NarratedMoment]) -> list[NarratedMoment]:
    """One item of each text."""
    return list({item.narration.text.lower(): item for item in reversed(items)}.values())[::-1]


@torch.no_grad()
def match_all(model: ActBert, make: Moments, items: Sequence[NarratedMoment], batch_size: int) -> Tensor:
    """[N, N] how well each text goes with each item's moment, by the matching head."""
    device, count = next(model.parameters()).device, len(items)
    batch = make(list(items)).to(device)
    scores = torch.empty(count, count)
    for text in with_progress(range(count), "matching", count, True):
        for start in range(0, count, batch_size):
            videos = list(range(start, min(start + batch_size, count)))
            part = make([items[place] for place in videos]).to(device)
            assert batch.text is not None
            repeated = take_texts(batch.text, torch.full((len(videos),), text, device=device))
            logits = model.encode(replace(part, text=repeated)).pooled["match_logits"]
            scores[text, videos] = (logits[:, 0] - logits[:, 1]).float().cpu()
    return scores
