"""What the server is made of: calibration, the queue, bytes of maps, marks, and pages that stand alone."""

import asyncio
import json
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from serve_pages import CHROMIUM, page_of, wait_until

import coalign
from coalign.analysis.runs.maps import Maps, explain
from coalign.analysis.runs.viewer import page, save_page, show, shown
from coalign.arguments import load_run
from coalign.cli.main import main
from coalign.data.pairs.sources import open_source
from coalign.retrieval.embed import Entry
from coalign.retrieval.index import Index
from coalign.serve.calibration import Calibration, calibrate
from coalign.serve.gallery import IndexGallery
from coalign.serve.marks import Marks, marked_table
from coalign.serve.sessions import best_first
from coalign.serve.study import Studies, findings_of
from coalign.serve.worker import Busy, Worker


def test_calibration_finds_the_shares_that_were_planted():
    generator = np.random.default_rng(0)
    scores = generator.uniform(0, 1, 20_000)
    matches = generator.uniform(0, 1, 20_000) < np.where(scores < 0.5, 0.1, 0.7)
    found = Calibration.fit(scores, matches)
    assert found is not None
    given = found(np.array([-1.0, 0.1, 0.4, 0.6, 0.9, 2.0]))
    assert np.abs(given[1:5] - [0.1, 0.1, 0.7, 0.7]).max() < 0.06
    assert (np.diff(given) >= 0).all() and given[0] > 0 and given[-1] < 1
    assert Calibration.fit(scores, np.ones(20_000, bool)) is None


