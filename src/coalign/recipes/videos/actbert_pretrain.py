"""Pre-train ActBERT on your own narrated videos, with features of clips and regions of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg

from coalign.arguments import OptionalPath, say
from coalign.data.core.batches import Batches
from coalign.data.regions.files import open_regions
from coalign.data.videos.clip_features import ClipFeatures, feature_name
from coalign.data.videos.moments import ActionLabels, Moments, Told, read_action_labels, verb_labels
from coalign.data.videos.regions import VideoRegions
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.actbert.model import SIZES, ActBert, ActBertConfig
from coalign.recipes.videos._narrated import usable_videos
from coalign.registry import describe, load
from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains ActBERT: hidden words, what hidden regions show, hidden actions, and whether text and video go together.

    Needs features of the clips (`coalign extract video`) and regions of frames (`coalign extract frames`, then
    `coalign extract regions`). Started again, it goes on from the last checkpoint.
    """

    data: Path
    """A folder of videos with subtitles beside them."""
    features: Path
    """Features of their clips: the actions."""
    regions: Path
    """Regions of their frames."""
    out: Path = Path("runs/actbert")
    """The run's folder."""
    captions: OptionalPath = None
    """Where subtitles are instead: a folder, or HowTo100M's caption.json."""
    actions: OptionalPath = None
    """What is done when: a .csv with columns video_id, start, end, label. For masked action classification."""
    verbs: Annotated[tuple[str, ...], arg(metavar="WORD ...", help_behavior_hint="")] = ()
    """Instead: these words, where one is said, name the action (as in the paper)."""
    size: Literal["tiny", "base"] = "tiny"
    """The model: base is the paper's."""
    connection: Literal["tangled", "joint", "apart"] = "tangled"
    """What the connections of the streams are: the paper's, or without it, with as many parameters: joint (each attends
    to all rows), apart (each to its own)."""
    init: OptionalPath = None
    """Weights to start from: PaddleVideo's ActBERT.pdparams, or a run. By default fresh ones."""
    vocab: OptionalPath = None
    """A vocab.txt or tokenizer.json. By default that of the run of --init, or one learned from the narration."""
    dropout: float | None = None
    """Of fresh weights. By default the size's own; 0 learns faster in short runs."""
    around: float = 0.0
    """Seconds before and after a sentence that belong to it."""
    objectives: tuple[Literal["mlm", "regions", "actions", "match"], ...] = ()
    """Train these alone. By default all that the data has labels for."""
    steps: int = 1000
    batch_size: int = 32
    lr: float = 5e-4
    seed: int = 0
    workers: int = 0
    max_broken: float = 0.1
    """The largest share of videos that may be unusable."""

    def run(self) -> None:
        videos = usable_videos(self.data, self.out, self.captions, max_broken=self.max_broken)
        features, regions = ClipFeatures(self.features), VideoRegions(open_regions(self.regions))
        told = {feature_name(video.path, self.data): video.narrations for video in videos.videos}
        kept = {name: narrations for name, narrations in told.items() if name in features and name in regions}
        if not kept:
            raise InputError(f"none of the videos in {self.data} has features in {self.features} and regions")
        if len(kept) < len(told):
            say(f"{len(told) - len(kept)} of {len(told)} videos lack features or regions and are left out")
        if self.actions is not None and self.verbs:
            raise InputError("give --actions or --verbs, not both")
        labels = verb_labels(kept, [verb.lower() for verb in self.verbs]) if self.verbs else None
        labels = read_action_labels(self.actions) if self.actions is not None else labels
        items = [Told(name, narration) for name, narrations in kept.items() for narration in narrations]
        sample = regions.within(items[0].video, items[0].narration.start, items[0].narration.end, 1)
        model, tokenizer = self.model([item.narration.text for item in items], features.width, sample, labels)
        make = Moments(features, regions, labels, model.input_spec, tokenizer, self.around)
        loader = Batches(items, make, self.batch_size, seed=self.seed, workers=self.workers, name=str(self.data))
        config = TrainConfig(self.steps, self.lr, weight_decay=0.01, schedule="linear", warmup=0.1, seed=self.seed)
        about = {"recipe": "actbert-pretrain", "task": "video-moments", "around": self.around}
        about |= {"actions": list(labels.names)} if labels is not None else {}
        run = Run(self.out, describe(model) | about)
        result = fit(model.to("cuda" if torch.cuda.is_available() else "cpu"), loader, config, run)
        tokenizer.save(self.out)
        losses = ", ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
        print(f"{self.out}: {result.steps} steps{f' ({losses})' if losses else ''}")
        print(f"next: coalign evaluate {self.out} --data HELD_OUT --features FEATURES --regions REGIONS")

    def model(
        self, texts: list[str], width: int, sample: dict[str, Any], labels: ActionLabels | None
    ) -> tuple[ActBert, Tokenizer]:
        """The model to train, with its vocabulary."""
        has = {"regions": "classes" in sample, "actions": labels is not None}
        why = {
            "regions": "the regions have no class probabilities",
            "actions": "neither --actions nor --verbs is given",
        }
        for name, there in has.items():
            if not there and name in self.objectives:
                raise InputError(f"no objective {name!r}: {why[name]}")
            if not there and not self.objectives:
                say(f"without the objective {name!r}: {why[name]}")
        wanted = tuple(n for n in self.objectives or ("mlm", "regions", "actions", "match") if has.get(n, True))
        if self.init is not None:
            ours = (self.init / "config.json").is_file()
            loaded = load(self.init, None if ours else "actbert", vocab=self.vocab)
            found = loaded.model
            if not isinstance(found, ActBert):
                raise InputError(f"{self.init}: is a {type(found).__name__}, not an ActBERT")
            if loaded.tokenizer is None:
                raise InputError(f"{self.init}: brings no vocabulary; give BERT's vocab.txt by --vocab")
            found.config = replace(found.config, objectives=wanted)
            return found.train(), loaded.tokenizer
        tokenizer = Tokenizer.train(texts, 8000) if self.vocab is None else Tokenizer.load(self.vocab)
        base: ActBertConfig = SIZES[self.size]
        text = replace(base.text, vocab_size=tokenizer.vocab_size)
        config = replace(
            base,
            text=text if self.dropout is None else replace(text, dropout=self.dropout),
            regions=replace(base.regions, width=int(sample["features"].shape[1])),
            actions=replace(base.actions, width=width),
            connection=self.connection,
            objectives=wanted,
            region_targets=int(sample["classes"].shape[1]) if has["regions"] else base.region_targets,
            action_targets=len(labels.names) if labels is not None else base.action_targets,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            mask_id=tokenizer.mask_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = ActBert(config)
        return model, tokenizer
