"""`coalign unindex`."""

from __future__ import annotations

from coalign.arguments import OptionalPath, RunFolder
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer

HELP = Help("a trained run", "RUN --where SQL", "remove rows from the index", 12)


def command(run: RunFolder, where: str, index: OptionalPath = None, json: Json = False) -> int:
    """Removes from the run's index the rows that fulfil a condition; those that stay are numbered anew.

    The pictures themselves are not touched. Indexing the same data again brings the rows back.

    Args:
        where: Which rows, in SQL on modality, text, image and meta: "image LIKE '%/boats/%'".
        index: Another index than RUN/index.
    """
    from coalign.retrieval.index import Index

    path = index or run / "index"
    Index.open(path)  # or a lock's folder would be made where there is none
    with Index.writing(path):
        opened = Index.open(path)
        gone = opened.delete(where)
        opened.finish()  # of an earlier start that was killed, too
        left = len(opened)
    answer(json, {"index": str(path), "removed": gone, "rows": left}, f"{gone} rows removed, {left} left: {path}")
    return 0
