"""Samples that cannot be used are counted, written down and passed over, instead of stopping a run in its middle."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from coalign.data.core.samples import Problem, Sample, Source, Where, problem_of
from coalign.data.core.verdicts import Verdict
from coalign.data.images.decode import MAX_PIXELS, BadSample, check_image, name_of
from coalign.errors import InputError
from coalign.files import regular
from coalign.progress import Bars

FILE = "quarantine.jsonl"
MOST, RUN = 1_000_000, 64
"""Samples that are looked at of a source at most, and those that a thread looks at in one go, of small data."""
REMEMBERED = 30_000
"""Pictures of which it is remembered how they are, for the next rows that name them."""


class Quarantine:
    """A list of problems, kept in a JSONL file with one object a line: row, file, image, reason, used.

    A problem that is listed is not listed again, by a later epoch or by a run that goes on after a stop. Several
    processes may write to the same file.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Goes on with the file if it exists; None keeps the list in memory alone."""
        self.path = None if path is None else Path(path)
        self.reasons: Counter[str] = Counter()
        self._known: set[Problem] = set()
        self._read()

    def _read(self) -> None:
        """Takes up what the file lists."""
        if self.path is not None and self.path.exists():
            text = regular(self.path).read_text(encoding="utf-8", errors="replace")
            for problem in _parse(text):
                self._store(problem)
            if text and not text.endswith("\n"):  # killed while writing: the next line must not join the stump
                _append(self.path, "\n")

    def __len__(self) -> int:
        return len(self._known)

    @property
    def broken(self) -> int:
        """How many problems are of rows that are not used."""
        return sum(not problem.used for problem in self._known)

    def add(self, problem: Problem) -> None:
        """Lists a problem, once."""
        if problem in self._known:
            return
        self._store(problem)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, _line(problem))

    def add_all(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.add(problem)

    def _store(self, problem: Problem) -> None:
        self._known.add(problem)
        self.reasons[problem.reason] += 1

    def keep_in(self, path: Path) -> None:
        """Writes what is listed so far, and what is listed from now on, into this file."""
        listed, self.path = list(self._known), path
        self._known, self.reasons = set(), Counter()
        self._read()
        self.add_all(sorted(listed, key=str))

    def summary(self) -> str:
        """One line: how many, and why."""
        mended = len(self) - self.broken
        return f"{self.broken} broken, {mended} mended: {_listed(self.reasons)}" if len(self) else "nothing broken"


@dataclass(frozen=True)
class Preflight:
    """The result of checking a source: `source` is it without the `indices` that cannot be used."""

    source: Source
    total: int
    broken: int
    indices: tuple[int, ...]


def check_source(
    source: Source,
    *,
    limit: float = 0.1,
    quarantine: Quarantine | None = None,
    thorough: int = 2000,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
    threads: int = 8,
) -> Preflight:
    """Looks over every sample before training: is the file there, does its header read, is there a text.

    Of more than `MOST` samples so many are looked at, spread evenly. What was found in a large file that is used is
    kept, and the next start looks at the samples with problems alone (`coalign.data.core.verdicts`).

    Args:
        source: What to check.
        limit: The largest fraction that may be broken, rows that the reader rejected included.
        quarantine: Where to list the problems.
        thorough: So many samples, spread evenly, are decoded whole, which also finds files that are cut short. When
            too many of these are broken, the source is refused like any other.
        max_pixels: See `decode_image`.
        progress: Shows a bar on stderr.
        threads: How many files are looked at at once.

    Raises:
        InputError: More than `limit` is broken, or nothing is left.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    quarantine.add_all(source.problems)
    rejected = [problem for problem in source.problems if not problem.used]
    total = len(source) + len(rejected)
    looked = range(0, len(source), max(1, -(-len(source) // MOST)))
    step = max(1, -(-len(looked) // thorough)) if thorough > 0 else 0
    decoded = looked[::step] if step else range(0)
    verdict = Verdict.on(source, [max_pixels, thorough])
    kept = None if verdict is None else verdict.read()
    again = looked if kept is None else [index for index, _ in kept if index in looked]  # what was mended since is used
    problems = _look_over(source, again, decoded, max_pixels, threads, progress)
    quarantine.add_all(problem for _, problem in problems)
    found = [(index, problem) for index, problem in problems if not problem.used]
    indices = tuple(index for index, _ in found)
    broken = [*rejected, *(problem for _, problem in found)]
    broken_of_decoded = sum(index in decoded for index in indices)
    _judge(source.name, broken, len(looked) + len(rejected), limit, (broken_of_decoded, len(decoded)), quarantine.path)
    if len(indices) == len(looked):
        raise InputError(f"{source.name}: no sample is usable: {_reasons(broken)}")
    if verdict is not None and problems != kept:
        verdict.write(problems)
    return Preflight(source.without(indices), total, len(broken), indices)


def _look_over(
    source: Source, looked: Sequence[int], decoded: range, max_pixels: int, threads: int, progress: bool
) -> list[tuple[int, Problem]]:
    """The problems of the samples `looked`, of which `decoded` are decoded whole, by number."""
    seen: dict[tuple[str, bool], str] = {}

    def check(run: Sequence[int]) -> list[tuple[int, Problem]]:
        looks = ((index, _check(source, index, max_pixels, index in decoded, seen)) for index in run)
        return [(index, problem) for index, problem in looks if problem is not None]

    size = max(RUN, len(looked) // 2000)  # each run waits in memory
    runs = [looked[start : start + size] for start in range(0, len(looked), size)]
    found: list[tuple[int, Problem]] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        Bars(show=progress, transient=True) as bar,
    ):
        task = bar.add_task("checking the data", total=len(looked))
        for run, problems in zip(runs, pool.map(check, runs), strict=True):
            found += problems
            bar.advance(task, len(run))
    return found


def _check(
    source: Source, index: int, max_pixels: int, thorough: bool, seen: dict[tuple[str, bool], str]
) -> Problem | None:
    """The problem of one sample. `seen` remembers what was found out about files that come again."""
    try:
        sample = source[index]
    except BadSample as error:
        return problem_of(error, source.name, index)
    name = name_of(sample.image)
    reason = "" if sample.texts else "the text is empty"
    known = seen.get((name, thorough))
    if not reason and known is not None:
        reason = known
    elif not reason:
        reason = _image_problem(sample, max_pixels, thorough)
        if name:
            if len(seen) >= REMEMBERED:  # memory does not grow with the source
                seen.clear()
            seen[name, thorough] = reason
    if reason:
        return Problem(sample.where, reason, name)
    return Problem(sample.where, sample.note, name, used=True) if sample.note else None


def _image_problem(sample: Sample, max_pixels: int, thorough: bool) -> str:
    if isinstance(sample.image, Tensor) and sample.image.is_floating_point():
        return "" if sample.image.dim() in (3, 4) else f"features have the shape {list(sample.image.shape)}"
    try:
        check_image(sample.image, max_pixels=max_pixels, thorough=thorough)
    except BadSample as error:
        return error.reason
    return ""


def _judge(
    name: str, broken: Sequence[Problem], total: int, limit: float, decoded: tuple[int, int], listed: Path | None
) -> None:
    """Raises when too much is broken, of everything or of the samples that were decoded whole."""
    of_all = len(broken) / max(total, 1)
    of_decoded = decoded[0] / max(decoded[1], 1)
    if max(of_all, of_decoded) <= limit:
        return
    where = f"; all are listed in {listed}" if listed is not None else ""
    share = f"{len(broken)} of {total} samples ({of_all:.0%})"
    if of_all <= limit:
        share = f"{decoded[0]} of {decoded[1]} samples that were decoded ({of_decoded:.0%})"
    raise InputError(
        f"{name}: {share} are broken, more than the {limit:.0%} allowed: {_reasons(broken)}; the first: "
        f"{broken[0]}{where}. Mend the data, or allow more"
    )


def _reasons(problems: Iterable[Problem]) -> str:
    return _listed(Counter(problem.reason for problem in problems))


def _listed(reasons: Counter[str]) -> str:
    common = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return common + (f" and {len(reasons) - 3} more reasons" if len(reasons) > 3 else "")


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())  # one write: lines of several processes do not mix
    finally:
        os.close(descriptor)


def _line(problem: Problem) -> str:
    where = problem.where
    entry = {"row": where.row, "file": where.file, "image": problem.image, "reason": problem.reason}
    return json.dumps({**entry, "used": problem.used}) + "\n"


def _parse(text: str) -> list[Problem]:
    problems: list[Problem] = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            problem = Problem(Where(entry["file"], entry["row"]), entry["reason"], entry["image"], entry["used"])
        except (ValueError, KeyError, TypeError, RecursionError):  # torn by a process that was killed while writing
            continue
        texts = (problem.where.file, problem.reason, problem.image)
        sound = all(isinstance(text, str) for text in texts) and isinstance(problem.used, bool)
        if sound and isinstance(problem.where.row, int | str):
            problems.append(problem)
    return problems
