"""Fine-tuning learns what the images show: features say the answer, so a model that sees them gets nearly all right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from coalign.data.pairs.sources import open_source
from coalign.data.questions.pictures import open_pictures
from coalign.data.regions.files.shards import write_shard
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import configure
from coalign.recipes import find_recipe
from coalign.recipes.pairs.retrieval_finetune import Candidates
from coalign.recipes.pairs.retrieval_finetune import Recipe as Retrieval
from coalign.recipes.questions.nlvr2 import Recipe as Nlvr2
from coalign.recipes.questions.referring import Recipe as Referring
from coalign.recipes.questions.vqa import Recipe as Vqa
from coalign.tasks.pairs.cross_retrieval import Evaluate as RetrievalTask
from coalign.tasks.questions.nlvr2 import Evaluate as Nlvr2Task
from coalign.tasks.questions.referring import Evaluate as ReferringTask
from coalign.tasks.questions.vqa import Evaluate as VqaTask
from coalign.types import InputSpec, RegionSpec, TextSpec

COLOURS = ("red", "green", "blue")
IMAGES = 30
TRAINING: dict[str, Any] = {"words": 100, "lr": 1e-3, "batch_size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image n has region 0 of colour n and region 1 of the next colour; the colour is one of the features."""
    folder = tmp_path_factory.mktemp("data")
    random = torch.Generator().manual_seed(0)

    def regions(n: int) -> dict[str, torch.Tensor]:
        features = 0.1 * torch.rand(2, 8, generator=random)
        features[0, n % 3], features[1, (n + 1) % 3] = 1, 1
        return {"features": features, "boxes": torch.tensor([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])}

    write_shard(folder / "regions.safetensors", range(IMAGES), [regions(n) for n in range(IMAGES)])
    asked = [{"question_id": n, "image_id": n, "question": "which colour is left?"} for n in range(IMAGES)]
    answers = [{"question_id": n, "answers": [{"answer": COLOURS[n % 3]}] * 10} for n in range(IMAGES)]
    _write(folder / "questions.json", {"questions": asked})
    _write(folder / "annotations.json", {"annotations": answers})
    images = [{"id": n, "file_name": f"{n}.png", "width": 10, "height": 10} for n in range(IMAGES)]
    boxes = [
        {"id": 2 * n + side, "image_id": n, "bbox": [5 * side, 0, 5, 10]} for n in range(IMAGES) for side in (0, 1)
    ]
    _write(folder / "instances.json", {"images": images, "annotations": boxes})
    meant = [(n, side, COLOURS[(n + side) % 3]) for n in range(IMAGES) for side in (0, 1)]
    refs = [
        {"ann_id": 2 * n + side, "image_id": n, "split": "train", "sentences": [{"sent": f"the {name} one"}]}
        for n, side, name in meant
    ]
    _write(folder / "refs.json", refs)
    pairs = [(n, m) for n in range(6) for m in range(6)]
    write_shard(
        folder / "pairs.safetensors",
        [f"dev-{n}{m}-0-img{side}" for n, m in pairs for side in (0, 1)],
        [regions(number % 2) for pair in pairs for number in pair],
    )
    lines = [
        {"identifier": f"dev-{n}{m}-0-0", "sentence": "the first is red", "label": str(n % 2 == 0)} for n, m in pairs
    ]
    (folder / "nlvr2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [f"{n}.png,{COLOURS[n]}" for n in range(3)]
    (folder / "captions.csv").write_text("\n".join(["image,text", *rows]) + "\n")
    for n in range(3):
        Image.new("RGB", (64, 64), tuple(255 * (n == c) for c in range(3))).save(folder / f"{n}.png")
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("system", ["uniter", "visualbert"])
def test_questions(system: str, data: Path, tmp_path: Path) -> None:
    regions, questions, annotations = data / "regions.safetensors", data / "questions.json", data / "annotations.json"
    files: dict[str, Any] = {"questions": questions, "annotations": annotations, "regions": regions}
    configure(Vqa, system=system, out=tmp_path / "run", steps=40, **files, **TRAINING).run()
    assert VqaTask(run=tmp_path / "run", **files).evaluate().metrics["accuracy"] > 0.9


def test_which_region_is_meant(data: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {"data": data / "refs.json", "regions": data / "regions.safetensors"}
    configure(Referring, system="uniter", out=tmp_path / "run", steps=60, **files, **TRAINING).run()
    result = ReferringTask(run=tmp_path / "run", **files).evaluate()
    assert result.metrics["accuracy"] > 0.9 and result.extra == {"chance": 0.5, "best_possible": 1.0}


@pytest.mark.parametrize("form", ["nlvr2_triplet", "nlvr2_paired"])
def test_two_images(form: Any, data: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {"data": data / "nlvr2.jsonl", "regions": data / "pairs.safetensors"}
    configure(Nlvr2, system="uniter", form=form, out=tmp_path / "run", steps=50, **files, **TRAINING).run()
    result = Nlvr2Task(run=tmp_path / "run", **files).evaluate()
    assert result.metrics["accuracy"] > 0.9 and result.extra["commoner_label"] == 0.5


def test_retrieval(data: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {"data": str(data / "captions.csv"), "images": data}
    fields: dict[str, Any] = {**TRAINING, "batch_size": 3}
    configure(Retrieval, system="vilt", out=tmp_path / "run", steps=80, candidates=3, **files, **fields).run()
    result = RetrievalTask(run=tmp_path / "run", **files).evaluate()
    assert result.rows["model"]["image_to_text"]["R@1"] == 1
    assert result.rows["model"]["text_to_image"]["R@1"] == 1
    configure(
        find_recipe("albef-pretrain"), data=files["data"], out=tmp_path / "albef", steps=1, words=100, batch_size=3
    ).run()
    listed = RetrievalTask(run=tmp_path / "run", **files, shortlist=tmp_path / "albef", k=3).evaluate()
    assert listed.rows["reranked"] == result.rows["model"]  # a list of all three leaves nothing out
    short = RetrievalTask(run=tmp_path / "run", **files, shortlist=tmp_path / "albef", k=1).evaluate()
    assert short.rows["reranked"] == short.rows["shortlist"] == listed.rows["shortlist"]  # of one, nothing to rank
    (tmp_path / "others").mkdir()
    other: dict[str, Any] = {"shortlist": tmp_path / "albef", "shortlist_images": tmp_path / "others"}
    with pytest.raises(InputError, match=r"cannot read all of its pictures \(3 broken.*--shortlist-images FOLDER"):
        RetrievalTask(run=tmp_path / "run", **files, **other).evaluate()


@pytest.mark.parametrize("system", ["uniter", "vilbert"])
def test_retrieval_by_regions(system: str, data: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {"data": str(data / "captions.csv"), "regions": data / "regions.safetensors"}
    configure(
        Retrieval, system=system, out=tmp_path / "run", steps=2, candidates=3, **files, **{**TRAINING, "batch_size": 3}
    ).run()
    result = RetrievalTask(run=tmp_path / "run", **files).evaluate()
    assert result.rows["chance"]["image_to_text"]["R@1"] == pytest.approx(1 / 3)
    assert 0 <= result.rows["model"]["text_to_image"]["R@1"] <= 1


def test_a_true_pair_is_ranked_with_other_texts_and_other_images(data: Path) -> None:
    tokenizer = Tokenizer.train(["red green blue then"] * 3, 60)
    spec = InputSpec(text=TextSpec(vocab_size=99, max_length=9), regions=RegionSpec(8))
    pictures = open_pictures(spec, data / "regions.safetensors", None)
    collate = Candidates(open_source(str(data / "captions.csv")), range(3), spec, tokenizer, pictures, 5)
    batch = collate([0, 2, 1], torch.Generator().manual_seed(0))
    assert batch.regions is not None and batch.text is not None and batch.labels.label.tolist() == [0, 0, 0]
    ids = batch.text.ids
    texts = [tokenizer.decode(part) for part in ids.values.split(ids.lengths.tolist())]
    images = batch.regions.features.values[::2, :3].argmax(1).tolist()  # an image's first region has its colour
    said = [COLOURS.index(text) for text in texts]
    assert [said[n] == images[n] for n in range(15)] == [n % 5 == 0 for n in range(15)]
    own = [0, 2, 1]
    changed = [(images[n] != own[n // 5], said[n] != own[n // 5]) for n in range(15) if n % 5]
    assert set(changed) == {(True, False), (False, True)}  # one of the two, each at times
