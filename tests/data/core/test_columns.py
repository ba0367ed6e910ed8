"""Tables in columns, and looks over large ones that are remembered."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image

from coalign.data.core import quarantine, strings, verdicts
from coalign.data.core.columns import PairsBuilder
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_columns_hold_what_was_added_in_memory_or_in_a_mapped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(strings, "IN_MEMORY", in_memory)
    builder = PairsBuilder("t.csv", tmp_path)
    rows = [("a/b.png", ["one", "größer"]), ("c.png", ["two"]), ("a/./b.png", ["three"]), ("a//b.png", ["four"])]
    for number, (image, texts) in enumerate(rows, 2):
        builder.add(image, texts, number)
    builder.add("d.png", ["five"], "last")
    builder.add("e.png", ["six"], 9, id=77)
    pairs = builder.build()
    assert [pairs.texts(n) for n in range(6)] == [*[tuple(texts) for _, texts in rows], ("five",), ("six",)]
    assert [pairs[n].image for n in (0, 3, 4)] == [str(tmp_path / name) for name in ("a/b.png", "a//b.png", "d.png")]
    assert pairs.ids.tolist() == [0, 1, 0, 0, 4, 77]
    assert [pairs[n].where.row for n in range(6)] == ["2", "3", "4", "5", "last", "9"]
    assert pickle.loads(pickle.dumps(pairs))[1].texts == ("two",)


def test_images_that_are_bytes_share_an_id_by_their_content() -> None:
    builder = PairsBuilder("t.parquet", Path())
    for number, image in enumerate([b"one", b"two", b"one"]):
        builder.add(image, ["text"], number)
    pairs = builder.build()
    assert pairs.ids.tolist() == [0, 1, 0] and pairs[2].image == b"one" and pairs[2].where.row == 2


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pairs, of which the fourth has no file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for n in range(10):
        if n != 3:
            Image.new("RGB", (4, 4), (n, n, n)).save(tmp_path / f"{n}.png")
    table = tmp_path / "pairs.csv"
    table.write_text("image,text\n" + "".join(f"{n}.png,text {n}\n" for n in range(10)))
    return table


def test_a_large_table_is_looked_over_once(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "LARGE", 10)
    looks: list[int] = []
    look = quarantine._check
    monkeypatch.setattr(
        quarantine, "_check", lambda source, index, *rest: looks.append(index) or look(source, index, *rest)
    )
    for _ in range(2):
        listed = Quarantine()
        checked = check_source(open_source(table), quarantine=listed)
        assert checked.indices == (3,) and listed.broken == 1
    assert sorted(looks) == [0, 1, 2, 3, 3, *range(4, 10)]  # the one with a problem again: it may have been mended
    (kept,) = (table.parent / "cache").rglob("*.json")
    kept.write_text("{")
    assert check_source(open_source(table)).indices == (3,) and len(looks) == 21  # damaged: looked over again
    table.write_text(table.read_text() + "9.png,another\n")
    check_source(open_source(table))
    assert len(looks) == 32


def test_what_is_remembered_of_a_large_table_does_not_outlive_the_mending(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "LARGE", 10)
    kept = table.parent / "cache" / "coalign" / "checks"
    with pytest.raises(InputError, match="1 of 10 samples"):
        check_source(open_source(table), limit=0.05)
    assert not kept.exists()  # of data that is refused nothing is kept
    assert check_source(open_source(table)).indices == (3,)
    Image.new("RGB", (4, 4)).save(table.parent / "3.png")
    assert check_source(open_source(table), limit=0.05).indices == ()
    (found,) = kept.glob("*.json")
    assert found.read_text() == "[]"


def test_of_a_very_large_table_some_samples_are_looked_at(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST", 4)
    checked = check_source(open_source(table), limit=0.3)
    assert checked.indices == (3,) and checked.total == 10 and len(checked.source) == 9


def test_a_row_takes_forty_bytes_beside_its_path_and_text() -> None:
    builder, rows = PairsBuilder("t.csv", Path()), 5000
    for number in range(rows):
        builder.add(f"{number:08}.png", ["a text of some words"], number)
    held = len(pickle.dumps(builder.build())) / rows - len("00000000.pnga text of some words")
    assert held < 42  # in a process of a million rows 80 are taken: `benchmarks/growing.py table`
