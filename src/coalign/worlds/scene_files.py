"""A generated world on disk, in the file formats of the published data sets, so that every recipe and task reads it.

images/0000000.png …          the pictures; the file's name is the scene's number
captions_SPLIT.json           COCO captions: two sentences a picture
words_SPLIT.jsonl             each caption's words, and for each the box of the thing it means, or null
foils_SPLIT.jsonl             captions beside the same with one word wrong (hard negatives)
questions_SPLIT.json          VQA v2 questions, and
annotations_SPLIT.json        their answers, ten a question, all alike
nlvr2_SPLIT.jsonl             NLVR2 statements; pictures in nlvr2_images/ under the names that NLVR2 gives
instances.json, refs.json     RefCOCO: things as COCO instances, and the expressions of all splits
world.json                    seed, sizes, held-out pairs; written last
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import replace_file
from coalign.worlds.scene_language import Sentence, captions, expressions, foils, questions, statements
from coalign.worlds.scenes import HELD_OUT, SHAPES, Scene, Split, make_scenes

ANSWERERS = 10
"""People who answer a question of VQA v2."""
GALLERY = 100
"""Pictures of a gallery: few enough to read every one with every caption."""
VOCABULARY = 1000
"""The most word pieces of a world's vocabulary; its words are fewer."""
PAIRS = {"left": "img0", "right": "img1"}


