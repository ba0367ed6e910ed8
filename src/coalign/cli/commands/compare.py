"""`coalign compare`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalFloat, OptionalName, OptionalPath, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, print_json
from coalign.errors import InputError

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
    curriculum: Annotated[tuple[str, ...], arg(metavar="DATA[:STEPS] ...")] = (),
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
    have settings of its own: uniter-pretrain:alignment_weight=0, or lxmert-pretrain:objectives=mlm,objectives=itm. On
    a world (--world) every system is then tested on questions, statements about two images, expressions, retrieval,
    hard negatives and the alignment of words, on scenes like those of training and on pairs of colour and shape never
    seen together; on your own pairs (--data, --held-out) on matching and retrieval. Chance, and a classifier that sees
    the text alone, stand beside.

    Args:
        recipes: Pre-training recipes, such as uniter-pretrain vilt-pretrain.
        out: The folder of all runs.
        world: A folder that `coalign world` wrote: trains and tests on it.
        data: Pairs to train on.
        held_out: Pairs to test on, a few hundred: every image is read with every text.
        plan: A plan of a comparison as JSON, for any other stages; OUT/plan.json of another one shows the form.
        regions: Region features of all images, which systems that read regions need.
        images: The folder of the pictures, for systems that read pictures.
        vocab: A vocabulary for all. By default each learns the same one from the training texts.
        curriculum: Worlds, or pairs, to pre-train on before, in order, each from the weights of the one before; of
            --steps steps where none are said. Few things of a scene first, then more.
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
    from coalign.compare.comparison import Comparison, Contender
    from coalign.compare.plans import Plan, lesson, pairs_plan, world_plan

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
    chosen = replace(chosen, curriculum=(*chosen.curriculum, *map(lesson, curriculum)))
    comparison = Comparison([Contender(label) for label in dict.fromkeys(recipes)], chosen, out, seeds, say)
    comparison.run()
    if json:
        print_json(comparison.to_json())
    else:
        print(comparison.table())
        print(f"\n{out / 'comparison.json'}", file=sys.stderr)
    return 0
