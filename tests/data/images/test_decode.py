from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from files import encoded, noise, picture
from PIL import Image

from coalign.data.images.decode import BadSample, check_image, decode_image
from coalign.data.pairs.folders import image_files

RED, BLUE = (255, 0, 0), (0, 0, 255)


def half_and_half(mode: str = "RGB", size: tuple[int, int] = (8, 4)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def corners(image: Image.Image) -> tuple[object, object]:
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))


@pytest.mark.parametrize("as_kind", ["path", "string", "bytes", "pil", "array", "tensor"])
def test_reads_whatever_holds_a_picture(tmp_path: Path, as_kind: str) -> None:
    image = half_and_half()
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    given = {
        "path": tmp_path / "a.png",
        "string": str(tmp_path / "a.png"),
        "bytes": encoded(image),
        "pil": image,
        "array": array,
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
    }[as_kind]
    decoded = decode_image(given)
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), array)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_applied(orientation: int, undo: Image.Transpose) -> None:
    upright = noise((10, 6))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(undo)
    decoded = decode_image(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


def test_damaged_exif_does_not_lose_the_picture() -> None:
    raw = encoded(picture(90), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert decode_image(raw).size == (12, 8)


def test_alpha_is_composited_on_white() -> None:
    image = half_and_half("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda _: 0))
    assert corners(decode_image(encoded(image))) == ((255, 255, 255), (255, 255, 255))
    image.putalpha(128)
    left, _ = corners(decode_image(encoded(image)))
    assert left == (255, 127, 127)
    grey = Image.new("LA", (4, 4), (0, 0))
    assert corners(decode_image(encoded(grey)))[0] == (255, 255, 255)


def test_transparent_palette_and_colour_are_composited_on_white() -> None:
    image = half_and_half("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    red = image.getpixel((0, 0))
    assert corners(decode_image(encoded(image, transparency=red))) == ((255, 255, 255), BLUE)
    assert corners(decode_image(encoded(half_and_half(), transparency=RED))) == ((255, 255, 255), BLUE)
    assert corners(decode_image(encoded(image))) == (RED, BLUE)


def test_grey_and_cmyk() -> None:
    assert corners(decode_image(encoded(Image.new("L", (4, 4), 77))))[0] == (77, 77, 77)
    assert corners(decode_image(encoded(Image.new("1", (4, 4), 1))))[0] == (255, 255, 255)
    left, right = corners(decode_image(encoded(half_and_half("CMYK", (64, 32)), "JPEG", quality=95)))
    assert left[0] > 240 and left[2] < 20
    assert right[2] > 240 and right[0] < 20


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(decoded)[:, :, 0].tolist() == [[0, 100], [200, 255]]


def test_floating_point_tiff() -> None:
    decoded = decode_image(encoded(Image.fromarray(np.array([[0.0, 0.5], [1.0, 0.2]], dtype=np.float32)), "TIFF"))
    assert np.asarray(decoded)[:, :, 1].tolist() == [[0, 128], [255, 51]]


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert corners(decode_image(raw))[0] == RED


def test_the_callers_picture_is_left_alone() -> None:
    image = half_and_half("RGBA")
    decode_image(image)
    check_image(image)
    assert image.mode == "RGBA"
    assert decode_image(picture(5)) is not None


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    jpeg = encoded(noise((200, 200)), "JPEG")
    png = bytearray(encoded(noise()))
    png[len(png) // 2] ^= 0xFF
    files = {
        "empty.png": (b"", "empty"),
        "text.png": (b"this is no picture", "not an image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "flipped.png": (bytes(png), "damaged"),
    }
    for name, (raw, reason) in files.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(BadSample, match=reason) as caught:
            decode_image(tmp_path / name)
        assert name in str(caught.value)
        with pytest.raises(BadSample, match=reason):
            check_image(tmp_path / name, thorough=True)
    for missing, reason in (
        (tmp_path / "no.png", "no such file"),
        (tmp_path, "folder"),
        ("https://x/y.png", "address"),
    ):
        with pytest.raises(BadSample, match=reason):
            check_image(missing)
    with pytest.raises(BadSample):
        decode_image("a\0b.png")


def test_size_limit() -> None:
    raw = encoded(Image.new("L", (300, 200)))
    assert decode_image(raw, max_pixels=60_000).size == (300, 200)
    for look in (decode_image, check_image):
        with pytest.raises(BadSample, match="300 x 200 pixels"):
            look(raw, max_pixels=59_999)


def test_pillows_own_bomb_guard_is_a_bad_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoded(Image.new("L", (300, 200)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadSample, match="too many pixels"):
        decode_image(raw)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 5), np.uint8), np.full((2, 2), 7.0), np.zeros((0, 3), np.uint8)])
def test_arrays_of_another_kind_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(BadSample, match="an image array"):
        decode_image(bad)


def test_fractions_are_pixels() -> None:
    assert decode_image(np.full((2, 2, 3), 0.2)).getpixel((0, 0)) == (51, 51, 51)


def test_the_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(BadSample("no such file", "a.png")))
    assert (error.reason, error.file, str(error)) == ("no such file", "a.png", "a.png: no such file")


def test_only_named_formats_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (decode_image, check_image):
        with pytest.raises(BadSample, match="not an image of a format that is read"):
            read(path)


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadSample, match="a pipe or a device"):
        decode_image(tmp_path / "a.png")
    assert list(image_files(tmp_path)) == []


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA"])
def test_strips_give_the_whole_picture(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000 if mode == "I;16" else 256, (37, 23, 4))
    image = {
        "I;16": lambda: Image.fromarray(pixels[:, :, 0].astype(np.uint16)),
        "RGBA": lambda: Image.fromarray(pixels.astype(np.uint8)),
        "LA": lambda: Image.fromarray(pixels.astype(np.uint8)).convert("LA"),
    }[mode]()
    whole = np.asarray(decode_image(image))
    monkeypatch.setattr("coalign.data.images.decode._STRIP", 50)
    assert (np.asarray(decode_image(image)) == whole).all()


def test_memory_of_a_picture_is_bounded_whatever_its_mode(tmp_path: Path) -> None:
    side = 2000  # 4 megapixels: 32 bytes a pixel were taken by 16-bit grey before
    kinds = dict.fromkeys(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "png") | dict.fromkeys("IF", "tif")
    files = [tmp_path / f"{number}.{end}" for number, end in enumerate((*kinds.values(), "jpg"))]
    for mode, file in zip((*kinds, "CMYK"), files, strict=True):
        Image.new(mode, (side, side)).save(file)
    code = (
        "import resource, sys\n"
        "from coalign.data.images.decode import decode_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for file in sys.argv[1:]: decode_image(file)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 10 * side * side + (60 << 20)  # and strips of a megapixel
