"""The whole analysis of a data set: every part that its columns allow, in one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from coalign.analysis.datasets.cache import Tower, Towers, encode_all, encode_part
from coalign.analysis.datasets.columns import Columns, Floats, Ints, Lazy, first_of_groups, pick, sample_rows
from coalign.analysis.datasets.cross_modal import (
    Grounding,
    Information,
    compare_pairs,
    ground_words,
    information,
    own_above_others,
)
from coalign.analysis.datasets.findings import Leak, find_leaks
from coalign.analysis.datasets.images import ImageStatistics, image_statistics
from coalign.analysis.datasets.measures import at_images, row_measures, set_figures
from coalign.analysis.datasets.parts import (
    Contents,
    CrossModal,
    Options,
    Representations,
    Show,
    Study,
    row_table,
    silent,
)
from coalign.analysis.datasets.representations import (
    FOLDS,
    Map,
    Probes,
    Senses,
    map_items,
    mean_interval,
    probe_label,
    senses,
    similarity,
)
from coalign.analysis.datasets.series import (
    Offset,
    agreement,
    as_series,
    label_statistics,
    series_statistics,
    video_statistics,
)
from coalign.analysis.datasets.shared_space import SharedSpace, canonical_space, whole_space
from coalign.analysis.datasets.slices import (
    Against,
    Predicate,
    Shift,
    Slice,
    compare_slices,
    parse_slice,
    two_sample_test,
)
from coalign.analysis.datasets.texts import label_words, text_statistics, words_of
from coalign.data.core.parts import Part
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

T = TypeVar("T")

SHIFTS = (-10.0, -5.0, -2.0, 0.0, 2.0, 5.0, 10.0)
POOLED = ", mean and deviation"
LABEL_VALUES = 60  # a label column with more values is not probed
LAYER_ITEMS = 600  # items by which layers are compared with each other


def study(
    columns: Columns,
    towers: Towers | None = None,
    options: Options | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    slices: Mapping[str, Predicate | str] | None = None,
    cache: Path | None = None,
    show: Show = silent,
) -> Study:
    """Analyses a data set.

    Args:
        columns: The data.
        towers: The encoders; without, the parts that need vectors are left out.
        options: Sample sizes.
        tokenizer: The vocabulary whose fit to the texts is measured.
        slices: Parts to set against the rest, by name: a predicate of a row, or what `parse_slice` reads.
        cache: The folder that keeps vectors.
        show: Wraps long loops in a progress bar with a title.
    """
    return _Run(columns, towers or Towers(), options or Options(), tokenizer, cache, show).study(slices or {})


def study_part(
    columns: Columns, towers: Towers, options: Options, part: Part, cache: Path, show: Show = silent
) -> list[Path]:
    """Keeps a part of the encoders' vectors in a folder, for a `study` of the same that has it as its cache; the files
    of all parts, be they there or not."""
    return _Run(columns, towers, options, None, cache, show).part(part, cache)


class _Run:
    def __init__(
        self,
        columns: Columns,
        towers: Towers,
        options: Options,
        tokenizer: Tokenizer | None,
        cache: Path | None,
        show: Show,
    ) -> None:
        self.columns, self.towers, self.options = columns, towers, options
        self.tokenizer, self.cache, self.show = tokenizer, cache, show
        self.notes: list[str] = []
        self.units = columns.units
        if len(np.unique(self.units)) < FOLDS <= len(np.unique(columns.groups)):
            self.units = columns.groups
            self.notes.append(f"With fewer than {FOLDS} sources, rows of one stand on both sides of a fold.")

    def study(self, slices: Mapping[str, Predicate | str]) -> Study:
        """The parts one after another, each made of the data and of the parts that it is given."""
        contents = self.contents()
        rows = self.rows(contents.images)
        leaks = self.leaks(rows, contents.images)
        texts = pick(self.columns.texts, rows) if len(self.columns.texts) else []
        represented = self.representations(rows, texts)
        crossed = self.cross_modal(rows, texts, represented)
        parts: dict[str, Any] = {**vars(contents), **vars(represented), **vars(crossed)}
        made = Study(self.columns.name, self.columns.count, self.columns, rows, leaks=leaks, notes=self.notes, **parts)
        made = replace(made, measures=row_measures(made, self.tokenizer))
        return replace(made, slices=self.slices(made, slices))

    # ------------------------------------------------------------------------------------------------ plain statistics
    def contents(self) -> Contents:
        """Statistics of each modality by itself, and of the labels."""
        data, seed = self.columns, self.options.seed
        texts = None
        if len(data.texts):
            texts = text_statistics(data.texts, self.tokenizer, seed=seed)
            if texts.compared < data.count:
                self.notes.append(f"Near-duplicates were looked for among {texts.compared:,} texts, drawn.")
            if texts.guessed < data.count:
                self.notes.append(f"Languages and pieces of words are those of {texts.guessed:,} texts, drawn.")
        labelled = {n: values for n, values in data.labels.items() if texts and len(set(values)) <= LABEL_VALUES}
        return Contents(
            texts=texts,
            label_words={name: label_words(data.texts, values, least=1.96) for name, values in labelled.items()},
            images=self.images(),
            series=[series_statistics(n, rows, seed) for n, rows in {**as_series(data.numbers), **data.series}.items()],
            labels=[label_statistics(name, values) for name, values in data.labels.items()],
            agreements=[agreement(name, answers) for name, answers in data.annotators.items()],
            videos=video_statistics(data.videos) if data.videos else None,
        )

    def images(self) -> ImageStatistics | None:
        data = self.columns
        if not len(data.images):
            return None
        first = first_of_groups(data.groups)
        rows = first[sample_rows(len(first), self.options.images, self.options.seed)]
        if len(rows) < len(first):
            self.notes.append(f"{len(rows):,} of {len(first):,} images were decoded, drawn.")
        return image_statistics(data.images, rows, len(first), shown=lambda part: self.show(part, "looking at images"))

    def rows(self, images: ImageStatistics | None) -> Ints:
        """The pairs that are encoded: drawn from those whose image can be read."""
        data, most = self.columns, self.options.pairs
        usable = np.arange(data.count)
        if images is not None:
            usable = usable[np.isin(data.groups, data.groups[images.rows])]
        rows = usable[sample_rows(len(usable), most, self.options.seed)]
        if len(rows) < len(usable):
            self.notes.append(f"{len(rows):,} of {len(usable):,} pairs were encoded, drawn.")
        return rows

    def leaks(self, rows: Ints, images: ImageStatistics | None) -> list[Leak]:
        """Labels that the length of a text, or the plainest figures of an image, give away."""
        data, leaks = self.columns, list[Leak]()
        image: dict[str, Floats] = {}
        if images is not None:
            at = at_images(data, rows, images)
            image = {name: part[at] for name, part in images.trivial().items()}
        for label, values in data.labels.items():
            if 2 <= len(set(values)) <= LABEL_VALUES:
                leaks += find_leaks(
                    label,
                    pick(values, rows),
                    self.units[rows],
                    texts=pick(data.texts, rows) if len(data.texts) else (),
                    image=image,
                    numbers={name: np.asarray(part)[rows] for name, part in data.numbers.items()},
                    seed=self.options.seed,
                )
        return leaks

    # ------------------------------------------------------------------------------------------------- representations
    def encode(self, tower: Tower, items: Sequence[Any]) -> dict[str, Floats]:
        return encode_all(tower, items, self.cache, lambda part: self.show(part, f"encoding by {tower.name}"))

    def representations(self, rows: Ints, texts: Sequence[str]) -> Representations:
        """The encoders' vectors of the rows: their maps, likeness, and what they tell of the labels."""
        data, seed = self.columns, self.options.seed
        vectors = self.vectors(rows, texts)
        if not vectors:
            return Representations()
        laid = {f", layer {number}" for number in self.options.layers}
        main = {n: part for n, part in vectors.items() if ", layer " not in n or any(n.endswith(end) for end in laid)}
        points = sample_rows(len(rows), self.options.points, seed)
        if len(points) < len(rows):
            self.notes.append(f"Maps show {len(points):,} of the encoded pairs, drawn.")
        maps: list[Map] = []
        for title in self.show(list(main), "laying out maps"):
            maps.append(map_items(title, main[title][points], rows[points], data.texts, seed=seed))
        alike = similarity(main, seed=seed) if len(main) > 1 and len(rows) >= 4 else None
        if alike is not None and alike.items < len(rows):
            self.notes.append(f"Representations are compared by {alike.items:,} of the encoded pairs, drawn.")
        layers = {n: part for n, part in vectors.items() if ", layer " in n or n.endswith(POOLED)}
        layered = len(vectors) > len(main) and len(rows) >= 4 and len(layers) > 1
        probes = [
            self.probe(label, rows, vectors)
            for label, values in data.labels.items()
            if 2 <= len({value for value in values if value is not None}) <= LABEL_VALUES
        ]
        return Representations(
            vectors=vectors,
            maps=maps,
            similarity=alike,
            layer_similarity=similarity(layers, most=LAYER_ITEMS, seed=seed) if layered else None,
            probes=[probe for probe in probes if probe is not None],
            senses=self.senses(texts, rows),
        )

    def part(self, part: Part, cache: Path) -> list[Path]:
        """Keeps a part of the vectors; see `study_part`."""
        rows = self.rows(self.images())
        texts = pick(self.columns.texts, rows) if len(self.columns.texts) else []
        first = np.unique(self.columns.groups[rows], return_index=True)[1]
        images, files, shared = self.columns.images, list[Path](), self.towers.shared or ()
        pictures = Lazy(rows[first], lambda row: images[int(row)]) if len(images) else ()
        towers = {t.key + t.modality: t for t in [*self.towers.image, *self.towers.text, *shared]}
        for tower in towers.values():
            items = pictures if tower.modality == "image" else texts
            files += encode_part(
                tower, items, cache, part, lambda some, tower=tower: self.show(some, f"encoding by {tower.name}")
            )
        return files

    def vectors(self, rows: Ints, texts: Sequence[str]) -> dict[str, Floats]:
        """[R, D] by representation: every encoder's, and the means and deviations of streams."""
        data, vectors = self.columns, dict[str, Floats]()
        first, inverse = np.unique(data.groups[rows], return_index=True, return_inverse=True)[1:]
        for tower in [*self.towers.image, *self.towers.text]:
            if tower.modality == "image" and len(data.images):
                once = self.encode(tower, Lazy(rows[first], lambda row: data.images[int(row)]))
                vectors |= {name: part[inverse] for name, part in once.items()}
            elif tower.modality == "text" and texts:
                vectors |= self.encode(tower, texts)
        for name, stream in data.series.items():
            vectors[f"{name}{POOLED}"] = np.stack([_pooled(stream[int(i)]) for i in rows])
        return vectors

    def probe(self, label: str, rows: Ints, vectors: Mapping[str, Floats]) -> Probes | None:
        by = dict(vectors)
        if (pair := self.main_pair(vectors)) is not None:
            by["both together"] = np.concatenate([_scaled(vectors[name]) for name in pair], 1)
        values = pick(self.columns.labels[label], rows)
        result = probe_label(label, values, by, self.units[rows], rows=rows, seed=self.options.seed)
        if result is None:
            self.notes.append(f"Label {label!r} has too few rows a value to be probed.")
        return result

    def main_pair(self, vectors: Mapping[str, Floats]) -> tuple[str, str] | None:
        """The image and the text representation that stand for their modality; streams where there are no others."""
        streams = [name for name in vectors if name.endswith(POOLED)]
        images = [t.name for t in self.towers.image if t.name in vectors] or streams
        texts = [t.name for t in self.towers.text if t.name in vectors] or streams[1:]
        return (images[0], texts[0]) if images and texts else None

    def senses(self, texts: Sequence[str], rows: Ints) -> list[Senses]:
        states = self.towers.word_states
        if states is None or len(texts) < 20:
            return []
        chosen = self.options.senses
        if not chosen:
            counts = Counter(word for text in texts for word in set(words_of(text)) if len(word) > 3)
            chosen = tuple(word for word, n in counts.most_common(24) if n >= 15)
        words: list[Senses] = []
        for word in chosen:
            places, layers, best = states(texts, word)
            layer = min(self.options.layers[0], layers.shape[1] - 1) if self.options.layers else best
            part = senses(word, layer, layers, rows[places], self.columns.texts, self.options.seed)
            words += [] if part is None else [part]
        if self.options.senses:
            missing = [word for word in self.options.senses if word not in {part.word for part in words}]
            if missing:
                self.notes.append(f"Too few encoded texts hold {', '.join(missing)} to tell senses apart.")
            return words
        return sorted(words, key=lambda s: -s.silhouette)[:3]

    # ------------------------------------------------------------------------------------------------ across modalities
    def cross_modal(self, rows: Ints, texts: Sequence[str], represented: Representations) -> CrossModal:
        """Images and texts in one space: how far pairs match, what words and labels need, how far narration is off."""
        space = self.space(rows, texts, represented.vectors) if represented.vectors else None
        if space is None:
            return CrossModal()
        seed = self.options.seed
        try:
            comparison = compare_pairs(space, self.columns.groups[rows], texts, seed=seed)
        except InputError as error:
            self.notes.append(f"Across modalities: {error}.")
            return CrossModal()
        informations: list[Information] = []
        if (pair := self.main_pair(represented.vectors)) is not None:
            for probes in represented.probes:
                by = {p.name: p.gained for p in probes.probes}
                gained = by[pair[1]], by[pair[0]], by["both together"]
                informations.append(information(probes.label, pair, *gained, seed))
        return CrossModal(
            comparison=comparison,
            information=informations,
            grounding=self.grounding(space, texts) if texts and self.towers.text else None,
            offset=self.offset(rows),
        )

    def space(self, rows: Ints, texts: Sequence[str], vectors: Mapping[str, Floats]) -> SharedSpace | None:
        data = self.columns
        if len(rows) < 4:
            return None
        if self.towers.shared is not None and texts and len(data.images):
            image, text = self.towers.shared
            first, inverse = np.unique(data.groups[rows], return_index=True, return_inverse=True)[1:]
            once = self.encode(image, Lazy(rows[first], lambda row: data.images[int(row)]))[image.name]
            return whole_space(once[inverse], self.encode(text, texts)[text.name], image.name)
        if (pair := self.main_pair(vectors)) is None:
            return None
        by = f"linear maps of {pair[0]} and {pair[1]}, found here, each pair judged by maps that have not seen it"
        try:
            return canonical_space(
                vectors[pair[0]],
                vectors[pair[1]],
                self.units[rows],
                seed=self.options.seed,
                by=by,
                shown=lambda part: self.show(part, "looking for a shared space"),
            )
        except InputError as error:
            self.notes.append(f"Across modalities: {error}.")
            return None

    def grounding(self, space: SharedSpace, texts: Sequence[str]) -> Grounding:
        counts = Counter(word for text in texts for word in set(words_of(text)))
        words = [word for word, n in counts.most_common(self.options.words) if n >= 5]
        tower = self.towers.shared[1] if self.towers.shared else self.towers.text[0]
        return ground_words(
            space, texts, lambda changed: self.encode(tower, changed)[tower.name], words, seed=self.options.seed
        )

    def offset(self, rows: Ints, most: int = 400) -> Offset | None:
        """How well narration fits the frames before and after it. Heads are trained anew for every shift: those of the
        shift 0 have learnt what is shown while something else is said."""
        moments, seed = self.columns.moments, self.options.seed
        if moments is None or (not self.towers.image and self.towers.shared is None):
            return None
        image, text = self.towers.shared or (self.towers.image[0], self.towers.text[0])
        chosen = rows[sample_rows(len(rows), most, seed)]
        of_text = self.encode(text, pick(self.columns.texts, chosen))[text.name]
        found_at = {shift: self._frames(image, chosen, shift) for shift in self.show(SHIFTS, "frames around narration")}
        kept = [k for k in range(len(chosen)) if all(k in frames for frames in found_at.values())]
        if len(kept) < 30:
            self.notes.append("Too few clips lie within their videos to say how far narration is off in time.")
            return None
        values: list[tuple[float, float, float]] = []
        for frames in found_at.values():
            images = np.stack([frames[k] for k in kept])
            if self.towers.shared is not None:
                space = whole_space(images, of_text[kept], image.name)
            else:
                space = canonical_space(images, of_text[kept], self.units[chosen[kept]], seed=seed)
            values.append(mean_interval(own_above_others(space), seed))
        best = SHIFTS[int(np.argmax([value[0] for value in values]))]
        columns = [[value[i] for value in values] for i in range(3)]
        return Offset(list(SHIFTS), columns[0], columns[1], columns[2], best, len(kept))

    def _frames(self, image: Tower, rows: Ints, shift: float, size: int = 64) -> dict[int, Floats]:
        """Vectors of the frames `shift` seconds after those of the rows, by place, where there are some; few frames
        are in memory at once."""
        assert self.columns.moments is not None
        vectors_of: dict[int, Floats] = {}
        for begin in range(0, len(rows), size):
            part = {k: self.columns.moments(int(rows[k]), shift) for k in range(begin, min(begin + size, len(rows)))}
            there = {k: frame for k, frame in part.items() if frame is not None}
            if there:
                vectors = encode_all(image, list(there.values()), self.cache)[image.name]
                vectors_of |= dict(zip(there, vectors, strict=True))
        return vectors_of

    # ---------------------------------------------------------------------------------------------------------- slices
    def slices(self, study: Study, wanted: Mapping[str, Predicate | str]) -> list[Slice]:
        if not wanted:
            return []
        table = row_table(study)
        predicates = {n: parse_slice(p, list(table)) if isinstance(p, str) else p for n, p in wanted.items()}
        rows: list[dict[str, Any]] = [
            dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)
        ]
        masks = {name: np.array([bool(predicate(row)) for row in rows]) for name, predicate in predicates.items()}
        for name, mask in masks.items():
            if not mask.any() or mask.all():
                self.notes.append(f"Slice {name!r} holds {'all' if mask.all() else 'none'} of the pairs looked at.")
        return compare_slices(masks, study.measures, self.options.seed, set_figures(study))


