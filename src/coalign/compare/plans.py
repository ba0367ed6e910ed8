"""Plans of a comparison: what every recipe is given, and the stages by which the runs are measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from coalign.errors import InputError
from coalign.files import read_json, reader
from coalign.registry import from_plain
from coalign.worlds.scene_files import REFS

Settings = dict[str, Any]
"""Flags of a recipe or task by name."""


@dataclass(frozen=True)
class Stage:
    """A stage after pre-training: `recipe` (with `train`) fine-tunes it, `task` measures it on each of `sets`.

    `figures` are paths into the task's JSON, such as "metrics.accuracy", by the names they have in the table; `chance`
    are the paths of what a guess gets, by the same names.
    """

    name: str
    task: str
    sets: dict[str, Settings]
    figures: dict[str, str]
    chance: dict[str, str] = field(default_factory=dict[str, str])
    recipe: str = ""
    train: Settings = field(default_factory=dict[str, Any])
    baseline: Settings = field(default_factory=dict[str, Any])
    """Files that the text-only baseline learns from; by default those of `train`."""


@dataclass(frozen=True)
class Plan:
    """`pretrain` are the settings that every recipe is given as far as it has them.

    `curriculum` are trainings before it, in order, each with what differs from `pretrain` (other data, other steps);
    fresh weights are those of the first, and every other one starts from the one before.
    """

    pretrain: Settings
    stages: tuple[Stage, ...]
    curriculum: tuple[Settings, ...] = ()

    def work(self) -> Settings:
        """The work of the plan, whatever of it the table shows: two plans of equal work may share a folder."""
        said = asdict(self)
        for stage in said["stages"]:
            del stage["figures"], stage["chance"]
        return json.loads(json.dumps(said, default=str))

    @staticmethod
    @reader
    def read(path: Path) -> Plan:
        """Raises InputError where the file is none, or not a plan."""
        try:
            read = from_plain(Plan, read_json(path))
            own = [(one.sets, one.figures, one.chance, one.train, one.baseline) for one in read.stages]
            given = [read.pretrain, *read.curriculum, *chain(*own), *chain(*(sets.values() for sets, *_ in own))]
            if not all(isinstance(one, dict) for one in given):
                raise TypeError("settings and figures are objects")
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a plan of a comparison (pretrain, stages): {error}") from None
        return read


def lesson(entry: str) -> Settings:
    """The settings of a training on "DATA" or "DATA:STEPS"; the data are a world's folder, or pairs.

    Raises:
        InputError: the steps are no number above 0.
    """
    name, colon, last = entry.rpartition(":")
    data, steps = (name, last) if colon and last.isdigit() else (entry, "")
    if steps and not int(steps):
        raise InputError(f"{entry}: a training of 0 steps; leave it out of the curriculum")
    own: Settings = {"steps": int(steps)} if steps else {}
    world = Path(data)
    if (world / "world.json").is_file():
        seen = {"regions": str(world / "regions"), "boxes": str(world / "refs.json")}
        return own | {"data": str(world / "captions_train.json")} | seen
    return own | {"data": data}


def pairs_plan(data: str, held_out: str, seen: dict[str, str], pretrain: dict[str, Any]) -> Plan:
    """Matching and retrieval of held-out pairs."""

    test = {"": {"data": held_out, **seen}}
    return Plan(
        {"data": data, **seen, **pretrain},
        (
            Stage("matching", "matching", test, {"auc": "metrics.auc"}, {"auc": "chance"}),
            Stage("retrieval R@1", "cross-retrieval", test, RECALL, RANDOM),
        ),
    )


RECALL = {"to text": "model.image_to_text.R@1", "to image": "model.text_to_image.R@1"}


RANDOM = {name: path.replace("model", "chance") for name, path in RECALL.items()}


MAPS = ("attention", "transport", "rollout", "grad_cam", "relevance", "similarity")
"""The maps of words that a model may have in one pass, as the table calls them."""


def world_plan(
    world: Path,
    pretrain: dict[str, Any],
    finetune: dict[str, Any],
    splits: Sequence[str] = ("test", "novel"),
    only: Sequence[str] = (),
) -> Plan:
    """All that is known of a world, on these splits; `only` are the names of stages, where not all are wanted.

    Raises:
        InputError: no world is there, or it has no such split, or there is no such stage.
    """

    if not (world / "world.json").is_file():
        raise InputError(f"{world}: no world here; make one: coalign world {world}")
    missing = [split for split in splits if not (world / f"captions_{split}.json").is_file()]
    if missing:
        raise InputError(f"{world}: has no split {missing[0]!r}")
    seen = {"regions": str(world / "regions"), "images": str(world)}

    def sets(**files: str) -> dict[str, dict[str, Any]]:
        return {
            split: {name: str(world / file.format(split)) for name, file in files.items()} | seen for split in splits
        }

    def files(**names: str) -> dict[str, str]:
        return {name: str(world / file) for name, file in names.items()}

    budget = {**finetune, **seen}
    vqa = {"questions": "questions_{}.json", "annotations": "annotations_{}.json"}
    refs = str(world / "refs.json")
    expressions = {split: {"data": refs, "split": REFS[split], **seen} for split in splits}
    maps = {name: name for name in MAPS} | {"attention": "cross_attention"}
    both = {name: maps[name] for name in ("attention", "transport")}
    stages: Sequence[Stage] = (
        Stage(
            "VQA",
            "vqa",
            sets(**vqa),
            {"accuracy": "metrics.accuracy"},
            {"accuracy": "always_that"},
            "vqa",
            files(**{name: file.format("train") for name, file in vqa.items()}) | budget,
        ),
        Stage(
            "NLVR2",
            "nlvr2",
            sets(data="nlvr2_{}.jsonl"),
            {"accuracy": "metrics.accuracy"},
            {"accuracy": "commoner_label"},
            "nlvr2",
            files(data="nlvr2_train.jsonl") | budget,
        ),
        Stage(
            "expressions, fine-tuned",
            "referring",
            expressions,
            {"accuracy": "metrics.accuracy"},
            {"accuracy": "chance"},
            "referring",
            files(data="refs.json") | budget,
        ),
        Stage(
            "expressions, zero-shot",
            "referring-alignment",
            expressions,
            {name: f"metrics.accuracy, {way}" for name, way in both.items()},
            dict.fromkeys(both, "chance"),
        ),
        Stage(
            "words to boxes",
            "word-alignment",
            sets(data="words_{}.jsonl"),
            {name: f"metrics.choice, {way}" for name, way in maps.items()},
            dict.fromkeys(maps, "chance"),
        ),
        Stage(
            "hard negatives",
            "matching",
            sets(data="foils_{}.jsonl"),
            {"right wins": "metrics.right_wins"},
            {"right wins": "chance"},
            baseline=files(data="foils_train.jsonl"),
        ),
        Stage("retrieval R@1", "cross-retrieval", sets(data="gallery_{}.json"), RECALL, RANDOM),
    )
    unknown = [name for name in only if name not in {stage.name for stage in stages}]
    if unknown:
        raise InputError(f"no stage {unknown[0]!r}; there are: {', '.join(stage.name for stage in stages)}")
    trained = files(data="captions_train.json", regions="regions", vocab="tokenizer.json", boxes="refs.json")
    return Plan({**trained, **pretrain}, tuple(stage for stage in stages if not only or stage.name in only))
