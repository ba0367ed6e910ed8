"""What is killed and done again: a training, one of two processes, an index, an index of parts, an extraction, an
analysis, what commands write beside runs; each of them small, into the folder `run` beside what it reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lancedb  # noqa: F401  (here, once for all forks)
import numpy as np
import plotly.io
import pyarrow.parquet as pq
import torch
import torch._dynamo
from colours import TOKENIZER, ColourModel, write_table
from PIL import Image
from safetensors.torch import load_file
from test_pickles import mult_pickle, save
from toy import ToyLoader, ToyModel

from coalign.analysis.datasets import cache
from coalign.analysis.datasets.cache import Towers
from coalign.analysis.datasets.columns import Columns
from coalign.analysis.datasets.page import report_folder, write_study
from coalign.analysis.datasets.parts import Options
from coalign.analysis.datasets.study import study
from coalign.arguments import Pairs
from coalign.cli.commands import convert_data, unindex
from coalign.cli.commands import filter as filter_pairs
from coalign.data.core.parts import Part
from coalign.data.loaded import Loaded
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.evaluation import captions
from coalign.evaluation.captions import Judged, rows_files
from coalign.evaluation.card import staged
from coalign.extraction import regions
from coalign.extraction.regions import Extract
from coalign.retrieval.index import Index
from coalign.retrieval.index_copy import Copy, file_of
from coalign.retrieval.parts import Parts
from coalign.retrieval.search import index_pairs
from coalign.training.distributed import process_group
from coalign.training.loop import TrainConfig, fit
from coalign.training.run import Run
from coalign.training.shard_files import is_able

torch.set_num_threads(1)
Image.init()
plotly.io.templates["plotly_white"] = plotly.io.templates["none"]  # a third of an analysis copies it, figure by figure
STEPS = 2


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def tensors(folder: Path, names: list[str]) -> dict[str, Any]:
    found = {name: load_file(folder / name) for name in names if name.endswith(".safetensors")}
    return {name: {key: x.flatten().tolist() for key, x in own.items()} for name, own in found.items()}


class Training:
    """Steps with a checkpoint each."""

    name, processes, outlives_power, cost = "training", 1, True, 1
    background, shared = False, False

    def prepare(self, base: Path) -> None: ...

    def start(self, work: Callable[[int], None]) -> None:
        work(0)

    def do(self, base: Path, process: int) -> None:
        torch.manual_seed(100)
        config = TrainConfig(
            steps=STEPS,
            lr=0.01,
            log_every=1,
            save_every=1,
            average=None if self.shared else 0.9,
            threads=1,
            background_saves=self.background,
            fsdp=self.shared,
        )
        fit(ToyModel(), ToyLoader(), config, Run(base / "run", {"system": "toy"}))

    def state(self, base: Path) -> dict[str, Any]:
        """Its files, its weights, its log without clocks."""
        folder = base / "run"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        log = [{key: x for key, x in line.items() if key not in ("seconds", "items_per_second")} for line in lines]
        names = files(folder)
        return {"files": names, "log": log, "weights": tensors(folder, names)}


class TrainingBeside(Training):
    """The same, whose checkpoints are written while it goes on."""

    name, background = "training-beside", True


class TwoProcesses(Training):
    """The same by two processes. When one of them dies the other is killed, as torchrun does."""

    name, processes, cost = "two-processes", 2, 2

    def start(self, work: Callable[[int], None]) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        children: list[int] = []
        for number in range(2):
            child = os.fork()
            if child == 0:
                status = 255
                try:
                    here = {"RANK": number, "WORLD_SIZE": 2, "LOCAL_RANK": number, "MASTER_PORT": port}
                    os.environ.update({name: str(value) for name, value in here.items()}, MASTER_ADDR="127.0.0.1")
                    with process_group("cpu"):
                        work(number)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            children.append(child)
        first, status = os.wait()
        (other,) = {*children} - {first}
        if status:
            os.kill(other, signal.SIGKILL)
        rest = os.waitpid(other, 0)[1]
        codes = [os.waitstatus_to_exitcode(one) for one in (status, rest)]
        if -signal.SIGKILL in codes:
            os.kill(os.getpid(), signal.SIGKILL)
        assert codes == [0, 0], codes


class Shards(TwoProcesses):
    """The same by two processes that share the model, whose shards are written while they go on."""

    name, background, shared, cost = "shards", True, True, 6


class Indexing:
    """Pictures and texts into an index."""

    name, processes, outlives_power, cost = "index", 1, False, 1

    def prepare(self, base: Path) -> None:
        write_table(base)
        (base / "of").mkdir()
        (base / "of" / "model.safetensors").write_bytes(b"weights")

    def start(self, work: Callable[[int], None]) -> None:
        work(0)

    def do(self, base: Path, process: int) -> None:
        loaded, source = Loaded(ColourModel().eval(), TOKENIZER), open_source(base / "pairs.csv")
        index_pairs(base / "of", loaded, source, base / "run", batch_size=2)

    def state(self, base: Path) -> dict[str, Any]:
        """Its rows, and data that none of its versions has."""
        index, folder = Index.open(base / "run"), base / "run"
        copy, shown = file_of(folder), ["row", "modality", "text", "image", "meta", "thumbnail"]
        assert Copy.read(folder) is not None, "the index's copy is missing, or of another version"
        copied = index.columns(shown).sort_by("row").to_pylist()
        read = Index(folder)  # without the copy
        rows = read.columns(shown).sort_by("row").to_pylist()
        assert copied == rows, "the copy differs from the table"
        rows = [{**row, "thumbnail": hashlib.blake2b(row["thumbnail"] or b"").hexdigest()} for row in rows]
        vectors = {name: [one.vectors(name, 9).tolist() for one in (index, read)] for name in ("image", "text")}
        data = folder / "items.lance" / "data"
        before = {path.name for path in data.iterdir()}
        index.compact()
        stray = before - {path.name for path in data.iterdir()}
        named = {copy.name: "the copy of this version"}  # how many versions there were is told by no promise
        beside = sorted(named.get(name, name) for name in files(folder) if not name.startswith("items.lance/"))
        return {"files": beside, "rows": rows, "vectors": vectors, "stray": sorted(stray)}


class Unindexing(Indexing):
    """Its texts, removed again."""

    name, cost = "unindex", 2

    def do(self, base: Path, process: int) -> None:
        super().do(base, process)
        unindex.command(base / "of", "modality = 'text'", base / "run")


class IndexingParts(Indexing):
    """The same by two parts that are joined."""

    name, cost = "parts", 2

    def do(self, base: Path, process: int) -> None:
        loaded, source = Loaded(ColourModel().eval(), TOKENIZER), open_source(base / "pairs.csv")
        parts = Parts.beside(base / "run" / "index", base / "of", source)
        for number in range(2):
            parts.embed(loaded, source, Part(number, 2))
        parts.join_index(base / "run" / "index", 3, Part(0, 2))
        parts.join_table(base / "run" / "vectors.parquet", Part(0, 2))

    def state(self, base: Path) -> dict[str, Any]:
        folder = base / "run"
        names = [name for name in files(folder) if "items.lance/" not in name]
        tables = {name: pq.read_table(folder / name).to_pylist() for name in names if name.endswith(".parquet")}
        (folder / "run").symlink_to(folder / "index")
        found = super().state(folder)
        (folder / "run").unlink()
        return {**found, "files": names, "tables": repr(tables)}


class Extraction:
    """Regions of pictures, of which one is broken."""

    name, processes, outlives_power, cost = "extraction", 1, True, 1

    def prepare(self, base: Path) -> None:
        (base / "in").mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(base / "in" / f"{number}.png")
        (base / "in" / "2.png").write_bytes(b"no picture")

    def start(self, work: Callable[[int], None]) -> None:
        work(0)

    def do(self, base: Path, process: int) -> None:
        regions.BROKEN = 0.5
        extract = Extract(data=str(base / "in"), out=base / "run", shard=2)
        object.__setattr__(extract, "_network", lambda: self._network)
        extract.run()

    @staticmethod
    def _network(shown: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [{"features": x.mean((1, 2))[None], "boxes": torch.tensor([[0, 0, 1.0, 1.0]])} for x in shown]

    def state(self, base: Path) -> dict[str, Any]:
        folder = base / "run"
        names = files(folder)
        listed: list[str] = []
        for line in (folder / "quarantine.jsonl").read_text().splitlines():
            try:
                listed.append(json.loads(line))
            except ValueError:
                continue  # the stump of a line, which readers pass over
        settings = (folder / "regions.json").read_text()
        return {"files": names, "listed": listed, "settings": settings, "shards": tensors(folder, names)}


class Tower:
    """A picture's mean colour, or a text's length."""

    def __init__(self, modality: Any) -> None:
        self.name = self.key = self.modality = modality

    def encode(self, items: Any) -> dict[str, Any]:
        if self.modality == "text":
            return {self.name: np.array([[len(text), text.count("a")] for text in items], np.float32)}
        return {self.name: np.array([np.asarray(image, np.float32).mean((0, 1)) for image in items], np.float32)}


class Analysis:
    """Texts and pictures into a report, with what the encoders gave kept beside it."""

    name, processes, outlives_power, cost = "analysis", 1, True, 4

    def prepare(self, base: Path) -> None: ...

    def start(self, work: Callable[[int], None]) -> None:
        work(0)

    def do(self, base: Path, process: int) -> None:
        cache.CHUNK = 3
        texts = ["a cat", "a dog on a mat", "two cats", "a tree", "the sea", "a boat at sea"]
        pictures = [Image.new("RGB", (8, 8), (40 * number, 99, 9 * number)) for number in range(6)]
        columns = Columns("small", 6, texts, pictures)
        towers = Towers([Tower("image")], [Tower("text")])
        with report_folder(base / "run") as kept:
            write_study(study(columns, towers, Options(points=15, words=20), cache=kept), base / "run")

    def state(self, base: Path) -> dict[str, Any]:
        folder = base / "run"
        names = files(folder)
        tables = {name: pq.read_table(folder / name).to_pylist() for name in names if name.endswith(".parquet")}
        pages = {name: (folder / name).read_text() for name in ("report.html", "report.json")}
        return {"files": names, "tables": repr(tables), **pages, "kept": tensors(folder, names)}


class Outputs:
    """What commands write beside runs: lists of captions and of filtered pairs, a converted data set, a folder that is
    to be pushed."""

    name, processes, outlives_power, cost = "outputs", 1, True, 1

    def prepare(self, base: Path) -> None:
        save(base / "mosi.pkl", mult_pickle())
        write_table(base)
        (base / "trained").mkdir()
        (base / "trained" / "model.safetensors").write_bytes(b"weights")
        config = {"system": "clip", "head": None, "training": {"steps": 3}, "seed": 0, "versions": {}}
        (base / "trained" / "config.json").write_text(json.dumps(config))
        Image.new("RGB", (8, 8)).save(base / "a.png")

    def start(self, work: Callable[[int], None]) -> None:
        work(0)

    def do(self, base: Path, process: int) -> None:
        (base / "run").mkdir(exist_ok=True)
        made = contextlib.suppress(InputError)  # which says that it was made before
        for name in ("kept.jsonl", "kept.csv"):
            with made, rows_files([base / "run" / name], ("image", "text")) as (write,):
                for number in range(3):
                    write({"image": f"{number}.png", "text": f"a text {number}"})
        with made, self._judged():
            out, dropped = (base / "run" / f"{name}.jsonl" for name in ("clean", "dropped"))
            filter_pairs.command(base, Pairs(data=str(base / "pairs.csv")), out, captions=False, dropped=dropped)
        with made:
            convert_data.command(str(base / "mosi.pkl"), base / "run" / "series")
        with made, staged(base / "trained", "a/b", "mit", pictures=[base / "a.png"], folder=base / "run" / "push"):
            pass

    @contextlib.contextmanager
    def _judged(self) -> Generator[None]:
        """A model that finds that every second text matches."""
        found = [Judged(f"{number}.png", f"a text {number}", "data", number % 2) for number in range(4)]
        with (
            patch.object(filter_pairs, "load_run", lambda _: None),
            patch.object(captions, "judge", lambda *_: [found]),
        ):
            yield

    def state(self, base: Path) -> dict[str, Any]:
        folder = base / "run"
        names = files(folder)
        bytes_ = {name: (folder / name).read_bytes().hex() for name in names if (folder / name).is_file()}
        return {"files": names, "bytes": bytes_}


WORKS = [
    Training(),
    TrainingBeside(),
    TwoProcesses(),
    *([Shards()] if is_able() else []),
    Indexing(),
    Unindexing(),
    IndexingParts(),
    Extraction(),
    Analysis(),
    Outputs(),
]
