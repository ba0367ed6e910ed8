"""`coalign embed`."""

from __future__ import annotations

from pathlib import Path

from coalign.commands import Help
from coalign.commands._shared import Json, answer, new_file
from coalign.tasks.arguments import PairsOptions, RunFolder, Switch, load_run

HELP = Help("a trained run", "RUN --data PAIRS --out T", "the vectors of a corpus as a Parquet table", 40)


def command(
    run: RunFolder,
    pairs: PairsOptions,
    out: Path,
    overwrite: Switch = False,
    batch_size: int = 64,
    workers: int = 0,
    json: Json = False,
) -> int:
    """Writes the vectors of a corpus as a Parquet table: one row an image or text, with the unit vector.

    Args:
        out: The .parquet file to write. Columns: modality, text, image, meta, vector.
        overwrite: Replace the file if it exists.
        batch_size: Images at a time.
        workers: Processes that read images ahead.
    """
    from coalign.tasks.search import embed_pairs, vector_table, vector_width

    new_file(out, overwrite, (".parquet",))
    model = load_run(run)
    source = pairs.open()
    with vector_table(out, vector_width(model)) as table:
        added = embed_pairs(model, source, table, batch_size=batch_size, workers=workers, show_progress=True)
    answer(json, {"out": str(out), **added}, f"{added['image']} images and {added['text']} texts: {out}")
    return 0
