"""The analysis of a data set: what is planted is found, and nothing that is not there."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from coalign.analysis.datasets.cache import Towers, encode_all
from coalign.analysis.datasets.columns import Columns, VideoFacts
from coalign.analysis.datasets.cross_modal import compare_pairs, information, posterior
from coalign.analysis.datasets.images import image_statistics
from coalign.analysis.datasets.page import write_study
from coalign.analysis.datasets.parts import Options, Study, row_table
from coalign.analysis.datasets.representations import linear_cka, mutual_knn, nearest, probe_label, senses
from coalign.analysis.datasets.series import agreement, covered, label_statistics, series_statistics, video_statistics
from coalign.analysis.datasets.shared_space import canonical_space, whole_space
from coalign.analysis.datasets.slices import compare_slices, holm, load_slices, parse_slice, two_sample_test
from coalign.analysis.datasets.study import compare_sets, study
from coalign.analysis.datasets.summary import summarise
from coalign.analysis.datasets.texts import label_words, near_duplicate_texts, text_statistics
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError

COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 210), "yellow": (235, 200, 40)}
SHAPES, PLACES = ("circle", "square", "cross"), ("left", "right", "top", "bottom")
AT = {"left": (6, 20), "right": (34, 20), "top": (20, 6), "bottom": (20, 34)}


# --------------------------------------------------------------------------------------------- a set with known defects
class Planted:
    """Pictures of shapes with a caption each. 2% of the captions are swapped, 1% of the pictures are copies in other
    compression, one numeric feature is constant, one label is told by the picture's border, and one by nothing."""

    def __init__(self, count: int = 800, seed: int = 0) -> None:
        r = np.random.default_rng(seed)
        self.swapped = sorted(r.choice(count, 2 * (count // 100), replace=False).tolist())
        left = [i for i in range(count) if i not in self.swapped]
        originals, copies = np.split(r.choice(left, 2 * (count // 100), replace=False), 2)
        self.copies = sorted(copies.tolist())
        worlds = [(r.choice(list(COLOURS)), r.choice(SHAPES), r.choice(PLACES)) for _ in range(count)]
        leak = r.integers(0, 2, count)
        pictures = [draw(world, r, 255 - 20 * int(leak[i])) for i, world in enumerate(worlds)]
        for a, b in zip(originals.tolist(), copies.tolist(), strict=True):
            pictures[b], worlds[b], leak[b] = pictures[a].resize((96, 96)).resize((64, 64)), worlds[a], leak[a]
        texts = [caption(world, r) for world in worlds]
        for place, i in enumerate(self.swapped):
            j = self.swapped[(place + 1) % len(self.swapped)]
            world = (
                worlds[j] if sum(a != b for a, b in zip(worlds[i], worlds[j], strict=True)) > 1 else other(worlds[i])
            )
            texts[i] = caption(world, r)
        numbers = {f"f{d}": r.normal(size=count) for d in range(6)} | {"f6": np.full(count, 3.0)}
        self.columns = Columns(
            "planted",
            count,
            texts,
            pictures,
            labels={
                "shape": [shape if r.random() < 0.9 else str(r.choice(SHAPES)) for _, shape, _ in worlds],
                "camera": [f"camera {k}" for k in leak],
                "coin": [str(r.integers(0, 2)) for _ in range(count)],
            },
            numbers=numbers,
        )


def draw(world: tuple[str, str, str], r: np.random.Generator, border: int) -> Image.Image:
    colour, shape, place = world
    image = Image.new("RGB", (64, 64), (border,) * 3)
    pen = ImageDraw.Draw(image)
    x, y = (v + int(r.integers(-4, 5)) for v in AT[place])
    box, fill = (x, y, x + 22, y + 22), tuple(int(c + r.integers(-15, 16)) for c in COLOURS[colour])
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    else:
        pen.rectangle((x + 8, y, x + 14, y + 22), fill=fill)
        pen.rectangle((x, y + 8, x + 22, y + 14), fill=fill)
    dots = r.integers(6, 58, (5, 2))
    for u, v in dots.tolist():
        pen.ellipse((u, v, u + 4, v + 4), fill=tuple(r.integers(80, 200, 3).tolist()))
    return image


def caption(world: tuple[str, str, str], r: np.random.Generator) -> str:
    colour, shape, place = world
    start = ("a", "the", "one", "there is a")[int(r.integers(4))]
    return f"{start} {colour} {shape} {('at the', 'on the', 'near the')[int(r.integers(3))]} {place}"


def other(world: tuple[str, str, str]) -> tuple[str, str, str]:
    turned = [
        options[(options.index(w) + 1) % len(options)]
        for w, options in zip(world, (list(COLOURS), SHAPES, PLACES), strict=True)
    ]
    return turned[0], turned[1], turned[2]


class Cells:
    """A picture in 8 by 8 cells: colours and edges."""

    name, modality, key = "cells", "image", "cells"
    calls = 0

    def encode(self, items: Any) -> dict[str, np.ndarray]:
        Cells.calls += len(items)
        small = np.stack([np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float32) / 255 for image in items])
        return {self.name: np.concatenate([small.reshape(len(small), -1), (small**2).reshape(len(small), -1)], 1)}


class Words:
    """Which words a text has."""

    name, modality, key = "words", "text", "words"
    vocabulary = sorted({*COLOURS, *SHAPES, *PLACES, "a", "the", "one", "there", "is", "at", "on", "near"})

    def encode(self, items: Any) -> dict[str, np.ndarray]:
        return {self.name: np.array([[float(w in text.split()) for w in self.vocabulary] for text in items])}


TOWERS = Towers([Cells()], [Words()])
SMALL = Options(points=15, words=20)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def found(planted: Planted) -> Study:
    from dataclasses import replace

    made = study(planted.columns, TOWERS, SMALL, slices={"red": "text contains red", "random": "f0 > 0"})
    return replace(made, findings=summarise(made))


def precision_recall(found: list[int], true: list[int]) -> tuple[float, float]:
    hits = len(set(found) & set(true))
    return hits / max(len(found), 1), hits / len(true)


def test_planted_defects_are_found(planted: Planted, found: Study) -> None:
    by_kind: dict[str, Any] = {}
    for finding in found.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    (mismatched,) = by_kind["mismatched_pairs"]
    precision, recall = precision_recall(mismatched.rows, planted.swapped)
    assert len(planted.swapped) == 16 and precision >= 0.93 and recall >= 0.87, (precision, recall)
    assert found.comparison is not None and found.comparison.expected == pytest.approx(16, abs=4)
    (duplicates,) = by_kind["duplicate_images"]
    assert len(duplicates.rows) == len(planted.copies)
    groups = found.images.duplicates  # type: ignore[union-attr]
    assert all(len(group) == 2 for group in groups)
    precision, recall = precision_recall([row for group in groups for row in group], planted.copies)
    assert recall == 1 and precision == 0.5  # each copy stands beside its original
    assert [f.subject for f in by_kind["constant_feature"]] == ["f6"]
    assert [(f.subject, "size or plain colour" in f.title) for f in by_kind["label_leak"]] == [("camera", True)]
    assert not {"blank_images", "broken_images", "exploding_feature", "missing_feature"} & set(by_kind)


def test_labels_are_told_by_what_tells_them(found: Study) -> None:
    probes = {p.label: {q.name: q for q in p.probes} | {"majority": p.majority} for p in found.probes}
    assert probes["shape"]["words"].accuracy > 0.8  # type: ignore[union-attr]
    assert probes["camera"]["words"].low < probes["camera"]["majority"] + 0.05  # type: ignore[operator, union-attr]
    assert probes["coin"]["both together"].bits_high < 0.1  # type: ignore[union-attr]
    bits = {part.label: part for part in found.information}
    assert bits["camera"].only_image[1] > 0.5 > 0.1 > bits["camera"].only_text[2]
    assert bits["shape"].redundancy[0] > 0.1


def test_matched_pairs_words_and_slices(found: Study) -> None:
    assert found.comparison is not None and found.grounding is not None
    c = found.comparison
    assert c.usable and c.separation > 0.95 and c.recall["image to text, R@1"] > 5 * c.recall["chance, R@1"]
    falls = {word.word: word for word in found.grounding.words}
    assert all(falls[colour].grounded for colour in COLOURS)
    assert max(falls[w].fall for w in ("a", "the", "at", "near")) < min(falls[colour].fall for colour in COLOURS)
    red, random = found.slices
    surest = {d.measure: d for d in red.differences}
    assert surest["colourfulness"].corrected < 0.05 or surest["brightness"].corrected < 0.05
    assert [d.measure for d in random.differences if d.corrected < 0.05] == ["f0"]


def test_every_figure_is_set_against_the_rest(found: Study) -> None:
    red, random = ({d.measure: d for d in part.differences} for part in found.slices)
    assert set(random) >= {
        *("length", "repeats a text", "brightness", "repeats an image", "f0", "shape = cross"),
        *("similarity", "matched above mismatched", "image found at 10", "modality gap along its line", "mismatched"),
        *("times among the 10 nearest texts", "fall without a word", "shape told by words", "bits about coin: both"),
        *("bits about shape: redundancy", "neighbours shared by cells and words"),
        *("evenness of shape", "hubness of images", "CKA of cells and words"),
    }
    words = red["different words among 1,000 drawn"]
    assert words.inside == pytest.approx(words.outside - 2)  # of the colours, red alone
    assert words.high < 0 and words.p < 0.01


class Page(HTMLParser):
    """What a page would fetch, and the places of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.figures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        places = [given.get(name) or "" for name in ("src", "href", "srcset", "data", "action", "poster")]
        self.fetched += [place for place in places if place and not place.startswith(("#", "data:image/"))]
        self.fetched += [tag] if tag in ("link", "iframe", "base", "object", "embed") else []
        self.fetched += ["style"] if "url(" in (given.get("style") or "") else []
        self.figures += [given["id"] or ""] if tag == "div" and (given.get("id") or "").startswith("figure-") else []


def test_the_report_is_whole(found: Study, tmp_path: Path) -> None:
    path = write_study(found, tmp_path)
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.fetched == [] and len(page.figures) > 15
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text
    assert "more likely mismatched than not" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["comparison"]["separation"] == pytest.approx(found.comparison.separation)  # type: ignore[union-attr]
    assert report["comparison"]["matched"]["count"] == len(found.rows) == report["measures"]["similarity"]["count"]
    tables = {file.stem: pq.read_table(file) for file in tmp_path.glob("*.parquet")}
    pairs = tables["pairs"]
    assert pairs.num_rows == len(found.rows) and {"text", "similarity", "camera", "f6"} <= set(pairs.column_names)
    assert tables["findings"].num_rows == len(found.findings) and tables["leaks"].num_rows == len(found.leaks)
    assert set(tables) >= {"maps", "clusters", "neighbours", "similarity", "words", "labels", "series", "information"}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_every_figure_without_network(found: Study, tmp_path: Path) -> None:
    path = write_study(found, tmp_path)
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=60000")
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update")
    command = ["chromium", *options, *offline, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert 'data-title="Zoom"' in done.stdout and 'data-title="Share chart' not in done.stdout  # it would send it off
    assert done.stdout.count('data-drawn="1"') == len(Page(path.read_text("utf-8")).figures)


def test_text_of_the_data_is_not_markup(tmp_path: Path) -> None:
    texts = ["</script><script>alert(1)</script> <b>bold</b> words in a text"] * 3 + [
        f"text {i} it is" for i in range(30)
    ]
    made = study(Columns("<i>name</i>", len(texts), texts), Towers(), SMALL)
    page = write_study(made, tmp_path).read_text("utf-8")
    assert "<script>alert(1)" not in page and "<b>bold" not in page and "<i>name" not in page


# ------------------------------------------------------------------------------------------------------------ odd data
@pytest.mark.parametrize("kind", ["one", "two", "texts", "images"])
def test_sets_that_hold_little_give_a_report(kind: str, planted: Planted, tmp_path: Path) -> None:
    data = planted.columns
    count = {"one": 1, "two": 2}.get(kind, 60)
    texts = ["the same"] * count if kind == "texts" else list(data.texts[:count])
    images = [data.images[0]] * count if kind == "images" else list(data.images[:count])
    made = study(Columns("little", count, texts, images, labels={"l": ["x"] * count}), TOWERS, SMALL)
    kinds = {finding.kind for finding in summarise(made)}
    expected = {"one": "few_rows", "two": "few_rows", "texts": "equal_texts", "images": "equal_images"}
    assert expected[kind] in kinds and "mismatched_pairs" not in kinds
    assert write_study(made, tmp_path).is_file()
    json.loads((tmp_path / "report.json").read_text())


def test_columns_that_cannot_be(planted: Planted) -> None:
    with pytest.raises(InputError, match="is empty"):
        Columns("nothing", 0)
    with pytest.raises(InputError, match="labels 'a' has 2 rows, the data 3"):
        Columns("odd", 3, ["a"] * 3, labels={"a": ["x", "y"]})


def test_a_picture_that_cannot_be_read_is_listed(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [*planted.columns.images[:30], tmp_path / "broken.png"]
    made = study(Columns("broken", 31, list(planted.columns.texts[:31]), images), TOWERS, SMALL)
    assert made.images is not None and [row for row, _ in made.images.broken] == [30] and 30 not in made.rows
    assert "broken_images" in {finding.kind for finding in summarise(made)}


def test_what_is_drawn_is_said(planted: Planted) -> None:
    made = study(planted.columns, TOWERS, Options(images=100, pairs=50, points=15))
    assert len(made.rows) == 50 and made.images is not None and len(made.images.rows) == 100
    assert "100 of 800 images were decoded, drawn." in made.notes and any("50 of 100 pairs" in n for n in made.notes)


def test_the_cache_goes_on_where_it_was(planted: Planted, tmp_path: Path) -> None:
    images = list(planted.columns.images)
    Cells.calls = 0
    first = encode_all(Cells(), images, tmp_path)
    assert Cells.calls == 800
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    again = encode_all(Cells(), images, tmp_path)
    assert 800 < Cells.calls < 1600 and np.array_equal(first["cells"], again["cells"])


# ----------------------------------------------------------------------------------------------------------- modalities
def test_text_statistics() -> None:
    tokenizer = Tokenizer.train(["a red boat on the sea"] * 5, 60, min_frequency=1)
    texts = [
        "A red boat.",
        "a red  boat",
        "the sea at night is dark and wide",
        "the sea at night is dark and wild",
        "лодка",
    ]
    made = text_statistics(texts, tokenizer)
    assert made.words.tolist() == [3, 3, 8, 8, 1] and made.duplicates == [[0, 1]] and made.duplicate_rows == 1
    assert [(a, b) for a, b, _ in made.near_duplicates] == [(2, 3)] and made.scripts["Cyrillic"] == 0.2
    assert made.tokenisation is not None and made.tokenisation.unknown > 0
    assert near_duplicate_texts(["short", "shirt"], np.arange(2)) == []
    plates = [f"a photograph of the collection of the great exhibition, plate {i}" for i in range(400)]
    pairs = near_duplicate_texts(plates, np.arange(400))  # not as many as the square of their number
    assert {row for a, b, _ in pairs for row in (a, b)} == set(range(400)) and len(pairs) < 400 * 60
    words = label_words(["red boat", "red car", "blue sea", "blue sky"] * 3, ["r", "r", "b", "b"] * 3)
    assert words["r"][0][0] == "red" and words["b"][0][0] == "blue"


def test_image_statistics(planted: Planted, tmp_path: Path) -> None:
    base = planted.columns.images[0]
    base.resize((200, 200)).save(tmp_path / "a.jpg", quality=40)
    blank = Image.new("RGB", (30, 20), (9, 9, 9))
    images = [base, planted.columns.images[1], tmp_path / "a.jpg", blank, base.transpose(Image.Transpose.ROTATE_90)]
    made = image_statistics(images, np.arange(5))
    assert made.duplicates == [[0, 2]] and made.blank == [3] and made.width.tolist() == [64, 64, 200, 30, 64]


def test_series_and_labels() -> None:
    r = np.random.default_rng(0)
    rows = [r.normal(size=(int(n), 4)) for n in r.integers(3, 9, 40)]
    for row in rows:
        row[:, 1] = 7
    rows[3][0, 2], rows[5][1, 3], rows[6][0, 0] = 1e9, np.nan, np.inf
    made = series_statistics("audio", rows)
    assert made.constant == [1] and [d for d, _ in made.exploding] == [2] and made.infinite.tolist() == [1, 0, 0, 0]
    assert (made.missing > 0).tolist() == [False, False, False, True]
    assert label_statistics("l", ["a", "a", "b", None]).missing == 1
    same = agreement("q", [["a", "a", "a"], ["b", "b", "b"]] * 10)
    assert same.alpha == pytest.approx(1) and same.agreeing == 1 and same.disputed == []
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: nominal, missing answers: 0.743
    table = [
        "1 1 _ 1",
        "2 2 3 2",
        "3 3 3 3",
        "3 3 3 3",
        "2 2 2 2",
        "1 2 3 4",
        "4 4 4 4",
        "1 1 2 1",
        "2 2 2 2",
        "_ 5 5 5",
        "_ _ 1 1",
        "_ _ 3 _",
    ]
    answers = [[None if a == "_" else a for a in row.split()] for row in table]
    assert agreement("C", answers).alpha == pytest.approx(0.743, abs=1e-3)


def test_videos() -> None:
    a = VideoFacts(
        "a", 60.0, 25.0, shots=(10.0, 20.0), narration=((0.0, 6.0, "x"), (3.0, 9.0, "y")), category="Food", task="cake"
    )
    b = VideoFacts("b", 30.0, 30.0, narration=((29.0, 40.0, "z"),), category="Cars", task="tyre")
    made = video_statistics([a, b])
    assert made.coverage.tolist() == pytest.approx([9 / 60, 1 / 30]) and made.overlapping == 1 and made.outside == 1
    assert made.shots_per_minute.tolist() == [2, 0] and made.table[-1][:4] == ("all", 2, 2, 3)
    assert covered([(0.0, 5.0), (4.0, 6.0), (8.0, 20.0)], 10.0) == 8


# ------------------------------------------------------------------------------------------------------ representations
def test_similarity_of_representations() -> None:
    r = np.random.default_rng(0)
    x = r.normal(size=(200, 6))
    turned = x @ np.linalg.qr(r.normal(size=(6, 6)))[0] * 3 + 1
    assert linear_cka(x, turned) == pytest.approx(1) and linear_cka(x, r.normal(size=(200, 6))) < 0.2
    assert mutual_knn(x, x) == 1 and mutual_knn(x, r.normal(size=(200, 6))) < 0.15
    scores = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    np.fill_diagonal(scores, -9)
    assert nearest(x, 3)[:, 0].tolist() == scores.argmax(1).tolist()


def test_senses_are_parted_at_the_layer_that_knows_them() -> None:
    r = np.random.default_rng(0)
    kind = r.integers(0, 2, 60)
    states = r.normal(size=(60, 3, 8))
    states[:, 2, 0] += 12 * kind
    texts = [("a river bank of mud" if k else "a bank lends money") for k in kind.tolist()]
    made = senses("bank", 2, states, np.arange(60), texts)
    assert made is not None and made.by_layer[2] == made.silhouette > made.by_layer[0] + 0.3
    assert {"river" in words for words in made.words} == {"money" in words for words in made.words} == {True, False}


def test_folds_keep_units_together() -> None:
    r = np.random.default_rng(0)
    video = np.repeat(np.arange(40), 6)
    look, kind = r.normal(size=(40, 5)), r.integers(0, 2, 40)

    class Look:
        name, modality, key = "look", "image", "look"

        def encode(self, items: Any) -> dict[str, np.ndarray]:
            return {"look": np.stack([look[int(np.asarray(image)[0, 0, 0])] for image in items])}

    images = [np.full((4, 4, 3), v, np.uint8) for v in video]
    columns = Columns("clips", 240, images=images, units=video, labels={"kind": [str(kind[v]) for v in video]})
    made = study(columns, Towers([Look()]), Options(points=15))
    assert made.probes[0].probes[0].low < 0.6  # a video's look says nothing of another's kind


def test_probes_do_not_learn_groups_by_heart() -> None:
    r = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    x = r.normal(size=(60, 30))[groups]  # rows of a group are one and the same
    values = [str(v) for v in r.integers(0, 2, 60)[groups]]
    made = probe_label("coin", values, {"x": x}, groups)
    assert made is not None and made.probes[0].low < 0.6 and made.probes[0].bits < 0.05


def test_information_of_both() -> None:
    r = np.random.default_rng(0)
    a, b = r.integers(0, 2, (2, 400))
    label = [str(v) for v in a ^ b]
    x, y = a[:, None] + 0.01 * r.normal(size=(400, 1)), b[:, None] + 0.01 * r.normal(size=(400, 1))
    both = np.concatenate([x, y, (x - 0.5) * (y - 0.5)], 1)
    made = probe_label("xor", label, {"x": x, "y": y, "both": both}, np.arange(400))
    assert made is not None
    part = {p.name: p for p in made.probes}
    bits = information("xor", ("x", "y"), part["y"].gained, part["x"].gained, part["both"].gained)
    assert bits.redundancy[2] < -0.5  # neither knows anything, both everything: synergy


def test_mismatched_pairs_by_a_mixture() -> None:
    r = np.random.default_rng(0)
    null = r.normal(size=20_000)
    score = np.concatenate([r.normal(5, 1, 480), r.normal(0, 1, 20)])
    mismatch, usable = posterior(score, null)
    assert usable and (mismatch[480:] > 0.5).sum() >= 15 and (mismatch[:480] > 0.5).sum() <= 3
    assert not posterior(r.normal(0.3, 1, 500), null)[1]


def test_one_space_of_a_run_and_of_heads() -> None:
    r = np.random.default_rng(0)
    x = r.normal(size=(150, 8))
    made = compare_pairs(whole_space(x, x + 0.05 * r.normal(size=x.shape), "run"), np.arange(150))
    assert made.recall["text to image, R@1"] > 0.95 and made.separation > 0.99 and made.gap < 0.2
    hidden = canonical_space(x, x @ r.normal(size=(8, 12)), np.arange(150))
    assert compare_pairs(hidden, np.arange(150)).recall["image to text, R@10"] > 0.8
    noise = canonical_space(x, r.normal(size=(150, 12)), np.arange(150))
    assert abs(compare_pairs(noise, np.arange(150)).separation - 0.5) < 0.1  # nothing learnt by heart is counted


# ------------------------------------------------------------------------------------------------------------- slices
ROW = {"text": "a red boat, not blue", "length": 5, "label": "cat", "match score": 2.5, "none": None}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("length > 4", True),
        ("length>=5 and length<6", True),
        ("text contains 'not'", True),
        ('text contains "bo"', False),
        ("not text contains boat or label == cat", True),
        ("not (text contains boat or label == cat)", False),
        ("'match score' > 2", True),
        ("text matches '^a .*blue$'", True),
        ("label != cat", False),
        ("none == x", False),
        ("length == 5.0", True),
    ],
)
def test_slices(text: str, holds: bool) -> None:
    assert parse_slice(text, list(ROW))(ROW) is holds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width > 3", "no column 'width'; there are: text, length"),
        ("length >", "ends too early"),
        ("length is 3", "'is' is no operator"),
        ("length > many", "'many' is no number"),
        ("label > 3", "'label' is 'cat'"),
        ("length > 3 length", "cannot be read from 'length' on"),
        ("(length > 3", "ends too early"),
        ("text matches '('", "no regular expression"),
        ("__import__('os')", "cannot be read|no column"),
    ],
)
def test_slices_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_slice(text, list(ROW))(ROW)


def test_slices_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "ideas.py").write_text("import re\n\ndef has_red(row):\n    return 'red' in row['text']\n")
    assert {name: f(ROW) for name, f in load_slices(tmp_path / "ideas.py").items()} == {"has_red": True}
    (tmp_path / "odd.py").write_text("x = 1 / 0")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load_slices(tmp_path / "odd.py")


def test_chance_differences_are_not_reported() -> None:
    r = np.random.default_rng(3)
    measures = {f"m{i}": r.normal(size=300) for i in range(20)}
    masks = {f"s{i}": r.random(300) < 0.3 for i in range(10)}
    measures["real"] = measures["m0"] + 2 * masks["s0"]
    sure = [(s.name, d.measure) for s in compare_slices(masks, measures) for d in s.differences if d.corrected < 0.05]
    assert sure == [("s0", "real")]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_two_sets(planted: Planted) -> None:
    r = np.random.default_rng(0)
    x, y, g = r.normal(size=(200, 10)), r.normal(size=(200, 10)), np.arange(200)
    assert two_sample_test("x", x, y, g, g).p > 0.01
    moved = two_sample_test("x", x, y + 0.7, g, g)
    assert moved.accuracy > 0.8 and moved.p < 1e-6
    plain = [
        Columns("set", 120, list(p.columns.texts[:120]), p.columns.images[:120]) for p in (planted, Planted(seed=1))
    ]
    a, b = (study(columns, TOWERS, SMALL) for columns in plain)
    made = compare_sets(a, b)
    assert all(shift.p > 0.001 for shift in made.shifts) and {s.by for s in made.shifts} == {"cells", "words"}
    assert len(row_table(a)["row"]) == 120
