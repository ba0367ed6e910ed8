"""Several recipes on the same data with the same budget of steps and several seeds, and one table of what came of it.

A plan says what every recipe is given, and which stages follow: a stage fine-tunes the pre-trained run (or not) and
measures it on one or more sets. Each finished stage is kept on disk, so that a comparison that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tyro

from coalign.arguments import Pairs
from coalign.compare.plans import Plan, Settings, Stage
from coalign.compare.text_only import text_only
from coalign.errors import InputError, without_secrets
from coalign.files import read_json, replace_file
from coalign.flags import field_names, required_names
from coalign.recipes import find_recipe
from coalign.registry import find, load
from coalign.tasks import find_task
from coalign.training.options import RunOptions, Schedule

CONTINUED = frozenset(
    (
        *(*field_names(Pairs), *field_names(Schedule), *field_names(RunOptions)),
        *("regions", "max_missing", "objectives", "boxes", "boxes_each"),
    )
)
"""Flags of a training that starts from another's weights; the rest sets fresh weights."""


@dataclass(frozen=True)
class Contender:
    """A recipe with settings of its own: "uniter-pretrain", or "uniter-pretrain:alignment_weight=0".

    A setting of several values is named once for each: "lxmert-pretrain:objectives=mlm,objectives=itm"; that of a
    switch is true or false.
    """

    label: str

    @property
    def recipe(self) -> str:
        return self.label.split(":", 1)[0]

    @property
    def settings(self) -> Settings:
        _, _, given = self.label.partition(":")
        pairs = [part.partition("=") for part in given.split(",") if part]
        wrong = [name for name, equals, _ in pairs if not equals]
        if wrong:
            raise InputError(f"{self.label}: write RECIPE:field=value,field=value; {wrong[0]!r} has no value")
        values: dict[str, list[str | bool]] = {}
        for name, _, value in pairs:
            values.setdefault(name, []).append({"true": True, "false": False}.get(value.lower(), value))
        return {name: given[0] if len(given) == 1 else given for name, given in values.items()}

    @property
    def folder(self) -> str:
        return "".join(letter if letter.isalnum() or letter in "-._=" else "_" for letter in self.label)


