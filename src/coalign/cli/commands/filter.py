"""`coalign filter`."""

from __future__ import annotations

from pathlib import Path

from coalign.arguments import DRAWN, OptionalPath, Pairs, RunFolder, Switch, Writing, load_run, shows_progress
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer, known_ending, not_the_data
from coalign.errors import InputError

HELP = Help("your own data", "RUN --data PAIRS --out FILE", "noisy pairs without what does not match", 42)


def command(
    run: RunFolder,
    pairs: Pairs,
    out: Path,
    captions: bool = True,
    captioner: OptionalPath = None,
    threshold: float = 0.5,
    dropped: OptionalPath = None,
    writing: Writing = DRAWN,
    overwrite: Switch = False,
    batch_size: int = 16,
    json: Json = False,
) -> int:
    """Keeps the pairs whose text matches its picture by the run's matching head, and adds captions of its own that do
    (CapFilt, Li et al. 2022, section 3.3).

    The list has the columns image, text, origin (data, or model for captions that were written) and score (the
    probability of a match), and is read as pairs again, with --images FOLDER where the pictures do not lie beside or
    below it. Your own data stays as it is.

    Args:
        out: The .jsonl or .csv to write.
        captions: Leave out captions, and only filter.
        captioner: Another run that writes the captions. By default RUN itself.
        threshold: The least probability of a match that is kept.
        dropped: A .jsonl or .csv for what was not kept.
        overwrite: Replace the files if they exist.
        batch_size: Pictures at a time.
    """
    from coalign.evaluation.captions import Writer, judge, rows_files
    from coalign.progress import with_progress

    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: is a probability, from 0 to 1")
    written = [out] if dropped is None else [out, dropped]
    for file in written:
        known_ending(file, (".jsonl", ".csv"))
        not_the_data(file, pairs.data)
    if dropped is not None and dropped.resolve() == out.resolve():
        raise InputError(f"{out}: --out and --dropped are the same file; give two names")
    names = ("image", "text", "origin", "score")
    counts = {f"{name}, {origin}": 0 for name in ("kept", "seen") for origin in ("data", "model")}
    with rows_files(written, names, overwrite) as (write, *leave):
        loaded = load_run(run)
        writer = Writer(load_run(captioner) if captioner is not None else loaded, writing) if captions else None
        source = pairs.open().grouped()
        judged = with_progress(
            judge(loaded, source, writer, batch_size), "judging", -(-len(source) // batch_size), shows_progress()
        )
        for pair in (pair for part in judged for pair in part):
            counts[f"seen, {pair.origin}"] += 1
            if pair.score >= threshold:
                counts[f"kept, {pair.origin}"] += 1
                write(pair.row())
            elif leave:
                leave[0](pair.row())
        if not any(counts.values()):
            raise InputError(f"{pairs.data}: no picture with a text can be read")
    words = f"kept {counts['kept, data']} of {counts['seen, data']} texts of the data"
    if writer is not None:
        words += f" and {counts['kept, model']} of {counts['seen, model']} captions"
    answer(json, {"out": str(out), **counts, "threshold": threshold}, f"{words}: {out}")
    return 0
