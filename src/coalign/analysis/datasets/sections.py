"""The sections of a study's page, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coalign.analysis.datasets.drawing import lines
from coalign.analysis.datasets.parts import Study
from coalign.analysis.datasets.slices import Difference
from coalign.data.images.decode import BadSample, decode_image
from coalign.data.images.pictures import data_uri, fit
from coalign.errors import InputError

THUMBNAIL = 96  # longer side in pixels of a picture on the page
MOST = 24  # suspects, duplicates ... that are shown


@dataclass(frozen=True)
class Table:
    """Columns with a name each, and rows of what stands in them; those from `fold` on are shown on demand."""

    columns: list[str]
    rows: list[list[Any]]
    caption: str = ""
    fold: int = 1000


@dataclass(frozen=True)
class Card:
    """A row of the data with its picture."""

    picture: str | None
    text: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading of the page and what stands under it."""

    id: str
    title: str
    lead: str = ""
    figures: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    tables: list[Table] = field(default_factory=list[Table])
    cards: list[tuple[str, list[Card]]] = field(default_factory=list[tuple[str, list[Card]]])


def picture(study: Study, row: int, side: int = THUMBNAIL, quality: int = 82) -> str | None:
    """A row's image as a `data:` URI, or None where it has none that can be read."""
    if not len(study.columns.images):
        return None
    try:
        return data_uri(fit(decode_image(study.columns.images[row]), side), quality)
    except (BadSample, InputError):
        return None


def sections_of(study: Study) -> list[Section]:
    """Everything that there is to show, in order."""
    parts = (_texts, _images, _videos, _series, _labels, _maps, _similarity, _probes, _senses, _pairs, _words, _slices)
    return [section for part in parts for section in part(study)]


def _texts(study: Study) -> list[Section]:
    part = study.texts
    if part is None:
        return []
    scripts = ", ".join(f"{name} {share:.1%}" for name, share in list(part.scripts.items())[:4])
    lead = (
        f"{part.count:,} texts of {part.words.mean():.1f} words on average ({part.words.min()} to {part.words.max()}), "
        f"{part.distinct_words:,} different words, {part.once:.0%} of them once. Scripts: {scripts}. "
        f"{part.duplicate_rows:,} repeat another text; {len(part.near_duplicates):,} pairs differ by little."
    )
    tables: list[Table] = []
    fit = part.tokenisation
    if fit is not None:
        lead += (
            f" The vocabulary makes {fit.pieces_per_word:.2f} pieces of a word and does not know {fit.unknown:.2%} of "
            f"them ({fit.texts:,} texts)."
        )
        if fit.split_words:
            rows = [[word, pieces, count] for word, pieces, count in fit.split_words[:10]]
            tables.append(Table(["word", "pieces", "times"], rows, "Words in more than three pieces"))
    if part.duplicates:
        rows = [[_short(study.columns.texts[group[0]]), len(group)] for group in part.duplicates[:10]]
        tables.append(Table(["text", "times"], rows, "Texts that come more than once"))
    if part.near_duplicates:
        texts = study.columns.texts
        rows = [[_short(texts[a]), _short(texts[b]), f"{alike:.2f}"] for a, b, alike in part.near_duplicates[:10]]
        tables.append(Table(["text", "nearly the same", "overlap"], rows, "Texts that differ by little"))
    return [Section("texts", "Texts", lead, part.plots(), tables)]


def _images(study: Study) -> list[Section]:
    part = study.images
    if part is None:
        return []
    lead = (
        f"{len(part.rows):,} images looked at: {len(part.broken):,} more cannot be read, {len(part.blank):,} are "
        f"nearly of one colour, {part.duplicate_rows:,} repeat another one."
    )
    tables = []
    if part.broken:
        rows = [[_where(study, row), reason] for row, reason in part.broken[:15]]
        tables.append(Table(["where", "what is wrong"], rows, "Images that cannot be read"))
    groups = [
        (f"The same picture {len(group)} times", [_card(study, row) for row in group[:6]])
        for group in part.duplicates[:6]
    ]
    blank = [("Nearly of one colour", [_card(study, row) for row in part.blank[:8]])] if part.blank else []
    return [Section("images", "Images", lead, part.plots() if len(part.rows) else [], tables, groups + blank)]


def _videos(study: Study) -> list[Section]:
    part = study.videos
    if part is None:
        return []
    rows = [[name, tasks, videos, clips, f"{hours:.2f}"] for name, tasks, videos, clips, hours in part.table]
    lead = (
        f"{part.videos:,} videos, {part.duration.sum() / 3600:.2f} hours; {part.coverage.mean():.0%} of a video's time "
        f"is narrated on average; {part.overlapping:,} clips overlap the one before, {part.outside:,} end after the "
        "video."
    )
    figures = part.plots()
    if study.offset is not None:
        best, clips = study.offset.best, study.offset.clips
        title = f"Narration against the frames before and after it ({clips:,} clips, best {best:+.0f} s)"
        figures.append((title, study.offset.plot()))
    return [
        Section("videos", "Videos", lead, figures, [Table(["category", "tasks", "videos", "clips", "hours"], rows)])
    ]


