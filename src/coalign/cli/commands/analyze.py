"""`coalign analyze`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tyro.conf import Positional, UseAppendAction, arg

from coalign.arguments import OptionalName, OptionalPath, Switch, load_run, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer, print_json
from coalign.errors import InputError

HELP = Help("your own data", "DATA", "what is in a data set, and what a model would find hard in it", 5)

DATA_HELP = (
    "What training reads: image-text pairs (a table, a folder of images with a .txt beside each, COCO or Karpathy "
    "JSON, .tar shards, the name of a Hugging Face data set), images alone or in class folders, a folder of videos "
    "with subtitles, series (a .pkl of MulT, MAG or MMSA, a folder of .csd files or of coalign convert-data), or "
    '"emoji", the quick start\'s pairs.'
)
MADE = "report-of.json"
"""What a report that was made by parts is of."""
Names = Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")]

T = TypeVar("T")


def command(
    data: Annotated[Positional[str], arg(metavar="DATA", help=DATA_HELP)],
    out: Path = Path("report"),
    run: OptionalPath = None,
    label: Names = (),
    annotators: Names = (),
    slice: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="EXPRESSION|FILE.py")] = (),
    against: OptionalName = None,
    regions: OptionalPath = None,
    images: OptionalPath = None,
    image_column: OptionalName = None,
    text_column: Names = (),
    split: OptionalName = None,
    captions: OptionalPath = None,
    info: OptionalPath = None,
    sense: Names = (),
    layers: Annotated[tuple[int, ...], arg(metavar="INT ...", help_behavior_hint="")] = (),
    pairs: int = 4000,
    decode: int = 20_000,
    vit_steps: int = 200,
    seed: int = 0,
    part: OptionalName = None,
    overwrite: Switch = False,
    json: Json = False,
) -> int:
    """Analyses a data set, modality by modality and across them, as a page that opens without network.

    Writes OUT/report.html, OUT/report.json with every figure, and the tables as Parquet. All texts are analysed; of
    images and pairs samples are, and the report says how many. Started again, it reads the vectors that it has already
    made from OUT/cache.

    Args:
        out: The folder of the report.
        run: Compare images with texts by this run's vectors. Without it, by two linear maps trained on
            EfficientNet-lite0 and MiniLM features of the data, each pair judged by maps that have not seen it.
        label: The label columns of a table. By default every other column that has few values.
        annotators: Columns of a table that hold several annotators' answers to one question.
        slice: A part of the data to set against the rest: "length > 20", "text contains 'not'", "label == cat and
            brightness < 60"; or a Python file of yours whose functions take a row and say whether it belongs.
        against: Another data set of the same kind: what differs between the two.
        regions: Detected regions of the images (.h5, .lmdb, .npz, .tsv ...), which are then analysed instead of them.
        images: The folder that image paths are relative to. By default the table's own.
        image_column: The column of the images. By default found by its name.
        text_column: The column or columns of the texts. By default found by name.
        split: Only this split, where the data has several.
        captions: Where the subtitles of videos are, if not beside them: a folder, or HowTo100M's caption.json.
        info: A table of the videos with video_id, task and category, such as HowTo100M_v1.csv.
        sense: Words whose uses in context are laid out. By default those common ones that fall apart most.
        layers: Layers of the encoders whose maps are drawn beside the last; words' uses are laid out after the first.
        pairs: How many pairs are encoded.
        decode: How many images are decoded.
        vit_steps: How long a small ViT is trained on the images; 0 leaves it out.
        seed: Of what is drawn.
        part: Encode part I of N, written I/N from 0/N to N-1/N, into OUT/cache; by default the part of torchrun's
            rank. What is there is passed over, and whoever finishes the last part writes the report.
        overwrite: Replace a report that is there.
    """
    from dataclasses import replace

    from coalign.analysis.datasets.findings import SEVERITY
    from coalign.analysis.datasets.page import report_folder, write_study
    from coalign.analysis.datasets.parts import Options
    from coalign.analysis.datasets.slices import load_slices
    from coalign.analysis.datasets.sources import Reading, open_columns
    from coalign.analysis.datasets.study import compare_sets, study, study_part
    from coalign.analysis.datasets.summary import summarise
    from coalign.analysis.towers import default_towers, run_towers
    from coalign.checkpoints.packages import minilm_folder
    from coalign.data.core.parts import Part
    from coalign.data.words.load import load_tokenizer
    from coalign.files import read_json, replace_file, shared

    own = Part.chosen(part)
    page = out / "report.html"
    if own is None and page.exists() and not overwrite:
        raise InputError(f"{page}: exists already; give another --out, or --overwrite")
    if pairs < 1 or decode < 1:
        raise InputError(f"--pairs {pairs} --decode {decode}: both must be at least 1")
    reading = Reading(images, image_column, text_column, split, regions, captions, info, label, annotators)
    slices: dict[str, Any] = {}
    for part in slice:
        slices |= load_slices(Path(part)) if part.endswith(".py") else {part: part}
    columns = open_columns(data, reading, _progress)
    other = None if against is None else open_columns(against, reading, _progress)
    show = sys.stderr.isatty()
    towers = default_towers(columns, vit_steps=vit_steps, images=pairs, show=show)
    if run is not None:
        towers = run_towers(run, load_run(run), towers)
    tokenizer = load_tokenizer(minilm_folder()) if len(columns.texts) else None
    chosen = Options(decode, pairs, senses=sense, layers=layers, seed=seed)
    asked: list[str] = []
    if own is not None:
        with shared(out / "cache"):
            sets = [columns] if other is None else [columns, other]
            parts = [study_part(some, towers, chosen, own, out / "cache", _progress) for some in sets]
        files = [file for some in parts for file in some]
        asked = [file.name for file in files] + [repr(each) for each in (data, reading, chosen, against, [*slices])]
        if missing := sum(not file.exists() for file in files):
            said = f"part {own.number}/{own.of} is there; {missing} files of other parts are missing"
            answer(json, {"part": f"{own.number}/{own.of}", "missing": missing}, said)
            return 0
    with report_folder(out, wait=own is not None) as cache:
        if own is not None and page.exists() and not overwrite:
            if not (cache / MADE).exists() or read_json(cache / MADE) != asked:
                raise InputError(f"{page}: exists already, of something else; give another --out, or --overwrite")
            answer(json, {"part": f"{own.number}/{own.of}", "report": str(page)}, str(page))  # another has made it
            return 0
        result = study(columns, towers, chosen, tokenizer=tokenizer, slices=slices, cache=cache, show=_progress)
        if other is not None:
            beside = study(other, towers, chosen, tokenizer=tokenizer, cache=cache, show=_progress)
            result = replace(result, against=compare_sets(result, beside, seed))
        result = replace(result, findings=summarise(result))
        page = write_study(result, out)
        if own is not None:
            replace_file(cache / MADE, lambda file: file.write_text(dumps(asked), encoding="utf-8"))
    if columns.problems:
        say(f"{data}: {len(columns.problems)} rows could not be read; the first: {columns.problems[0]}")
    if json:
        rows = [
            {"kind": f.kind, "severity": f.severity, "title": f.title, "rows": len(f.rows)} for f in result.findings
        ]
        print_json({"report": str(page), "rows": columns.count, "findings": rows})
    else:
        for finding in result.findings:
            print(f"{SEVERITY[finding.severity]}  {finding.title}")
        print(f"\n{page}")
    return 0


def _progress(items: Iterable[T], title: str) -> Iterable[T]:
    from coalign.progress import with_progress

    total = len(items) if hasattr(items, "__len__") else None  # pyright: ignore[reportArgumentType]
    return with_progress(items, title, total, True)
