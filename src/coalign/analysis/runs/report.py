"""One self-contained HTML page about a run: what was trained on what, how well it retrieves, how it learned, what it
finds and where it looks. `Report` is plain data, so any run can fill it; `write_report` makes the page.

Nothing on the page comes from the network, no script runs but that which draws the heat maps (the page forbids others),
and all text is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from coalign.analysis.runs.alignment import AlignmentMap
from coalign.analysis.runs.charts import curves, line_chart
from coalign.analysis.runs.maps import Maps
from coalign.analysis.runs.viewer import built, script_policy, scripts, shown
from coalign.data.images.pictures import Picture, data_uri, fit, open_picture, write_text

ROW_TITLES = {
    "model": "Dual encoder",
    "reranked": "Re-ranked by fusion",
    "baseline": "Baseline",
    "untrained": "Untrained",
    "chance": "Chance",
}
REFERENCES = ("untrained", "chance")
DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}
THUMBNAIL, PICTURE = 112, 320  # longer side in pixels of an answer's picture and of one under a heat map
MOST_WORDS = 15

Recall = Mapping[str, Mapping[str, float]]
"""{"image_to_text" | "text_to_image": {"R@1": fraction, …}}."""


@dataclass(frozen=True)
class Answer:
    """One answer to a query: a picture, a text, or both; whether it is right; its score."""

    right: bool
    text: str = ""
    picture: Picture | None = None
    score: float | None = None


@dataclass(frozen=True)
class Retrieval:
    """One query, by text or by picture, and its best answers in order. `rank` is the place of its best right answer,
    `expected` that answer, shown apart where it is not among the best. `split` puts the sample under its heading."""

    answers: Sequence[Answer]
    text: str = ""
    picture: Picture | None = None
    rank: int | None = None
    expected: Answer | None = None
    split: str = ""


@dataclass(frozen=True)
class Alignment:
    """One pair with its word-to-patch map."""

    picture: Picture
    maps: AlignmentMap
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows under `columns`, with a heading and a note above them."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Picture]]


@dataclass(frozen=True)
class Group:
    """The recall of one part of a split (flags, people …), among `count` pairs."""

    split: str
    name: str
    count: int
    recall: Recall


@dataclass(frozen=True)
class Report:
    """Everything the page shows. A part that is left empty is left out.

    `facts` say what was trained on what (name to value). `results` has the form of results.json: {"splits": {split:
    {"gallery": n, row: Recall, …}}}. `titles` names splits and rows for the reader, by key. `metrics` are the
    records of the run's metrics file, `curves` the keys to draw (None: all). `commands` are what to type next, with a
    word on each.
    """

    title: str
    summary: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    results: Mapping[str, Any] = field(default_factory=dict[str, Any])
    titles: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Sequence[Mapping[str, Any]] = ()
    curves: Sequence[str] | None = None
    retrievals: Sequence[Retrieval] = ()
    alignments: Sequence[Alignment] = ()
    galleries: Sequence[Gallery] = ()
    groups: Sequence[Group] = ()
    notes: Sequence[str] = ()
    commands: Mapping[str, str] = field(default_factory=dict[str, str])


def write_report(report: Report, path: str | Path) -> Path:
    """Writes the page, whole or not at all."""
    return write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("coalign.analysis.runs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    splits: Mapping[str, Mapping[str, Any]] = report.results.get("splits", {})
    return environment.get_template("report.html.j2").render(
        report=report,
        directions=DIRECTIONS,
        splits=[_split(report, name, split) for name, split in splits.items()],
        group_tables=_group_tables(report),
        charts=[(c.name, c.end, Markup(line_chart(c))) for c in curves(report.metrics, report.curves)],
        retrievals=_by_split(report),
        alignments=[_alignment(alignment) for alignment in report.alignments],
        viewer=_viewer(report.alignments),
        galleries=[(part, [[_pixels(p) for p in row] for row in part.rows]) for part in report.galleries],
    )


@dataclass(frozen=True)
class _Cell:
    value: float | None
    best: bool


@dataclass(frozen=True)
class _Row:
    title: str
    cells: list[_Cell]
    count: int | None = None
    reference: bool = False


def _split(report: Report, name: str, split: Mapping[str, Any]) -> dict[str, Any]:
    recalls = {key: value for key, value in split.items() if isinstance(value, Mapping)}
    cuts = _cuts(list(recalls.values()))
    known = [key for key in ROW_TITLES if key not in REFERENCES]
    order = [*known, *(key for key in recalls if key not in ROW_TITLES), *REFERENCES]
    present = [key for key in order if key in recalls]
    rows = _rows([(_title(report, key, ROW_TITLES), recalls[key], None, key in REFERENCES) for key in present], cuts)
    return {"title": _title(report, name), "gallery": split.get("gallery"), "cuts": cuts, "rows": rows}


def _group_tables(report: Report) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = []
    for split in dict.fromkeys(group.split for group in report.groups):
        groups = [group for group in report.groups if group.split == split]
        cuts = _cuts([group.recall for group in groups])
        rows = _rows([(group.name, group.recall, group.count, False) for group in groups], cuts, mark_best=False)
        tables.append({"title": _title(report, split), "cuts": cuts, "rows": rows})
    return tables


def _cuts(recalls: Sequence[Recall]) -> list[str]:
    """The names of the columns under each direction, in order of first appearance."""
    return list(dict.fromkeys(cut for recall in recalls for d in DIRECTIONS for cut in recall.get(d, {}) if "@" in cut))


def _rows(
    named: Sequence[tuple[str, Recall, int | None, bool]], cuts: Sequence[str], mark_best: bool = True
) -> list[_Row]:
    columns = [(direction, cut) for direction in DIRECTIONS for cut in cuts]
    values = [[recall.get(d, {}).get(cut) for d, cut in columns] for _, recall, _, _ in named]
    best = [max((v for v in column if v is not None), default=None) for column in zip(*values, strict=True)]
    return [
        _Row(title, [_Cell(v, mark_best and v == top) for v, top in zip(row, best, strict=True)], count, reference)
        for (title, _, count, reference), row in zip(named, values, strict=True)
    ]


def _title(report: Report, key: str, known: Mapping[str, str] | None = None) -> str:
    return report.titles.get(key) or (known or {}).get(key) or key.replace("_", " ").capitalize()


def _by_split(report: Report) -> list[dict[str, Any]]:
    """Samples under their split's heading, text queries before picture queries."""
    return [
        {
            "title": _title(report, split) if split else "",
            "by_text": [_retrieval(r) for r in report.retrievals if r.split == split and r.picture is None],
            "by_picture": [_retrieval(r) for r in report.retrievals if r.split == split and r.picture is not None],
        }
        for split in dict.fromkeys(r.split for r in report.retrievals)
    ]


