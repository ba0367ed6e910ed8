"""`coalign reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from coalign.arguments import RunFolder, Switch, load_run
from coalign.cli.commands import Help
from coalign.cli.output import new_file

HELP = Help("a trained run", "RUN IMAGE ... --out P.png", "what a masked auto-encoder rebuilds of images", 40)


def command(
    run: RunFolder,
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")],
    out: Path,
    seed: int = 0,
    overwrite: Switch = False,
) -> int:
    """Images, what a masked auto-encoder is shown of them, and what it makes of that, side by side.

    Args:
        images: Pictures of any size; the middle is used.
        out: The picture to write (.png, .jpg or .webp).
        seed: Which patches are hidden.
        overwrite: Replace the file if it exists.
    """
    from coalign.analysis.runs.reconstruction import reconstruct, reconstruction_sheet
    from coalign.data.images.pictures import save_picture

    new_file(out, overwrite, (".png", ".jpg", ".webp"))
    print(save_picture(reconstruction_sheet(reconstruct(load_run(run).model, images, seed)), out))
    return 0