def _series(study: Study) -> list[Section]:
    if not study.series:
        return []
    rows = [
        [
            part.name,
            part.width,
            f"{part.lengths.mean():.1f}",
            f"{part.missing.max():.1%}",
            int(part.infinite.sum()),
            len(part.constant),
            len(part.exploding),
            f"{part.zero:.1%}",
        ]
        for part in study.series
    ]
    names = ["name", "features", "mean steps", "most missing", "infinite", "constant", "exploding", "steps of zeros"]
    figures = [(f"Steps of {part.name}", part.plot()) for part in study.series if part.lengths.max() > 1]
    return [Section("series", "Numbers and series", "", figures, [Table(names, rows)])]


def _labels(study: Study) -> list[Section]:
    if not study.labels and not study.agreements:
        return []
    figures = [(f"{part.name} ({len(part.counts)} values)", part.plot()) for part in study.labels]
    tables = [
        Table(
            ["value", "words that set its texts apart"],
            [[value, ", ".join(word for word, _ in words) or "none"] for value, words in list(by_value.items())[:25]],
            f"Words of {name!r}",
        )
        for name, by_value in study.label_words.items()
    ]
    if study.agreements:
        rows = [
            [a.name, a.annotators, f"{a.alpha:.2f}", f"{a.agreeing:.0%}", len(a.disputed)] for a in study.agreements
        ]
        columns = ["question", "annotators", "Krippendorff's alpha", "agreeing pairs", "most disputed rows"]
        tables.append(Table(columns, rows))
    return [Section("labels", "Labels", "", figures, tables)]


def _maps(study: Study) -> list[Section]:
    sections: list[Section] = []
    for i, part in enumerate(study.maps):
        rows = [[c + 1, size, ", ".join(part.cluster_words[c])] for c, size in enumerate(part.cluster_sizes)]
        tables = [Table(["cluster", "items", "words that set it apart"], rows)] if any(part.cluster_words) else []
        cards = [
            (
                "Nearest neighbours" if number == 0 else "",
                [_card(study, row), *(_card(study, other, "→") for other in near)],
            )
            for number, (row, near) in enumerate(part.neighbours[:4])
        ]
        lead = (
            f"{part.method} of {len(part.rows):,} items. Hover to see an item, drag to zoom, double-click to zoom out."
        )
        figures = [(f"{part.name}, coloured by cluster", part.plot())]
        for label in [p.label for p in study.probes][:2]:
            values = study.columns.labels[label]
            figures.append(
                (f"{part.name}, coloured by {label}", part.plot([values[int(r)] or "missing" for r in part.rows]))
            )
        sections.append(Section(f"map-{i}", f"Map: {part.name}", lead, figures, tables, cards))
    return sections


def _similarity(study: Study) -> list[Section]:
    if study.similarity is None:
        return []
    lead = "How alike the representations are: 1 is the same up to rotation and scale (CKA), or the same neighbours."
    figures = study.similarity.plots()
    if study.layer_similarity is not None:
        figures += [(f"Layer by layer. {caption}", figure) for caption, figure in study.layer_similarity.plots()]
    return [Section("similarity", "Representations side by side", lead, figures)]


def _probes(study: Study) -> list[Section]:
    if not study.probes:
        return []
    figures: list[tuple[str, Any]] = []
    for part in study.probes:
        figures.append((f"{part.label!r} read off each representation ({len(part.rows):,} rows)", _main(part).plot()))
        if any(", layer " in probe.name for probe in part.probes):
            figures.append((f"{part.label!r} layer by layer", part.layers()))
    for part in study.information:
        figures.append((f"Usable bits about {part.label!r}, by modality", part.plot()))
    lead = (
        "Linear probes on rows that they were not fitted on, with 95% bootstrap intervals. Usable bits (Xu et al. "
        "2020): what the modalities share is redundancy; more than the sum from both together is synergy."
    )
    tables = []
    if study.leaks:
        rows = [[k.label, k.modality, f"{k.accuracy:.1%}", f"{k.majority:.1%}", ", ".join(k.by)] for k in study.leaks]
        columns = ["label", "given away by", "accuracy", "commonest value", "namely"]
        tables.append(Table(columns, rows, "Labels that something trivial gives away"))
    return [Section("probes", "What each modality knows of the labels", lead, figures, tables)]


def _main(part: Any) -> Any:
    return replace(part, probes=[probe for probe in part.probes if ", layer " not in probe.name])


