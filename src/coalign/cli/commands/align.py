"""`coalign align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalPath, RunFolder, Switch, load_run
from coalign.cli.commands import Help
from coalign.cli.output import Json, new_file, print_json
from coalign.errors import InputError

HELP = Help("a trained run", 'RUN IMAGE "TEXT"', "where in the image each word looks", 30)


def command(
    run: RunFolder,
    image: Annotated[Positional[Path], arg(metavar="IMAGE")],
    text: Annotated[Positional[str], arg(metavar="TEXT")],
    out: OptionalPath = None,
    regions: OptionalPath = None,
    method: Literal["auto", "grad_cam", "cross_attention", "transport"] = "auto",
    overwrite: Switch = False,
    json: Json = False,
) -> int:
    """Where in the image each word of the text looks.

    Args:
        image: The picture.
        text: The text, in quotes.
        out: Write one picture a word to this .png, or the numbers to this .json. Without it they are printed.
        regions: A file or folder of region features that has this image, for models that read regions.
        method: cross_attention is what the layers attend to, grad_cam the same weighted by what made image and text
            match, transport the plan that carries the words to the patches or regions at least cost; auto is what
            the model can show.
        overwrite: Replace the file if it exists.
    """
    from coalign import prepare
    from coalign.analysis.runs.alignment import Aligner, Method, align, align_regions, alignment_sheet, save_alignment
    from coalign.data.images.pictures import save_picture
    from coalign.data.regions.files import open_regions
    from coalign.types import Model

    if out is not None:
        new_file(out, overwrite, (".png", ".jpg", ".webp", ".json"))
    if not image.is_file():
        raise InputError(f"{image}: no such picture")
    loaded = load_run(run)
    model, words, device = loaded.model, loaded.vocabulary.words(text), loaded.device
    if not isinstance(model, Aligner) or not isinstance(model, Model):
        raise InputError(f"{run}: a {type(model).__name__} has no alignment maps")
    if not words:
        raise InputError("the text has no words; give some, in quotes")
    chosen: Method = getattr(model, "alignment_method", "cross_attention") if method == "auto" else method
    if model.input_spec.region_width is None:
        batch = prepare(loaded, images=[image], texts=[text]).to(device)
        (found,) = align(model, batch, [words], chosen)
    elif regions is None:
        raise InputError(
            f"a {type(model).__name__} reads regions: give a file of them that has this image by --regions"
        )
    else:
        batch = prepare(loaded, regions=[open_regions(regions)[str(image)]], texts=[text]).to(device)
        (found,) = align_regions(model, batch, [words], chosen)
    if out is not None and out.suffix == ".json":
        save_alignment(found, out)
    elif out is not None:
        save_picture(alignment_sheet(image, found), out)
    if json or out is None:
        print_json(found.to_json())
    else:
        print(out)
    return 0
