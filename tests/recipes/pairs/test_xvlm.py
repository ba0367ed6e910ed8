"""X-VLM's recipe: texts about parts of pictures from the user's files, and what is wrong with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import coalign
from coalign.data.core.samples import InMemory
from coalign.data.pairs.sources import open_source
from coalign.data.regions.box_texts import BoxTexts, PartLoader, read_box_texts, with_boxes
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.flags import configure
from coalign.models.xvlm.trunk import SIZES, input_spec_of
from coalign.recipes import find_recipe
from coalign.tasks import find_task
from coalign.training.tracking import read_metrics
from coalign.types import Batch, needed
from coalign.worlds.scene_files import write_world

HEADER = ["image", "x1", "y1", "x2", "y2", "text"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("xvlm") / "world"
    write_world(out, {"train": 12}, side=32, things=(2, 3))
    return out


def table(path: Path, rows: list[list[Any]], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def boxes_of(world: Path, path: Path) -> Path:
    """A world's expressions as a table, with the pictures' paths."""
    side = json.loads((world / "instances.json").read_text())["images"][0]["width"]
    known = {row["id"]: row["bbox"] for row in json.loads((world / "instances.json").read_text())["annotations"]}
    rows: list[list[Any]] = []
    for ref in json.loads((world / "refs.json").read_text()):
        x, y, width, height = known[ref["ann_id"]]
        corners = [each / side for each in (x, y, x + width, y + height)]
        rows.append([f"images/{ref['file_name']}", *corners, ref["sentences"][0]["sent"]])
    return table(path, rows)


def settings(world: Path, out: Path, **given: Any) -> dict[str, Any]:
    pairs = {"data": str(world / "captions_train.json"), "words": 200, "batch_size": 4, "steps": 4, "dropout": 0.0}
    return {**pairs, "boxes": world / "refs.json", "out": out, **given}


def losses_of(run: Path) -> list[dict[str, float]]:
    return [record["losses"] for record in read_metrics(run / "metrics.jsonl") if "losses" in record]


def test_a_run_loads_is_measured_and_starts_another(world: Path, tmp_path: Path) -> None:
    recipe = find_recipe("xvlm-pretrain")
    configure(recipe, **settings(world, tmp_path / "run", log_every=1)).run()
    assert all(set(own) == {"itc", "itm", "mlm", "box"} for own in losses_of(tmp_path / "run"))
    loaded = coalign.load(tmp_path / "run")
    assert {"red", "leftmost"} & {loaded.vocabulary.id_to_piece(n) for n in range(loaded.vocabulary.vocab_size)}
    seen = {"data": str(world / "foils_train.jsonl"), "images": world}
    assert 0 <= find_task("matching")(run=tmp_path / "run", **seen).evaluate().metrics["right_wins"] <= 1
    words = find_task("word-alignment")(run=tmp_path / "run", data=world / "words_train.jsonl", images=world)
    assert 0 <= words.evaluate().metrics["choice, cross_attention"] <= 1
    again = settings(world, tmp_path / "b", start=tmp_path / "run", boxes_each=0, log_every=1)
    del again["dropout"], again["words"]
    configure(recipe, **again).run()
    assert all(set(own) == {"itc", "itm", "mlm"} for own in losses_of(tmp_path / "b"))


def test_expressions_are_learned_and_measured_by_their_boxes(world: Path, tmp_path: Path) -> None:
    """A pre-trained run tells boxes as it is; fine-tuned on the expressions they fit better."""
    configure(find_recipe("xvlm-pretrain"), **settings(world, tmp_path / "run", steps=2)).run()
    said = {"data": world / "refs.json", "images": world / "images"}
    fresh = find_task("referring")(run=tmp_path / "run", **said, out=tmp_path / "boxes.jsonl").evaluate().to_json()
    assert fresh["metrics"]["accuracy"] < 0.5 and 0 <= fresh["chance"] <= 1 and 0 < fresh["overlap"] < 1
    rows = [json.loads(line) for line in (tmp_path / "boxes.jsonl").read_text().splitlines()]
    assert len(rows) == fresh["count"] and all(row["region"] is None and len(row["box"]) == 4 for row in rows)
    start = {"system": "xvlm", "start": tmp_path / "run", "steps": 40, "lr": 2e-3, "batch_size": 12}
    configure(find_recipe("referring"), **said, **start, out=tmp_path / "tuned", warmup=0.1).run()
    assert all(set(own) == {"box"} for own in losses_of(tmp_path / "tuned"))
    tuned = find_task("referring")(run=tmp_path / "tuned", **said).evaluate().to_json()
    assert tuned["overlap"] > fresh["overlap"] + 0.03


def test_a_run_that_was_stopped_goes_on_to_the_bit(world: Path, tmp_path: Path) -> None:
    recipe = find_recipe("xvlm-pretrain")
    given = {"save_every": 2, "dropout": 0.1, "boxes_each": 3}
    configure(recipe, **settings(world, tmp_path / "whole", **given)).run()
    part = settings(world, tmp_path / "part", **given)

    class Stop(Exception):  # noqa: N818
        pass

    made, real = 0, PartLoader.__iter__

    def stops(self: PartLoader) -> Any:
        nonlocal made
        for batch in real(self):
            made += 1
            if made == 4:
                raise Stop
            yield batch

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(PartLoader, "__iter__", stops)
        configure(recipe, **part).run()
    configure(recipe, **part).run()
    one, two = (coalign.load(tmp_path / name).model.state_dict() for name in ("whole", "part"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_other_boxes_are_other_data(world: Path, tmp_path: Path) -> None:
    recipe = find_recipe("xvlm-pretrain")
    short = {"steps": 2, "boxes": boxes_of(world, tmp_path / "boxes.csv"), "vocab": world / "tokenizer.json"}
    configure(recipe, **settings(world, tmp_path / "run", **short)).run()
    rows = (tmp_path / "boxes.csv").read_text().splitlines()
    (tmp_path / "boxes.csv").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(InputError, match="other data"):
        configure(recipe, **settings(world, tmp_path / "run", **short)).run()


def test_a_table_and_the_expressions_are_the_same_boxes(world: Path, tmp_path: Path) -> None:
    source = open_source(world / "captions_train.json")
    read = [read_box_texts(path) for path in (world / "refs.json", boxes_of(world, tmp_path / "boxes.csv"))]
    names = [with_boxes(source, own) for own in read]
    assert names[0] == names[1] and len(names[0]) == 12
    assert sorted(read[0].texts(names[0])) == sorted(read[1].texts(names[0]))
    for name in names[0]:
        one, two = (torch.tensor([part.box for part in own.of(name)]) for own in read)
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def batches(world: Path, boxes: BoxTexts, each: int, **given: Any) -> list[Batch]:
    source = open_source(world / "captions_train.json")
    tokenizer = Tokenizer.train([text for i in range(len(source)) for text in source[i].texts], 200)
    return list(PartLoader(source, input_spec_of(SIZES["tiny"]), tokenizer, 4, boxes, each, **given))


def test_batches_hold_all_pictures_and_as_many_boxes_whatever_they_have(world: Path) -> None:
    boxes = read_box_texts(world / "refs.json")
    for batch in batches(world, boxes, 3):
        places, ids = needed(batch.places, "places"), needed(batch.ids, "ids")
        assert len(batch) == len(places.images) == len(ids) == 16 and len(batch.images or ()) == 4
        assert places.whole.tolist() == [True] * 4 + [False] * 12
        assert places.images[:4].tolist() == [0, 1, 2, 3] and set(places.images.tolist()) == {0, 1, 2, 3}
        assert places.boxes[:4].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 4
        corners = {(int(n), *box) for n, box in zip(places.images, places.boxes.tolist(), strict=True)}
        assert len(corners) >= 12  # four pictures of two or three things: each box comes before any comes again
    few = BoxTexts("few", [("images/0000003.png", (0.0, 0.0, 0.5, 0.5), "a b"), (3, (0.0, 0.0, 0.5, 0.5), "a b")])
    sizes = [(len(batch), int((~needed(batch.places, "places").whole).sum())) for batch in batches(world, few, 1)]
    assert sorted(sizes) == [(8, 0), (8, 0), (8, 4)]


def test_texts_of_the_same_words_share_an_id(world: Path) -> None:
    names = [f"images/{n:07d}.png" for n in range(12)]
    boxes = BoxTexts("all", [(name, (0.0, 0.0, 0.5, 0.5), f"thing {i % 2}") for i, name in enumerate(names)])
    for batch in batches(world, boxes, 1):
        places, ids = needed(batch.places, "places"), needed(batch.ids, "ids")
        said = {int(i): int(n) for i, n in zip(ids[4:], places.images[4:], strict=True)}
        assert len(said) <= 2 and not set(said) & set(ids[:4].tolist())


def test_pictures_of_the_same_name_are_told_by_their_folders() -> None:
    rows = [(f"{place}/1.png", (0.0, 0.0, 0.5, 0.5), place) for place in ("a", "b")]
    boxes = BoxTexts("boxes", rows)
    assert [part.texts for part in boxes.of("/pictures/a/1.png")] == [("a",)]
    assert boxes.of("b/1.png")[0].texts == ("b",) and boxes.of("/pictures/c/1.png") == ()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["a.png", 0.1, 0.1, 1.2, 0.5, "x"], r"row 3: the box 0.1, 0.1, 1.2, 0.5 reaches out .* divide pixels by"),
        (["a.png", -0.1, 0.1, 0.2, 0.5, "x"], "row 3: the box -0.1, 0.1, 0.2, 0.5 reaches out"),
        (["a.png", "nan", 0.1, 0.2, 0.5, "x"], "row 3: the box nan, 0.1, 0.2, 0.5 reaches out"),
        (["a.png", 0.5, 0.1, 0.5, 0.5, "x"], r"row 3: the box 0.5, 0.1, 0.5, 0.5 has no area; x1 < x2"),
        (["a.png", 0.1, 0.6, 0.5, 0.5, "x"], "row 3: the box 0.1, 0.6, 0.5, 0.5 has no area"),
        (["a.png", "left", 0.1, 0.2, 0.5, "x"], "row 3: x1, y1, x2 and y2 are numbers"),
        (["a.png", 0.1, 0.1, 0.2, 0.5, " "], "row 3: its text is empty; give one or take the row out"),
        (["", 0.1, 0.1, 0.2, 0.5, "x"], "row 3: has no picture; give its path"),
        (["a.png", 0.1, 0.1, 0.2], "row 3: has 4 fields, the header 6"),
    ],
)
def test_a_wrong_row_is_named_with_what_to_do(tmp_path: Path, row: list[Any], said: str) -> None:
    good = ["a.png", 0.0, 0.0, 1.0004, 0.5, "fine"]
    with pytest.raises(InputError, match=said):
        read_box_texts(table(tmp_path / "boxes.csv", [good, row]))


def test_wrong_files_and_flags_are_named(world: Path, tmp_path: Path) -> None:
    rows = [["a.png", 0.0, 0.0, 0.5, "fine"]]
    with pytest.raises(InputError, match="no column 'y2'; the columns there are: image, x1, y1, x2, text"):
        read_box_texts(table(tmp_path / "a.csv", rows, ["image", "x1", "y1", "x2", "text"]))
    with pytest.raises(InputError, match="no column is recognised as the text"):
        read_box_texts(table(tmp_path / "b.csv", [], [*HEADER[:5], "what"]))
    with pytest.raises(InputError, match="no column is recognised as the image"):
        read_box_texts(table(tmp_path / "c.csv", [], ["who", *HEADER[1:]]))
    with pytest.raises(InputError, match="holds no box"):
        read_box_texts(table(tmp_path / "d.csv", []))
    with pytest.raises(InputError, match="no such file"):
        read_box_texts(tmp_path / "none.csv")
    boxes = read_box_texts(table(tmp_path / "e.csv", [["other.png", 0.0, 0.0, 0.5, 1.0, "x"]]))
    with pytest.raises(InputError, match=r"has boxes of none of the pictures in memory, such as 'a.png'.*'other.png'"):
        with_boxes(InMemory([("a.png", "a text")]), boxes)
    recipe = find_recipe("xvlm-pretrain")
    for given, said in (
        ({"augment": True}, "--augment crops pictures, of which --boxes would then say wrong places"),
        ({"boxes": None, "objectives": ("box",)}, "--objectives box: is learned from texts about parts"),
        ({"boxes_each": -1}, "--boxes-each -1: is a number of boxes, 0 or more"),
    ):
        with pytest.raises(InputError, match=said):
            configure(recipe, **settings(world, tmp_path / "run", **given)).run()
