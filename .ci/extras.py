"""Each extra alone: the wheel with it in an empty environment, its commands there; without it, they name it.

    uv build --wheel && python .ci/extras.py dist/coalign-*.whl [--python 3.12] [EXTRA ...]

Needs uv. The first environment has no extra: in it every command must end with the line that names the one it lacks.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
    "OMP_WAIT_POLICY": "passive",
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
    "TRACKIO_DIR": "tracked",
    "HF_HUB_OFFLINE": "1",
}

TRAIN = "train clip-pretrain --data pairs.csv --steps 2 --batch-size 8"
DATA = """
import csv, pathlib
from PIL import Image
pathlib.Path("pictures").mkdir()
pictures = [(f"{colour} square {number}", colour) for number in range(12) for colour in ("red", "green", "blue")]
with open("pairs.csv", "w") as pairs, open("classes.csv", "w") as classes, open("texts.csv", "w") as texts:
    rows, labels, lines = csv.writer(pairs), csv.writer(classes), csv.writer(texts)
    rows.writerow(["image", "text"]), labels.writerow(["image", "label", "split"]), lines.writerow(["text", "label"])
    for number, (text, colour) in enumerate(pictures):
        Image.new("RGB", (64, 64), colour).save(f"pictures/{number}.png")
        rows.writerow([f"pictures/{number}.png", text]), lines.writerow([f"here is a {text}", colour])
        labels.writerow([f"pictures/{number}.png", colour, "test" if number // 3 % 3 == 0 else "train"])
"""
VIDEO = """
import av, numpy
with av.open("videos/a.mp4", "w") as out:
    stream = out.add_stream("mpeg4", rate=10)
    stream.width = stream.height = 64
    for level in range(30):
        frame = av.VideoFrame.from_ndarray(numpy.full((64, 64, 3), 8 * level, "uint8"))
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
"""
PARQUET = """
import csv, pyarrow, pyarrow.parquet
with open("pairs.csv") as file:
    rows = list(csv.DictReader(file))
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "pairs.parquet")
"""
SERVED = """
import subprocess, sys, time, urllib.request
given = [sys.executable, "-m", "coalign", "serve", "runs/clip", "--data", "pairs.csv", "--port", "8799", "--no-browser"]
server = subprocess.Popen(given, stderr=subprocess.PIPE, text=True)
try:
    for _ in range(1200):
        if server.poll() is not None:
            sys.exit(server.stderr.read())
        try:
            assert b"coalign" in urllib.request.urlopen("http://127.0.0.1:8799/").read()
            break
        except OSError:
            time.sleep(0.5)
    else:
        sys.exit("no answer")
finally:
    server.terminate()
"""
VIEWER = """
import coalign
print(type(coalign.show(coalign.load("runs/clip"), ["pictures/0.png"], ["a red square"])))
"""
CLOUD = """
import http.server, subprocess, sys, threading
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
table = f"http://127.0.0.1:{server.server_port}/pairs.csv"
given = "train clip-pretrain --images . --steps 2 --batch-size 8 --out runs/of-cloud --data".split()
sys.exit(subprocess.run([sys.executable, "-m", "coalign", *given, table]).returncode)
"""
SOUND = """
import csv, numpy, soundfile
soundfile.write("a.flac", numpy.sin(numpy.arange(16000) / 8), 16000)
with open("utterances.csv", "w") as file:
    csv.writer(file).writerows([["text", "audio", "label"], ["a long tone", "a.flac", "1"]])
"""
WIKI = """
import runpy, sys
sys.argv = ["wiki", "leads"]
runpy.run_module("coalign.data.texts.wiki", run_name="__main__")
"""
COURSE = """
import jupytext, matplotlib
"""

# a command a line; `python: NAME` is one of the scripts above
COMMANDS: dict[str, list[str]] = {
    "tables": ["python: PARQUET", TRAIN.replace("pairs.csv", "pairs.parquet") + " --out OUT"],
    "metrics": ["evaluate runs/clip --task linear-probe --data classes.csv"],
    "figures": [
        "train mult-mosi --data world:joint --steps 2 --out OUT",
        "evaluate OUT --task stream-attention --data world:joint --out OUT/a.png",
    ],
    "retrieval": ["index runs/clip --data pairs.csv --out OUT", "search runs/clip 'a red square' -k 2 --index OUT"],
    "cloud": ["python: CLOUD"],
    "hub": ["push runs/clip someone/clip --licence cc0-1.0 --dry-run"],
    "video": ["python: VIDEO", "extract frames --videos videos --out OUT"],
    "serve": ["python: SERVED"],
    "notebook": ["python: VIEWER"],
    "tensorboard": [TRAIN + " --track tensorboard --out OUT"],
    "wandb": [TRAIN + " --track wandb --out OUT"],
    "mlflow": [TRAIN + " --track mlflow --out OUT"],
    "trackio": [TRAIN + " --track trackio --out OUT"],
    "onnx": ["export runs/clip OUT.onnx"],
    "analysis": ["analyze pairs.csv --out OUT"],
    "quickstart": ["quickstart --steps 2 --concepts 80 --out OUT"],
    "efficientnet": ["train albef-small --data pairs.csv --steps 1 --out OUT"],
    "minilm": ["train albef-small --data pairs.csv --steps 1 --out OUT"],
    "audio": ["python: SOUND", "convert-data utterances.csv OUT"],
    "wiki": ["python: WIKI"],
    "course": ["python: COURSE"],
}
"""The commands of an extra. One that needs another extra besides has to name it."""

BESIDE = {"figures": ("metrics",)}
"""Extras that a command needs before it comes to the one that is tried."""

ALONE_ENOUGH = ("hub", "course")
"""Extras whose command here needs the library only on the way to the network, or is none of ours."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="by default all")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_intermixed_args()
    all_extras = list(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    folder = Path(tempfile.mkdtemp())
    failed = []
    try:
        base = _environment(folder, given.wheel, None, given.python)
        work = folder / "work"
        work.mkdir()
        (work / "videos").mkdir()
        _script(base, work, DATA)
        _coalign(base, work, TRAIN + " --out runs/clip", check=True)
        for extra in given.extras or all_extras:
            began = time.monotonic()
            lines = [line.replace("OUT", f"OUT-{extra}") for line in COMMANDS.get(extra, [])]
            own = _environment(folder, given.wheel, ",".join((extra, *BESIDE.get(extra, ()))), given.python)
            results = [_run(own, work, line) for line in lines]
            told = [_run(base, work, line) for line in lines if extra not in ALONE_ENOUGH]
            names = not told or any(done.returncode and lacks(done) for done in told)
            right = names and all(lacks(done) for done in results)
            if not right:
                failed.append(extra)
                for done in [*told, *results]:
                    print(done.args[-3:], done.returncode, done.stderr[-1500:], file=sys.stderr)
            how = f"{len(lines)} commands" if lines else "no command of its own"
            print(f"{extra}: {'ok' if right else 'FAILED'} ({how}, {time.monotonic() - began:.0f} s)", flush=True)
            shutil.rmtree(own)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def lacks(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command worked, or named in one line the extra that it lacks."""
    lines = done.stderr.strip().splitlines()
    script = "-c" in done.args  # whose error comes with its traceback
    return done.returncode == 0 or ("pip install 'coalign[" in lines[-1] and (script or len(lines) <= 2))


def _environment(folder: Path, wheel: Path, extra: str | None, python: str) -> Path:
    place = folder / f"env-{extra}"
    if extra is None:
        subprocess.run(["uv", "venv", "--quiet", "--python", python, place], check=True, env=ENVIRONMENT)
    else:  # with links to what the one without extras has compiled
        subprocess.run(["cp", "-al", folder / "env-None", place], check=True)
    wanted = f"coalign{f'[{extra}]' if extra else ''} @ {wheel.resolve().as_uri()}"
    # from the checkout, so that the versions that the tests ran with are taken
    given = ["uv", "pip", "install", "--quiet", "--python", place, wanted]
    subprocess.run(given, check=True, cwd=ROOT, env=ENVIRONMENT)
    return place


def _run(place: Path, work: Path, line: str) -> subprocess.CompletedProcess[str]:
    kind, _, name = line.partition(": ")
    if kind == "python":
        return _script(place, work, globals()[name])
    return _coalign(place, work, line)


def _script(place: Path, work: Path, text: str) -> subprocess.CompletedProcess[str]:
    return _python(place, work, ["-c", text])


def _coalign(place: Path, work: Path, line: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    done = _python(place, work, ["-m", "coalign", *shlex.split(line.replace("OUT", f"runs/of-{place.name}"))])
    if check and done.returncode:
        sys.exit(done.stderr)
    return done


def _python(place: Path, work: Path, given: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([place / "bin/python", *given], cwd=work, env=ENVIRONMENT, capture_output=True, text=True)


if __name__ == "__main__":
    main()
