"""`coalign convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from coalign.arguments import OptionalName
from coalign.cli.commands import Help

HELP = Help("the authors' files", "FILE OUT --system NAME", "their checkpoint <-> ours <-> Hugging Face layout", 10)


def command(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    system: Annotated[str, arg(metavar="NAME")],
    to: Annotated[str, arg(metavar="LAYOUT")] = "original",
    head: OptionalName = None,
) -> int:
    """Reads a weights file and writes its tensors in another layout of its system. Never overwrites.

    Args:
        file: The authors' file (.pth, .pt, .bin, .safetensors, .npz ...), a Hugging Face folder, or one of our runs.
        out: The .safetensors file to write. With --to transformers and no ending: the folder that Hugging Face's
            library loads, of systems whose config.json is known: bert, clip, siglip, blip and others.
        system: Whose weights these are; `coalign systems` lists the names.
        to: The layout to write: original, transformers ...
        head: The task model in the file. By default found by names and shapes.
    """
    from coalign import convert

    convert(file, out, system=system, to=to, head=head)
    print(out)
    return 0
