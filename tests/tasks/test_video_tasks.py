from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from coloured_videos import ColourClips, coloured_video

from coalign.errors import InputError
from coalign.metrics.videos import assign_in_order, frame_accuracy, mean_recall, step_hits, steps_by_second
from coalign.tasks.videos import (
    action_recognition,
    action_segmentation,
    step_localisation,
    video_choice,
    video_retrieval,
)

TASKS = (action_recognition, action_segmentation, step_localisation, video_choice, video_retrieval)


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    loaded = ColourClips.loaded()
    for task in TASKS:
        monkeypatch.setattr(task, "load_run", lambda _: loaded)
    for name, stretches in (
        ("a", (("red", 3), ("blue", 3))),
        ("b", (("green", 4), ("black", 2))),
        ("c", (("black", 3), ("blue", 3), ("red", 2))),
    ):
        coloured_video(tmp_path / f"{name}.mp4", *stretches)
    (tmp_path / "broken.mp4").write_text("no video")
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ metrics
def test_steps_take_rows_in_order_that_sum_to_the_most() -> None:
    scores = torch.tensor([[0.0, 9.0], [5.0, 0.0], [1.0, 3.0]])
    assert assign_in_order(scores).tolist() == [1, 2]  # the best row of the second lies before that of the first
    assert assign_in_order(torch.tensor([[1.0], [4.0], [4.0]])).tolist() == [1]
    assert assign_in_order(torch.zeros(2, 2)).tolist() == [0, 1]
    assert assign_in_order(torch.zeros(2, 3)).tolist() == [-1, -1, -1]
    for seed in range(20):
        table = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
        best = max(combinations(range(7), 3), key=lambda rows: sum(float(table[r, k]) for k, r in enumerate(rows)))
        assert assign_in_order(table).tolist() == list(best)


def test_recall_is_by_task() -> None:
    truth = steps_by_second([(0, 0.5, 2.0), (2, 3.2, 3.9)], 5, 3)
    assert truth.nonzero().tolist() == [[0, 0], [1, 0], [3, 2]]
    assert step_hits(torch.tensor([1, 2, 4]), truth) == (1, 2)  # the second step does not occur
    assert step_hits(torch.tensor([-1, -1, -1]), truth) == (0, 2)
    recall, by_task = mean_recall({"tea": [(1, 2), (2, 2)], "cake": [(0, 1)], "empty": [(0, 0)]})
    assert by_task == {"tea": 0.75, "cake": 0.0} and recall == 0.375


def test_frame_accuracy() -> None:
    found = frame_accuracy(torch.tensor([0, 0, 1, 2, 1]), torch.tensor([0, 1, 1, 2, 0]))
    assert found == {"frame_accuracy": pytest.approx(3 / 5), "step_accuracy": pytest.approx(2 / 3)}


# -------------------------------------------------------------------------------------------------------------- tasks
def test_retrieval(films: Path) -> None:
    rows = ["a,red,0,3", "a,blue,3,6", "b,green,0,4", "c,red,6,8", "broken,red,0,1", "gone,x,0,1"]
    (films / "captions.csv").write_text("\n".join(["video_id,text,start,end", *rows]) + "\n")
    found = video_retrieval.Evaluate(films, films / "captions.csv", windows=2).evaluate().to_json()
    assert found["count"] == found["videos"] == 4 and (found["missing_videos"], found["broken"]) == (1, 1)
    metrics = found["metrics"]
    # two clips are as red: a tie counts against the model
    assert metrics["R@1"] == 0.5 and metrics["R@5"] == 1 and metrics["median_rank"] == 1.5
    assert found["chance_R@1"] == 0.25


def test_choices_and_their_file(films: Path) -> None:
    rows = [("a", 3, 6, ["red", "blue"], 1), ("b", 0, 4, ["green", "red", "blue"], 0), ("a", 0, 3, ["green", "red"], 0)]
    keys = ("clip_name", "start", "end", "options", "answer")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (films / "mc.jsonl").write_text("\n".join(lines))
    options: dict[str, Any] = {"out": films / "answers.jsonl", "windows": 1}
    found = video_choice.Evaluate(films, films / "mc.jsonl", **options).evaluate()
    assert found.metrics["accuracy"] == pytest.approx(2 / 3)  # the last one's answer is wrong on purpose
    assert found.extra["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    written = [json.loads(line) for line in (films / "answers.jsonl").read_text().splitlines()]
    assert [row["predicted"] for row in written] == [1, 0, 1]
    with pytest.raises(InputError, match="exists already"):
        video_choice.Evaluate(films, films / "mc.jsonl", **options).evaluate()


def test_steps_are_found_in_order(films: Path) -> None:
    folder = films / "crosstask"
    (folder / "annotations").mkdir(parents=True)
    (folder / "tasks_primary.txt").write_text("1\nT\n-\n2\nthe red one,the blue one\n\n2\nU\n-\n2\nred,blue\n")
    (folder / "annotations" / "1_a.csv").write_text("1,0,3\n2,3,6\n")
    (folder / "annotations" / "2_c.csv").write_text("1,6,8\n2,3,6\n")  # shown against the order
    found = step_localisation.Evaluate(films, folder, films, out=films / "steps.csv").evaluate()
    assert found.extra["by_task"]["1"] == 1.0 and found.extra["by_task"]["2"] <= 0.5
    assert found.metrics["recall"] == sum(found.extra["by_task"].values()) / 2
    lines = (films / "steps.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[1].startswith("1,a,1,") and int(lines[1].split(",")[3]) < 3


def test_frames_are_labelled(films: Path) -> None:
    def entry(subset: str, *parts: tuple[float, float, str]) -> dict[str, Any]:
        return {"subset": subset, "annotation": [{"segment": [a, b], "label": t} for a, b, t in parts]}

    database = {
        "a": entry("training", (0, 3, "r"), (3, 6, "b")),
        "b": entry("training", (0, 4, "g")),
        "c": entry("testing", (3, 6, "b"), (6, 8, "never seen")),
    }
    (films / "COIN.json").write_text(json.dumps({"database": database}))
    found = action_segmentation.Evaluate(films, films / "COIN.json", epochs=60).evaluate()
    assert found.count == 8 and found.metrics["frame_accuracy"] == pytest.approx(6 / 8)
    assert found.metrics["step_accuracy"] == pytest.approx(3 / 5) and found.extra["all_background"] == 3 / 8


def test_actions_by_a_linear_probe(films: Path) -> None:
    rows = ["a,r,train,0,3", "a,b,train,3,6", "b,g,train,0,4", "c,b,test,3,6", "c,r,test,6,8"]
    (films / "actions.csv").write_text("\n".join(["video_id,label,split,start,end", *rows]))
    found = action_recognition.Evaluate(films, films / "actions.csv", windows=2).evaluate()
    assert found.metrics["accuracy"] == 1 and found.extra["commonest"] == 0.5
    two = [row for row in rows if ",g," not in row]
    (films / "two.csv").write_text("\n".join(["video_id,label,split,start,end", *two]))
    assert action_recognition.Evaluate(films, films / "two.csv", windows=2).evaluate().metrics["accuracy"] == 1
    (films / "one.csv").write_text("\n".join(["video_id,label,split,start,end", rows[0], "c,r,test,6,8"]))
    with pytest.raises(InputError, match="two are needed"):
        action_recognition.Evaluate(films, films / "one.csv").evaluate()
