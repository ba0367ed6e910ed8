"""`coalign rollout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from coalign.arguments import RunFolder, Switch, load_run, run_config
from coalign.cli.commands import Help
from coalign.cli.output import new_file

HELP = Help("a trained run", "RUN IMAGE ... --out P.png", "where in images a ViT looks", 35)


def command(
    run: RunFolder,
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")],
    out: Path,
    overwrite: Switch = False,
) -> int:
    """Attention rollout: how much of each part of an image reaches what a ViT reads, drawn over the image.

    Args:
        images: Pictures of any size.
        out: The picture to write (.png, .jpg or .webp).
        overwrite: Replace the file if it exists.
    """
    from coalign.analysis.runs.rollout import rollout_sheet, rollouts
    from coalign.data.images.pictures import save_picture
    from coalign.data.images.transforms import ImageOptions

    new_file(out, overwrite, (".png", ".jpg", ".webp"))
    said = run_config(run).get("images") or {}
    options = ImageOptions(resize=said.get("resize"), keep=said.get("keep"))
    maps = rollouts(load_run(run).model, images, options)
    print(save_picture(rollout_sheet(maps, [image.stem for image in images]), out))
    return 0