def write_world(
    out: Path,
    counts: Mapping[Split, int],
    *,
    seed: int = 0,
    side: int = 96,
    things: tuple[int, int] = (2, 4),
    questions_each: int = 4,
    statements_each: float = 1.0,
) -> dict[str, Scene]:
    """Writes `counts` scenes of each split into a new folder; `statements_each` is the number of NLVR2 pairs a scene.

    Returns:
        The scene of every picture, by the picture's path relative to `out` without its ending, in writing order.

    Raises:
        InputError: the folder exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; give a new folder for the world")
    for folder in ("images", "nlvr2_images"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Scene] = {}
    instances: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    texts: list[str] = []
    for split, count in counts.items():
        scenes = make_scenes(count, seed, split, things=things)
        drawn = {scene.number: _png(scene, side) for scene in scenes}
        for scene in scenes:
            pictures[f"images/{_name(scene)}"] = scene
            (out / "images" / f"{_name(scene)}.png").write_bytes(drawn[scene.number])
        images = [_image(scene, side) for scene in scenes]
        shown += images
        _write_captions(out, split, scenes, images)
        _write_questions(out, split, scenes, questions_each)
        for scene in scenes:
            _add_expressions(scene, side, instances, refs)
            texts += [str(caption) for caption in captions(scene)]
            texts += [question.text for question in questions(scene, questions_each)]
            texts += [expression.text for expression in expressions(scene)]
        lines: list[dict[str, Any]] = []
        made = statements(scenes, round(count * statements_each), seed) if count > 1 else []
        texts += [statement.text for statement in made]
        for number, statement in enumerate(made):
            name = f"{_NLVR2[split]}-{number}-0"
            for key, scene in (("left", statement.left), ("right", statement.right)):
                picture = f"nlvr2_images/{name}-{PAIRS[key]}"
                pictures[picture] = scene
                (out / f"{picture}.png").write_bytes(drawn[scene.number])
            line = {"identifier": f"{name}-0", "sentence": statement.text, "label": str(statement.label)}
            lines.append({**line, "left_url": f"{name}-img0.png", "right_url": f"{name}-img1.png"})
        _write_lines(out / f"nlvr2_{split}.jsonl", lines)
    Tokenizer.train(texts, VOCABULARY).save(out)
    categories = [{"id": i + 1, "name": shape} for i, shape in enumerate(SHAPES)]
    _write(out / "instances.json", {"images": shown, "annotations": instances, "categories": categories})
    _write(out / "refs.json", refs)
    described = {
        "seed": seed,
        "side": side,
        "things": list(things),
        "scenes": dict(counts),
        "held_out": sorted(map(list, HELD_OUT)),
    }
    _write(out / "world.json", described)
    return pictures


_NLVR2: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test1", "novel": "novel"}


def _write_captions(out: Path, split: Split, scenes: Sequence[Scene], images: list[dict[str, Any]]) -> None:
    annotations: list[dict[str, Any]] = []
    words: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    for scene in scenes:
        file = f"images/{_name(scene)}.png"
        for sentence in captions(scene):
            annotations.append({"id": len(annotations), "image_id": scene.number, "caption": str(sentence)})
            truth = {"image_id": scene.number, "image": file, "caption": str(sentence)}
            words.append({**truth, "words": list(sentence.words), "boxes": _word_boxes(scene, sentence)})
        for foil in foils(scene):
            row = {"image_id": scene.number, "image": file, "caption": str(foil.caption), "foil": str(foil.foil)}
            wrong.append({**row, "attribute": foil.attribute, "word": foil.place})
    _write(out / f"captions_{split}.json", {"images": images, "annotations": annotations})
    first = {a["image_id"]: a for a in reversed(annotations) if a["image_id"] < scenes[0].number + GALLERY}
    _write(out / f"gallery_{split}.json", {"images": images[:GALLERY], "annotations": list(first.values())[::-1]})
    _write_lines(out / f"words_{split}.jsonl", words)
    _write_lines(out / f"foils_{split}.jsonl", wrong)


def _word_boxes(scene: Scene, sentence: Sentence) -> list[list[float] | None]:
    return [None if thing < 0 else list(scene.things[thing].box) for thing in sentence.things]


def _write_questions(out: Path, split: Split, scenes: Sequence[Scene], count: int) -> None:
    entries: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    for scene in scenes:
        for place, question in enumerate(questions(scene, count)):
            key = {"image_id": scene.number, "question_id": scene.number * 10 + place}
            entries.append({**key, "question": f"{question.text}?"})
            answers = [
                {"answer": question.answer, "answer_confidence": "yes", "answer_id": i + 1} for i in range(ANSWERERS)
            ]
            kinds = {"question_type": question.kind, "answer_type": question.answer_type}
            answered.append({**key, **kinds, "multiple_choice_answer": question.answer, "answers": answers})
    kind = {"data_type": "generated", "data_subtype": split}
    _write(out / f"questions_{split}.json", {**kind, "task_type": "Open-Ended", "questions": entries})
    _write(out / f"annotations_{split}.json", {**kind, "annotations": answered})


def _add_expressions(scene: Scene, side: int, instances: list[dict[str, Any]], refs: list[dict[str, Any]]) -> None:
    for expression in expressions(scene):
        thing = scene.things[expression.thing]
        x1, y1, x2, y2 = (round(part * side, 3) for part in thing.box)
        number = len(instances) + 1
        box = {"bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)], "area": round((x2 - x1) * (y2 - y1), 3)}
        key = {"image_id": scene.number, "category_id": SHAPES.index(thing.shape) + 1}
        instances.append({"id": number, **key, **box, "iscrowd": 0})
        said = {"sent_id": number, "sent": expression.text, "raw": expression.text, "tokens": expression.text.split()}
        sentence = {"ref_id": number, "ann_id": number, "sent_ids": [number], "sentences": [said]}
        refs.append({**sentence, **key, "split": REFS[scene.split], "file_name": f"{_name(scene)}.png"})


REFS: dict[str, str] = {"train": "train", "validation": "val", "test": "test", "novel": "novel"}
"""A world's splits as RefCOCO's files name them."""


def _name(scene: Scene) -> str:
    return f"{scene.number:07d}"


def _image(scene: Scene, side: int) -> dict[str, Any]:
    return {"id": scene.number, "file_name": f"{_name(scene)}.png", "width": side, "height": side}


def _png(scene: Scene, side: int) -> bytes:
    file = io.BytesIO()
    scene.draw(side).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, value: Any) -> None:
    _write_lines(path, [value])


def _write_lines(path: Path, rows: Iterable[Any]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
