"""The screens in a real browser: what a user does, and what is then drawn."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from serve_pages import AXE, CHROMIUM, align, circle_place, drawn, expect_drawn, saved, serious, wait_until

from coalign.data.pairs.sources import open_source

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed")
RED_CIRCLE = "screen=why&row=1&words=a+red+circle"


def test_search_by_text(page):
    page.goto(page.address)
    expect(page.locator(".card")).to_have_count(9)  # without a query, the set
    page.keyboard.press("/")
    page.keyboard.type("a red circle")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=a+red+circle*")
    expect(page.locator(".card .score").first).to_be_visible()
    found = page.request.get(f"{page.address}/api/search?text=a+red+circle&k=9").json()["answers"]
    assert page.locator(".card .caption").all_inner_texts() == [a["text"] for a in found]
    lines = list(csv.DictReader(saved(page, "CSV", "the answers").decode().splitlines()))
    assert [line["text"] for line in lines] == [a["text"] for a in found]
    assert lines[0]["colour"] == found[0]["columns"]["colour"] and float(lines[0]["score"]) == found[0]["score"]
    assert json.loads(saved(page, "JSON", "the answers"))["answers"] == found
    page.get_by_role("combobox", name="colour").select_option("blue")
    expect(page.locator(".card")).to_have_count(2)
    assert "where.colour=blue" in page.url
    page.locator("#least").fill("0.95")
    expect(page.get_by_text("No answers", exact=True)).to_be_visible()
    page.get_by_role("button", name="without the filters").click()
    expect(page.locator(".card")).to_have_count(9)
    page.get_by_label("re-rank").check()
    reranked = page.request.get(f"{page.address}/api/search?text=a+red+circle&k=9&rerank=1").json()["answers"]
    expect(page.locator(".card .score").first).to_have_text(f"{reranked[0]['score']:.3f}")


def test_captions_are_text(page):
    page.goto(f"{page.address}/?where.colour=red")
    card = page.locator(".card", has_text="onerror")
    expect(card).to_have_count(1)
    assert "<b>bold</b>" in card.locator(".caption").inner_text()
    assert page.locator(".card b").count() == 0


def test_search_by_picture_and_more_like_this(page, table):
    page.goto(page.address)
    page.locator("input[type=file]").set_input_files(str(table.parent / "green-circle.png"))
    expect(page.locator(".term")).to_have_text(re.compile("your picture"))
    expect(page.locator(".card .caption").first).to_have_text("a green circle")
    page.get_by_label("remove your picture").click()
    expect(page.locator(".card .score")).to_have_count(0)
    page.locator(".card", has_text="a blue square").get_by_text("more like this").click()
    expect(page.locator(".card .caption").first).to_have_text("a blue square")
    page.go_back()
    expect(page.locator(".term")).to_have_count(0)
    for kind, name in (("paste", "grey square"), ("drop", "blue circle")):
        page.evaluate(
            """([kind, data]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(data)], "p.png", { type: "image/png" }));
                window.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, { clipboardData: transfer })
                                                      : new DragEvent(kind, { dataTransfer: transfer }));
            }""",
            [kind, list((table.parent / f"{name.replace(' ', '-')}.png").read_bytes())],
        )
        expect(page.locator(".card .caption").first).to_have_text(f"a {name}")


def test_hover_draws_what_the_server_answered(page):
    page.goto(f"{page.address}/?{RED_CIRCLE}")
    said, values = align(page, run="tiny", row=1, text="a red circle")
    words = len(said["words"])
    wait_until(page, "document.querySelector('.panel canvas')?.dataset.values")
    expect_drawn(page, values[:words].mean(0))
    expect(page.locator(".badge")).to_have_text(f"P(match) {said['p_match']:.2f}")
    taken = []
    for word in range(words):
        page.locator(f"[data-word='{word}']").hover()
        expect_drawn(page, values[word])
        taken.append(float(page.locator(".panel canvas").get_attribute("data-milliseconds")))
    assert min(taken) < 16  # one of them may have waited for the machine's other work
    page.locator("[data-word='2']").click()
    page.mouse.move(5, 5)
    expect(page.locator("[data-word='2']")).to_have_attribute("aria-pressed", "true")
    assert "pin=2" in page.url
    expect_drawn(page, values[2])
    box = page.locator(".panel canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("[data-word='0']")).to_have_attribute("style", re.compile("shadow"))
    place = 4 * 2 + 2  # the third column of the third row of 4 by 4
    most = said["words"][int(values[:words, place].argmax())]
    expect(page.locator(".reading")).to_contain_text(f"Here: {most} ")


def test_layers_heads_methods_and_curves(page):
    page.goto(f"{page.address}/?{RED_CIRCLE}&method=cross_attention&curve=1")
    said, values = align(page, run="tiny", row=1, text="a red circle", method="cross_attention")
    words, heads = len(said["words"]), said["heads"]
    body = {"run": "tiny", "row": 1, "text": "a red circle", "method": "cross_attention"}
    measured = page.request.post(f"{page.address}/api/deletion", data=body).json()["deletion"]
    curve = page.locator(".deletion .own").get_attribute("data-curve")
    assert [float(v) for v in curve.split(",")] == pytest.approx(measured, abs=1e-5)
    cells = page.locator("[data-cell]")
    assert cells.count() == said["layers"] * heads
    assert cells.nth(1).get_attribute("aria-label").endswith(f"share across {said['shares'][0][1]:.2f}")
    page.locator("[data-cell='1,1']").click()
    page.wait_for_timeout(100)
    rows = values[words * (1 + heads + 1) : words * (1 + heads + 2)]
    expect_drawn(page, rows.mean(0))
    page.locator("#layer").fill("0")
    expect_drawn(page, values[words * 2 : words * 3].mean(0))  # the head stays
    assert "layer=0" in page.url and "head=1" in page.url
    page.reload()  # the address holds the state
    wait_until(page, "document.querySelector('.panel canvas')?.dataset.values")
    expect_drawn(page, values[words * 2 : words * 3].mean(0))
    expect(page.locator("[data-cell='0,1']")).to_have_attribute("aria-pressed", "true")
    other = next(method for method in said["methods"] if method not in ("cross_attention", "occlusion"))
    _, others = align(page, run="tiny", row=1, text="a red circle", method=other)
    page.locator("#method").select_option(other)
    page.wait_for_url(f"**method={other}*")
    expect(page.locator(".reading")).to_contain_text(f"by {other.replace('_', ' ')}")
    first = "JSON.parse(document.querySelector('.panel canvas').dataset.values)[0]"
    wait_until(page, f"Math.abs({first} - {others[:words].mean(0)[0]}) < 1e-4")
    expect_drawn(page, others[:words].mean(0))


def test_three_runs_beside_each_other_and_downloads(page):
    page.goto(f"{page.address}/?{RED_CIRCLE}&runs=tiny,other,other-2")
    expect(page.locator(".panel canvas")).to_have_count(3)
    wait_until(page, "document.querySelectorAll('.panel canvas')[2].dataset.values")
    for number in range(3):
        assert abs(drawn(page, number).mean() - 1) < 1e-3  # multiples of an even share
    assert len(set(page.locator(".panel .scale").all_inner_texts())) == 1
    assert np.abs(drawn(page, 1) - drawn(page, 2)).max() < 1e-6 < np.abs(drawn(page, 0) - drawn(page, 1)).max()
    assert saved(page, "PNG", "tiny")[:4] == b"\x89PNG"
    drawing = saved(page, "SVG", "tiny")
    assert drawing.startswith(b"<svg") and drawing.count(b"<rect") == 17
    _, values = align(page, run="tiny", row=1, text="a red circle")
    assert np.abs(np.array(json.loads(saved(page, "JSON", "tiny"))["values"]) - values[:3]).max() < 1e-5


def test_map_lasso_and_marks(page, run):
    page.goto(f"{page.address}/?screen=data")
    expect(page.get_by_text("9 points, UMAP", exact=True)).to_be_visible()  # after the principal components
    expect(page.locator("#colour")).to_have_value("colour")  # of the two columns the one with more values
    box = page.locator(".map canvas").bounding_box()
    x, y = circle_place(3, 9)
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    expect(page.locator(".tip")).to_have_text("a green circle")
    points = json.loads(saved(page, "JSON", "the map"))["points"]
    assert [(points[3]["x"], points[3]["y"])] == [pytest.approx([(v - 0.03) / 0.94 for v in (x, y)], abs=1e-6)]
    assert saved(page, "PNG", "the map")[:4] == b"\x89PNG"
    assert saved(page, "SVG", "the map").count(b"h0") == len(points) == 9
    left, right = box["x"] + 2, box["x"] + box["width"] - 2  # around the upper half of the circle
    top, middle = box["y"] + 2, box["y"] + box["height"] * 0.49
    page.mouse.move(left, top)
    page.mouse.down()
    for place in ((right, top), (right, middle), (left, middle), (left, top)):
        page.mouse.move(*place, steps=3)
    page.mouse.up()
    upper = [row for row in range(9) if circle_place(row, 9)[1] < 0.49]
    expect(page.locator(".card")).to_have_count(len(upper))
    assert f"rows={'%2C'.join(map(str, upper))}" in page.url
    page.locator(".card", has_text="a blue circle").get_by_role("button", name="mark").click()
    expect(page.get_by_text("1 marked as wrong")).to_be_visible()
    (file,) = (run / "marks").glob("*.jsonl")
    assert json.loads(file.read_text())["text"] == "a blue circle"
    with page.expect_download() as waiting:
        page.get_by_text("the pairs without them").click()
    kept = file.with_name("kept-table.jsonl")
    kept.write_bytes(Path(waiting.value.path()).read_bytes())
    pictures = Path(json.loads(kept.read_text().splitlines()[0])["image"]).parent
    source = open_source(kept, images=pictures)  # what `train --data --images` reads
    assert len(source) == 8 and not any("a blue circle" in source[i].texts for i in range(8))
    kept.unlink()
    page.locator(".card", has_text="a blue circle").get_by_role("button", name="mark").click()
    expect(page.get_by_text("0 marked as wrong")).to_be_visible()
    page.locator(".card .open").first.click()
    page.wait_for_url("**screen=why*")
    expect(page.locator("#words")).not_to_have_value("")
    expect(page.locator(".panel canvas")).to_be_visible()


def test_findings_open_their_rows(page):
    page.goto(f"{page.address}/?screen=data")
    page.locator("#analyze").click()
    expect(page.locator(".findings li").first).to_be_visible(timeout=240_000)
    said = page.request.get(f"{page.address}/api/findings").json()["findings"]
    number, finding = next((i, one) for i, one in enumerate(said) if one["rows"])
    page.locator(".findings li").nth(number).get_by_role("button").click()
    expect(page.locator(".card")).to_have_count(len(set(finding["rows"])))
    rows = page.request.get(f"{page.address}/api/rows?" + "&".join(f"row={row}" for row in finding["rows"])).json()
    assert page.locator(".card .caption").all_inner_texts() == [row["text"] for row in rows["rows"]]


def test_curves_grow_while_training_goes_on(page, other):
    metrics = other / "metrics.jsonl"

    def log() -> int:
        """Logs a step more; how many there are then."""
        count = len(metrics.read_text().splitlines()) + 1
        with metrics.open("a") as file:
            file.write(json.dumps({"step": 2 * count, "loss": 0.5, "itc": 0.5}) + "\n")
        return count

    before = log()
    (other.parent / "comparison.md").write_text("|  | albef | chance |\n|---|---|---|\n| R@1, text | 46.6 | 1.0 |\n")
    page.goto(f"{page.address}/?screen=runs")
    expect(page.locator("polyline[data-run]")).to_have_count(3)
    assert len(page.locator("polyline[data-run='other']").get_attribute("points").split()) == before
    log()
    wait_until(page, f"document.querySelector(\"polyline[data-run='other']\").points.length === {before + 1}", 30)
    expect(page.locator(".live").first).to_have_text("training")
    curves = json.loads(saved(page, "JSON", "the curves"))
    assert len(curves["runs"]["other"]) == before + 1 and curves["curve"] == "loss"
    assert b'points="' in saved(page, "SVG", "the curves") and saved(page, "PNG", "the curves")[:4] == b"\x89PNG"
    table = saved(page.locator("article.run").nth(1), "CSV", "the comparison of other")
    assert table == b',albef,chance\r\n"R@1, text",46.6,1.0\r\n'
    article = page.locator("article.run").first
    expect(article.locator("dl")).to_contain_text("albef")
    article.get_by_text("recipe and settings").click()
    expect(article.get_by_text("training.learning_rate")).to_be_visible()
    article.get_by_role("button", name="sample answers").click()
    expect(article.locator(".strip img").first).to_be_visible()


def test_screens_by_keyboard(page):
    page.goto(page.address)
    expect(page.locator(".card")).to_have_count(9)
    page.locator(".card .open").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.card .open')[1]")
    page.keyboard.press("Enter")
    page.wait_for_url("**screen=why*")
    page.keyboard.press("4")
    page.wait_for_url("**screen=runs*")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm install in src/coalign/serve/web")
@pytest.mark.parametrize("screen", ["search&text=red", RED_CIRCLE.partition("=")[2], "data", "runs"])
def test_nothing_serious_for_screen_readers(page, screen):
    """On a wide screen in light colours, and on a small one in dark colours."""
    page.goto(f"{page.address}/?screen={screen}&dark=0")
    page.wait_for_load_state("networkidle")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not (found := serious(page)), found
    page.get_by_role("button", name="dark colours").click()
    page.set_viewport_size({"width": 390, "height": 800})
    wait_until(page, f"getComputedStyle(document.body).backgroundColor !== '{light}'")
    assert "dark=1" in page.url
    assert not (found := serious(page)), found
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")  # fits a small screen