def test_queries_find_their_own():
    vectors = torch.nn.functional.normalize(torch.randn(60, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    ids = torch.arange(60)
    found = calibrate(vectors, vectors, ids, ids)
    assert found is not None
    high, low = found(np.array([1.0, 0.2]))
    assert high > 0.99 and low < 0.01
    assert calibrate(vectors, vectors, ids, ids + 100) is None


def test_what_waits_side_by_side_is_done_together():
    worker, gate, sizes = Worker("test", bound=8), threading.Event(), list[int]()

    def double(values):
        sizes.append(len(values))
        return [ValueError("three") if v == 3 else 2 * v for v in values]

    async def ask():
        blocked = asyncio.ensure_future(worker.call(lambda _: gate.wait(10), None))
        await asyncio.sleep(0.05)
        tasks = [asyncio.ensure_future(worker.batched(double, v)) for v in range(5)]
        await asyncio.sleep(0.05)
        more = [asyncio.ensure_future(worker.batched(double, v)) for v in range(9)]
        await asyncio.sleep(0.05)
        gate.set()
        await blocked
        return await asyncio.gather(*tasks, return_exceptions=True), await asyncio.gather(*more, return_exceptions=True)

    with ThreadPoolExecutor(1) as apart:  # a browser's tests keep a loop in the main thread
        first, second = apart.submit(lambda: asyncio.run(ask())).result()
    worker.close()
    assert [v if isinstance(v, int) else str(v) for v in first] == [0, 2, 4, "three", 8]
    assert sum(isinstance(v, Busy) for v in second) == 6  # a queue of eight, five of it taken
    assert sizes == [8]


def test_what_can_wait_is_done_while_no_job_waits():
    worker, gate, order = Worker("test"), threading.Event(), list[object]()

    def steps():
        for number in range(3):
            order.append(number)
            yield
            if number == 0:
                gate.wait(10)

    async def ask():
        await worker.call(worker.later, steps())
        while not order:
            await asyncio.sleep(0.01)
        job = asyncio.ensure_future(worker.call(order.append, "job"))
        await asyncio.sleep(0.05)
        gate.set()
        await job
        while len(order) < 4:
            await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as apart:
        apart.submit(lambda: asyncio.run(ask())).result(20)
    worker.close()
    assert order == [0, 1, "job", 2]  # a job waits for the step that is being taken, and for no other


def test_the_best_are_those_of_a_whole_sort():
    scores = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(0)).float()
    whole = scores.argsort(descending=True, stable=True)
    for count in (0, 1, 17, 250, 500):
        assert torch.equal(best_first(scores, count), whole[:count])


def test_maps_as_bytes_keep_each_row_within_a_step():
    heads = torch.rand(3, 2, 4, 12, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 2, 12)
    maps = Maps(("a", "b", "c", "d"), "x", ("x",), heads[0, 0], heads, grid=(3, 4))
    rows, data = 4 * 7, maps.to_bytes()
    scale = np.frombuffer(data[: 8 * rows], "<f4").reshape(rows, 2)
    levels = np.frombuffer(data[8 * rows :], np.uint8).reshape(rows, 12)
    found = scale[:, :1] + levels / 255 * (scale[:, 1:] - scale[:, :1])
    whole = torch.cat([heads[0, 0], heads.flatten(0, 2)]).numpy()
    assert (np.abs(found - whole) <= (scale[:, 1:] - scale[:, :1]) / 509).all()


def test_an_index_knows_its_pairs(tmp_path):
    index = Index.create(tmp_path / "index", 4)
    entries = [Entry(f"text {i}", meta={"file": "f", "row": i, "kind": "ab"[i % 2]}) for i in range(6)]
    index.append(torch.eye(4).repeat(2, 1)[:6], entries, "image")
    index.append(torch.eye(4).repeat(2, 1)[:6].flip(0), [*reversed(entries)], "text")
    gallery = IndexGallery(Index.open(tmp_path / "index"))
    assert [gallery.partner(row) for row in range(12)] == [*range(11, 5, -1), *range(5, -1, -1)]
    assert gallery.having([("kind", "a")]).tolist() == [True, False] * 3 + [False, True] * 3
    assert not gallery.having([("kind", "a"), ("kind", "b")]).any() and not gallery.having([("kind", "c")]).any()
    assert torch.equal(gallery.vector(1), torch.eye(4)[1])


@pytest.mark.parametrize("paths", [True, False])
def test_the_table_without_marked_pairs_is_read_by_training(tmp_path, paths):
    index = Index.create(tmp_path / "index", 2)
    entries = []
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
        data = (tmp_path / f"{i}.png").read_bytes()
        where = {"meta": {"file": "f", "row": i}}
        entries.append(
            Entry(f"text {i}", str(tmp_path / f"{i}.png"), **where)
            if paths
            else Entry(f"text {i}", None, data, **where)
        )
    index.append(torch.ones(3, 2), entries, "image")
    index.append(torch.ones(3, 2), [Entry(e.text, e.image, meta=e.meta) for e in entries], "text")
    gallery, marks = IndexGallery(Index.open(tmp_path / "index")), Marks(tmp_path)
    marks.put(0, "wrong", {})
    marks.put(1, "wrong", {})
    marks.put(1, "", {})
    for of, texts in (("kept", ["text 1", "text 2"]), ("marked", ["text 0"])):
        name, _, parts = marked_table(gallery, marks, of)
        (tmp_path / name).write_bytes(b"".join(parts))
        source = open_source(tmp_path / name)
        assert [source[i].texts[0] for i in range(len(source))] == texts
        if not paths:
            kept = [(tmp_path / f"{text[-1]}.png").read_bytes() for text in texts]
            assert pq.read_table(tmp_path / name)["image"].to_pylist() == kept
    assert len(list((tmp_path / "marks").glob("*.jsonl"))) == 1


def test_findings_are_of_rows_of_the_index(run):
    """The ungrounded words need texts that no index holds, such as captions without one of their words."""
    found = findings_of(run)
    gallery = IndexGallery(Index.open(run / "index"))
    assert found and all({"kind", "severity", "title", "detail", "rows"} <= set(finding) for finding in found)
    shown_rows = [row for finding in found for row in finding["rows"]]
    assert shown_rows and all(gallery.modalities[row] == "image" for row in shown_rows)


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed")
def test_a_page_that_stands_alone(run, table, tmp_path, chromium):
    picture = str(table.parent / "red-circle.png")
    loaded, text = load_run(run), "a red </script><script>alert(1)</script> circle"
    maps = explain(loaded, text, picture)
    with pytest.raises(SystemExit) as done:
        main(["align", str(run), picture, text, "--out", str(tmp_path / "by_command.html")])
    assert done.value.code == 0
    assert (tmp_path / "by_command.html").read_text() == page([shown(maps, text, picture)], text)
    path = save_page(tmp_path / "page.html", [shown(maps, text, picture)], "Two < three")
    written = path.read_text()
    assert "http://" not in written.replace("http://www.w3.org", "") and "https://" not in written
    assert written == page([shown(maps, text, picture)], "Two < three") and "<script>alert" not in written
    with page_of(chromium) as view:
        view.goto(path.as_uri())
        wait_until(view, "document.querySelector('canvas')?.width > 300")
        words = view.locator(".heat-word")
        assert words.all_inner_texts() == list(maps.words)
        before = view.evaluate("document.querySelector('canvas').toDataURL()")
        words.last.hover()
        assert view.evaluate("document.querySelector('canvas').toDataURL()") != before
        assert words.last.inner_text() in view.locator(".heat-note").inner_text()


def test_the_widget_has_what_it_draws(run, table):
    pytest.importorskip("anywidget")
    widget = show(load_run(run), [str(table.parent / "red-circle.png")], ["a red circle"])
    (alignment,) = widget.alignments
    assert alignment["words"] == ["a", "red", "circle"] and alignment["picture"].startswith("data:image/")
    assert "export" in widget._esm and ".heat-word" in widget._css
    with pytest.raises(coalign.InputError, match="as many of each"):
        show(load_run(run), ["a.png", "b.png"], ["one"])
    json.dumps(widget.alignments)


def test_built_pages_name_nothing_outside():
    from coalign.analysis.runs.viewer import PAGES as VIEWER
    from coalign.serve.app import PAGES

    for path in [*PAGES.iterdir(), *VIEWER.iterdir()]:
        text = path.read_text()
        addresses = set(re.findall(r"https?://[\w./-]+", text)) - {"http://www.w3.org/2000/svg"}
        assert all(a.startswith("http://www.w3.org/") for a in addresses), (path.name, addresses)


def test_studies_go_on_with_a_new_process_when_theirs_died():
    class Dead(ThreadPoolExecutor):
        """A pool whose process dies at its first job."""

        def submit(self, function, /, *arguments, **named):
            if getattr(self, "died", False):
                raise BrokenProcessPool("its process died")
            self.died = True
            job = Future()
            job.set_exception(BrokenProcessPool("its process died"))
            return job

    pools = [Dead(1), ThreadPoolExecutor(1)]
    studies = Studies(lambda: pools.pop(0))
    assert studies.start(("a",), int).exception() is not None
    assert studies.start(("b",), int, "3").result() == 3  # in a new process
    assert studies.start(("a",), int, "4").result() == 4  # which may have died for another's sake
    failed = studies.start(("c",), int, "x")
    assert isinstance(failed.exception(), ValueError) and studies.start(("c",), int, "5") is failed
    assert studies.start(("c",), int, "5", again=True).result() == 5
