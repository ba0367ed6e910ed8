"""Sentences about the scenes of `worlds`, true or false by construction.

Captions with the thing that each word means; captions made wrong in one attribute; questions with answers, as in VQA
(Goyal et al. 2017); statements about pairs of pictures, as in NLVR2 (Suhr et al. 2019); expressions that single one
thing out, as in RefCOCO (Yu et al. 2016).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from coalign.data.images.transforms import derive_seed
from coalign.errors import InputError
from coalign.worlds.scenes import ATTRIBUTES, HELD_OUT, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
ORDER = ("size", "texture", "colour")
"""The order of adjectives before a shape."""
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CAPTIONS, FOILS, QUESTIONS, STATEMENTS, EXPRESSIONS = range(10, 15)  # the separate uses of a scene's seed

Description = Mapping[str, str]
"""Some attributes of a thing, by name."""


@dataclass(frozen=True)
class Sentence:
    """Words, and for each the thing of the scene that it means, -1 where it means none."""

    words: tuple[str, ...]
    things: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Foil:
    """A caption made wrong by one word: that at `place`, which names an `attribute` (or a "relation")."""

    caption: Sentence
    foil: Sentence
    place: int
    attribute: str


@dataclass(frozen=True)
class Question:
    """`kind` is the question's beginning and `answer_type` one of "yes/no", "number", "other", as in VQA v2."""

    text: str
    answer: str
    kind: str
    answer_type: str


@dataclass(frozen=True)
class Statement:
    """A sentence about two scenes, and whether it is true of them."""

    left: Scene
    right: Scene
    text: str
    label: bool


@dataclass(frozen=True)
class Expression:
    """Words that fit one thing of the scene and no other."""

    text: str
    thing: int


def fits(thing: Thing, description: Description) -> bool:
    """Whether a thing has these attributes."""
    return all(getattr(thing, name) == value for name, value in description.items())


def phrase(description: Description) -> list[str]:
    """ "large red circle", or "red thing" where the shape is not said."""
    return [*(description[name] for name in ORDER if name in description), description.get("shape", "thing")]


# ----------------------------------------------------------------------------------------------------------- captions
def captions(scene: Scene, count: int = 2) -> list[Sentence]:
    """`count` captions: the first lists all things, the others say how two lie to each other."""
    rng = scene.rng(CAPTIONS)
    made = [_listing(scene, rng)]
    while len(made) < count:
        made.append(_relation(scene, rng))
    return made


def _listing(scene: Scene, rng: random.Random) -> Sentence:
    words, meant = list[str](), list[int]()
    for place, index in enumerate(rng.sample(range(len(scene.things)), len(scene.things))):
        description = _some_description(scene.things[index], rng)
        said = phrase(description)
        words += [*(["and"] if place else []), _article(said), *said]
        meant += [*([-1] if place else []), -1, *([index] * len(said))]
    return Sentence(tuple(words), tuple(meant))


def _relation(scene: Scene, rng: random.Random) -> Sentence:
    if len(scene.things) < 2:
        return _listing(scene, rng)
    a, b = rng.sample(range(len(scene.things)), 2)
    first, second = (phrase(_some_description(scene.things[i], rng)) for i in (a, b))
    how = relation(scene.things[a], scene.things[b])
    between = ["is", *_relation_words(how), "the"]
    words = ["the", *first, *between, *second]
    return Sentence(tuple(words), (-1, *([a] * len(first)), *([-1] * len(between)), *([b] * len(second))))


def _article(words: Sequence[str]) -> str:
    return "an" if words[0] == "orange" else "a"


def _with_article(description: Description) -> str:
    return " ".join([_article(phrase(description)), *phrase(description)])


def _some_description(thing: Thing, rng: random.Random) -> dict[str, str]:
    """Colour and shape always, size and texture half of the time."""
    names = ["colour", "shape", *(name for name in ("size", "texture") if rng.random() < 0.5)]
    return {name: getattr(thing, name) for name in names}


def relation(a: Thing, b: Thing) -> str:
    """Where `a` lies as seen from `b`: along the axis on which they are further apart."""
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _relation_words(how: str) -> list[str]:
    return [how, "of"] if how in ("left", "right") else [how]


def foils(scene: Scene, count: int = 2) -> list[Foil]:
    """Each caption with one word swapped such that it is wrong of the scene (hard negatives)."""
    rng = scene.rng(FOILS)
    made: list[Foil] = []
    for caption in captions(scene, count):
        places = [place for place, word in enumerate(caption.words) if word in OPPOSITE or _attribute_of(word)]
        for place in rng.sample(places, len(places)):
            wrong = _wrong_words(scene, caption, place)
            if wrong:
                words = (*caption.words[:place], rng.choice(wrong), *caption.words[place + 1 :])
                attribute = _attribute_of(caption.words[place]) or "relation"
                made.append(Foil(caption, Sentence(words, caption.things), place, attribute))
                break
    return made


