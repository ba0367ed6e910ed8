"""The screens of runs that read regions, videos and streams, in a real browser."""

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from serve_pages import AXE, CHROMIUM, align, drawn, expect_drawn, page_of, saved, serious, served, wait_until
from serve_runs import SPEAKERS, region_run, stream_run, video_run

from coalign.data.pairs.sources import open_source
from coalign.data.regions.files import open_regions
from coalign.serve.app import app

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def others(tmp_path_factory, run):
    """The address of a server of a run of regions, one of videos, one of streams, and an ALBEF."""
    folder = tmp_path_factory.mktemp("others")
    regions, table, file = region_run(folder)
    films, loaded = video_run(folder)
    runs = [regions, films, stream_run(folder), run]
    application = app(runs, open_source(table), regions=open_regions(file), series=SPEAKERS)
    application.state.service.sessions["films"].__dict__["loaded"] = loaded
    with served(application) as address:
        yield address


def check_accessibility(page):
    if AXE.is_file():
        assert not (found := serious(page)), found


@pytest.fixture
def page(chromium, others):
    with page_of(chromium) as page:
        page.address = others
        page.set_default_timeout(60_000)
        yield page


def test_words_onto_boxes(page):
    page.goto(f"{page.address}/?screen=why&run=regions&row=1")
    wait_until(page, "document.querySelector('.panel canvas')?.dataset.values")
    said, values = align(page, run="regions", row=1)
    assert said["kind"] == "boxes"
    expect(page.locator("#words")).to_have_value("a blue circle")
    page.locator("[data-word='1']").hover()
    expect_drawn(page, values[1])
    check_accessibility(page)
    page.goto(f"{page.address}/?screen=search&run=regions&text=red")
    expect(page.locator(".card .score")).to_have_count(2)
    expect(page.get_by_text("no index: the model has read the words")).to_be_visible()
    page.goto(f"{page.address}/?screen=data&run=regions")
    expect(page.get_by_text("2 points, principal components")).to_be_visible()
    page.expected = "status of 400"  # which the browser itself writes to the console
    page.goto(f"{page.address}/?screen=search&run=regions&like=1")
    expect(page.locator(".error")).to_contain_text("no index; without one")


def test_different_systems_beside_each_other(page):
    """UNITER's boxes and ALBEF's patches, whose vocabularies know different words, of one picture."""
    page.goto(f"{page.address}/?screen=why&runs=regions,tiny&row=1")
    wait_until(page, "[...document.querySelectorAll('.panel canvas')].filter(c => c.dataset.values).length === 2")
    for number, (run, kind) in enumerate((("regions", "boxes"), ("tiny", "grid"))):
        said, values = align(page, run=run, row=1, of="regions")
        assert said["kind"] == kind
        whole = values[: len(said["words"])].mean(0)
        whole -= min(whole.min(), 0)
        assert np.abs(drawn(page, number) - whole / whole.mean()).max() < 1e-3
    expect(page.get_by_role("heading", name="Layers and heads of regions")).to_be_visible()
    assert len(set(page.locator(".panel .scale").all_inner_texts())) == 1
    check_accessibility(page)


def test_moments_are_played_from_their_second(page):
    page.goto(f"{page.address}/?run=films&text=green")
    first = page.request.get(f"{page.address}/api/search?run=films&text=green&k=1").json()["answers"][0]
    card = page.locator(".card").first
    expect(card.locator(".play")).to_contain_text(first["file"])
    before = card.bounding_box()
    card.locator(".play").click()
    video = card.locator("video")
    expect(video).to_be_visible()
    assert card.bounding_box() == before  # the video takes the place of the picture
    assert video.get_attribute("src").endswith(f"#t={first['start']:g},{first['end']:g}")
    wait_until(page, "document.querySelector('video').readyState > 0")
    assert page.evaluate("document.querySelector('video').duration") == pytest.approx(8, abs=0.5)
    assert page.evaluate("document.querySelector('video').currentTime") >= first["start"] - 0.1
    check_accessibility(page)


def test_arcs_between_streams(page):
    page.goto(f"{page.address}/?screen=why&run=streams&item=1")
    expect(page.locator(".arcs [data-row]").first).to_be_visible()
    page.locator("#stream-row").fill("2")
    expect(page.get_by_text("row 3")).to_be_visible()
    assert "pin=2" in page.url
    arcs = page.locator("[data-arc]").evaluate_all("all => all.map(one => one.dataset.arc.split(',')[0])")
    assert arcs and set(arcs) == {"2"}
    page.locator("#direction").select_option("1")
    expect(page.locator("[data-arc]").first).to_be_attached()
    said = json.loads(saved(page, "JSON", "the streams"))
    assert np.shape(said["weights"])[0] >= 3 and b"<path" in saved(page, "SVG", "the streams")
    check_accessibility(page)