@dataclass(frozen=True)
class Comparison:
    """A plan carried out in a folder."""

    contenders: Sequence[Contender]
    plan: Plan
    out: Path
    seeds: Sequence[int] = (0,)
    say: Callable[[str], None] = lambda _: None

    def run(self) -> None:
        """Runs what is not done yet, seed by seed, and after each run writes comparison.json and comparison.md."""
        self._begin()
        runs = [(seed, contender) for seed in self.seeds for contender in self.contenders]
        for number, (seed, contender) in enumerate(runs, 1):
            self.say(f"{number} of {len(runs)}: {contender.label}, seed {seed}")
            self._run(contender, seed)
            self.write()

    def _begin(self) -> None:
        """Checks what all runs and stages are given, before any work, and writes the plan."""
        for contender in self.contenders:
            self._check(contender)
        file, text = (
            self.out / "plan.json",
            json.dumps(without_secrets(asdict(self.plan)), indent=1, default=str) + "\n",
        )
        if file.exists() and not same_work(Plan.read(file), self.plan):
            raise InputError(f"{file}: a comparison of another plan is in this folder; choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda part: part.write_text(text, encoding="utf-8"))

    def _check(self, contender: Contender) -> None:
        """Raises InputError where a recipe, or a task of what it trains, lacks a field or has none of that name."""
        recipe, settings = find_recipe(contender.recipe), self._settings(contender, self.seeds[0])
        unknown = [name for name in contender.settings if name not in field_names(recipe)]
        if unknown:
            raise InputError(f"{contender.label}: the recipe has no field {unknown[0]!r}")
        needed = required_names(recipe)
        missing = [f"--{name.replace('_', '-')}" for name in needed if name not in settings]
        if missing:
            raise InputError(f"{contender.label}: needs {' and '.join(missing)}; nothing has been started")
        made(recipe, settings)
        for stage in self.plan.stages:
            for part in stage.sets.values():
                task = find_task(stage.task)
                made(task, part, [str(self.out)])
                if "regions" in needed and "regions" in field_names(task) and "regions" not in part:
                    raise InputError(
                        f"{contender.label}: reads regions, and the plan's stage {stage.name!r} gives none to its task"
                    )

    def _settings(self, contender: Contender, seed: int) -> Settings:
        """The settings of the contender's pre-training, the first where there is a curriculum."""
        return self._trainings(contender, seed)[0]

    def _trainings(self, contender: Contender, seed: int) -> list[Settings]:
        """The settings of the curriculum's trainings and of the last, which is the run's "pretrain"."""
        fields, folder = field_names(find_recipe(contender.recipe)), self._folder(contender, seed)
        made: list[Settings] = []
        for number, lesson in enumerate((*self.plan.curriculum, {})):
            known = {name: value for name, value in {**self.plan.pretrain, **lesson}.items() if name in fields}
            settings = {**known, **contender.settings, **{name: lesson[name] for name in lesson if name in fields}}
            if made:
                kept = {name: value for name, value in settings.items() if name in CONTINUED}
                settings = {**kept, "start": made[-1]["out"]}
            last = number == len(self.plan.curriculum)
            made.append({**settings, "seed": seed, "out": folder / ("pretrain" if last else f"lesson-{number + 1}")})
        return made

    def _folder(self, contender: Contender, seed: int) -> Path:
        return self.out / contender.folder / f"seed-{seed}"

    def results(self, contender: Contender, seed: int) -> dict[str, Any]:
        """The results of a run: "parameters", and by stage each set's figures, or "skipped" with the reason."""
        file = self._folder(contender, seed) / "results.json"
        return read_json(file) if file.exists() else {}

    def _run(self, contender: Contender, seed: int) -> None:
        folder, done = self._folder(contender, seed), self.results(contender, seed)
        start = folder / "pretrain"
        if "parameters" not in done:
            for settings in self._trainings(contender, seed):
                _quietly(made(find_recipe(contender.recipe), settings).run)
            model = load(start).model
            done["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            self._keep(folder, done)
        system = read_json(start / "config.json")["system"]
        for stage in self.plan.stages:
            if stage.name not in done:
                done[stage.name] = self._stage(stage, system, start, folder / stage.name, seed)
                self._keep(folder, done)

    def _stage(self, stage: Stage, system: str, start: Path, run: Path, seed: int) -> dict[str, Any]:
        if stage.recipe:
            given = {**stage.train, "system": system, "start": start, "seed": seed, "out": run}
            recipe = made(find_recipe(stage.recipe), given)
            if recipe.head not in find(system).heads:
                return {"skipped": f"{system} has no head {recipe.head!r}"}
            _quietly(recipe.run)
        else:
            run = start
        results: dict[str, Any] = {}
        for name, settings in stage.sets.items():
            task = made(find_task(stage.task), settings, [str(run)])
            results[name] = _quietly(task.evaluate).to_json()
        return results

    def _keep(self, folder: Path, done: Mapping[str, Any]) -> None:
        text = json.dumps(without_secrets(done), indent=1, ensure_ascii=False) + "\n"
        replace_file(folder / "results.json", lambda part: part.write_text(text, encoding="utf-8"))

    # -------------------------------------------------------------------------------------------------------- table
    @cached_property
    def baselines(self) -> dict[str, float]:
        """The text-only figure of each column that has one."""
        baselines: dict[str, float] = {}
        for stage in self.plan.stages:
            for name, settings in stage.sets.items():
                figure = text_only(stage.task, stage.baseline or stage.train, settings)
                if figure is not None:
                    baselines[self._column(stage, name, next(iter(stage.figures)))] = figure
        return baselines

    @staticmethod
    def _column(stage: Stage, set_name: str, figure: str) -> str:
        parts = [stage.name, *([figure] if len(stage.figures) > 1 else []), *([set_name] if set_name else [])]
        return ", ".join(parts)

    def columns(self) -> dict[str, tuple[Stage, str, str, str]]:
        """The table's columns by name: stage, set, path of the figure, path of a guess's."""
        return {
            self._column(stage, name, figure): (stage, name, path, stage.chance.get(figure, ""))
            for stage in self.plan.stages
            for figure, path in stage.figures.items()
            for name in stage.sets
        }

    def figures(self, contender: Contender) -> dict[str, list[float]]:
        """Each column's figures over the seeds that are done."""
        figures: dict[str, list[float]] = {}
        for seed in self.seeds:
            results = self.results(contender, seed)
            for column, (stage, name, path, _) in self.columns().items():
                value = at(results.get(stage.name, {}).get(name, {}), path)
                if value is not None:
                    figures.setdefault(column, []).append(value)
        return figures

    def chances(self) -> dict[str, float]:
        """Chance by column, as the tasks give it."""
        chances: dict[str, float] = {}
        for contender in self.contenders:
            for seed in self.seeds:
                results = self.results(contender, seed)
                for column, (stage, name, _, path) in self.columns().items():
                    value = at(results.get(stage.name, {}).get(name, {}), path)
                    if value is not None:
                        chances.setdefault(column, value)
        return chances

    def to_json(self) -> dict[str, Any]:
        """{"columns", "rows": {label: {column: {"mean", "sd", "seeds"}}}, "chance", "text_only", "parameters"}."""
        rows = {c.label: {n: _summary(v) for n, v in self.figures(c).items()} for c in self.contenders}
        sizes = {c.label: self.results(c, s).get("parameters") for c in self.contenders for s in self.seeds[:1]}
        return {
            "columns": list(self.columns()),
            "seeds": list(self.seeds),
            "rows": rows,
            "chance": self.chances(),
            "text_only": self.baselines,
            "parameters": sizes,
        }

    def table(self) -> str:
        """The figures in per cent, mean ± standard deviation over seeds, as Markdown: one row a column's name."""
        said = self.to_json()
        labels = list(said["rows"])
        head = ["", *labels, "text alone", "chance"]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        counts = [said["parameters"][label] for label in labels]
        millions = [f"{count / 1e6:.2f} M" if count else "–" for count in counts]
        lines.append(f"| {' | '.join(['parameters', *millions, '', ''])} |")
        for column in said["columns"]:
            cells = [_cell(said["rows"][label].get(column)) for label in labels]
            beside = [_percent(said[name].get(column)) for name in ("text_only", "chance")]
            lines.append(f"| {' | '.join([column, *cells, *beside])} |")
        return "\n".join(lines)

    def write(self) -> None:
        """comparison.json and comparison.md in the folder."""
        text = json.dumps(without_secrets(self.to_json()), indent=1, ensure_ascii=False) + "\n"
        replace_file(self.out / "comparison.json", lambda part: part.write_text(text, encoding="utf-8"))
        replace_file(self.out / "comparison.md", lambda part: part.write_text(self.table() + "\n", encoding="utf-8"))


def same_work(before: Plan, now: Plan) -> bool:
    """Whether a folder with the work of one plan goes on with another. Plans of an older coalign give no boxes."""
    old, new = (without_secrets(plan.work()) for plan in (before, now))
    for own, other in zip((old["pretrain"], *old["curriculum"]), (new["pretrain"], *new["curriculum"]), strict=False):
        if "boxes" not in own:
            other.pop("boxes", None)
    return old == new


def made(kind: Any, settings: Mapping[str, Any], words: Sequence[str] = ()) -> Any:
    """A recipe or task with these flags, read as the command line reads them."""
    flags = list(words)
    for name, value in settings.items():
        if name not in field_names(kind):
            there = ", ".join(sorted(field_names(kind)))
            raise InputError(f"{kind.__module__.rsplit('.', 1)[-1]} has no field {name!r}; it has: {there}")
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return tyro.cli(kind, args=flags)


def at(value: Any, path: str) -> float | None:
    """The number at a path such as "model.text_to_image.R@1"; None where there is none."""
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]  # pyright: ignore[reportUnknownVariableType]
    return float(value) if isinstance(value, int | float) else None


def _quietly(call: Callable[[], Any]) -> Any:
    """Calls with standard output on standard error: the table alone is the answer."""
    with contextlib.redirect_stdout(sys.stderr):
        return call()


def _summary(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return {"mean": statistics.fmean(values), "seeds": len(values)} | ({"sd": spread} if len(values) > 1 else {})


def _cell(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "–"
    return f"{100 * summary['mean']:.1f}" + (f" ± {100 * summary['sd']:.1f}" if "sd" in summary else "")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
