"""A served application and a browser, for tests of the pages."""

import contextlib
import json
import math
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import uvicorn

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
]
AXE = Path(__file__).parents[2] / "src/coalign/serve/web/node_modules/axe-core/axe.min.js"


def wait_until(page, expression, seconds=60):
    """Returns when an expression is true in the page. Asked from outside: the page's policy forbids eval."""
    until = time.monotonic() + seconds
    while not page.evaluate(f"!!({expression})"):
        assert time.monotonic() < until, expression
        time.sleep(0.05)


@contextlib.contextmanager
def served(application):
    """The address under which an application is served by uvicorn in a thread."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def browser():
    """Debian's Chromium."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # of a machine that others use too
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def page_of(opened, **options):
    """A page whose console must stay empty, but for what its `expected` says, and which reaches nothing but the
    server."""
    context = opened.new_context(viewport={"width": 1280, "height": 900}, **options)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:")) else said.append(r.url),
    )
    try:
        yield page
    finally:
        context.close()
    expected = getattr(page, "expected", None)
    assert not [line for line in said if expected is None or expected not in line], said


def serious(page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE.read_text())
    options = "{ resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'] }"
    found = page.evaluate(f"async () => (await axe.run(document, {options})).violations")
    return [
        f"{one['id']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]


def saved(page, kind, of) -> bytes:
    """What a button of the page, or of a part of it, saves."""
    with getattr(page, "page", page).expect_download() as waiting:
        page.get_by_role("button", name=f"{kind} of {of}", exact=True).click()
    assert waiting.value.suggested_filename.endswith(f".{kind.lower()}")
    return Path(waiting.value.path()).read_bytes()


def align(page, **body):
    """What the server answers to an alignment, decoded here: the answer and [rows, places]."""
    said = page.request.post(f"{page.address}/api/align", data=body).json()
    data = page.request.get(page.address + said["bytes"]).body()
    rows = len(data) // (8 + said["places"])
    scale = np.frombuffer(data[: 8 * rows], "<f4").reshape(rows, 2)
    levels = np.frombuffer(data[8 * rows :], np.uint8).reshape(rows, -1)
    return said, scale[:, :1] + levels / 255 * (scale[:, 1:] - scale[:, :1])


def drawn(page, number=0):
    """The values that a panel draws."""
    return np.array(json.loads(page.locator(".panel canvas").nth(number).get_attribute("data-values")))


def expect_drawn(page, values):
    """Returns when the first panel draws these values."""
    until = time.monotonic() + 30
    while (apart := np.abs(drawn(page) - values).max()) >= 1e-4:
        assert time.monotonic() < until, apart
        time.sleep(0.03)


def circle_place(number, count):
    """Where a point on the circle of `conftest.circle` lies on the canvas, in fractions of its side."""
    angle = 2 * math.pi * number / count
    return tuple(0.03 + 0.94 * (0.5 + 0.4 * f(angle)) for f in (math.cos, math.sin))
