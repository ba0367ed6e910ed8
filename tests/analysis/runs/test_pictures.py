import base64
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from coalign.data.images.pictures import data_uri, fit, open_picture, save_picture, write_text
from coalign.errors import InputError


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 1), (255, 0, 0, 255))
    image.save(tmp_path / "a.png")
    got = open_picture(tmp_path / "a.png")
    assert (got.mode, got.getpixel((0, 0)), got.getpixel((1, 1))) == ("RGB", (255, 255, 255), (255, 0, 0))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 0, 128, 0])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    got = open_picture((tmp_path / "p.png").read_bytes())
    assert (got.getpixel((0, 0)), got.getpixel((1, 1))) == ((255, 255, 255), (0, 128, 0))


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(InputError, match=name):
            open_picture(tmp_path / name)
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    with pytest.raises(InputError, match="the picture cannot be read"):
        open_picture(buffer.getvalue()[:60])


def test_fit_keeps_the_form() -> None:
    assert fit(Image.new("RGB", (200, 100)), 50).size == (50, 25)
    assert fit(Image.new("RGB", (20, 10)), 50).size == (20, 10)
    assert fit(Image.new("RGB", (20, 10)), 50, enlarge=True).size == (50, 25)
    assert fit(Image.new("RGB", (1000, 1)), 50).size == (50, 1)


def test_data_uri_holds_the_picture() -> None:
    kind, data = data_uri(Image.new("RGB", (6, 4), "navy")).split(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (6, 4)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    save_picture(Image.new("RGB", (3, 3), "red"), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode"):
        save_picture(Image.new("F", (3, 3)), path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"a\.heat does not end like a picture"):
        save_picture(Image.new("RGB", (3, 3)), tmp_path / "a.heat")
    write_text(tmp_path / "new" / "b.txt", "größer")
    assert (tmp_path / "new" / "b.txt").read_text(encoding="utf-8") == "größer"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.png", "b.txt"]