def _senses(study: Study) -> list[Section]:
    if not study.senses:
        return []
    figures: list[tuple[str, Any]] = []
    rows: list[list[Any]] = []
    for part in study.senses:
        figures.append((f"“{part.word}” in {len(part.rows):,} texts (layer {part.layer})", part.plot()))
        for c in range(2):
            examples = " · ".join(_short(text) for text in part.examples[c][:3])
            rows.append([part.word, c + 1, ", ".join(part.words[c][:6]), examples, f"{part.silhouette:.2f}"])
    columns = ["word", "cluster", "words beside it", "examples", "silhouette"]
    lead = "One word, its vectors in context parted in two. A large silhouette means two uses far apart."
    depths = {part.word: (list(range(len(part.by_layer))), part.by_layer) for part in study.senses}
    figures.append(("How far the two uses are apart after each layer", lines(depths, "layer", "silhouette")))
    return [Section("senses", "One word, different senses", lead, figures, [Table(columns, rows)])]


def _pairs(study: Study) -> list[Section]:
    part = study.comparison
    if part is None:
        return []
    recall = [[name, f"{value:.1%}"] for name, value in part.recall.items()]
    suspects = part.flagged[:MOST] if part.flagged else part.suspects[:12]
    cards = [
        _card(
            study,
            int(study.rows[i]),
            f"score {part.score[i]:.1f}" + (f", mismatched: {part.mismatch[i]:.0%}" if part.usable else ""),
        )
        for i in suspects
    ]
    lead = (
        f"A matched pair is more similar than a mismatched one in {part.separation:.1%} of the cases. Modality gap "
        f"{part.gap:.2f}; hubness (skewness) of texts {part.hubness['texts']:.1f}, of images "
        f"{part.hubness['images']:.1f}. By {part.by}."
    )
    if part.by.startswith("linear maps"):
        lead += " Such maps put the mean image and the mean text in one place: the gap of a trained run says more."
    if not part.usable:
        lead += " Matched pairs do not stand out enough to tell single mismatched ones; the order is still shown."
    title = "Most likely mismatched" if part.flagged else "Least like their texts"
    table = Table(["recall", ""], recall, f"Galleries of {part.gallery:,}")
    return [
        Section("pairs", "Across modalities", lead, [("Similarity of pairs", part.plot())], [table], [(title, cards)])
    ]


def _words(study: Study) -> list[Section]:
    part = study.grounding
    if part is None or not part.words:
        return []
    grounded = [word.word for word in part.words if word.grounded]
    never = [word.word for word in part.words if not word.grounded]
    lead = (
        "How much a pair's similarity falls when a word is left out, over the fall with other images, with 95% "
        f"intervals ({part.texts:,} changed texts). Grounded: {', '.join(grounded) or 'none'}. Not shown to be: "
        f"{', '.join(never) or 'none'}."
    )
    return [Section("words", "Which words are grounded", lead, [("Fall without the word", part.plot())])]


def _slices(study: Study) -> list[Section]:
    sections: list[Section] = []
    if study.slices:
        tables = [
            Table(
                _DIFFERENCE,
                [_difference(d) for d in part.differences],
                f"{part.name}: {part.size:,} of {part.of:,} pairs",
                _shown(part.differences),
            )
            for part in study.slices
        ]
        lead = "Each slice against the rest. p is corrected for the number of slices and measures (Holm)."
        sections.append(Section("slices", "Slices", lead, [], tables))
    if study.against is not None:
        part = study.against
        rows = [_difference(d) for d in part.measures.differences]
        lead = (
            f"{part.name} against {part.other}: a probe that tells which set a row is from, on rows that it was not "
            "fitted on. 0.5 would be no difference."
        )
        shifts = [[s.by, f"{s.accuracy:.3f}", f"{s.low:.3f} to {s.high:.3f}", _p(s.p), s.rows] for s in part.shifts]
        tables = [
            Table(["by", "told right", "95%", "p", "rows"], shifts),
            Table(
                [part.name if c == "inside" else part.other if c == "outside" else c for c in _DIFFERENCE],
                rows,
                "Every measure",
                _shown(part.measures.differences),
            ),
        ]
        figures = [("How often the set is told right", part.plot())] if part.shifts else []
        sections.append(Section("against", "Two data sets", lead, figures, tables))
    return sections


_DIFFERENCE = ["measure", "inside", "outside", "difference", "95%", "p", "corrected p"]


def _shown(differences: Sequence[Difference]) -> int:
    """How many rows are worth showing at once: those that are sure, within reason."""
    return min(max(sum(d.corrected < 0.05 for d in differences), 8), 24)


def _difference(d: Any) -> list[Any]:
    numbers = [f"{value:.3g}" for value in (d.inside, d.outside, d.difference)]
    return [d.measure, *numbers, f"{d.low:.3g} to {d.high:.3g}", _p(d.p), _p(d.corrected)]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _card(study: Study, row: int, note: str = "") -> Card:
    text = study.columns.texts[row] if len(study.columns.texts) else ""
    place = _where(study, row)
    return Card(picture(study, row), text if len(text) < 120 else f"{text[:119]}…", f"{note} {place}".strip())


def _where(study: Study, row: int) -> str:
    return study.columns.where[row] if len(study.columns.where) else f"row {row}"


def _short(text: str) -> str:
    return text if len(text) < 80 else f"{text[:79]}…"
