"""Pre-train ActBERT on your own narrated videos, with features of clips and regions of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from coalign.data.core.batches import Batches
from coalign.data.regions.files import open_regions
from coalign.data.videos.clip_features import ClipFeatures
from coalign.data.videos.moments import ActionLabels, Moments, NarratedMoment, read_action_labels, verb_labels
from coalign.data.videos.regions import VideoRegions
from coalign.data.videos.subtitles import Narration
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import OptionalPath, say
from coalign.models.actbert.model import SIZES, ActBert, ActBertConfig
from coalign.recipes._start import vocabulary, weights_flag
from coalign.recipes.videos._narrated import Narrated, said_in
from coalign.registry import describe, load
from coalign.training.experiment import Experiment
from coalign.training.options import RunOptions, Schedule

FROM_HELP = "Weights to start from: PaddleVideo's ActBERT.pdparams, or a run. By default fresh ones."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Trains ActBERT: hidden words, what hidden regions show, hidden actions, and whether text and video go together.

    Needs features of the clips (`coalign extract video`) and regions of frames (`coalign extract frames`, then
    `coalign extract regions`). Started again, it goes on from the last checkpoint.
    """

    paper: ClassVar[Schedule] = Schedule(  # section 4.1 (Zhu and Yang 2020)
        batch_size=256, lr=1e-5, decay="linear", weight_decay=0.01
    )
    narrated: Narrated
    features: Path
    """Features of their clips: the actions."""
    regions: Path
    """Regions of their frames."""
    actions: OptionalPath = None
    """Action annotations: a .csv with columns video_id, start, end, label. For masked action classification."""
    verbs: Annotated[tuple[str, ...], arg(metavar="WORD ...", help_behavior_hint="")] = ()
    """Instead: these words, where one is said, name the action (as in the paper)."""
    size: Literal["tiny", "base"] = "tiny"
    """The model: base is the paper's."""
    connection: Literal["tangled", "joint", "apart"] = "tangled"
    """The connections of the streams: the paper's, or without it, with as many parameters: joint (each attends
    to all rows), apart (each to its own)."""
    start: Annotated[Path | None, weights_flag(FROM_HELP)] = None
    vocab: OptionalPath = None
    """A vocab.txt or tokenizer.json. By default that of the run of --from, or one learned from the narration."""
    dropout: float | None = None
    """Of fresh weights. By default the size's own; 0 learns faster in short runs."""
    around: float = 0.0
    """Seconds before and after a sentence that belong to it."""
    objectives: tuple[Literal["mlm", "regions", "actions", "match"], ...] = ()
    """Train these alone. By default all that the data has labels for."""

    schedule: Schedule = Schedule(steps=1000, batch_size=32, lr=5e-4, warmup=0.1, decay="linear", weight_decay=0.01)
    options: RunOptions = RunOptions(out=Path("runs/actbert"))

    def run(self) -> None:
        with Experiment("actbert-pretrain", self.options) as experiment:
            videos, folder = self.narrated.videos(experiment), self.narrated.data
            features, regions = ClipFeatures(self.features), VideoRegions(open_regions(self.regions))
            said = said_in(videos, folder, features=features, regions=regions)
            items = [NarratedMoment(video, narration) for video, each in said.items() for narration in each]
            labels = self.action_labels(said)
            model, tokenizer = self.model(experiment, items, features, regions, labels)
            make = Moments(features, regions, labels, model.input_spec, tokenizer, self.around)
            loader = Batches(items, make, self.schedule.batch_size, name=str(folder), **experiment.loading)
            about: dict[str, Any] = {"task": "video-moments", "around": self.around}
            about |= {"actions": list(labels.names)} if labels is not None else {}
            training = self.schedule.training(self.options)
            experiment.fit(model, loader, training, describe(model) | about, tokenizer)
            held_out = "--data HELD_OUT --features FEATURES --regions REGIONS"
            experiment.close(f"coalign evaluate {experiment.out} {held_out}")

    def action_labels(self, said: dict[str, tuple[Narration, ...]]) -> ActionLabels | None:
        """The classes of the actions, where they are given."""
        if self.actions is not None and self.verbs:
            raise InputError("give --actions or --verbs, not both")
        if self.actions is not None:
            return read_action_labels(self.actions)
        return verb_labels(said, [verb.lower() for verb in self.verbs]) if self.verbs else None

    def model(
        self,
        experiment: Experiment,
        items: list[NarratedMoment],
        features: ClipFeatures,
        regions: VideoRegions,
        labels: ActionLabels | None,
    ) -> tuple[ActBert, Tokenizer]:
        """The model to train, with its vocabulary."""
        first = items[0]
        sample = regions.within(first.video, first.narration.start, first.narration.end, 1)
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
        if self.start is not None:
            ours = (self.start / "config.json").is_file()
            loaded = load(self.start, None if ours else "actbert", vocab=self.vocab)
            trained = loaded.model
            if not isinstance(trained, ActBert):
                raise InputError(f"{self.start}: is a {type(trained).__name__}, not an ActBERT")
            if loaded.tokenizer is None:
                raise InputError(f"{self.start}: brings no vocabulary; give BERT's vocab.txt by --vocab")
            trained.config = replace(trained.config, objectives=wanted)
            return trained.train(), loaded.tokenizer
        tokenizer = vocabulary(experiment, self.vocab, lambda: [item.narration.text for item in items])
        base: ActBertConfig = SIZES[self.size]
        text = replace(base.text, vocab_size=tokenizer.vocab_size)
        config = replace(
            base,
            text=text if self.dropout is None else replace(text, dropout=self.dropout),
            regions=replace(base.regions, width=int(sample["features"].shape[1])),
            actions=replace(base.actions, width=features.width),
            connection=self.connection,
            objectives=wanted,
            region_targets=int(sample["classes"].shape[1]) if has["regions"] else base.region_targets,
            action_targets=len(labels.names) if labels is not None else base.action_targets,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            mask_id=tokenizer.mask_id,
        )
        model = experiment.seeded(lambda: ActBert(config))
        return model, tokenizer
