"""A world on disk reads as the published data sets do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.data.images.decode import decode_image
from coalign.data.pairs.sources import open_source
from coalign.data.words.load import load_tokenizer
from coalign.errors import InputError
from coalign.worlds.scene_files import write_world
from coalign.worlds.scenes import HELD_OUT, make_scenes


def read(path: Path) -> Any:
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "world"
    pictures = write_world(out, {"train": 6, "novel": 4}, seed=1, side=32)
    assert len(pictures) == 6 + 4 + 2 * (6 + 4)
    assert all((out / f"{name}.png").is_file() for name in pictures)
    return out


def test_captions_open_as_coco(world: Path) -> None:
    source = open_source(str(world / "captions_train.json"))
    scenes = make_scenes(6, seed=1)
    assert len(source) == 6
    for sample, scene in zip((source[i] for i in range(6)), scenes, strict=True):
        assert sample.id == scene.number and len(sample.texts) == 2
        assert decode_image(sample.image).tobytes() == scene.draw(32).tobytes()


def test_a_gallery_has_one_caption_an_image(world: Path) -> None:
    source, all_captions = (
        open_source(str(world / "gallery_novel.json")),
        open_source(str(world / "captions_novel.json")),
    )
    assert [source[i].texts for i in range(4)] == [all_captions[i].texts[:1] for i in range(4)]


def test_words_and_foils_lie_beside_the_captions(world: Path) -> None:
    captions = {row["caption"] for row in read(world / "captions_novel.json")["annotations"]}
    for row in read(world / "words_novel.jsonl"):
        assert row["caption"] in captions and row["caption"].split() == row["words"]
        assert len(row["boxes"]) == len(row["words"]) and any(box is not None for box in row["boxes"])
        assert (world / row["image"]).is_file()
    for row in read(world / "foils_novel.jsonl"):
        assert row["caption"] in captions
        assert row["caption"].split()[row["word"]] != row["foil"].split()[row["word"]]


def test_questions_have_the_form_of_vqa(world: Path) -> None:
    asked = {q["question_id"]: q for q in read(world / "questions_train.json")["questions"]}
    answered = {a["question_id"]: a for a in read(world / "annotations_train.json")["annotations"]}
    assert asked.keys() == answered.keys() and len(asked) == 24
    for key, answer in answered.items():
        assert answer["image_id"] == asked[key]["image_id"]
        assert [a["answer"] for a in answer["answers"]] == [answer["multiple_choice_answer"]] * 10
        assert asked[key]["question"].startswith(answer["question_type"])


def test_statements_have_the_names_of_nlvr2(world: Path) -> None:
    rows = read(world / "nlvr2_train.jsonl")
    assert len(rows) == 6 and sum(row["label"] == "True" for row in rows) == 3
    for row in rows:
        stem = row["identifier"].rsplit("-", 1)[0]
        assert all((world / "nlvr2_images" / f"{stem}-{image}.png").is_file() for image in ("img0", "img1"))


def test_expressions_have_the_records_of_refcoco(world: Path) -> None:
    instances, refs = read(world / "instances.json"), read(world / "refs.json")
    boxes = {a["id"]: a for a in instances["annotations"]}
    sizes = {i["id"]: (i["width"], i["height"]) for i in instances["images"]}
    assert {ref["split"] for ref in refs} == {"train", "novel"}
    for ref in refs:
        box = boxes[ref["ann_id"]]
        x, y, w, h = box["bbox"]
        assert box["image_id"] == ref["image_id"]
        assert x + w <= sizes[ref["image_id"]][0] and y + h <= sizes[ref["image_id"]][1]
        assert [s["sent_id"] for s in ref["sentences"]] == ref["sent_ids"]


def test_the_vocabulary_has_every_word_whole(world: Path) -> None:
    tokenizer = load_tokenizer(world)
    for text in ("what color is the striped diamond", "how many crosses are there", "an orange star"):
        assert tokenizer.pieces(text) == text.split()


def test_a_world_says_what_it_is_and_is_not_overwritten(world: Path) -> None:
    described = read(world / "world.json")
    assert described["seed"] == 1 and described["scenes"] == {"train": 6, "novel": 4}
    assert {tuple(pair) for pair in described["held_out"]} == HELD_OUT
    with pytest.raises(InputError, match="exists already"):
        write_world(world, {"train": 2})