def _wrong_words(scene: Scene, caption: Sentence, place: int) -> list[str]:
    """Words that the one at `place` may be swapped for: nothing in the scene is then as the caption says."""
    word, meant = caption.words[place], caption.things[place]
    if word in OPPOSITE:
        return [OPPOSITE[word]]
    name = _attribute_of(word)
    assert name is not None
    said = [w for w, thing in zip(caption.words, caption.things, strict=True) if thing == meant]
    description = {str(_attribute_of(w)): w for w in said}
    choices = ({**description, name: value} for value in ATTRIBUTES[name] if value != word)
    return [
        description[name]
        for description in choices
        if _sayable(description, scene) and not any(fits(t, description) for t in scene.things)
    ]


def _attribute_of(word: str) -> str | None:
    return next((name for name, values in ATTRIBUTES.items() if word in values), None)


def _sayable(description: Description, scene: Scene) -> bool:
    """Held-out pairs are not even spoken of outside the split that shows them."""
    return scene.split == "novel" or (description.get("colour", ""), description.get("shape", "")) not in HELD_OUT


# ---------------------------------------------------------------------------------------------------------- questions
def questions(scene: Scene, count: int = 4) -> list[Question]:
    """`count` questions of different kinds, as far as the scene allows, with the only right answer.

    In "novel" scenes the questions are about the held-out pair where their kind is about one thing.
    """
    rng = scene.rng(QUESTIONS)
    questions_of: dict[str, Question] = {}
    for kind in rng.sample(_KINDS, len(_KINDS)) * 2:
        question = kind(scene, _subject(scene, rng), rng)
        if question is not None:
            questions_of.setdefault(question.text, question)
        if len(questions_of) == count:
            break
    return list(questions_of.values())


def _subject(scene: Scene, rng: random.Random) -> Thing:
    return rng.choice([thing for thing in scene.things if thing.novel] or scene.things)


def _ask_attribute(name: str, known: Sequence[str], wording: str) -> Callable[..., Question | None]:
    def ask(scene: Scene, thing: Thing, rng: random.Random) -> Question | None:
        del rng
        description = {key: getattr(thing, key) for key in known}
        if sum(fits(other, description) for other in scene.things) != 1:
            return None
        kind = f"{wording} is the"
        return Question(f"{kind} {' '.join(phrase(description))}", getattr(thing, name), kind, "other")

    return ask


def _ask_count(scene: Scene, thing: Thing, rng: random.Random) -> Question:
    name = rng.choice(("shape", "colour", "all"))
    description = {} if name == "all" else {name: rng.choice((getattr(thing, name), rng.choice(ATTRIBUTES[name])))}
    text = f"how many {_plural(description)} are there"
    return Question(text, NUMBERS[_count(scene.things, description)], "how many", "number")


def _ask_presence(scene: Scene, thing: Thing, rng: random.Random) -> Question:
    description = {"colour": thing.colour, "shape": thing.shape}
    if rng.random() < 0.5:
        description = absent_description(scene, description, rng)
    answer = "yes" if _count(scene.things, description) else "no"
    return Question(f"is there {_with_article(description)}", answer, "is there a", "yes/no")


def absent_description(scene: Scene, description: Description, rng: random.Random) -> dict[str, str]:
    """`description` with its colour or shape swapped such that nothing in the scene fits."""
    swaps = [
        {**description, name: value} for name in description for value in ATTRIBUTES[name] if value != description[name]
    ]
    return rng.choice([swap for swap in swaps if _sayable(swap, scene) and not _count(scene.things, swap)])


def _ask_place(scene: Scene, thing: Thing, rng: random.Random) -> Question | None:
    others = [other for other in scene.things if other is not thing]
    if not others:
        return None
    other = rng.choice(others)
    true = relation(thing, other)
    how = true if rng.random() < 0.5 else OPPOSITE[true]
    a, b = (" ".join(phrase({"colour": t.colour, "shape": t.shape})) for t in (thing, other))
    text = f"is the {a} {' '.join(_relation_words(how))} the {b}"
    return Question(text, "yes" if how == true else "no", "is the", "yes/no")


_KINDS: list[Callable[[Scene, Thing, random.Random], Question | None]] = [
    _ask_attribute("colour", ["shape"], "what color"),
    _ask_attribute("shape", ["colour"], "what shape"),
    _ask_attribute("size", ["colour", "shape"], "what size"),
    _ask_attribute("texture", ["colour", "shape"], "what texture"),
    _ask_count,
    _ask_presence,
    _ask_place,
]


def _count(things: Iterable[Thing], description: Description) -> int:
    return sum(fits(thing, description) for thing in things)


