"""Comparisons: the plan carried out once, taken up again, and its table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coalign.cli.commands import compare
from coalign.compare import comparison as _comparison
from coalign.compare.comparison import Comparison, Contender, at, made
from coalign.compare.plans import Plan, Stage, lesson, pairs_plan, world_plan
from coalign.compare.text_only import text_only
from coalign.errors import InputError
from coalign.evaluation.result import TaskResult
from coalign.recipes import find_recipe
from coalign.tasks import find_task

CALLS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class FakeRecipe:
    """Stands for a pre-training or fine-tuning recipe."""

    out: Path
    seed: int = 0
    steps: int = 1
    bonus: float = 0.0
    system: str = "uniter"
    start: Path | None = None
    head: str = "vqa"

    def run(self) -> None:
        CALLS.append(f"train {self.out.relative_to(self.out.parents[2])}")
        self.out.mkdir(parents=True)
        value = 0.5 + self.bonus + self.seed / 10 + (self.start is not None) / 4
        about = {"system": self.system, "value": value, "steps": self.steps}
        (self.out / "config.json").write_text(json.dumps({**about, "start": self.start}, default=str))


@dataclass(frozen=True, kw_only=True)
class FakeTask:
    """Gives back what the run is worth."""

    run: Path
    less: float = 0.0
    broken: bool = False
    names: tuple[str, ...] = field(default=())

    def evaluate(self) -> TaskResult:
        CALLS.append(f"evaluate {self.run.name}")
        if self.broken:
            raise InputError("broken")
        value = json.loads((self.run / "config.json").read_text())["value"]
        return TaskResult({"accuracy": value - self.less}, 4, {"chance": 0.25})


class FakeModel:
    def parameters(self) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setattr(_comparison, "find_recipe", lambda _: FakeRecipe)
    monkeypatch.setattr(_comparison, "find_task", lambda _: _Positional)
    monkeypatch.setattr(_comparison, "load", lambda _: SimpleNamespace(model=FakeModel()))


@dataclass(frozen=True, kw_only=True)
class _Positional(FakeTask):
    run: compare.Annotated[compare.Positional[Path], None]


def plan(**changed: Any) -> Plan:
    stages = (
        Stage("as it is", "fake", {"": {}}, {"accuracy": "metrics.accuracy"}, {"accuracy": "chance"}),
        Stage(
            "tuned",
            "fake",
            {"easy": {}, "hard": {"less": 0.5, **changed}},
            {"accuracy": "metrics.accuracy", "other": "metrics.none"},
            {"accuracy": "chance"},
            "fake",
            {"head": "vqa"},
        ),
    )
    return Plan({"steps": 3, "data": "not a field of the recipe"}, stages)


def test_every_recipe_and_seed_is_run_once_and_the_table_says_what_came(tmp_path: Path) -> None:
    contenders = [Contender("a"), Contender("a:bonus=0.1")]
    comparison = Comparison(contenders, plan(), tmp_path, (0, 1))
    comparison.run()
    assert len([call for call in CALLS if call.startswith("train")]) == 8
    assert len([call for call in CALLS if call.startswith("evaluate")]) == 12
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert found["rows"]["a"]["as it is"] == {
        "mean": pytest.approx(0.55),
        "seeds": 2,
        "sd": pytest.approx(0.0707, 1e-3),
    }
    assert found["rows"]["a:bonus=0.1"]["tuned, accuracy, hard"]["mean"] == pytest.approx(0.3)
    assert "tuned, other, easy" not in found["rows"]["a"] and found["chance"]["tuned, accuracy, easy"] == 0.25
    table = (tmp_path / "comparison.md").read_text()
    assert "| as it is | 55.0 ± 7.1 | 65.0 ± 7.1 |  | 25.0 |" in table
    assert "| tuned, other, easy | – | – |  |  |" in table


def test_a_setting_that_is_named_twice_has_both_values() -> None:
    contender = Contender("lxmert-pretrain:objectives=mlm,size=tiny,objectives=itm")
    assert contender.settings == {"objectives": ["mlm", "itm"], "size": "tiny"}
    given = {"data": "d.csv", "regions": "r", **contender.settings}
    assert made(find_recipe(contender.recipe), given).objectives == ("mlm", "itm")


def test_switches_of_a_contender_are_true_or_false() -> None:
    for word, expected in (("True", True), ("false", False)):
        contender = Contender(f"albef-pretrain:image_tower=mae,train_image_tower={word}")
        recipe = made(find_recipe(contender.recipe), {"data": "d.csv", **contender.settings})
        assert recipe.tower.train_image_tower is expected


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    contenders = [Contender("a")]
    broken = Comparison(contenders, plan(broken=True), tmp_path)
    with pytest.raises(InputError, match="broken"):
        broken.run()
    file = tmp_path / "plan.json"
    file.write_text(file.read_text().replace('"broken": true', '"broken": false'))
    before = len(CALLS)
    (tmp_path / "a" / "seed-0" / "tuned" / "config.json").unlink()
    (tmp_path / "a" / "seed-0" / "tuned").rmdir()
    Comparison(contenders, plan(broken=False), tmp_path).run()
    assert CALLS[before:] == ["train a/seed-0/tuned", "evaluate tuned", "evaluate tuned"]
    before = len(CALLS)
    Comparison([*contenders, Contender("b")], plan(broken=False), tmp_path).run()  # one more recipe
    assert all("b/" in call or call.startswith("evaluate") for call in CALLS[before:])
    with pytest.raises(InputError, match="another plan"):
        Comparison(contenders, plan(), tmp_path).run()


def test_a_curriculum_goes_on_from_the_weights_of_its_lessons(tmp_path: Path) -> None:
    """Each training starts from the one before, with its own data and steps, and what sets fresh weights is not said
    again; the table's figures are the last one's."""
    chosen = replace(plan(), curriculum=({"steps": 7, "data": "few"}, {}))
    comparison = Comparison([Contender("a:bonus=0.1")], chosen, tmp_path)
    comparison.run()
    folder = tmp_path / "a_bonus=0.1" / "seed-0"
    trained = [call for call in CALLS if call.startswith("train") and "tuned" not in call]
    assert trained == [f"train a_bonus=0.1/seed-0/{name}" for name in ("lesson-1", "lesson-2", "pretrain")]
    values = [json.loads((folder / name / "config.json").read_text()) for name in ("lesson-1", "lesson-2", "pretrain")]
    assert [(each["value"], each["steps"], each["start"]) for each in values] == [
        (pytest.approx(0.6), 7, None),
        (0.75, 3, str(folder / "lesson-1")),
        (0.75, 3, str(folder / "lesson-2")),
    ]
    assert comparison.figures(Contender("a:bonus=0.1"))["as it is"] == [0.75]
    with pytest.raises(InputError, match="another plan"):
        Comparison([Contender("a:bonus=0.1")], plan(), tmp_path).run()


def test_lessons_are_worlds_or_pairs(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{}")
    files = {"data": str(tmp_path / "captions_train.json"), "regions": str(tmp_path / "regions")}
    files["boxes"] = str(tmp_path / "refs.json")
    assert lesson(str(tmp_path)) == files and lesson(f"{tmp_path}:20") == {**files, "steps": 20}
    assert lesson("c:/pairs.csv") == {"data": "c:/pairs.csv"} and lesson("a.csv:5") == {"data": "a.csv", "steps": 5}
    with pytest.raises(InputError, match="0 steps"):
        lesson("a.csv:0")


def test_what_the_table_shows_does_not_make_another_plan(tmp_path: Path) -> None:
    """A folder of an older coalign, whose table showed less, and whose trainings were given no boxes, goes on."""
    Comparison([Contender("a")], plan(), tmp_path).run()
    file = tmp_path / "plan.json"
    older = json.loads(file.read_text())
    del older["curriculum"], older["stages"][1]["figures"]["other"]
    file.write_text(json.dumps(older))
    before = len(CALLS)
    Comparison([Contender("a")], plan(), tmp_path).run()
    boxed = replace(plan(), pretrain={**plan().pretrain, "boxes": "refs.json"})
    Comparison([Contender("a")], boxed, tmp_path).run()
    with pytest.raises(InputError, match="another plan"):
        Comparison([Contender("a")], replace(boxed, pretrain={**boxed.pretrain, "boxes": "b.json"}), tmp_path).run()
    Comparison([Contender("a")], boxed, tmp_path).run()
    assert CALLS[before:] == []


def test_a_system_without_the_head_is_passed_over(tmp_path: Path) -> None:
    stages = (Stage("tuned", "fake", {"": {}}, {"accuracy": "metrics.accuracy"}, {}, "fake", {"head": "no such"}),)
    comparison = Comparison([Contender("a")], Plan({}, stages), tmp_path)
    comparison.run()
    assert comparison.results(Contender("a"), 0)["tuned"] == {"skipped": "uniter has no head 'no such'"}
    assert "| tuned | – |" in comparison.table()


def test_what_is_misspelt_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no field 'bonos'"):
        Comparison([Contender("a:bonos=1")], plan(), tmp_path).run()
    with pytest.raises(InputError, match="'bonus' has no value"):
        Comparison([Contender("a:bonus")], plan(), tmp_path).run()
    with pytest.raises(InputError, match="no field 'stepz'"):
        made(FakeRecipe, {"out": tmp_path, "stepz": 1})
    with pytest.raises(InputError, match="not a plan"):
        (tmp_path / "plan").write_text("[]")
        Plan.read(tmp_path / "plan")
    for given in ({}, {"data": "a", "world": tmp_path}, {"data": "a"}, {"world": tmp_path}):
        with pytest.raises(InputError, match=r"one of --world|--held-out|no world here"):
            compare.command(("uniter-pretrain",), out=tmp_path / "out", **given)


def test_what_a_recipe_needs_is_checked_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_comparison, "find_recipe", find_recipe)
    monkeypatch.setattr(_comparison, "find_task", find_task)
    contenders = [Contender("vilt-pretrain"), Contender("uniter-pretrain")]
    out = tmp_path / "out"
    with pytest.raises(InputError, match="uniter-pretrain: needs --regions; nothing has been started"):
        Comparison(contenders, pairs_plan("pairs.csv", "held_out.csv", {}, {}), out).run()
    assert not out.exists()
    given = pairs_plan("pairs.csv", "held_out.csv", {"regions": "regions.npz"}, {})
    some = tuple(replace(stage, sets={"": {"data": "held_out.csv"}}) for stage in given.stages)
    with pytest.raises(InputError, match="uniter-pretrain: reads regions, and the plan's stage 'matching' gives none"):
        Comparison(contenders, replace(given, stages=some), out).run()
    assert not out.exists()


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    for name in ("world.json", "captions_test.json", "captions_novel.json", "captions_validation.json"):
        (tmp_path / name).write_text("{}")
    for chosen in (
        world_plan(tmp_path, {"steps": 3}, {"steps": 2}),
        pairs_plan("a", "b", {"regions": "r"}, {"steps": 3}),
    ):
        comparison = Comparison([], chosen, tmp_path / chosen.stages[0].name)
        comparison.run()
        assert Plan.read(comparison.out / "plan.json") == chosen

    some = world_plan(tmp_path, {}, {}, ("validation",), ("VQA", "expressions, zero-shot"))
    assert [stage.name for stage in some.stages] == ["VQA", "expressions, zero-shot"]
    assert some.stages[0].sets["validation"]["questions"] == str(tmp_path / "questions_validation.json")
    assert some.stages[1].sets["validation"]["split"] == "val"  # as RefCOCO says
    with pytest.raises(InputError, match="no stage 'VQ'; there are: VQA, NLVR2"):
        world_plan(tmp_path, {}, {}, only=("VQ",))
    with pytest.raises(InputError, match="no split 'dev'"):
        world_plan(tmp_path, {}, {}, ("dev",))


def test_paths_and_flags() -> None:
    assert at({"a": {"R@1": 0.5, "b, c": 1}}, "a.R@1") == 0.5 and at({"a": {"b, c": 1}}, "a.b, c") == 1.0
    assert at({}, "a.b") is None and at({"a": "x"}, "a") is None
    task = made(_Positional, {"broken": True, "names": ["x", "y"], "less": 0.1}, ["runs/a"])
    assert (task.broken, task.names, task.run) == (True, ("x", "y"), Path("runs/a"))


def test_the_text_alone_finds_what_texts_give_away(tmp_path: Path) -> None:
    def lines(name: str, rows: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    foils = [{"image": str(i), "caption": f"a red {x}", "foil": f"a blue {x}"} for i, x in enumerate("abcdef")]
    train, test = (lines(f"{n}.jsonl", rows) for n, rows in (("train", foils[:4]), ("test", foils[4:])))
    assert text_only("matching", {"data": train}, {"data": test}) == 1.0
    pair = [{"identifier": f"dev-{i}-0-0", "sentence": "same words", "label": str(i % 2 == 0)} for i in range(4)]
    data = {"data": lines("nlvr2.jsonl", pair)}
    assert text_only("nlvr2", data, data) == 0.5
    questions = [{"question_id": i, "image_id": i, "question": f"is {x}"} for i, x in enumerate("abab")]
    answers = [{"question_id": i, "answers": [{"answer": x}] * 10} for i, x in enumerate(("yes", "no", "yes", "no"))]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": answers}))
    asked = {"questions": str(tmp_path / "q.json"), "annotations": str(tmp_path / "a.json")}
    assert text_only("vqa", asked, asked) == 1.0
    assert text_only("word-alignment", data, data) is None and text_only("vqa", {}, asked) is None
