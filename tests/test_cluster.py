"""From a laptop to a cluster: every line of that page for one machine, as a newcomer types them, in a fresh folder.
A process of torchrun's is killed meanwhile, and torchrun starts all again."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from coalign.retrieval.index import Index

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "cluster.md"
ELSEWHERE = ("HOST", "export", "SBATCH", "srun", "/shared/")
"""Of lines for other machines."""
SHORT = " --size tiny --image-size 32 --patch-size 16 --steps 8 --save-every 1 --log-every 1 --batch-size 8 --threads 1"
PICTURES = 16
KILLED_ONCE = """
import os, pathlib, signal, threading, time

def wait():
    while not pathlib.Path("runs/clip/checkpoints/step-1").exists():
        time.sleep(0.002)
    pathlib.Path("killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("RANK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    threading.Thread(target=wait, daemon=True).start()
"""
"""In a process of torchrun: it dies after its first checkpoint, and not when it is started again."""


def lines() -> list[str]:
    """The page's lines for one machine, without their notes."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    page = "\n".join(text for language, text in blocks if not language).replace("\\\n", " ")
    own = (line.partition("  #")[0].strip() for line in page.splitlines())
    return [line for line in own if line and not any(word in line for word in ELSEWHERE) and not line.startswith("#")]


def test_every_line_for_one_machine_runs(tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "text"])
        for number in range(PICTURES):
            Image.new("RGB", (32, 32), (number * 15, 255 - number * 7, number)).save(tmp_path / f"{number}.png")
            rows.writerow([f"{number}.png", f"a boat at sea {number}"])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLED_ONCE)
    here = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    ran: list[str] = []
    for line in lines():
        run, trains = tmp_path / "runs" / "clip", "coalign train" in line
        if trains and run.exists():  # the page's lines are one or the other
            run.rename(tmp_path / f"run-{len(ran)}")
        environment = {"PATH": here, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        typed = line + SHORT if trains else line
        if line.startswith("torchrun"):
            typed = typed.replace("torchrun", "torchrun --max-restarts 1", 1)
            own = os.pathsep.join((str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")))
            environment["PYTHONPATH"] = own
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        if trains:
            records = [json.loads(record) for record in (run / "metrics.jsonl").read_text().splitlines()]
            assert [record["step"] for record in records if "loss" in record] == list(range(1, 9)), line
            state = json.loads((run / "checkpoints" / "step-8" / "state.json").read_text())
            assert len(state["loaders"]) == (2 if "nproc" in line else 1), line
            assert (tmp_path / "killed").exists() == line.startswith("torchrun"), line
        elif "--json" in line:
            assert json.loads(done.stdout), line
        ran.append(line)
    assert len(ran) == 9 and sum("coalign train" in line for line in ran) == 3, ran
    assert pq.read_table(tmp_path / "vectors.parquet").num_rows == 2 * PICTURES
    for index, count in (("parts", 2), ("three", 3)):
        assert len(list((tmp_path / f"{index}.parts").glob("*.parquet"))) == count
        assert Index.open(tmp_path / index).count() == 2 * PICTURES
