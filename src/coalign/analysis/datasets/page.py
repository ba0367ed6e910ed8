"""The report of a study: one self-contained HTML page, its figures as JSON, its tables as Parquet.

The page needs no network: plotly's script, all data and all pictures are in it. Text of the data is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from coalign.analysis.datasets.columns import plain
from coalign.analysis.datasets.findings import SEVERITY
from coalign.analysis.datasets.found import Study, row_table
from coalign.analysis.datasets.sections import picture, sections_of
from coalign.analysis.pictures import replacing, write_text
from coalign.errors import InputError

HOVER = 56  # longer side in pixels of a picture that is shown with a point of a map


def write_study(found: Study, folder: Path) -> Path:
    """Writes report.html, report.json and the tables; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(plain(found), indent=1, ensure_ascii=False, allow_nan=False))
    for name, table in tables(found).items():
        with replacing(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    return write_text(folder / "report.html", render(found))


def tables(found: Study) -> dict[str, Any]:
    """The study's tables (`pyarrow.Table`) by name: "pairs", a row a pair that was looked at, with every measure;
    "words"; "findings"; "slices"; "probes"."""
    parts: dict[str, Any] = {}
    if len(found.rows):
        parts["pairs"] = pa.table(row_table(found))
    if found.texts is not None:
        top = found.texts.top_words
        parts["words"] = pa.table({"word": [w for w, _ in top], "count": [n for _, n in top]})
    findings = [plain(finding) for finding in found.findings]
    schema = pa.schema(
        [(name, pa.string()) for name in ("kind", "title", "detail", "subject")]
        + [("severity", pa.int64()), ("rows", pa.list_(pa.int64()))]
    )
    parts["findings"] = pa.Table.from_pylist(findings, schema=schema)
    differences = [{"slice": s.name, "size": s.size} | plain(d) for s in found.slices for d in s.differences]
    if differences:
        parts["slices"] = pa.Table.from_pylist(differences)
    probes = [{"label": p.label, "majority": p.majority} | plain(q) for p in found.probes for q in p.probes]
    if probes:
        parts["probes"] = pa.Table.from_pylist(probes)
    return parts


def render(found: Study) -> str:
    """The page as HTML."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError("the report needs plotly: pip install 'coalign[analysis]'") from error

    environment = Environment(
        loader=PackageLoader("coalign.analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    number = 0
    figures: dict[str, Any] = {}
    sections: list[dict[str, Any]] = []
    for section in sections_of(found):
        shown: list[tuple[str, str, int]] = []
        for caption, figure in section.figures:
            number += 1
            figures[f"figure-{number}"] = json.loads(figure.to_json())
            shown.append((f"figure-{number}", caption, int(figure.layout.height or 300)))
        sections.append({"part": section, "figures": shown})
    mapped = sorted({int(row) for part in found.maps for row in part.rows})
    return environment.get_template("analysis.html.j2").render(
        study=found,
        facts=_facts(found),
        sections=sections,
        severity=SEVERITY,
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        data=Markup(_script_json({"figures": figures, "pictures": _thumbnails(found, mapped)})),
    )


def _script_json(value: Any) -> str:
    """JSON that may stand within a script element."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _thumbnails(found: Study, rows: Sequence[int]) -> dict[str, str]:
    if not len(found.columns.images):
        return {}
    pictures = {str(row): picture(found, row, HOVER, 60) for row in rows}
    return {row: uri for row, uri in pictures.items() if uri is not None}


def _facts(found: Study) -> dict[str, str]:
    facts = {"Data": found.name, "Rows": f"{found.rows_total:,}"}
    if found.images is not None:
        facts["Images"] = f"{found.images.count:,}, of which {len(found.images.rows):,} were looked at"
    if len(found.rows) and found.vectors:
        facts["Encoded pairs"] = f"{len(found.rows):,}"
    if found.comparison is not None:
        facts["Compared by"] = found.comparison.by
    if found.columns.problems:
        facts["Could not be read"] = f"{len(found.columns.problems):,} rows; the first: {found.columns.problems[0]}"
    return facts
