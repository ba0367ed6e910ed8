"""The screens in a real browser: what a user does, and what is then drawn."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from serve_pages import AXE, CHROMIUM, browser, page_of, serious, served, wait_until

from coalign.data.pairs.sources import open_source
from coalign.serve.app import app

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def address(run, other):
    with served(app([run, other])) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chromium, address):
    with page_of(chromium, accept_downloads=True) as page:
        page.address = address
        page.set_default_timeout(30_000)
        yield page


def align(page, **body):
    """What the server answers to an alignment, decoded here: the answer and [rows, places]."""
    said = page.request.post(f"{page.address}/api/align", data=body).json()
    data = page.request.get(page.address + said["bytes"]).body()
    rows = len(data) // (8 + said["places"])
    scale = np.frombuffer(data[: 8 * rows], "<f4").reshape(rows, 2)
    levels = np.frombuffer(data[8 * rows :], np.uint8).reshape(rows, -1)
    return said, scale[:, :1] + levels / 255 * (scale[:, 1:] - scale[:, :1])


def drawn(page, number=0):
    return np.array(json.loads(page.locator(".panel canvas").nth(number).get_attribute("data-values")))


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
    page.get_by_label("colour").select_option("blue")
    expect(page.locator(".card")).to_have_count(2)
    assert "where.colour=blue" in page.url
    page.get_by_label("colour").select_option("")
    page.get_by_label("re-rank").check()
    expect(page.locator(".card")).to_have_count(9)
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


def test_a_pasted_picture_is_searched_with(page, table):
    page.goto(page.address)
    expect(page.locator(".card")).to_have_count(9)
    data = list((table.parent / "grey-square.png").read_bytes())
    page.evaluate(
        """data => {
            const file = new File([new Uint8Array(data)], "p.png", { type: "image/png" });
            const transfer = new DataTransfer();
            transfer.items.add(file);
            window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        data,
    )
    expect(page.locator(".card .caption").first).to_have_text("a grey square")


def test_hover_draws_what_the_server_answered(page):
    page.goto(f"{page.address}/?screen=why&row=1&words=a+red+circle")
    said, values = align(page, run="tiny", row=1, text="a red circle")
    words = len(said["words"])
    wait_until(page, "document.querySelector('.panel canvas')?.dataset.values")
    assert np.abs(drawn(page) - values[:words].mean(0)).max() < 1e-4
    for word in range(words):
        page.locator(f"[data-word='{word}']").hover()
        page.wait_for_timeout(60)
        assert np.abs(drawn(page) - values[word]).max() < 1e-4, word
    assert float(page.locator(".panel canvas").get_attribute("data-milliseconds")) < 16
    page.locator("[data-word='2']").click()
    page.mouse.move(5, 5)
    expect(page.locator("[data-word='2']")).to_have_attribute("aria-pressed", "true")
    assert "pin=2" in page.url
    assert np.abs(drawn(page) - values[2]).max() < 1e-4
    box = page.locator(".panel canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("[data-word='0']")).to_have_attribute("style", re.compile("shadow"))


def test_layers_and_heads(page):
    page.goto(f"{page.address}/?screen=why&row=1&words=a+red+circle&method=cross_attention")
    said, values = align(page, run="tiny", row=1, text="a red circle", method="cross_attention")
    words, heads = len(said["words"]), said["heads"]
    page.locator("[data-cell='1,1']").click()
    page.wait_for_timeout(100)
    rows = values[words * (1 + heads + 1) : words * (1 + heads + 2)]
    assert np.abs(drawn(page) - rows.mean(0)).max() < 1e-4
    page.locator("#layer").fill("0")
    page.wait_for_timeout(100)
    assert np.abs(drawn(page) - values[words * 2 : words * 3].mean(0)).max() < 1e-4  # the head stays
    assert "layer=0" in page.url and "head=1" in page.url
    page.reload()
    wait_until(page, "document.querySelector('.panel canvas')?.dataset.values")
    assert np.abs(drawn(page) - values[words * 2 : words * 3].mean(0)).max() < 1e-4


def test_runs_beside_each_other_and_downloads(page):
    page.goto(f"{page.address}/?screen=why&row=1&words=a+red+circle&runs=tiny,other")
    expect(page.locator(".panel canvas")).to_have_count(2)
    wait_until(page, "document.querySelectorAll('.panel canvas')[1].dataset.values")
    first, second = drawn(page, 0), drawn(page, 1)
    assert abs(first.mean() - 1) < 1e-3 and abs(second.mean() - 1) < 1e-3  # multiples of an even share
    scales = page.locator(".panel .scale").all_inner_texts()
    assert scales[0] == scales[1]
    for kind in ("PNG", "SVG", "JSON"):
        with page.expect_download() as waiting:
            page.locator(".panel").first.get_by_role("button", name=kind).click()
        data = Path(waiting.value.path()).read_bytes()
        if kind == "PNG":
            assert data[:4] == b"\x89PNG"
        elif kind == "SVG":
            assert data.startswith(b"<svg") and data.count(b"<rect") == 17
        else:
            _, values = align(page, run="tiny", row=1, text="a red circle")
            assert np.abs(np.array(json.loads(data)["values"]) - values[:3]).max() < 1e-5


def test_map_lasso_and_marks(page, run):
    page.goto(f"{page.address}/?screen=data&colour=colour")
    canvas = page.locator(".map canvas")
    expect(canvas).to_be_visible()
    box = canvas.bounding_box()
    left, top, right, bottom = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    expect(page.locator(".card")).to_have_count(9)
    page.locator(".card", has_text="a blue circle").get_by_role("button", name="mark").click()
    expect(page.get_by_text("1 marked as wrong")).to_be_visible()
    (file,) = (run / "marks").glob("*.jsonl")
    assert json.loads(file.read_text())["text"] == "a blue circle"
    with page.expect_download() as waiting:
        page.get_by_text("the pairs without them").click()
    kept = file.with_name("kept-table.jsonl")
    kept.write_bytes(Path(waiting.value.path()).read_bytes())
    source = open_source(kept)  # what `train --data` reads
    assert len(source) == 8 and not any("a blue circle" in source[i].texts for i in range(8))
    page.locator(".card", has_text="a blue circle").get_by_role("button", name="mark").click()
    expect(page.get_by_text("0 marked as wrong")).to_be_visible()


def test_findings_open_their_rows(page):
    page.goto(f"{page.address}/?screen=data")
    page.locator("#analyze").click()
    expect(page.locator(".findings li").first).to_be_visible(timeout=240_000)


def test_curves_and_samples(page):
    page.goto(f"{page.address}/?screen=runs")
    expect(page.locator("polyline[data-run]")).to_have_count(2)
    assert len(page.locator("polyline[data-run='tiny']").get_attribute("points").split()) == 10
    page.locator("article.run").first.get_by_text("recipe and settings").click()
    expect(page.locator("article.run").first.get_by_text("learning_rate")).to_be_visible()
    page.get_by_role("button", name="sample answers").first.click()
    expect(page.locator(".strip img").first).to_be_visible()


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
@pytest.mark.parametrize("screen", ["search&text=red", "why&row=1&words=a+red+circle", "data", "runs"])
@pytest.mark.parametrize("dark", ["0", "1"])
def test_nothing_serious_for_screen_readers(page, screen, dark):
    page.goto(f"{page.address}/?screen={screen}&dark={dark}")
    page.wait_for_load_state("networkidle")
    page.set_viewport_size({"width": 1280, "height": 900} if dark == "0" else {"width": 390, "height": 800})
    page.evaluate("() => {}")
    found = serious(page)
    assert not found, found
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")  # fits a small screen
