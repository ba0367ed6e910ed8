from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coalign.analysis.runs.contact_sheet import MARGIN, RIGHT, WRONG, Cell, contact_sheet, font, wrap
from coalign.errors import InputError


def has_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == colour).all(-1).any())


def test_cells_stand_in_reading_order(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    Image.new("RGB", (10, 10), colours[0]).save(tmp_path / "a.png")
    cells = [Cell(tmp_path / "a.png"), *[Cell(Image.new("RGB", (10, 10), colour)) for colour in colours[1:]]]
    sheet = contact_sheet(cells, columns=3, size=40)
    step = 40 + MARGIN
    assert sheet.width == 3 * step + MARGIN
    row = (sheet.height - MARGIN) // 2
    centres = [sheet.getpixel((MARGIN + 20 + i % 3 * step, MARGIN + 20 + i // 3 * row)) for i in range(5)]
    assert centres == colours


def test_pictures_are_not_distorted() -> None:
    sheet = contact_sheet(
        [Cell(Image.new("RGB", (100, 50), "black")), Cell(Image.new("RGB", (50, 50), "black"))], size=60
    )
    dark = (np.asarray(sheet) == 0).all(-1)
    left, right = dark[:, : MARGIN + 60], dark[:, MARGIN + 60 :]
    assert (left.any(0).sum(), left.any(1).sum()) == (60, 30)
    assert (right.any(0).sum(), right.any(1).sum()) == (60, 60)


def test_marks_captions_and_scores_are_drawn() -> None:
    white = Image.new("RGB", (10, 10), "white")
    assert has_colour(contact_sheet([Cell(white, right=True)]), RIGHT)
    assert has_colour(contact_sheet([Cell(white, right=False)]), WRONG)
    plain = contact_sheet([Cell(white)])
    assert np.asarray(plain).min() == 255
    for cell in (Cell(white, "word"), Cell(white, score=0.5), Cell(white, "слово")):
        assert np.asarray(contact_sheet([cell])).min() < 100
    assert np.asarray(contact_sheet([Cell(white)], title="title")).min() < 100


def test_wrapping_fits_and_says_when_it_cuts() -> None:
    chosen = font("", 14)
    for text in ("a", "two words", "one two three four five six seven eight nine ten", "w" * 300, "a " + "b" * 90, "W"):
        for width in (40, 90, 200):
            lines = wrap(text, chosen, width, 2)
            assert len(lines) <= 2
            assert all(chosen.getlength(line) <= width for line in lines)
            joined = "".join(lines).replace(" ", "")
            assert joined == text.replace(" ", "") or (
                joined.endswith("…") and text.replace(" ", "").startswith(joined[:-1])
            )
    assert wrap("red apple", chosen, 500, 2) == ["red apple"]
    assert wrap("", chosen, 50, 2) == []


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet([])
