"""`coalign compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalFloat, OptionalName, OptionalPath, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, print_json
from coalign.errors import InputError

if TYPE_CHECKING:
    from coalign.compare.comparison import Plan, Stage

HELP = Help("your own data", "RECIPE ... --data PAIRS", "several systems, same data, same budget, one table", 30)


def command(
    recipes: Annotated[Positional[tuple[str, ...]], arg(metavar="RECIPE ...")],
    out: Path = Path("runs/compare"),
    world: OptionalPath = None,
    data: OptionalName = None,
    held_out: OptionalName = None,
    plan: OptionalPath = None,
    regions: OptionalPath = None,
    images: OptionalPath = None,
    vocab: OptionalPath = None,
    steps: int = 500,
    batch_size: int = 64,
    lr: float = 5e-4,
    dropout: OptionalFloat = None,
    initialiser: Literal["paper", "xavier"] = "paper",
    task_steps: int = 300,
    task_lr: float = 5e-4,
    precision: Literal["fp32", "bf16"] = "fp32",
    splits: tuple[str, ...] = ("test", "novel"),
    stages: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    json: Json = False,
) -> int:
    """Trains several recipes on the same data for the same number of steps, measures all alike, prints one table.

    Started again, it goes on where it was; what is there so far stands in OUT/comparison.md and .json. A recipe may
    have settings of its own: uniter-pretrain:alignment_weight=0. On a world (--world) every system is then tested on
    questions, statements about two images, expressions, retrieval, hard negatives and the alignment of words, on
    scenes like those of training and on pairs of colour and shape never seen together; on your own pairs (--data,
    --held-out) on matching and retrieval. Chance, and a classifier that sees the text alone, stand beside.

    Args:
        recipes: Pre-training recipes, such as uniter-pretrain vilt-pretrain.
        out: The folder of all runs.
        world: A folder that `coalign world` wrote: trains and tests on it.
        data: Pairs to train on.
        held_out: Pairs to test on, a few hundred: every image is read with every text.
        plan: A plan of a comparison as JSON, for any other stages; OUT/plan.json of another one shows the form.
        regions: Region features of all images, for systems that read regions.
        images: The folder of the pictures, for systems that read pictures.
        vocab: A vocabulary for all. By default each learns the same one from the training texts.
        steps: Of each pre-training.
        batch_size: Of each pre-training.
        lr: Of each pre-training.
        dropout: Of all. By default each size's own; 0 learns faster in short runs.
        initialiser: How fresh weights are drawn; with xavier small sizes learn sooner.
        task_steps: Of each fine-tuning.
        task_lr: Of each fine-tuning.
        precision: Of each training; bf16 is faster where the processor has it.
        splits: Of a world, those that are tested on; choose settings on validation.
        stages: Of what is measured on a world, these alone, such as VQA "words to boxes"; retrieval takes the longest.
        seeds: Each recipe is run with each of these.
    """
    from coalign.compare.comparison import Comparison, Contender, Plan

    if not recipes:
        raise InputError("name the recipes to compare, such as uniter-pretrain vilt-pretrain")
    if sum(given is not None for given in (world, data, plan)) != 1:
        raise InputError("give one of --world, --data (with --held-out) and --plan")
    budget: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "precision": precision}
    budget |= {"initialiser": initialiser} | ({} if dropout is None else {"dropout": dropout})
    if plan is not None:
        chosen = Plan.read(plan)
    elif world is not None:
        tuning = {"steps": task_steps, "lr": task_lr, "precision": precision}
        chosen = world_plan(world, budget, tuning, splits, stages)
    elif data is None or held_out is None:
        raise InputError("--data needs --held-out, pairs to test on")
    else:
        seen = {"regions": regions, "images": images}
        given = {name: str(value) for name, value in seen.items() if value is not None}
        chosen = pairs_plan(data, held_out, given, budget | ({} if vocab is None else {"vocab": str(vocab)}))
    comparison = Comparison([Contender(label) for label in dict.fromkeys(recipes)], chosen, out, seeds, say)
    comparison.run()
    if json:
        print_json(comparison.to_json())
    else:
        print(comparison.table())
        print(f"\n{out / 'comparison.json'}", file=sys.stderr)
    return 0


def pairs_plan(data: str, held_out: str, seen: dict[str, str], pretrain: dict[str, Any]) -> Plan:
    """Matching and retrieval of held-out pairs."""
    from coalign.compare.comparison import Plan, Stage

    test = {"": {"data": held_out, **seen}}
    return Plan(
        {"data": data, **seen, **pretrain},
        (
            Stage("matching", "matching", test, {"auc": "metrics.auc"}, {"auc": "chance"}),
            Stage("retrieval R@1", "cross-retrieval", test, _RECALL, _RANDOM),
        ),
    )


_RECALL = {"to text": "model.image_to_text.R@1", "to image": "model.text_to_image.R@1"}
_RANDOM = {name: path.replace("model", "chance") for name, path in _RECALL.items()}


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
    from coalign.compare.comparison import Plan, Stage
    from coalign.worlds.scene_files import REFS

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
    asked = {"questions": "questions_{}.json", "annotations": "annotations_{}.json"}
    refs = str(world / "refs.json")
    expressions = {split: {"data": refs, "split": REFS[split], **seen} for split in splits}
    both = {"attention": "cross_attention", "transport": "transport"}
    stages: Sequence[Stage] = (
        Stage(
            "VQA",
            "vqa",
            sets(**asked),
            {"accuracy": "metrics.accuracy"},
            {"accuracy": "always_that"},
            "vqa",
            files(**{name: file.format("train") for name, file in asked.items()}) | budget,
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
            {name: f"metrics.choice, {way}" for name, way in both.items()},
            dict.fromkeys(both, "chance"),
        ),
        Stage(
            "hard negatives",
            "matching",
            sets(data="foils_{}.jsonl"),
            {"right wins": "metrics.right_wins"},
            {"right wins": "chance"},
            baseline=files(data="foils_train.jsonl"),
        ),
        Stage("retrieval R@1", "cross-retrieval", sets(data="gallery_{}.json"), _RECALL, _RANDOM),
    )
    unknown = [name for name in only if name not in {stage.name for stage in stages}]
    if unknown:
        raise InputError(f"no stage {unknown[0]!r}; there are: {', '.join(stage.name for stage in stages)}")
    trained = files(data="captions_train.json", regions="regions", vocab="tokenizer.json")
    return Plan({**trained, **pretrain}, tuple(stage for stage in stages if not only or stage.name in only))
