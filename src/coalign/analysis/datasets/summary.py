"""The findings of a study, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coalign.analysis.datasets.columns import pick
from coalign.analysis.datasets.findings import Finding
from coalign.analysis.datasets.parts import Study

FEW = 20
MOST_ROWS = 1000  # rows that a finding lists


def summarise(study: Study) -> list[Finding]:
    """All findings, the gravest first."""
    parts = (_rows, _images, _texts, _features, _labels, _pairs, _videos, _words)
    findings = [finding for part in parts for finding in part(study)]
    return sorted(findings, key=lambda finding: -finding.severity)


def _rows(study: Study) -> Iterator[Finding]:
    if study.rows_total < FEW:
        detail = f"With fewer than {FEW}, neither intervals nor probes nor mismatched pairs mean anything."
        yield Finding(
            "few_rows", 3, f"There {'is' if study.rows_total == 1 else 'are'} {_count(study.rows_total, 'row')}", detail
        )
    broken = len(study.columns.problems)
    if broken:
        yield Finding("broken_rows", 3, f"{_count(broken, 'row')} could not be read", study.columns.problems[0])


def _images(study: Study) -> Iterator[Finding]:
    part = study.images
    if part is None:
        return
    decoded = len(part.rows) + len(part.broken)
    if part.broken:
        reasons = ", ".join(sorted({reason for _, reason in part.broken})[:3])
        rows = [row for row, _ in part.broken]
        yield Finding("broken_images", 3, f"{_count(len(rows), 'image')} cannot be read", reasons, rows[:MOST_ROWS])
    if len(part.rows) > 1 and len(part.duplicates) == 1 and len(part.duplicates[0]) == len(part.rows):
        yield Finding("equal_images", 3, "All images are one and the same picture", "No pair can be told from another.")
    elif part.duplicates:
        rows = [row for group in part.duplicates for row in group[1:]]
        title = f"{_count(len(rows), 'image')} of {decoded:,} repeat another one"
        detail = (
            f"{len(part.duplicates)} groups of the same picture, whatever its size or compression. Between training "
            "and test data they leak; with different texts they contradict each other."
        )
        yield Finding("duplicate_images", 3 if len(rows) > decoded / 200 else 2, title, detail, rows[:MOST_ROWS])
    if part.blank:
        title = f"{_count(len(part.blank), 'image')} nearly of one colour"
        yield Finding("blank_images", 2, title, "There is nothing in them to align.", part.blank[:MOST_ROWS])


def _texts(study: Study) -> Iterator[Finding]:
    part = study.texts
    if part is None:
        return
    rows = [row for group in part.duplicates for row in group[1:]]
    if part.duplicates and len(part.duplicates[0]) == part.count:
        yield Finding("equal_texts", 3, "All texts are equal", "Nothing can be learnt from them.")
    elif rows:
        common = ", ".join(f"“{_short(study.columns.texts[group[0]])}” × {len(group)}" for group in part.duplicates[:3])
        severity = 2 if len(rows) > part.count / 50 else 1
        title = f"{_count(len(rows), 'text')} of {part.count:,} repeat another one"
        detail = f"{common}. A contrastive loss pushes equal texts apart unless they share an id."
        yield Finding("duplicate_texts", severity, title, detail, rows[:MOST_ROWS])
    if part.near_duplicates:
        a, b, alike = part.near_duplicates[0]
        title = f"{_count(len(part.near_duplicates), 'pair')} of texts differ by little"
        detail = f"For example “{_short(study.columns.texts[a])}” and “{_short(study.columns.texts[b])}” ({alike:.2f})."
        later = sorted({pair[1] for pair in part.near_duplicates})
        yield Finding("near_duplicate_texts", 1, title, detail, later[:MOST_ROWS])
    common = {name: share for name, share in part.languages.items() if share >= 0.05}
    if len(common) > 1 and part.languages_of >= 100:
        listed = ", ".join(f"{name} {share:.0%}" for name, share in common.items())
        detail = f"{listed}, guessed for {part.languages_of:,} texts of 20 letters or more; short texts are misjudged."
        yield Finding("languages", 1, f"Texts are in {len(common)} languages", detail)
    fit = part.tokenisation
    if fit is None:
        return
    if fit.unknown > 0.001:
        words = ", ".join(word for word, _ in fit.unknown_words[:8])
        detail = f"{fit.unknown:.2%} of the pieces; for example {words}."
        yield Finding("unknown_pieces", 3 if fit.unknown > 0.02 else 2, "The vocabulary lacks some words", detail)
    if fit.pieces_per_word > 1.6:
        words = ", ".join(word for word, _, _ in fit.split_words[:8])
        detail = f"{fit.pieces_per_word:.2f} pieces a word; in more than three pieces, for example: {words}."
        yield Finding("split_words", 2, "The vocabulary breaks many words into pieces", detail)
    if fit.too_long > 0.01:
        detail = f"{fit.too_long:.1%} are longer than {fit.limit} pieces and lose their end."
        yield Finding("long_texts", 2, "Some texts are too long for the text encoder", detail)


def _features(study: Study) -> Iterator[Finding]:
    for part in study.series:
        if part.constant:
            title = f"{part.name}: {_features_named(part.constant, part.width)} constant"
            yield Finding("constant_feature", 2, title, "They tell nothing; leave them out.", subject=part.name)
        if part.exploding:
            title = f"{part.name}: {_features_named([d for d, _ in part.exploding], part.width)} exploding"
            worst = max(distance for _, distance in part.exploding)
            detail = f"Values up to {worst:,.0f} interquartile ranges from the median; clip or repair them."
            yield Finding("exploding_feature", 3, title, detail, subject=part.name)
        missing = np.nonzero(part.missing > 0)[0].tolist()
        if missing or part.infinite.any():
            title = f"{part.name}: values missing or infinite"
            detail = (
                f"Up to {part.missing.max():.1%} of a feature is missing, {part.infinite.sum():,} values are infinite."
            )
            yield Finding("missing_feature", 2, title, detail, subject=part.name)
        if part.empty:
            yield Finding(
                "empty_series", 3, f"{part.name}: {_count(part.empty, 'row')} without a step", "", subject=part.name
            )


def _labels(study: Study) -> Iterator[Finding]:
    for part in study.labels:
        if len(part.counts) == 1:
            title = f"Label {part.name!r} has one value throughout"
            yield Finding("constant_label", 3, title, "Nothing can be learnt from it.", subject=part.name)
        elif part.majority > 0.8:
            value = next(iter(part.counts))
            detail = f"{part.majority:.0%} are {value!r}: judge by balanced accuracy or F1, not by plain accuracy."
            yield Finding("unbalanced_label", 2, f"Label {part.name!r} is unbalanced", detail, subject=part.name)
        if part.missing:
            title = f"Label {part.name!r} is missing in {_count(part.missing, 'row')}"
            yield Finding("missing_label", 2, title, "", subject=part.name)
    for part in study.agreements:
        if part.alpha < 0.667:  # Krippendorff's own limit for tentative conclusions
            detail = f"Krippendorff's alpha {part.alpha:.2f}; {part.agreeing:.0%} of the pairs of answers agree."
            title = f"Annotators disagree on {part.name!r}"
            yield Finding("low_agreement", 3, title, detail, part.disputed, subject=part.name)
    for leak in study.leaks:
        source = {"text": "single words of the text", "image": "size or plain colour of the image"}.get(
            leak.modality, "another column"
        )
        detail = (
            f"A tree of a few questions on {', '.join(leak.by)} is right on {leak.accuracy:.1%} of held-out rows "
            f"(commonest value: {leak.majority:.1%}). A model will learn that and nothing else."
        )
        yield Finding("label_leak", 3, f"Label {leak.label!r} is given away by {source}", detail, subject=leak.label)


def _pairs(study: Study) -> Iterator[Finding]:
    part = study.comparison
    if part is None:
        return
    if not part.usable:
        detail = (
            f"A matched pair is more similar than a mismatched one in {part.separation:.0%} of the cases "
            f"(by {part.by}). With so little to go by, single mismatched pairs cannot be told."
        )
        yield Finding("weak_signal", 2, "Matched pairs hardly stand out from mismatched ones", detail)
    elif part.flagged:
        rows = pick(study.rows.tolist(), np.array(part.flagged, np.int64))
        share = len(rows) / part.pairs
        title = f"{_count(len(rows), 'pair')} of {part.pairs:,} more likely mismatched than not"
        detail = f"About {part.expected:.0f} mismatched pairs are expected in all. Look at them below before you train."
        yield Finding("mismatched_pairs", 3 if share > 0.01 else 2, title, detail, rows[:MOST_ROWS])
    for name, skewness in part.hubness.items():
        if skewness > 3:
            detail = f"Skewness {skewness:.1f}: a few {name} are among the nearest of very many queries."
            yield Finding("hubs", 1, f"Some {name} are hubs", detail)


def _videos(study: Study) -> Iterator[Finding]:
    part = study.videos
    if part is not None and part.outside:
        title = f"{_count(part.outside, 'narrated clip')} end after their video"
        yield Finding("narration_outside", 3, title, "The subtitles may belong to another cut.")
    if study.offset is not None and study.offset.best != 0:
        detail = (
            f"Words fit the frame {study.offset.best:+.0f} s from their middle best, of {study.offset.clips} clips."
        )
        yield Finding("narration_offset", 2, "Narration is not in time with what is shown", detail)


def _words(study: Study) -> Iterator[Finding]:
    part = study.grounding
    if part is None or study.comparison is None or not part.words:
        return
    grounded = [word.word for word in part.words if word.grounded]
    if grounded and len(grounded) < len(part.words):
        never = [word.word for word in part.words if not word.grounded]
        detail = f"Most: {', '.join(grounded[:8])}. Without effect: {', '.join(never[-8:])}."
        title = f"{len(grounded)} of {len(part.words)} common words matter to the match"
        yield Finding("grounded_words", 1, title, detail)


def _features_named(numbers: list[int], width: int) -> str:
    if width == 1:
        return "it is"
    shown = ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")
    return f"{len(numbers)} of {width} features ({shown})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:59]}…"
