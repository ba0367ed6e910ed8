"""`coalign push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from coalign.arguments import OptionalName, RunFolder, Switch
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer
from coalign.errors import InputError

HELP = Help("a trained run", "RUN USER/NAME", "to a Hugging Face hub, with a card written from the run", 60)


def command(
    run: RunFolder,
    name: Annotated[Positional[str], arg(metavar="USER/NAME")],
    licence: Annotated[str, arg(metavar="NAME")],
    trained_on: OptionalName = None,
    show: Annotated[tuple[Path, ...], arg(metavar="PICTURE ...", help_behavior_hint="")] = (),
    private: Switch = False,
    revision: OptionalName = None,
    dry_run: Switch = False,
    json: Json = False,
) -> int:
    """Uploads a run's weights, vocabulary and description; coalign.load("hf://USER/NAME") reads them again.

    Nothing else leaves the machine: no checkpoints, no index, no pictures of the data but those of --show.

    Args:
        name: The model's name on the hub.
        licence: Under which the weights are given, such as cc-by-4.0; it depends on the data.
        trained_on: What the data is, in a sentence for the card.
        show: Pictures for the card, such as maps of `coalign align RUN IMAGE "TEXT" --out map.png`.
        private: A new model is for its owner alone.
        revision: The branch to push to. By default the hub's main one.
        dry_run: Write the files into RUN/push and upload nothing.
    """
    from coalign.checkpoints.hub import push_folder
    from coalign.evaluation.card import staged

    if str(run).startswith("hf:/"):
        raise InputError(f"{run}: is on a hub already; give the folder of a run")
    with staged(run, name, licence, trained_on, show, run / "push" if dry_run else None) as folder:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        pinned = None if dry_run else push_folder(name, folder, f"coalign push {run.name}", private, revision)
    address = f"hf://{name}" + (f"@{pinned}" if pinned else "")
    said = f"{run / 'push'}: {', '.join(files)}" if dry_run else f'coalign.load("{address}")'
    answer(json, {"address": None if dry_run else address, "files": files}, said)
    return 0
