"""`coalign caption`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from coalign.arguments import (
    PAIRS_HELP,
    SEARCHED,
    OptionalName,
    OptionalPath,
    RunFolder,
    Switch,
    Writing,
    load_run,
    shows_progress,
)
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer, known_ending, not_the_data
from coalign.errors import InputError

HELP = Help("a trained run", "RUN IMAGE ...", "captions of pictures, by a blip or coca", 25)


def command(
    run: RunFolder,
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE", help_behavior_hint="")] = (),
    data: Annotated[str | None, arg(metavar="PAIRS", help=PAIRS_HELP, help_behavior_hint="")] = None,
    images: OptionalPath = None,
    split: OptionalName = None,
    out: OptionalPath = None,
    overwrite: Switch = False,
    writing: Writing = SEARCHED,
    system: OptionalName = None,
    vocab: OptionalPath = None,
    batch_size: int = 16,
    json: Json = False,
) -> int:
    """Writes a caption of each picture: of those named, or of all in --data, whose own texts are not read.

    Args:
        pictures: The files to describe.
        images: With --data: the folder that image paths are relative to.
        split: With --data: only this split.
        out: A .jsonl or .csv with the columns image and text, which is read as pairs again, with --images FOLDER where
            the pictures do not lie beside or below it. By default printed.
        overwrite: Replace the file if it exists.
        system: Whose file RUN is, where it is no run: blip or coca.
        vocab: With --system: the model's vocabulary.
        batch_size: Pictures at a time.
    """
    from coalign.data.core.samples import Sample, Where
    from coalign.data.pairs.sources import open_source
    from coalign.evaluation.captions import Writer, file_of, in_batches, named, rows_files, samples_of
    from coalign.progress import with_progress

    if bool(pictures) == (data is not None):
        raise InputError("give either pictures, coalign caption RUN IMAGE ..., or --data PAIRS")
    missing = [picture for picture in pictures if not picture.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such picture")
    if out is not None:
        known_ending(out, (".jsonl", ".csv"))
        for given in (*pictures, *([] if data is None else [data])):
            not_the_data(out, given)
    options: dict[str, Any] = {} if vocab is None else {"vocab": vocab}
    rows: list[Mapping[str, str]] = []
    done = 0
    with nullcontext([rows.append]) if out is None else rows_files([out], ("image", "text"), overwrite) as (write,):
        loaded = load_run(run, system, **options)
        writer = Writer(loaded, writing)
        if data is not None:
            source = open_source(data, images=images, split=split).grouped()
            samples, count = samples_of(source), len(source)
        else:
            listed = enumerate(pictures, 1)
            samples, count = (Sample(path, (), n, Where(str(path), n)) for n, path in listed), len(pictures)
        batches = in_batches(loaded, named(samples), batch_size)
        for part, seen in with_progress(batches, "captioning", -(-count // batch_size), shows_progress()):
            for sample, text in zip(part, writer.write(seen), strict=True):
                write({"image": file_of(sample.image), "text": text})
            done += len(part)
        if not done:
            raise InputError(f"{data or pictures[0]}: no picture can be read")
    if out is not None:
        answer(json, {"out": str(out), "captions": done}, f"{done} captions: {out}")
    else:
        answer(json, {"captions": rows}, "\n".join(f"{row['image']}  {row['text']}" for row in rows))
    return 0
