"""The generated world: the same from the same seed, and every sentence true or false as it says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from coalign.errors import InputError
from coalign.worlds.scene_language import (
    NUMBERS,
    OPPOSITE,
    captions,
    expressions,
    foils,
    questions,
    relation,
    statements,
)
from coalign.worlds.scenes import COLOURS, HELD_OUT, SHAPES, SPLITS, Scene, Thing, make_scenes

WORDS = r"(?:(small|large) )?(?:(plain|striped|dotted) )?(?:(red|orange|yellow|green|blue|purple) )?"
NAMES = ("size", "texture", "colour", "shape")


def meant(scene: Scene, text: str) -> list[Thing]:
    """The things that a phrase fits, read from its words alone."""
    match = re.fullmatch(WORDS + r"(circle|square|triangle|star|cross|diamond|thing)(?:e?s)?", text)
    assert match, text
    look = {name: said for name, said in zip(NAMES, match.groups(), strict=True) if said and said != "thing"}
    return [thing for thing in scene.things if all(getattr(thing, name) == said for name, said in look.items())]


def true_of(scene: Scene, caption: str) -> bool:
    """Whether a caption is true, by a reading of its words that shares nothing with their making."""
    found = re.fullmatch(r"the (.+) is (left of|right of|above|below) the (.+)", caption)
    if found:
        a, b = meant(scene, found[1]), meant(scene, found[3])
        return any(relation(x, y) == found[2].split()[0] for x in a for y in b)
    return all(meant(scene, part.split(" ", 1)[1]) for part in caption.split(" and "))


def test_scenes_follow_from_the_seed_alone() -> None:
    a, b = make_scenes(12, seed=3), make_scenes(20, seed=3)
    assert a == b[:12]
    assert make_scenes(4, seed=3, start=8) == b[8:12]
    assert a != make_scenes(12, seed=4)
    first = np.asarray(a[0].draw(48))
    assert np.array_equal(first, np.asarray(replace(a[0]).draw(48)))
    assert first.shape == (48, 48, 3)
    assert captions(a[0]) == captions(b[0])
    assert len({scene.number for split in SPLITS for scene in make_scenes(5, split=split)}) == 20


def test_held_out_pairs_are_shown_and_spoken_of_in_novel_scenes_alone() -> None:
    assert len(HELD_OUT) == len({c for c, _ in HELD_OUT}) == len({s for _, s in HELD_OUT}) == len(SHAPES)
    for split in ("train", "validation", "test"):
        scenes = make_scenes(60, split=split)
        assert not any(thing.novel for scene in scenes for thing in scene.things)
        texts = [str(x) for s in scenes for x in captions(s)] + [str(f.foil) for s in scenes for f in foils(s)]
        texts += [q.text for s in scenes for q in questions(s, 7)] + [s.text for s in statements(scenes, 60)]
        pairs = re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", " . ".join(texts))
        assert pairs and not HELD_OUT & set(pairs)
    assert all(any(thing.novel for thing in scene.things) for scene in make_scenes(60, split="novel"))


def test_things_keep_apart_and_lie_within_the_picture() -> None:
    for scene in make_scenes(80, things=(1, 5)):
        assert 1 <= len(scene.things) <= 5
        assert len({(thing.colour, thing.shape) for thing in scene.things}) == len(scene.things)
        assert scene.boxes.min() >= 0 and scene.boxes.max() <= 1
        for i, a in enumerate(scene.things):
            for b in scene.things[:i]:
                apart = a.box[2] < b.box[0] or b.box[2] < a.box[0] or a.box[3] < b.box[1] or b.box[3] < a.box[1]
                assert apart


def test_the_picture_shows_the_things_where_their_boxes_say() -> None:
    scene = next(s for s in make_scenes(40) if s.things[0].texture == "plain" and s.things[0].shape == "square")
    thing, pixels = scene.things[0], np.asarray(scene.draw(100)).astype(int)
    x, y = (int(100 * part) for part in thing.centre)
    assert np.abs(pixels[y, x] - np.asarray(COLOURS[thing.colour])).max() < 30
    assert pixels[0, 0].min() > 190


def test_captions_are_true_and_foils_are_wrong_by_one_word() -> None:
    kinds: Counter[str] = Counter()
    for split in SPLITS:
        for scene in make_scenes(60, seed=1, split=split):
            for caption in captions(scene, 3):
                assert true_of(scene, str(caption))
                assert len(caption.words) == len(caption.things)
                for word, thing in zip(caption.words, caption.things, strict=True):
                    own = scene.things[thing]
                    says = thing >= 0
                    assert says == (word in (own.shape, own.colour, own.size, own.texture)) or not says
            for foil in foils(scene, 3):
                assert true_of(scene, str(foil.caption)) and not true_of(scene, str(foil.foil))
                changed = [
                    i for i, (a, b) in enumerate(zip(foil.caption.words, foil.foil.words, strict=True)) if a != b
                ]
                assert changed == [foil.place]
                kinds[foil.attribute] += 1
    assert set(kinds) == {"shape", "colour", "size", "texture", "relation"}


def test_questions_have_the_only_right_answer() -> None:
    kinds: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for scene in make_scenes(150, seed=2):
        asked = questions(scene, 7)
        assert len({question.text for question in asked}) == len(asked)
        for q in asked:
            kinds[q.kind] += 1
            if q.answer_type == "other":
                name, what = re.fullmatch(r"what (\w+) is the (.+)", q.text).groups()  # type: ignore[union-attr]
                (thing,) = meant(scene, what)
                assert q.answer == getattr(thing, "colour" if name == "color" else name)
            elif q.answer_type == "number":
                what = re.fullmatch(r"how many (.+) are there", q.text)
                assert what and NUMBERS[len(meant(scene, what[1]))] == q.answer
            elif q.kind == "is there a":
                assert q.answer == ("yes" if meant(scene, q.text.split(" ", 3)[3]) else "no")
                answers[q.answer] += 1
            else:
                found = re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+)", q.text)
                assert found
                ((a,), (b,)) = meant(scene, found[1]), meant(scene, found[3])
                assert (relation(a, b) == found[2].split()[0]) == (q.answer == "yes")
    assert len(kinds) == 7
    assert 0.35 < answers["yes"] / answers.total() < 0.65


def test_statements_are_half_true_and_say_which() -> None:
    scenes = make_scenes(40, seed=5)
    made = statements(scenes, 200)
    assert sum(s.label for s in made) == 100
    for s in made:
        number = {name: value for value, name in enumerate(NUMBERS)}
        if found := re.fullmatch(r"there (?:is|are) exactly (\w+) (.+) in total", s.text):
            true = len(meant(s.left, found[2])) + len(meant(s.right, found[2])) == number[found[1]]
        elif found := re.fullmatch(r"both images show an? (.+)", s.text):
            true = all(meant(scene, found[1]) for scene in (s.left, s.right))
        elif found := re.fullmatch(r"one of the images shows an? (.+)", s.text):
            true = any(meant(scene, found[1]) for scene in (s.left, s.right))
        elif found := re.fullmatch(r"there is an? (.+) in the (left|right) image", s.text):
            true = bool(meant(s.left if found[2] == "left" else s.right, found[1]))
        else:
            found = re.fullmatch(r"the (left|right) image shows more things than the (left|right) image", s.text)
            assert found and OPPOSITE[found[1]] == found[2]
            sides = {"left": s.left, "right": s.right}
            true = len(sides[found[1]].things) > len(sides[found[2]].things)
        assert true == s.label, s.text
    assert made == statements(scenes, 200) != statements(scenes, 200, seed=1)


def test_expressions_fit_one_thing() -> None:
    for scene in make_scenes(80, seed=6):
        made = expressions(scene)
        assert [e.thing for e in made] == list(range(len(scene.things)))
        for e in made:
            what = e.text.removeprefix("the ")
            end = what.split()[0]
            if end in ("leftmost", "rightmost", "topmost", "bottommost"):
                axis, sign = 0 if end in ("leftmost", "rightmost") else 1, -1 if end in ("leftmost", "topmost") else 1
                alike = meant(scene, what.split()[1])
                best = max(alike, key=lambda thing: sign * thing.centre[axis])
                assert best is scene.things[e.thing]
            else:
                assert meant(scene, what) == [scene.things[e.thing]]


def test_what_no_world_can_be_is_said() -> None:
    with pytest.raises(InputError, match="1 to 6 things"):
        make_scenes(1, things=(0, 9))
    with pytest.raises(InputError, match="too few"):
        statements(make_scenes(1), 2)
