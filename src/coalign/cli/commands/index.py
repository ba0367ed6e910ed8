"""`coalign index`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coalign.arguments import OptionalFloat, OptionalName, OptionalPath, Pairs, RunFolder, Switch, load_run, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer
from coalign.errors import InputError

HELP = Help("a trained run", "RUN --data PAIRS", "embed a corpus and make it searchable", 10)


def command(
    run: RunFolder,
    pairs: Pairs,
    out: OptionalPath = None,
    overwrite: Switch = False,
    batch_size: int = 64,
    workers: int = 0,
    step: OptionalFloat = None,
    part: OptionalName = None,
    json: Json = False,
) -> int:
    """Embeds a corpus into an index that `coalign search` reads. Interrupted, it goes on when it is started again.

    For a run that reads videos, --data is a folder of them; the index is then of moments.

    Args:
        out: The folder of the index. By default RUN/index.
        overwrite: Replace an index of other data, or one made before the run was trained further.
        batch_size: Images at a time; of videos an eighth as many clips.
        workers: Processes that read images ahead.
        part: I/N: embed the I-th of N parts alone, I from 0, into a file of OUT.parts; the last to finish joins them.
            By default each process of torchrun has its part.
        step: Of videos: seconds from one clip's beginning to the next. By default half a clip's length.
    """
    from coalign.checkpoints.hub import local_folder
    from coalign.data.core.parts import Part
    from coalign.retrieval.search import index_pairs

    if out is None and str(run).startswith("hf:/"):
        raise InputError(f"{run}: is on a hub, where no index is kept; name a folder for it: --out FOLDER")
    path = out or run / "index"
    loaded, run = load_run(run, half=True), local_folder(run)
    if loaded.spec.video is not None:
        return _videos(run, loaded, Path(pairs.data), path, step, overwrite, max(batch_size // 8, 1), json)
    if (chosen := Part.chosen(part)) is not None:
        return _part(run, loaded, pairs.open(), path, chosen, overwrite, batch_size, workers, json)
    added = index_pairs(
        run,
        loaded,
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


def _part(
    run: Path,
    loaded: Any,
    source: Any,
    path: Path,
    part: Any,
    overwrite: bool,
    batch_size: int,
    workers: int,
    json: bool,
) -> int:
    from coalign.retrieval.embed import vector_width
    from coalign.retrieval.parts import Parts

    parts = Parts.beside(path, run, source)
    if not overwrite:
        parts.refuse_other(path, vector_width(loaded))
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "show_progress": True}
    added = parts.embed(loaded, source, part, overwrite=overwrite, **options)
    there = len(parts.there(part))
    whole = there == part.of
    rows = parts.join_index(path, vector_width(loaded), part, overwrite=overwrite) if whole else None
    words = f"{added['image']} images and {added['text']} texts; {there} of {part.of} parts are there: {parts.folder}"
    words = words if rows is None else f"{rows} rows joined from {part.of} parts: {path}"
    answer(json, {"index": str(path), **added, "parts": there, "rows": rows}, words)
    return 0


def _videos(
    run: Path,
    loaded: Any,
    folder: Path,
    path: Path,
    step: float | None,
    overwrite: bool,
    batch_size: int,
    json: bool,
) -> int:
    from coalign.data.core.quarantine import Quarantine
    from coalign.retrieval.moments import index_videos

    quarantine = Quarantine()
    options: dict[str, Any] = {"step": step, "batch_size": batch_size, "overwrite": overwrite}
    added = index_videos(run, loaded, folder, path, quarantine=quarantine, show_progress=True, **options)
    if quarantine.broken:
        say(f"{folder}: {quarantine.summary()}; left out")
    answer(json, {"index": str(path), "video": added}, f"{added} moments added: {path}")
    return 0
