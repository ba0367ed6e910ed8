"""The report of a study: one self-contained HTML page, its figures as JSON, its tables as Parquet.

The page needs no network: plotly's script, all data and all pictures are in it. Text of the data is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from coalign.analysis.datasets.columns import plain
from coalign.analysis.datasets.findings import SEVERITY
from coalign.analysis.datasets.parts import Study, row_table
from coalign.analysis.datasets.sections import picture, sections_of
from coalign.analysis.datasets.series import SeriesStatistics
from coalign.data.images.pictures import write_text
from coalign.errors import InputError
from coalign.files import locked, remove_parts, replacing

HOVER = 56  # longer side in pixels of a picture that is shown with a point of a map


@contextmanager
def report_folder(folder: Path, wait: bool = False) -> Generator[Path]:
    """The folder in it for what encoders give, while no other process analyses into `folder` (else `InputError`; with
    `wait` it is waited for). What a killed one left half written is removed."""
    with locked(folder, "is analysing", wait):
        for part in (folder, folder / "cache"):
            remove_parts(part)
        yield folder / "cache"


def write_study(study: Study, folder: Path) -> Path:
    """Writes report.html, report.json and the tables; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(plain(study), indent=1, ensure_ascii=False, allow_nan=False))
    for name, table in tables(study).items():
        with replacing(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    return write_text(folder / "report.html", render(study))


def tables(study: Study) -> dict[str, Any]:
    """The study's tables (`pyarrow.Table`) by name: "pairs" has a row for each pair that was looked at, with every
    measure; the others are those of the page, and what its figures are drawn from. Empty ones are left out, but
    "findings" is always there."""
    data, parts = study.columns, dict[str, Any]()
    if len(study.rows):
        parts["pairs"] = pa.table(row_table(study))
    columns = [(name, pa.string()) for name in ("kind", "title", "detail", "subject")]
    schema = pa.schema([*columns, ("severity", pa.int64()), ("rows", pa.list_(pa.int64()))])
    parts["findings"] = pa.Table.from_pylist([plain(finding) for finding in study.findings], schema=schema)
    lists: dict[str, list[dict[str, Any]]] = {
        "slices": [{"slice": s.name, "size": s.size} | plain(d) for s in study.slices for d in s.differences],
        "probes": [
            {"label": p.label, "majority": p.majority} | {k: v for k, v in plain(q).items() if not isinstance(v, dict)}
            for p in study.probes
            for q in p.probes
        ],
        "labels": [{"label": p.name, "value": v, "rows": n} for p in study.labels for v, n in p.counts.items()],
        "label_words": [
            {"label": name, "value": value, "word": word, "z": z}
            for name, by_value in study.label_words.items()
            for value, words in by_value.items()
            for word, z in words
        ],
        "leaks": [plain(leak) for leak in study.leaks],
        "agreement": [plain(part) for part in study.agreements],
        "series": [_series(part) for part in study.series],
        "information": [
            {"label": p.label, "part": part, "bits": value, "low": low, "high": high}
            for p in study.information
            for part in ("text", "image", "both", "only_text", "only_image", "redundancy")
            for value, low, high in [getattr(p, part)]
        ],
        "maps": [
            {"map": m.name, "row": row, "x": float(x), "y": float(y), "cluster": c + 1}
            for m in study.maps
            for row, (x, y), c in zip(m.rows.tolist(), m.places, m.cluster.tolist(), strict=True)
        ],
        "clusters": [
            {"map": m.name, "cluster": c + 1, "items": size, "words": m.cluster_words[c]}
            for m in study.maps
            for c, size in enumerate(m.cluster_sizes)
        ],
        "neighbours": [
            {"map": m.name, "row": row, "neighbours": near} for m in study.maps for row, near in m.neighbours
        ],
        "similarity": [
            {"a": a, "b": b, "cka": part.cka[i, j], "mutual_knn": part.mutual_knn[i, j], "items": part.items}
            for part in (study.similarity, study.layer_similarity)
            if part is not None
            for i, a in enumerate(part.names)
            for j, b in enumerate(part.names[:i])
        ],
        "senses": [
            {"word": s.word, "layer": s.layer, "row": row, "x": float(x), "y": float(y), "cluster": c + 1}
            for s in study.senses
            for row, (x, y), c in zip(s.rows.tolist(), s.places, s.cluster.tolist(), strict=True)
        ],
    }
    if study.texts is not None:
        text = study.texts
        lists["words"] = [{"word": word, "count": count} for word, count in text.counts.most_common(10_000)]
        lists["duplicate_texts"] = [{"rows": group, "text": data.texts[group[0]]} for group in text.duplicates]
        lists["near_duplicate_texts"] = [{"row": a, "other": b, "overlap": o} for a, b, o in text.near_duplicates]
    if study.images is not None:
        lists["duplicate_images"] = [{"rows": group} for group in study.images.duplicates]
        lists["broken_images"] = [{"row": row, "reason": reason} for row, reason in study.images.broken]
    if study.videos is not None:
        names = ("category", "tasks", "videos", "clips", "hours")
        lists["videos"] = [dict(zip(names, line, strict=True)) for line in study.videos.table]
    if study.offset is not None:
        lists["offset"] = [
            {"shift": shift, "fit": fit, "low": low, "high": high}
            for shift, fit, low, high in zip(
                study.offset.shifts, study.offset.fit, study.offset.low, study.offset.high, strict=True
            )
        ]
    if study.comparison is not None and study.comparison.usable:
        compared = study.comparison
        lists["mismatched"] = [
            {"row": int(study.rows[i]), "probability": float(compared.mismatch[i]), "score": float(compared.score[i])}
            for i in compared.suspects[:1000]
        ]
    if study.grounding is not None:
        lists["grounded_words"] = [plain(word) | {"grounded": word.grounded} for word in study.grounding.words]
    if study.against is not None:
        lists["against"] = [plain(d) for d in study.against.measures.differences]
        lists["shifts"] = [plain(shift) for shift in study.against.shifts]
    return parts | {name: pa.Table.from_pylist(rows) for name, rows in lists.items() if rows}


def _series(part: SeriesStatistics) -> dict[str, Any]:
    return {
        "name": part.name,
        "features": part.width,
        "mean_steps": float(part.lengths.mean()),
        "missing": part.missing.tolist(),
        "infinite": part.infinite.tolist(),
        "minimum": part.minimum.tolist(),
        "maximum": part.maximum.tolist(),
        "constant": part.constant,
        "exploding": [feature for feature, _ in part.exploding],
        "empty": part.empty,
        "zero": part.zero,
    }


def render(study: Study) -> str:
    """The page as HTML."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError("the report needs plotly: pip install 'coalign[analysis]'") from error

    environment = Environment(
        loader=PackageLoader("coalign.analysis.runs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    number = 0
    figures: dict[str, Any] = {}
    sections: list[dict[str, Any]] = []
    for section in sections_of(study):
        shown: list[tuple[str, str, int]] = []
        for caption, figure in section.figures:
            number += 1
            figures[f"figure-{number}"] = _literal(json.loads(figure.to_json()))
            shown.append((f"figure-{number}", caption, int(figure.layout.height or 300)))
        sections.append({"part": section, "figures": shown})
    mapped = sorted({int(row) for part in study.maps for row in part.rows})
    page = environment.get_template("analysis.html.j2").render(
        study=study,
        facts=_facts(study),
        sections=sections,
        severity=SEVERITY,
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        data=Markup(_script_json({"figures": figures, "pictures": _thumbnails(study, mapped)})),
    )
    return _with_policy(page)


def _with_policy(page: str) -> str:
    """The page with a policy under which its own scripts run, by their hashes, and no other ones."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return page.replace(_POLICY, " ".join(f"'sha256-{digest}'" for digest in hashes), 1)


_POLICY = "SCRIPT-HASHES"


def _literal(value: Any, name: str = "") -> Any:
    """A figure whose texts plotly takes for no markup, links among it; lines end where `<br>` stands."""
    if isinstance(value, dict):
        parts: dict[str, Any] = value
        return {key: _literal(part, key) for key, part in parts.items()}
    if isinstance(value, list):
        items: list[Any] = value
        return [_literal(part, name) for part in items]
    return re.sub("<(?!br>)", "‹", value) if isinstance(value, str) and name != "hovertemplate" else value


def _script_json(value: Any) -> str:
    """JSON that may stand within a script element."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _thumbnails(study: Study, rows: Sequence[int]) -> dict[str, str]:
    if not len(study.columns.images):
        return {}
    pictures = {str(row): picture(study, row, HOVER, 60) for row in rows}
    return {row: uri for row, uri in pictures.items() if uri is not None}


def _facts(study: Study) -> dict[str, str]:
    facts = {"Data": study.name, "Rows": f"{study.rows_total:,}"}
    if study.images is not None:
        facts["Images"] = f"{study.images.count:,}, of which {len(study.images.rows):,} were looked at"
    if len(study.rows) and study.vectors:
        facts["Encoded pairs"] = f"{len(study.rows):,}"
    if study.comparison is not None:
        facts["Compared by"] = study.comparison.by
    if study.columns.problems:
        facts["Could not be read"] = f"{len(study.columns.problems):,} rows; the first: {study.columns.problems[0]}"
    return facts
