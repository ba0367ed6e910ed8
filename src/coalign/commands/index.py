"""`coalign index`."""

from __future__ import annotations

from coalign.commands import Help
from coalign.commands._shared import Json, answer
from coalign.tasks.arguments import OptionalPath, PairsOptions, RunFolder, Switch, load_run

HELP = Help("a trained run", "RUN --data PAIRS", "embed a corpus and make it searchable", 10)


def command(
    run: RunFolder,
    pairs: PairsOptions,
    out: OptionalPath = None,
    overwrite: Switch = False,
    batch_size: int = 64,
    workers: int = 0,
    json: Json = False,
) -> int:
    """Embeds a corpus into an index that `coalign search` reads. Interrupted, it goes on when it is started again.

    Args:
        out: The folder of the index. By default RUN/index.
        overwrite: Replace an index of other data, or one made before the run was trained further.
        batch_size: Images at a time.
        workers: Processes that read images ahead.
    """
    from coalign.tasks.search import index_pairs

    model = load_run(run)
    path = out or run / "index"
    added = index_pairs(
        run,
        model,
        pairs.open(),
        path,
        overwrite=overwrite,
        batch_size=batch_size,
        workers=workers,
        show_progress=True,
    )
    words = f"{added['image']} images and {added['text']} texts added: {path}"
    answer(json, {"index": str(path), **added}, words)
    return 0
