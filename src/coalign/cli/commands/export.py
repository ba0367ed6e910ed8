"""`coalign export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalInt, RunFolder, Switch, load_run
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer, new_file

HELP = Help("a trained run", "RUN OUT.onnx", "a tower as ONNX or a torch program, held against the model", 65)


def command(
    run: RunFolder,
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    modality: Annotated[Literal["image", "text"], arg(aliases=("--part",))] = "image",
    batch_size: int = 1,
    length: OptionalInt = None,
    overwrite: Switch = False,
    json: Json = False,
) -> int:
    """Writes the tower of one modality, from pixels or word pieces to unit vectors, as ONNX or as torch's program.

    coalign embed RUN --data PAIRS --out T --onnx IMAGE.onnx TEXT.onnx computes with such files.

    Args:
        out: A .onnx file (extra `onnx`), or a .pt2 file for torch.export.load.
        modality: Whose tower.
        batch_size: How many items a call takes.
        length: Word pieces of a text at most. By default what the model reads.
        overwrite: Replace the file if it exists.
    """
    from coalign.retrieval.export import export

    new_file(out, overwrite, (".onnx", ".pt2"))
    difference = export(load_run(run).to("cpu"), modality, out, batch_size, length)
    said = {"out": str(out), "part": modality, "difference": difference}
    answer(json, said, f"{out} (within {difference:.1e} of the model)")
    return 0
