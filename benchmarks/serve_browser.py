"""How smoothly the pages go over 100,000 pictures, in headless Chromium (found as `chromium`), without a GPU.

    python benchmarks/serve_browser.py RUN [--pictures 100000]

The index is that of `serve_load.py`. Measured are frames while the answers are scrolled, the time until pictures are
shown after a jump to a far row, what a redrawing of the map and a hover over it take, and what a hover over a word
takes where 1,024 patches by 40 words by 12 layers by 12 heads have come. Prints milliseconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from coalign.analysis.runs.maps import Maps
from serve_load import make_run, serving

FRAMES = """() => { window.frames_ = []; let last = performance.now();
  const tick = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick); }"""
DRAWN = "selector => Number(document.querySelector(selector).dataset.milliseconds)"
SHOWN = "[...document.querySelectorAll('.card img')].filter(i => i.complete && i.naturalWidth && seen(i)).length"
SEEN = "const seen = (one, at = one.getBoundingClientRect()) => at.bottom > 0 && at.top < innerHeight;"


def said(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and worst of some milliseconds."""
    found = np.array(values[2:] if len(values) > 20 else values)
    at = {"p50": np.quantile(found, 0.5), "p95": np.quantile(found, 0.95), "worst": found.max()}
    return {name: round(float(value), 1) for name, value in at.items()}


def until(page: Page, expression: str, seconds: float = 120) -> float:
    """Seconds until an expression is true in the page."""
    began = time.perf_counter()
    while not page.evaluate(f"(() => {{ {SEEN} return !!({expression}); }})()"):
        if time.perf_counter() - began > seconds:
            raise TimeoutError(expression)
        time.sleep(0.02)
    return time.perf_counter() - began


def clock(page: Page) -> Callable[[], float]:
    """Milliseconds of processor time that the page's own thread has taken."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        measures = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(one["value"] for one in measures if one["name"] == "TaskDuration")

    return busy


def frames(page: Page, move: Callable[[int], None], count: int, pause: float) -> dict[str, float]:
    """Times from frame to frame while something moves, with pauses of so many milliseconds, and what a move and a frame
    cost the page's own thread (processor time)."""
    busy = clock(page)
    page.evaluate(FRAMES)
    before = busy()
    for step in range(count):
        move(step)
        page.wait_for_timeout(pause)
    times = page.evaluate("window.frames_")
    work = busy() - before
    return {**said(times), "work_a_move": round(work / count, 1), "work_a_frame": round(work / len(times), 1)}


def search(page: Page, address: str) -> dict[str, Any]:
    page.goto(f"{address}/?text=red+fruit")
    until(page, f"{SHOWN} > 5")
    page.mouse.move(640, 500)
    scrolled = {
        f"400 pixels every {pause} ms": frames(page, lambda _: page.mouse.wheel(0, 400), count, pause)
        for pause, count in ((300, 60), (16, 120))
    }
    page.evaluate("scrollTo(0, 0.9 * document.documentElement.scrollHeight)")
    jumped = until(page, f"scrollY > 1e5 && {SHOWN} > 5")
    place = page.evaluate("Number(document.querySelector('.card:not(.coming)').getAttribute('aria-posinset'))")
    cards = page.evaluate("document.querySelectorAll('.card').length")
    far = {"place": place, "shown_after_ms": round(1000 * jumped), "cards_in_the_page": cards}
    return {"frames_while_scrolling": scrolled, "jump": far}


def data(page: Page, address: str) -> dict[str, Any]:
    page.goto(f"{address}/?screen=data")
    until(page, "document.querySelector('.map canvas')?.dataset.milliseconds")
    canvas = page.locator(".map canvas")
    canvas.focus()
    redrawn: list[float] = []
    for step in range(40):
        page.keyboard.press("+" if step < 20 else "-")
        page.wait_for_timeout(40)
        redrawn.append(page.evaluate(DRAWN, ".map canvas"))
    found = page.evaluate(
        """() => { const canvas = document.querySelector('.map canvas'), box = canvas.getBoundingClientRect();
        return [...Array(100).keys()].map((i) => { const start = performance.now();
          const at = { clientX: box.left + 3 * i, clientY: box.top + 5 * i };
          canvas.dispatchEvent(new PointerEvent('pointermove', at));
          return performance.now() - start; }); }"""
    )
    return {"points": page.get_by_role("status").first.inner_text(), "redrawing": said(redrawn), "hover": said(found)}


def why(page: Page, address: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    heads = torch.rand(12, 12, 40, 1024, generator=generator)
    words = tuple(f"word{number}" for number in range(40))
    maps = Maps(words, "cross_attention", ("cross_attention",), heads.mean((0, 1)), heads, grid=(32, 32))
    values = maps.to_bytes()
    answer = {"run": "run", "row": 0, "text": " ".join(words), "p_match": None, "image": "/api/image/0"}
    page.route("**/api/align", lambda r: r.fulfill(json={**answer, **maps.to_json(), "bytes": "/api/bytes/large"}))
    page.route("**/api/bytes/large", lambda r: r.fulfill(body=values, content_type="application/octet-stream"))
    page.goto(f"{address}/?screen=why&row=0&layer=5")
    until(page, "document.querySelector('.panel canvas')?.dataset.milliseconds")
    hovered: list[float] = []
    drawn: list[float] = []
    for word in range(40):
        hovered.append(
            page.evaluate(
                """async (word) => { const start = performance.now();
                document.querySelector(`[data-word='${word}']`).dispatchEvent(new MouseEvent('mouseenter'));
                const canvas = document.querySelector('.panel canvas'), label = canvas.getAttribute('aria-label');
                while (canvas.getAttribute('aria-label') === label && performance.now() < start + 500)
                  await new Promise((done) => setTimeout(done));
                return performance.now() - start; }""",
                word,
            )
        )
        page.wait_for_timeout(20)
        drawn.append(page.evaluate(DRAWN, ".panel canvas"))
    busy = clock(page)
    before = busy()
    for word in range(40):
        page.evaluate(f"document.querySelector(`[data-word='{word}']`).dispatchEvent(new MouseEvent('mouseenter'))")
        page.wait_for_timeout(60)
    work = round((busy() - before) / 40, 1)
    return {"bytes": len(values), "hover_to_new_map": said(hovered), "drawing": said(drawn), "work_a_hover": work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    given = parser.parse_args()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run, _ = make_run(given.run, Path(folder), given.pictures)
        with serving(run) as (_, port):
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            address = f"http://127.0.0.1:{port}"
            found = {
                name: measure(page, address) for name, measure in (("search", search), ("why", why), ("data", data))
            }
            browser.close()
    print(json.dumps({"pictures": given.pictures, **found}, indent=1))


if __name__ == "__main__":
    main()