def _retrieval(sample: Retrieval) -> dict[str, Any]:
    return {
        "text": sample.text,
        "picture": _thumbnail(sample.picture),
        "rank": sample.rank,
        "answers": [_answer(answer) for answer in sample.answers],
        "expected": None if sample.expected is None else _answer(sample.expected),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "right": answer.right,
        "text": answer.text,
        "score": answer.score,
        "picture": _thumbnail(answer.picture),
    }


def _alignment(alignment: Alignment) -> dict[str, Any]:
    maps = alignment.maps
    return {
        "text": " ".join(maps.words),
        "hidden": maps.words[MOST_WORDS:],
        "grid": f"{maps.values.shape[1]} by {maps.values.shape[2]} patches",
        "method": maps.method.replace("_", "-"),
        "note": alignment.note,
    }


def _viewer(alignments: Sequence[Alignment]) -> dict[str, Markup] | None:
    """Style, policy and scripts that draw the alignments; None without any."""
    if not alignments:
        return None
    data = [shown(_maps(one.maps), " ".join(one.maps.words), one.picture, PICTURE) for one in alignments]
    parts = {"style": built("heat.css"), "policy": script_policy(), "scripts": scripts(data)}
    return {name: Markup(part) for name, part in parts.items()}


def _maps(maps: AlignmentMap) -> Maps:
    height, width = maps.values.shape[1:]
    words, values = maps.words[:MOST_WORDS], maps.values[:MOST_WORDS].flatten(1)
    return Maps(words, maps.method, (maps.method,), values, grid=(height, width), box=maps.box)


def _pixels(picture: Picture) -> str:
    """A gallery's picture, its pixels as sharp as they are."""
    return data_uri(fit(open_picture(picture), 2 * THUMBNAIL), quality=95)


def _thumbnail(picture: Picture | None, side: int = THUMBNAIL) -> str | None:
    return None if picture is None else data_uri(fit(open_picture(picture), side))