def compare_sets(study: Study, other: Study, seed: int = 0) -> Against:
    """Two studies made with the same encoders: shift by classifier two-sample test, and the measures of both."""
    units = study.columns.units[study.rows], other.columns.units[other.rows]
    shifts: list[Shift] = []
    for name in study.vectors:
        if name in other.vectors and ", layer " not in name:
            shifts.append(two_sample_test(name, study.vectors[name], other.vectors[name], *units, seed))
    shared = [name for name in study.measures if name in other.measures]
    measures = {name: np.concatenate([study.measures[name], other.measures[name]]) for name in shared}
    mask = np.arange(len(study.rows) + len(other.rows)) < len(study.rows)
    others = {figure.name: figure for figure in set_figures(other)}
    figures = [figure.joined(others[figure.name]) for figure in set_figures(study) if figure.name in others]
    (difference,) = compare_slices({study.name: mask}, measures, seed, figures)
    return Against(study.name, other.name, shifts, difference)


def _pooled(rows: Floats) -> Floats:
    part = np.nan_to_num(np.atleast_2d(np.asarray(rows, float)), posinf=0.0, neginf=0.0)
    return np.concatenate([part.mean(0), part.std(0)]) if len(part) else np.zeros(2 * part.shape[1])


def _scaled(x: Floats) -> Floats:
    """Each representation with as much weight as the other."""
    centred = x - x.mean(0)
    return centred / (np.sqrt((centred**2).sum(1).mean()) + 1e-9)
