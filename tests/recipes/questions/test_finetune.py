"""Fine-tuning of image-and-text systems on the published tasks' files: every system that has the head, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.cli.main import main
from coalign.data.regions.files.shards import write_shard
from coalign.errors import InputError
from coalign.flags import configure
from coalign.recipes._finetune import start_from
from coalign.recipes.questions.vqa import Recipe as Vqa
from coalign.registry import create, find
from coalign.tasks.questions.vqa import Evaluate as VqaTask

REGION_SYSTEMS = ("visualbert", "uniter", "vilbert", "lxmert")
REGIONS = {"none": 0, "one": 1, "some": 3, "many": 100}
LONG = "is it " * 200


def words(n: int) -> str:
    return ("red", "green", "blue")[n % 3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without a region, with one, and with a hundred; one question is empty, one far too long."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)

    def regions(count: int) -> dict[str, torch.Tensor]:
        low = torch.rand(count, 2, generator=generator) / 2
        return {"features": torch.randn(count, 24, generator=generator), "boxes": torch.cat([low, low + 0.4], 1)}

    names = [*REGIONS, *(f"dev-{n}-0-img{side}" for n in range(4) for side in range(2))]
    write_shard(folder / "regions.safetensors", names, [regions(REGIONS.get(name, 2)) for name in names])
    asked = [(image, f"which colour is {image} ?") for image in REGIONS]
    asked += [("some", ""), ("some", LONG)]
    questions = [{"question_id": n, "image_id": image, "question": text} for n, (image, text) in enumerate(asked)]
    annotations = [{"question_id": n, "answers": [{"answer": words(n)}] * 10} for n in range(len(asked))]
    _write(folder / "questions.json", {"questions": questions})
    _write(folder / "annotations.json", {"annotations": annotations})
    rows = [
        {"identifier": f"dev-{n}-0-{k}", "sentence": f"there are {n}", "label": str(bool((n + k) % 2))}
        for n in range(4)
        for k in range(2)
    ]
    _lines(folder / "nlvr2.jsonl", rows)
    labels = ("entailment", "neutral", "contradiction", "-")
    _lines(
        folder / "ve.jsonl",
        [{"Flickr30K_ID": i, "sentence2": i, "gold_label": y} for i, y in zip(REGIONS, labels, strict=True)],
    )
    vcr = {"objects": ["person", "dog", "person"], "question": ["Why", "is", [0, 2], "here", "?"], "answer_label": 2}
    choices = [["because", "of", [1], str(n)] for n in range(4)]
    more = {"answer_choices": choices, "rationale_choices": choices, "rationale_label": 1}
    _lines(folder / "vcr.jsonl", [{**vcr, **more, "annot_id": i, "img_fn": f"x/{i}.jpg"} for i in REGIONS])
    images = [{"id": n, "file_name": name, "width": 100, "height": 50} for n, name in enumerate(REGIONS)]
    boxes = [{"id": n, "image_id": n, "bbox": [10, 5, 40, 20]} for n in range(len(images))]
    _write(folder / "instances.json", {"images": images, "annotations": boxes})
    refs = [
        {
            "ann_id": n,
            "image_id": n,
            "split": "train" if n else "val",
            "sentences": [{"sent_id": n, "sent": "left one"}],
        }
        for n in range(len(images))
    ]
    _write(folder / "refs.json", refs)
    numbered = [{"features": torch.randn(k, 24), "boxes": regions(k)["boxes"]} for k in REGIONS.values()]
    write_shard(folder / "numbered.safetensors", range(len(numbered)), numbered)
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def train(
    task: str, system: str, data: Path, out: Path, *flags: str, regions: str = "regions.safetensors"
) -> list[str]:
    seen = ["--regions", str(data / regions)]
    settings = ["--steps", "2", "--batch-size", "3", "--words", "200", "--seed", "1"]
    run(["train", task, "--system", system, "--out", str(out), *seen, *settings, *flags])
    return ["evaluate", str(out), *seen]


@pytest.mark.parametrize("system", REGION_SYSTEMS)
def test_vqa_of_any_number_of_regions_and_words(
    system: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--questions", str(data / "questions.json"), "--annotations", str(data / "annotations.json")]
    evaluate = train("vqa", system, data, tmp_path / "run", *files, "--least-answers", "1")
    assert json.loads((tmp_path / "run" / "answers.json").read_text()) == ["blue", "green", "red"]
    capsys.readouterr()
    run([*evaluate, *files, "--out", str(tmp_path / "answers.json"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == 6 and result["best_possible"] == 1 and 0 <= result["metrics"]["accuracy"] <= 1
    rows = json.loads((tmp_path / "answers.json").read_text())
    assert [row["question_id"] for row in rows] == list(range(6)) and rows[0].keys() == {"question_id", "answer"}
    assert {row["answer"] for row in rows} <= {"red", "green", "blue"}


@pytest.mark.parametrize(
    ("system", "form"),
    [*((system, "nlvr2") for system in REGION_SYSTEMS), ("uniter", "nlvr2_paired"), ("uniter", "nlvr2_triplet")],
)
def test_nlvr2(system: str, form: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", str(data / "nlvr2.jsonl")]
    evaluate = train("nlvr2", system, data, tmp_path / "run", *flags, "--form", form)
    capsys.readouterr()
    run([*evaluate, *flags, "--out", str(tmp_path / "out.csv"), "--json", "--batch-size", "5"])
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == 8 and result["statements"] == 8 and result["commoner_label"] == 0.5
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"dev-{n}-0-{k}" for n in range(4) for k in range(2)]
    assert {line.split(",")[1] for line in lines} <= {"True", "False"}


@pytest.mark.parametrize(
    ("task", "system", "file"),
    [
        ("entailment", "uniter", "ve.jsonl"),
        ("entailment", "vilbert", "ve.jsonl"),
        ("vcr", "uniter", "vcr.jsonl"),
        ("vcr", "vilbert", "vcr.jsonl"),
        ("vcr", "visualbert", "vcr.jsonl"),
        ("referring", "uniter", "refs.json"),
        ("referring", "vilbert", "refs.json"),
        ("referring", "visualbert", "refs.json"),
        ("gqa", "lxmert", "gqa.json"),
    ],
)
def test_the_other_tasks(
    task: str, system: str, file: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(
        data / "gqa.json",
        {str(n): {"question": "?", "imageId": i, "answer": ("yes", "dog")[n % 2]} for n, i in enumerate(REGIONS)},
    )
    flags = ["--questions" if task == "gqa" else "--data", str(data / file)]
    regions = "numbered.safetensors" if task == "referring" else "regions.safetensors"
    evaluate = train(task, system, data, tmp_path / "run", *flags, regions=regions)
    capsys.readouterr()
    split = ["--split", "train"] if task == "referring" else []
    ending = ".json" if task == "gqa" else ".jsonl"
    run([*evaluate, *flags, *split, "--out", str(tmp_path / f"out{ending}"), "--json"])
    result = json.loads(capsys.readouterr().out)
    expected = {
        "entailment": ["accuracy"],
        "vcr": ["answer", "rationale", "both"],
        "gqa": ["accuracy", "binary", "open"],
    }
    assert set(expected.get(task, ["accuracy"])) <= set(result["metrics"])
    assert (tmp_path / f"out{ending}").stat().st_size > 0


def test_a_run_goes_on_from_a_pretrained_one_and_says_what_it_was(data: Path, tmp_path: Path) -> None:
    files = ["--questions", str(data / "questions.json"), "--annotations", str(data / "annotations.json")]
    train("vqa", "uniter", data, tmp_path / "a", *files, "--least-answers", "1")
    train("vqa", "uniter", data, tmp_path / "b", *files, "--least-answers", "1", "--start", str(tmp_path / "a"))
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["task"], config["recipe"], config["system"]) == ("vqa", "vqa", "uniter")
    with pytest.raises(InputError, match="fine-tuned for another task"):
        from coalign.recipes.questions.nlvr2 import Recipe

        configure(
            Recipe,
            system="uniter",
            out=tmp_path / "c",
            start=tmp_path / "a",
            regions=data / "regions.safetensors",
            data=data / "nlvr2.jsonl",
        ).run()


@pytest.mark.parametrize(
    ("system", "head"),
    [
        ("uniter", "nlvr2"),
        ("uniter", "vcr"),
        ("uniter", "retrieval"),
        ("vilt", "nlvr2"),
        ("vilbert", "vqa"),
        ("lxmert", "vqa"),
        ("visualbert", "vqa"),
        ("albef", "nlvr2"),
        ("albef", "vqa"),
    ],
)
def test_a_head_starts_from_all_of_the_pretrained_trunk(system: str, head: str) -> None:
    entry = find(system)
    pretrained: Any = create(system).model
    offer = entry.heads[head]
    model: Any = offer.model(offer.config(pretrained.config))
    for parameter in pretrained.parameters():
        torch.nn.init.constant_(parameter, 0.125)
    start_from(model, pretrained, head)
    fresh = {n.split(".")[0] for n, p in model.named_parameters() if not bool((p == 0.125).all())}
    fresh -= {"base"} if system == "vilbert" else set()
    heads = {"head", "classifier", "vqa", "gqa", "pair", "entailment", "choice", "region", "word", "mix", "score"}
    heads |= {"left_to_right", "right_to_left"}
    inside = {n for n, p in model.named_parameters() if not bool((p == 0.125).all())}
    assert fresh <= heads | {"trunk", "online", "momentum"}
    for name in inside:
        allowed = any(part in name for part in ("head", "word", "classifier")) or name.split(".")[0] in heads
        assert allowed, f"{name} was left as it was drawn"
    if head == "retrieval":
        assert bool((model.head.weight == 0.125).all())


def test_what_cannot_be_trained_or_measured(data: Path, tmp_path: Path) -> None:
    ask = {"questions": data / "questions.json", "annotations": data / "annotations.json", "out": tmp_path / "run"}
    regions = data / "regions.safetensors"

    def refused(words: str, **change: Any) -> None:
        fields: dict[str, Any] = {
            "system": "uniter",
            "regions": regions,
            "least_answers": 1,
            "words": 200,
            **ask,
            **change,
        }
        with pytest.raises(InputError, match=words):
            configure(Vqa, **fields).run()

    refused("no system 'unitre'", system="unitre")
    refused("give their file with --regions", regions=None)
    refused("give their folder with --images", system="vilt", regions=None)
    refused("no size 'huge'", size="huge")
    refused("no answer is given to 9 questions", least_answers=9)
    refused("lacks 4 of 4 images", regions=data / "numbered.safetensors")
    short = tmp_path / "short.json"
    _write(short, {"annotations": []})
    refused("has no answers to question 0", annotations=short)
    refused("none of the 6 items has a label", annotations=None, answers=_answers(tmp_path))
    with pytest.raises(InputError, match="does not say what answers"):
        VqaTask(run=tmp_path, questions=data / "questions.json").classes(None, 3)
    with pytest.raises(InputError, match="lists 2 answers, the model has 3"):
        VqaTask(run=tmp_path, questions=data / "questions.json").classes(_answers(tmp_path), 3)
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        VqaTask(run=tmp_path, questions=data / "questions.json", out=tmp_path / "there.json").evaluate()
    assert (tmp_path / "there.json").read_text() == "mine"


def _answers(folder: Path) -> Path:
    _write(folder / "names.json", ["yes", "no"])
    return folder / "names.json"


def test_features_of_another_width_than_the_run_was_trained_on(data: Path, tmp_path: Path) -> None:
    files = ["--questions", str(data / "questions.json"), "--annotations", str(data / "annotations.json")]
    train("vqa", "visualbert", data, tmp_path / "run", *files, "--least-answers", "1")
    wide = {"features": torch.randn(2, 32), "boxes": torch.zeros(2, 4)}
    write_shard(tmp_path / "wide.safetensors", list(REGIONS), [wide] * len(REGIONS))
    with pytest.raises(InputError, match="image none: features are 32 wide, the model reads 24"):
        VqaTask(
            run=tmp_path / "run", regions=tmp_path / "wide.safetensors", questions=data / "questions.json"
        ).evaluate()
