from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from files import encoded, noise, picture

from coalign.data.core import quarantine
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.core.samples import InMemory, Problem, Source, Where
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError


def listed(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def mixed(make_images: Callable[..., Path]) -> Source:
    """20 rows, of which one has no file, one no text, one an empty file, one a picture cut in its middle."""
    folder = make_images(20)
    (folder / "img" / "004.png").unlink()
    (folder / "img" / "006.png").write_bytes(b"")
    jpeg = encoded(noise((300, 300)), "JPEG")
    (folder / "img" / "008.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    rows = [
        f"img/{number:03d}.{'jpg' if number == 8 else 'png'},{'' if number == 5 else number}" for number in range(20)
    ]
    (folder / "p.csv").write_text("\n".join(["image,text", *rows]))
    return open_source(folder / "p.csv")


def test_broken_samples_are_listed_and_left_out(mixed: Source, tmp_path: Path) -> None:
    file = tmp_path / "run" / "quarantine.jsonl"
    checked = check_source(mixed, limit=0.2, quarantine=Quarantine(file))
    assert (checked.total, checked.broken) == (20, 4)
    assert len(checked.source) == 16
    entries = listed(file)
    assert [entry["row"] for entry in entries] == [7, 6, 8, 10]
    assert [str(entry["reason"])[:12] for entry in entries] == [
        "the text is ",
        "no such file",
        "the file is ",
        "the image is",
    ]
    assert {str(entry["file"]) for entry in entries} == {str(tmp_path / "p.csv")}
    assert str(entries[1]["image"]).endswith("img/004.png")
    texts = [checked.source[index].texts[0] for index in range(16)]
    assert texts == [str(number) for number in range(20) if number not in (4, 5, 6, 8)]


def test_too_many_broken_samples_stop(mixed: Source, tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    with pytest.raises(
        InputError, match=r"p\.csv: 4 of 20 samples \(20%\) are broken, more than the 10% .*no such file"
    ):
        check_source(mixed, quarantine=Quarantine(file))
    assert len(listed(file)) == 4


def test_the_limit_itself_is_allowed(mixed: Source) -> None:
    assert check_source(mixed, limit=0.15, thorough=0).broken == 3  # without decoding, the cut file is not found
    with pytest.raises(InputError, match="3 of 20"):
        check_source(mixed, limit=0.149, thorough=0)


def test_a_sample_of_decoded_files_can_stop(tmp_path: Path) -> None:
    jpeg = encoded(noise((300, 300)), "JPEG")
    cut, good = jpeg[: len(jpeg) // 2], encoded(picture(1))
    source = InMemory([(cut if index % 4 == 0 else good, "x") for index in range(40)])
    with pytest.raises(InputError, match="10 of 10 samples that were decoded"):
        check_source(source, limit=0.3, thorough=10)


def test_nothing_left_stops_whatever_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample is usable"):
        check_source(InMemory([(tmp_path / "no.png", "a")]), limit=1.0)


def test_a_sound_source_passes_untouched(tmp_path: Path) -> None:
    source = InMemory([(picture(1), "a"), (picture(2), "b")])
    file = tmp_path / "quarantine.jsonl"
    checked = check_source(source, quarantine=Quarantine(file), progress=True)
    assert checked.source is source and checked.broken == 0
    assert not file.exists()


def test_the_list_goes_on_without_repeats(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    one, two = (Problem(Where("a.csv", row), "no such file", "x.png") for row in (2, 3))
    first = Quarantine(file)
    first.add_all([one, one])
    with file.open("a") as end:
        end.write('{"row": 9, "fil')  # killed while writing
    again = Quarantine(file)
    again.add_all([one, two, Problem(Where("a.csv", 4), "not UTF-8", used=True)])
    assert (len(again), again.broken) == (3, 2)
    assert "2 broken, 1 mended" in again.summary()
    assert len(Quarantine(file)) == 3


def test_pictures_that_come_again_are_looked_at_once_and_few_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        path.write_bytes(encoded(picture(3)))
    looked: list[Path] = []
    look = quarantine.check_image
    monkeypatch.setattr(quarantine, "check_image", lambda image, **more: looked.append(image) or look(image, **more))
    again = InMemory([(path, text) for path in paths for text in ("a", "b", "c")])
    assert check_source(again, thorough=0, threads=1).broken == 0
    assert [str(path) for path in looked] == [str(path) for path in paths]
    sizes: list[int] = []

    class Counted(dict[tuple[str, bool], str]):
        def __setitem__(self, key: tuple[str, bool], value: str) -> None:
            super().__setitem__(key, value)
            sizes.append(len(self))

    monkeypatch.setattr(quarantine, "REMEMBERED", 4)
    seen = Counted()
    for index in range(len(again)):
        assert quarantine._check(again, index, 1000, False, seen) is None
    assert max(sizes) == 4 and len(sizes) == len(paths)


def test_a_list_with_damaged_lines_is_gone_on_with(tmp_path: Path) -> None:
    """What is no entry is passed over, and kept: a later process may be writing it."""
    file = tmp_path / "quarantine.jsonl"
    first, second = (Problem(Where("t.csv", row), "no such file", "a.png") for row in (1, 2))
    Quarantine(file).add(first)
    damaged = ["{", "null", "[1]", '{"file": 1}', "[" * 100_000, "\x00\udcff".encode("utf-8", "replace").decode()]
    fields = {"file": "t.csv", "row": 1, "reason": "no", "image": "", "used": False}
    wrong = {"file": 3, "row": None, "reason": [], "image": None, "used": "no"}
    damaged += [json.dumps({**fields, name: value}) for name, value in wrong.items()]
    file.write_bytes(file.read_bytes() + "\n".join(damaged).encode() + b'\n\xff\xfe\n{"file": "t.c')
    again = Quarantine(file)
    assert len(again) == 1 and again.summary().startswith("1 broken")
    again.add(first)
    again.add(second)
    assert len(Quarantine(file)) == 2
