import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coalign.analysis.runs.alignment import AlignmentMap
from coalign.analysis.runs.report import Alignment, Answer, Group, Report, Retrieval, render_report, write_report
from coalign.analysis.runs.viewer import digest, script_policy
from coalign.errors import InputError

EVIL = "<script>alert(1)</script>\"'&<img src=http://evil.example/x>"


class Page(HTMLParser):
    """Reads a page: its tags with their attributes, its text, and whether every tag is closed in order."""

    VOID = frozenset({"meta", "img", "line", "circle", "polyline"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))

    def classes(self, name: str) -> list[str]:
        return [(a.get("class") or "") for _, a in self.tags if name in (a.get("class") or "").split()]


def recall(one: float) -> dict[str, dict[str, float]]:
    return {d: {"R@1": one, "R@5": 0.5, "R@10": 0.75} for d in ("image_to_text", "text_to_image")}


def picture(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (60, 30), colour)


def full(text: str = "a red boat") -> Report:
    words = tuple(text.split())
    maps = torch.rand(len(words), 6, 6, generator=torch.Generator().manual_seed(0))
    return Report(
        title=text,
        summary=text,
        facts={text: text},
        results={
            "splits": {
                "seen": {"gallery": 1485, "chance": recall(0.001), "model": recall(0.4236), "reranked": recall(0.5)},
                text: {"gallery": 165, "model": recall(0.25)},
            },
            "wall_seconds": 1.0,
        },
        titles={"seen": text},
        metrics=[{"step": i, text: 1 / (i + 1)} for i in range(5)],
        retrievals=[
            Retrieval(
                [Answer(False, text, picture(), 0.9), Answer(True, text, picture(), 0.8)], text, rank=2, split=text
            ),
            Retrieval([Answer(False, text)], text, picture(), rank=57, expected=Answer(True, text), split=text),
        ],
        alignments=[Alignment(picture(), AlignmentMap(words, maps), note=text)],
        groups=[Group("seen", text, 12, recall(0.125))],
        notes=[text],
        commands={text: text},
    )


def test_the_page_holds_everything_and_is_well_formed(tmp_path: Path) -> None:
    path = write_report(full(), tmp_path / "run" / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    headings = {
        "Results",
        "By group",
        "Learning curves",
        "Sample retrievals",
        "Where each word looks",
        "What to do next",
    }
    assert headings <= set(page.texts)
    assert {"42.4", "12.5", "image → text", "R@10", "· 1,485 candidates", "right answer at rank 57"} <= set(page.texts)
    anchors = {a["href"] for tag, a in page.tags if tag == "a"}
    assert anchors == {f"#{a['id']}" for tag, a in page.tags if "id" in a and tag != "script"}
    assert [f.name for f in path.parent.iterdir()] == ["report.html"]


def test_text_is_inert_wherever_it_comes_from() -> None:
    page = Page(render_report(full(EVIL)))
    assert page.open == []
    kinds = [a.get("type") for tag, a in page.tags if tag == "script"]
    assert kinds == ["application/json", None]  # the data of the maps, and what draws them
    assert EVIL in page.texts
    sources = [a["src"] for tag, a in page.tags if tag == "img"]
    assert sources and all(s is not None and s.startswith("data:image/webp;base64,") for s in sources)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_nothing_is_fetched() -> None:
    html = render_report(full())
    assert not re.search(r"https?://(?!www\.w3\.org/)|url\((?!#)|@import|<link|<script src|<iframe", html)
    policy = next(a["content"] for _, a in Page(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {script_policy()}"
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    assert f"'{digest(script)}'" in policy
    plain = render_report(Report("t"))
    assert "<script" not in plain and "script-src" not in plain


def test_rows_stand_in_order_and_the_best_is_marked() -> None:
    html = render_report(full())
    table = html.split("<table>")[1].split("</table>")[0]
    titles = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert titles == ["Dual encoder", "Re-ranked by fusion", "Chance"]
    # R@5 and R@10 are the same in all rows, R@1 is best after re-ranking
    assert [row.count("bar best") for row in table.split("<tr")[3:]] == [4, 6, 4]


def test_right_and_wrong_answers_are_shown_as_such() -> None:
    page = Page(render_report(full()))
    assert page.classes("answer") == ["answer wrong", "answer right"]
    assert page.classes("apart") == ["right apart"]
    assert page.texts.count("✗") == 3 and page.texts.count("✓") == 3  # the legend has one of each


def alignments_of(html: str) -> list[dict[str, Any]]:
    return json.loads(html.partition("id='alignment-data'>")[2].partition("</script>")[0])


def test_pictures_and_one_heat_map_a_word_are_inside() -> None:
    html = render_report(full())
    sources = [str(a["src"]) for tag, a in Page(html).tags if tag == "img"]
    sizes = [Image.open(BytesIO(base64.b64decode(s.split(",")[1]))).size for s in sources]
    assert sizes == [(60, 30), (60, 30), (60, 30)]
    (drawn,) = alignments_of(html)
    assert drawn["grid"] == [6, 6] and drawn["picture"].startswith("data:image/webp;base64,")
    given, data = full().alignments[0].maps, base64.b64decode(drawn["values"])
    assert tuple(drawn["words"]) == given.words
    rows = len(given.words)
    scale = np.frombuffer(data[: 8 * rows], "<f4").reshape(rows, 2)
    levels = np.frombuffer(data[8 * rows :], np.uint8).reshape(rows, 36)
    values = scale[:, :1] + levels / 255 * (scale[:, 1:] - scale[:, :1])
    assert np.abs(values - given.values.flatten(1).numpy()).max() < 1 / 255
    assert 'data-alignment="0"' in html


def test_a_long_text_says_what_is_not_drawn() -> None:
    words = tuple(f"w{i}" for i in range(40))
    found = AlignmentMap(words, torch.zeros(40, 6, 6))
    html = render_report(Report("t", alignments=[Alignment(picture(), found)]))
    assert len(alignments_of(html)[0]["words"]) == 15
    assert any(text.startswith("not drawn: w15 w16") for text in Page(html).texts)


def test_what_is_missing_is_left_out() -> None:
    html = render_report(Report("Only a title"))
    page = Page(html)
    assert page.open == [] and "<section" not in html
    assert "None" not in html
    partial = {"splits": {"dev": {"model": {"text_to_image": {"R@1": 0.5}}, "mystery_row": recall(0.2)}}}
    assert {"Mystery row", "–", "Dev"} <= set(Page(render_report(Report("t", results=partial))).texts)


def test_a_report_of_photographs_stays_small() -> None:
    noise = [Image.effect_noise((400, 300), 80) for _ in range(4)]
    answers = [Answer(False, "x", noise[i % 4], 0.5) for i in range(8)]
    maps = AlignmentMap(tuple("abcdefghijkl"), torch.rand(12, 6, 6, generator=torch.Generator().manual_seed(0)))
    report = Report(
        "t",
        retrievals=[Retrieval(answers, "query")] * 12,
        alignments=[Alignment(noise[i % 4], maps) for i in range(12)],
        metrics=[{"step": i, "a": i * 0.1, "b": -i} for i in range(3000)],
    )
    assert len(render_report(report)) < 6_000_000


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    report = Report("t", retrievals=[Retrieval([Answer(True, "x", tmp_path / "gone.png")], "query")])
    with pytest.raises(InputError, match=r"gone\.png"):
        write_report(report, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
