"""Items that are asked about images, as the batches of every form of task model; and their published files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from files import picture

from coalign.data.questions.entailment import read_snli_ve
from coalign.data.questions.items import Answers, Box, Item, ItemCollate, Parts, encode_texts
from coalign.data.questions.nlvr2 import read_nlvr2, statement_of
from coalign.data.questions.pictures import FolderPictures, RegionPictures, open_pictures
from coalign.data.questions.referring import read_refcoco
from coalign.data.questions.vcr import read_vcr
from coalign.data.questions.vqa import (
    Question,
    answer_vocabulary,
    normalise_answer,
    read_answers,
    read_gqa,
    read_vqa,
    soft_scores,
    to_items,
)
from coalign.data.regions.files.shards import ShardRegions, write_shard
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.types import AnswerSpec, ImageSpec, InputSpec, RegionSpec, TextSpec

SPEC = InputSpec(text=TextSpec(vocab_size=99, max_length=12), regions=RegionSpec(2, 3))
BOXES = {
    "a": [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]],
    "b": [[0.0, 0.0, 1.0, 1.0]],
    "none": [],
    "many": [[0.0, 0.0, 0.1, 0.1]] * 5,
}


@pytest.fixture
def regions(tmp_path: Path) -> ShardRegions:
    """Features count on: a has 0 and 1, b has 2, many have 3 to 7."""
    count, items = 0, list[dict[str, torch.Tensor]]()
    for boxes in BOXES.values():
        numbers = torch.arange(count, count + len(boxes))
        items.append({"features": numbers[:, None].repeat(1, 2).float(), "boxes": torch.tensor(boxes).view(-1, 4)})
        count += len(boxes)
    write_shard(tmp_path / "r.safetensors", list(BOXES), items)
    return ShardRegions(tmp_path / "r.safetensors")


def spec_of(segments: tuple[int, int] | None = None, text: dict[str, Any] | None = None, **answers: Any) -> InputSpec:
    assert SPEC.text is not None
    own = RegionSpec(2, 3, segments)
    return InputSpec(replace(SPEC.text, **(text or {})), regions=own, answers=AnswerSpec(**answers))


def collate(tokenizer: Tokenizer, regions: ShardRegions, classes: int = 0, **spec: Any) -> ItemCollate:
    own = spec_of(**spec)
    return ItemCollate(own, tokenizer, RegionPictures(regions, own), classes)


def seen(batch: Any) -> list[list[float]]:
    """The regions of each item, by their numbers."""
    lengths = batch.regions.features.lengths.tolist()
    return [part[:, 0].tolist() for part in batch.regions.features.values.split(lengths)]


def test_one_image_of_any_number_of_regions(tokenizer: Tokenizer, regions: ShardRegions) -> None:
    items = [Item(id, (id,), ("a red boat",), 1) for id in BOXES]
    batch = collate(tokenizer, regions)(items)
    assert seen(batch) == [[0, 1], [2], [], [3, 4, 5]] and batch.labels.label.tolist() == [1] * 4


def test_two_images_in_every_arrangement(tokenizer: Tokenizer, regions: ShardRegions) -> None:
    items = [Item("1", ("a", "b"), ("red",), 1), Item("2", ("b", "none"), ("blue boat",), 0)]
    places = collate(tokenizer, regions)(items)
    assert seen(places) == [[0, 1], [2], [2], []] and places.text is not None and len(places.text.ids) == 2
    alternating = collate(tokenizer, regions, pairs="alternating", segments=(1, 2))(items)
    assert seen(alternating) == [[0, 1], [2], [2], []] and alternating.text is not None
    assert alternating.text.ids.lengths.tolist() == [3, 3, 4, 4]
    assert alternating.labels.region_types.tolist() == [1, 1, 2, 1]
    joined = collate(tokenizer, regions, pairs="joined", segments=(0, 1))(items)
    assert seen(joined) == [[0, 1, 2], [2]] and joined.labels.region_types.tolist() == [0, 0, 1, 0]
    assert joined.labels.label.tolist() == [1, 0]


def test_choices_share_their_image(tokenizer: Tokenizer, regions: ShardRegions) -> None:
    items = [Item("1", ("a",), (("red", "boat"), ("red", "fruit")), 1), Item("2", ("b",), (("a", "b"), ("a", "c")), 0)]
    choice = collate(tokenizer, regions, form="choice")(items)
    assert seen(choice) == [[0, 1], [0, 1], [2], [2]] and choice.labels.label.tolist() == [1, 0]
    assert collate(tokenizer, regions, form="binary")(items).labels.label.tolist() == [0, 1, 1, 0]
    with pytest.raises(InputError, match="differ in their numbers"):
        collate(tokenizer, regions)([*items, Item("3", ("a",), ("red",))])


def test_boxes_as_every_form_of_target(tokenizer: Tokenizer, regions: ShardRegions) -> None:
    box = Box((50.0, 25.0, 100.0, 50.0), (100.0, 50.0))  # a's second region, a quarter of b's
    items = [Item("1", ("a",), ("red boat",), box), Item("2", ("b",), ("",), box)]
    assert collate(tokenizer, regions, form="region")(items).labels.label.tolist() == [1, 0]
    assert collate(tokenizer, regions, form="overlaps")(items).labels.label.tolist() == [0, 1, 0]
    batch = collate(tokenizer, regions, form="entities")(items)
    assert batch.labels.label.tolist() == [[[0, 1]], [[0, 0]]] and batch.labels.entities.tolist() == [[2], [0]]
    shown = collate(tokenizer, regions, form="entities")([Item("1", ("a",), ("red boat",))])
    assert shown.labels.label is None and shown.labels.entities.tolist() == [[2]]


def test_answers_as_scores_and_as_texts(tokenizer: Tokenizer, regions: ShardRegions) -> None:
    items = [
        Item("1", ("a",), ("red ?",), Answers({2: 0.6, 0: 1.0}, {"red": 0.8, "a boat": 0.2})),
        Item("2", ("b",), ("blue ?",), Answers({}, {"cat": 1.0})),
    ]
    scores = collate(tokenizer, regions, classes=3, form="scores")(items)
    torch.testing.assert_close(scores.labels.label, torch.tensor([[1, 0, 0.6], [0, 0, 0]]))
    one_hot = collate(tokenizer, regions, classes=3, form="scores")([Item("1", ("a",), ("red",), 2)])
    assert one_hot.labels.label.tolist() == [[0, 0, 1]]
    texts = collate(tokenizer, regions, form="answers")(items)
    ids = texts.labels.answers
    assert [tokenizer.decode(part) for part in ids.values.split(ids.lengths.tolist())] == ["red", "a boat", "cat"]
    assert texts.labels.questions.tolist() == [0, 0, 1]
    torch.testing.assert_close(texts.labels.weights, torch.tensor([0.8, 0.2, 1.0]))


def pieces(tokenizer: Tokenizer, texts: Sequence[Parts], **spec: Any) -> list[str]:
    text = encode_texts(tokenizer, texts, spec_of(text=spec))
    return [
        " ".join(map(tokenizer.id_to_piece, part.tolist())) for part in text.ids.values.split(text.ids.lengths.tolist())
    ]


def test_texts_of_several_parts(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, [("red", "boat")]) == ["[CLS] red [SEP] boat [SEP]"]
    assert pieces(tokenizer, [("red", "boat", "cat")]) == ["[CLS] red [SEP] boat [SEP] cat [SEP]"]
    text = encode_texts(
        tokenizer, [("red", "boat", "cat"), ("red", "boat", "cat")], spec_of(text={"segments": (0, 2, 3)})
    )
    assert text.types is not None and text.types.tolist() == [0, 0, 0, 2, 2, 3, 3] * 2
    long = encode_texts(tokenizer, [("red " * 20, "boat", "cat")], spec_of(text={"segments": (0, 2, 3)}))
    assert long.ids.lengths.tolist() == [12] and long.types is not None and long.types.max() <= 3


def test_the_answer_slot_stays_in_an_empty_and_in_a_long_question(tokenizer: Tokenizer) -> None:
    texts = ["red boat", "", "red " * 20]
    short, empty, long = pieces(tokenizer, texts, answer_slot=True)
    assert (short, empty) == ("[CLS] red boat [MASK] [SEP]", "[CLS] [MASK] [SEP]")
    assert long.split()[-2:] == ["[MASK]", "[SEP]"] and len(long.split()) == 12
    text = encode_texts(tokenizer, texts, spec_of(text={"answer_slot": True}))
    assert text.words is not None and len(text.words) == text.ids.layout.total
    assert text.words[:5].tolist() == [-1, 0, 1, -1, -1]


def test_pictures_by_any_name(make_images: Any, tokenizer: Tokenizer) -> None:
    folder = make_images(3)
    spec = InputSpec(text=TextSpec(vocab_size=99, max_length=9), image=ImageSpec.square(8))
    found = FolderPictures(folder, spec)
    assert "img/001.png" in found and "001" in found and 1 in found and 7 not in found
    pixels = found.batch([2, "img/000.png"]).images
    assert pixels is not None and pixels.pixels is not None and pixels.pixels.shape == (2, 3, 8, 8)
    assert bool(pixels.pixels[0].mean() > pixels.pixels[1].mean())
    with pytest.raises(InputError, match="has no picture of image 7"):
        found.batch([7])
    with pytest.raises(InputError, match="lacks 1 of 2 images, such as 7"):
        found.check([1, 7])
    assert found.check([1, 2, 7], 0.5) == {7}
    (folder / "img" / "broken.png").write_text("")
    with pytest.raises(InputError, match=r"broken\.png: "):
        FolderPictures(folder, spec).batch(["broken"])
    (folder / "more").mkdir()
    picture(0).save(folder / "more" / "001.png")
    again = FolderPictures(folder, spec)
    assert "001" not in again and "more/001.png" in again
    assert again.find(str(folder / "more" / "001.png")) == folder / "more" / "001.png"  # as tables give their paths
    with pytest.raises(InputError, match="--regions"):
        open_pictures(SPEC, None, folder)
    with pytest.raises(InputError, match="no such folder"):
        open_pictures(spec, None, folder / "absent")


# ------------------------------------------------------------------------------------------------- published files
def write(path: Path, value: Any) -> Path:
    rows = value if isinstance(value, list) and path.suffix == ".jsonl" else None
    path.write_text(json.dumps(value) if rows is None else "".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("A Dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("the red, blue", "red blue"),
        ("1,000", "1000"),
        ("1.5", "1.5"),
        ("dont know", "don't know"),
        ("yes!", "yes"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("couldnt've", "couldn't've"),
        ("  on\tthe table\n", "on table"),
    ],
)
def test_answers_are_compared_as_the_data_sets_authors_do(answer: str, normal: str) -> None:
    assert normalise_answer(answer) == normal


@pytest.mark.parametrize(("said", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_scores(said: int, score: float) -> None:
    given = soft_scores(["Red."] * said + [f"other {n}" for n in range(10 - said)])
    assert given["red"] == pytest.approx(score)
    assert soft_scores(["A lone one."]) == {"lone 1": 1.0}


def test_vqa_files(tmp_path: Path) -> None:
    asked = [{"question_id": n, "image_id": 42 + n, "question": f"what {n}?"} for n in range(2)]
    questions = write(tmp_path / "q.json", {"questions": asked})
    answers = [
        {"question_id": n, "answer_type": "other", "answers": [{"answer": a} for a in ["red"] * 9 + ["blue"]]}
        for n in range(2)
    ]
    annotations = write(tmp_path / "a.json", {"annotations": answers})
    first, second = read_vqa(questions, annotations)
    assert (first.id, first.image, first.text, first.type) == ("0", 42, "what 0?", "other")
    assert not read_vqa(questions)[0].answered and second.soft() == {"red": 1.0, "blue": pytest.approx(0.3)}
    assert answer_vocabulary([first, second], 2) == ["red"]
    with pytest.raises(InputError, match="lower --least-answers"):
        answer_vocabulary([first, second])
    (item, _) = to_items([first, second], ["blue", "red"])
    assert isinstance(item.target, Answers) and item.target.scores == {1: 1.0, 0: pytest.approx(0.3)}
    assert item.target.weights == {"red": 0.9, "blue": 0.1}
    lxmert = [{"question_id": 5, "img_id": "COCO_val2014_000000000042", "sent": "?", "label": {"red": 0.9}}]
    (one,) = read_vqa(write(tmp_path / "l.json", lxmert))
    assert one.scores == {"red": 0.9} and one.image == "COCO_val2014_000000000042"
    with pytest.raises(InputError, match=r"no answers to question 1 .*one split"):
        read_vqa(questions, write(tmp_path / "half.json", {"annotations": answers[:1]}))
    with pytest.raises(InputError, match="question 0: lacks 'image_id'"):
        read_vqa(write(tmp_path / "bad.json", {"questions": [{"question_id": 1}]}))
    with pytest.raises(InputError, match='has no "questions"'):
        read_vqa(annotations)
    with pytest.raises(InputError, match="not JSON"):
        read_vqa(write(tmp_path / "q.jsonl", [{}, {}]))


def test_gqa_files(tmp_path: Path) -> None:
    row = {"question": "is it red?", "imageId": "235", "answer": "yes", "types": {"structural": "verify"}}
    more = {"entailed": ["08", "07"], "groups": {"global": "colour", "local": None}}
    path = write(tmp_path / "g.json", {"07": row, "08": {**row, **more, "isBalanced": False}})
    assert [(q.entailed, q.group) for q in read_gqa(path)] == [((), ""), (("07",), "colour")]
    assert [q.id for q in read_gqa(path)] == ["07", "08"]
    (one,) = read_gqa(path, balanced=True)
    assert one == Question("07", "235", "is it red?", scores={"yes": 1.0}, type="verify")


def test_answer_lists(tmp_path: Path) -> None:
    assert read_answers(write(tmp_path / "a.json", ["yes", "no"])) == ["yes", "no"]
    assert read_answers(write(tmp_path / "b.json", {"no": 1, "yes": 0})) == ["yes", "no"]
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"no": 1, "yes": 0}))
    assert read_answers(tmp_path / "c.pkl") == ["yes", "no"]
    with pytest.raises(InputError, match="are not 0 to 1"):
        read_answers(write(tmp_path / "d.json", {"no": 2, "yes": 0}))


def test_nlvr2_files(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"identifier": "dev-850-1-0", "sentence": "two", "label": "False"}])
    (item,) = read_nlvr2(path)
    assert item.images == ("dev-850-1-img0", "dev-850-1-img1") and item.target == 0
    assert statement_of("dev-850-1-0") == statement_of("dev-850-3-0") != statement_of("dev-850-1-2")
    with pytest.raises(InputError, match="line 1: the label 'maybe'"):
        read_nlvr2(write(tmp_path / "e.jsonl", [{"identifier": "dev-8-1-0", "sentence": "", "label": "maybe"}]))


def test_snli_ve_files(tmp_path: Path) -> None:
    rows = [
        {"Flickr30K_ID": "123", "sentence2": "a dog", "gold_label": "neutral", "pairID": "123.jpg#2r1n"},
        {"captionID": "123.jpg#2", "sentence2": "a cat", "gold_label": "-"},
    ]
    first, second = read_snli_ve(write(tmp_path / "s.jsonl", rows))
    assert first == Item("123.jpg#2r1n", ("123",), ("a dog",), 1)
    assert second.images == ("123.jpg",) and second.target is None
    with pytest.raises(InputError, match="none of contradiction, neutral, entailment"):
        read_snli_ve(write(tmp_path / "t.jsonl", [{**rows[0], "gold_label": "perhaps"}]))


def test_vcr_files(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "annot_id": "val-0",
        "img_fn": "movie/1.jpg",
        "objects": ["person", "dog", "person"],
        "question": ["Why", "is", [0, 2], "here", "?"],
        "answer_choices": [["The", [1]], ["He"]],
        "answer_label": 1,
        "rationale_choices": [["Because"], ["Since", [2]]],
        "rationale_label": 0,
    }
    path = write(tmp_path / "v.jsonl", [row])
    (answer,) = read_vcr(path)
    assert answer.texts == (("Why is Casey and Riley here ?", "The dog"), ("Why is Casey and Riley here ?", "He"))
    assert answer.images == ("movie/1.jpg",) and answer.target == 1
    (rationale,) = read_vcr(path, "rationale")
    assert rationale.texts[1] == ("Why is Casey and Riley here ?", "He", "Since Riley") and rationale.target == 0
    for change, words in (
        ({"question": ["Why", [3]]}, "points at object 3, there are 3"),
        ({"answer_label": 2}, "answer_label 2 is none of 2"),
    ):
        with pytest.raises(InputError, match=words):
            read_vcr(write(tmp_path / "w.jsonl", [{**row, **change}]))


def test_refcoco_files(tmp_path: Path) -> None:
    ref = {"ann_id": 7, "image_id": 1, "split": "val", "sentences": [{"sent_id": 3, "sent": "left"}, {"sent": "man"}]}
    boxes = [{"id": 7, "bbox": [10, 20, 30, 40]}]
    write(tmp_path / "instances.json", {"images": [{"id": 1, "width": 100, "height": 80}], "annotations": boxes})
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([ref]))
    items = read_refcoco(tmp_path / "refs(unc).p", split="val")
    assert [item.texts for item in items] == [("left",), ("man",)] and items[0].id == "3"
    assert isinstance(items[0].target, Box)
    torch.testing.assert_close(items[0].target.fractions(), torch.tensor([[0.1, 0.25, 0.4, 0.75]]))
    with pytest.raises(InputError, match="no expression of split 'testA'; it has val"):
        read_refcoco(tmp_path / "refs(unc).p", split="testA")
    with pytest.raises(InputError, match="no annotation 8"):
        read_refcoco(write(tmp_path / "refs.json", [{**ref, "ann_id": 8}]))
