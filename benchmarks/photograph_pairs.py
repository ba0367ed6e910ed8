"""Writes pairs of photographs and their names as tables: GCompris's pictures, 317 of them, half photographs.

    apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb GCOMPRIS
    python benchmarks/photograph_pairs.py GCOMPRIS OUT [--linear]

OUT/train.csv has two thirds of the pictures, OUT/test.csv the rest; a text is the name of the picture's file, without
numbers. With `--linear` also the recall, on the test, of linear maps on frozen features (EfficientNet-lite0's pooled
ones at 160 and 224 pixels, MiniLM's sentences), which need the extras `efficientnet` and `minilm`.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

ROOMS = ("lang", "categorization", "explore_monuments", "explore_world_animals", "explore_farm_animals")
ROOMS += ("explore_world_music", "instruments")
NO_PICTURE = {"bg", "board", "numbers", "alphabets"}


def resources(file: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a Qt resource file (format 1 and later: a tree of 22-byte nodes, 14 in format 1)."""
    data = file.read_bytes()
    version, tree, contents, names = struct.unpack(">4I", data[4:20])
    size = 22 if version >= 2 else 14
    waiting = [0]
    while waiting:
        node = tree + waiting.pop() * size
        offset, flags = struct.unpack(">IH", data[node : node + 6])
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[node + 6 : node + 14])
            waiting += range(first, first + count)
            continue
        (length,) = struct.unpack(">H", data[names + offset : names + offset + 2])
        name = data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")
        start = contents + struct.unpack(">I", data[node + 10 : node + 14])[0]
        raw = data[start + 4 : start + 4 + struct.unpack(">I", data[start : start + 4])[0]]
        yield name, zlib.decompress(raw[4:]) if flags & 1 else raw


def named_pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Pictures of objects and places, on white where they are cut out, at most 320 pixels a side; one of each name."""
    seen: set[str] = set()
    for room in ROOMS:
        for name, data in sorted(resources(next(folder.rglob(f"{room}.rcc")))):
            stem = Path(name).stem
            if not name.endswith(".webp") or stem in seen or stem in NO_PICTURE:
                continue
            picture = Image.open(io.BytesIO(data)).convert("RGBA")
            if min(picture.size) < 48:
                continue
            seen.add(stem)
            page = Image.new("RGBA", picture.size, "white")
            page.alpha_composite(picture)
            page.thumbnail((320, 320))
            yield stem, page.convert("RGB")


def text_of(stem: str) -> str:
    """ "measuringTape4" is "measuring tape"."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", re.sub(r"[\d_\-]+", " ", stem))
    return " ".join(spaced.lower().split())


def linear(out: Path, side: int) -> dict[str, list[float]]:
    """R@1, R@5 and R@10 by direction of linear maps on frozen features."""
    from coalign.data.pairs.sources import open_source
    from coalign.layers.convolution import EfficientNetLite0
    from coalign.models.compact.towers import CompactConfig
    from coalign.recipes.pairs._compact import compact, pooled_images
    from coalign.retrieval.linear_maps import train_linear_maps

    loaded = compact(1, 0, CompactConfig())
    spec, network = loaded.spec, EfficientNetLite0.pretrained().folded()
    assert spec.image is not None
    spec = replace(spec, image=replace(spec.image, size=(side, side)))
    parts: dict[str, tuple[Tensor, Tensor, list[str]]] = {}
    for name in ("train", "test"):
        source = open_source(out / f"{name}.csv")
        texts = [source[row].texts[0] for row in range(len(source))]
        with torch.no_grad():
            read = loaded.vocabulary.encode_for(texts, loaded.spec)
            sentences = F.normalize(loaded.model.pool_states(loaded.model.text_states(read)), dim=-1)
        parts[name] = pooled_images(network, source, spec), sentences, texts
    images, sentences, texts = parts["train"]
    names = sorted(set(texts))
    first = torch.tensor([texts.index(name) for name in names])
    ids = torch.tensor([names.index(text) for text in texts])
    maps = train_linear_maps(images, sentences[first][:, None], ids, seed=0)
    images, sentences, texts = parts["test"]
    with torch.no_grad():
        image, text = maps(images, sentences)
    same = torch.tensor([[a == b for b in texts] for a in texts])
    found: dict[str, list[float]] = {}
    for name, scores in (("image to text", image @ text.T), ("text to image", text @ image.T)):
        rank = same.gather(1, scores.argsort(1, descending=True)).int().argmax(1)
        found[name] = [round(100 * (rank < k).float().mean().item(), 1) for k in (1, 5, 10)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gcompris", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--linear", action="store_true")
    given = parser.parse_args()
    pictures = list(named_pictures(given.gcompris))
    random.Random(0).shuffle(pictures)
    (given.out / "images").mkdir(parents=True, exist_ok=True)
    cut = len(pictures) * 2 // 3
    for name, part in (("train", pictures[:cut]), ("test", pictures[cut:])):
        with (given.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", "text"])
            for stem, picture in part:
                picture.save(given.out / "images" / f"{stem}.png")
                table.writerow([f"images/{stem}.png", text_of(stem)])
        print(f"{name}: {len(part)} pairs")
    if given.linear:
        for side in (160, 224):
            print(f"linear maps, {side} pixels: {linear(given.out, side)}")


if __name__ == "__main__":
    main()