def _plural(description: Description) -> str:
    return f"{' '.join(phrase(description))}{'es' if description.get('shape') == 'cross' else 's'}"


# --------------------------------------------------------------------------------------------------------- statements
def statements(scenes: Sequence[Scene], count: int, seed: int = 0) -> list[Statement]:
    """`count` statements about pairs of these scenes; every second one is true, in each kind of claim."""
    rng = random.Random(derive_seed(seed, STATEMENTS, scenes[0].seed if scenes else 0))
    made = [_claim(scenes, number // 2, number % 2 == 0, rng) for number in range(count)]
    rng.shuffle(made)
    return made


def _claim(scenes: Sequence[Scene], kind: int, wanted: bool, rng: random.Random) -> Statement:
    """A claim of this kind, true or false as wanted; of another kind where a hundred pairs of scenes give none."""
    for attempt in range(100 * len(_CLAIMS) if len(scenes) > 1 else 0):
        left, right = rng.sample(scenes, 2)
        text, label = _CLAIMS[(kind + attempt // 100) % len(_CLAIMS)](left, right, rng)
        if label == wanted:
            return Statement(left, right, text, label)
    raise InputError(f"{len(scenes)} scenes are too few for statements about pairs of them")


def _claim_description(left: Scene, right: Scene, rng: random.Random, names: Sequence[str]) -> dict[str, str]:
    """Attributes of a thing in one of the scenes, at times with one swapped."""
    scene = rng.choice((left, right))
    thing = _subject(scene, rng)
    description = {name: getattr(thing, name) for name in names}
    if rng.random() < 0.5:
        name = rng.choice(list(names))
        swapped = {**description, name: rng.choice(ATTRIBUTES[name])}
        description = swapped if _sayable(swapped, scene) else description
    return description


def _claim_total(left: Scene, right: Scene, rng: random.Random) -> tuple[str, bool]:
    description = _claim_description(left, right, rng, [rng.choice(("shape", "colour"))])
    true = _count((*left.things, *right.things), description)
    said = max(true + rng.choice((-1, 0, 0, 1)), 0)
    verb, what = ("is", " ".join(phrase(description))) if said == 1 else ("are", _plural(description))
    return f"there {verb} exactly {NUMBERS[min(said, 6)]} {what} in total", true == said


def _claim_both(left: Scene, right: Scene, rng: random.Random) -> tuple[str, bool]:
    description = _claim_description(left, right, rng, [rng.choice(("shape", "colour"))])
    return f"both images show {_with_article(description)}", all(_count(s.things, description) for s in (left, right))


def _claim_one(left: Scene, right: Scene, rng: random.Random) -> tuple[str, bool]:
    description = _claim_description(left, right, rng, ["colour", "shape"])
    return f"one of the images shows {_with_article(description)}", any(
        _count(s.things, description) for s in (left, right)
    )


def _claim_side(left: Scene, right: Scene, rng: random.Random) -> tuple[str, bool]:
    description = _claim_description(left, right, rng, ["colour", "shape"])
    side, scene = rng.choice((("left", left), ("right", right)))
    return f"there is {_with_article(description)} in the {side} image", _count(scene.things, description) > 0


def _claim_more(left: Scene, right: Scene, rng: random.Random) -> tuple[str, bool]:
    side, a, b = rng.choice((("left", left, right), ("right", right, left)))
    return f"the {side} image shows more things than the {OPPOSITE[side]} image", len(a.things) > len(b.things)


_CLAIMS = (_claim_total, _claim_both, _claim_one, _claim_side, _claim_more)


# -------------------------------------------------------------------------------------------------------- expressions
def expressions(scene: Scene) -> list[Expression]:
    """One expression a thing: as few attributes as single it out, or where it lies among those of its shape."""
    rng = scene.rng(EXPRESSIONS)
    made: list[Expression] = []
    for index, thing in enumerate(scene.things):
        made.append(Expression(" ".join(["the", *_single_out(scene, thing, rng)]), index))
    return made


def _single_out(scene: Scene, thing: Thing, rng: random.Random) -> list[str]:
    alike = [other for other in scene.things if other.shape == thing.shape]
    if len(alike) > 1 and rng.random() < 0.5:
        for axis, names in ((0, ("leftmost", "rightmost")), (1, ("topmost", "bottommost"))):
            ordered = sorted(alike, key=lambda other: other.centre[axis])
            for name, extreme in zip(names, (ordered[0], ordered[-1]), strict=True):
                if extreme is thing:
                    return [name, thing.shape]
    for count in range(1, len(ATTRIBUTES) + 1):
        descriptions = [{name: getattr(thing, name) for name in names} for names in combinations(ATTRIBUTES, count)]
        unique = [description for description in descriptions if _count(scene.things, description) == 1]
        if unique:
            return phrase(rng.choice(unique))
    raise AssertionError("things of a scene differ in colour or shape")
