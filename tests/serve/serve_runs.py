"""Runs that read regions, videos and streams, made without training."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from coloured_videos import ColourClips, coloured_video
from PIL import Image
from safetensors.torch import save_model

import coalign
from coalign.data.loaded import Loaded
from coalign.data.regions.files import write_shard
from coalign.data.words.tokenizer import Tokenizer
from coalign.models.mult.config import Stream
from coalign.registry import describe, find
from coalign.retrieval.moments import index_videos
from coalign.worlds.speakers import open_series

BOXES = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.2, 0.2, 0.6, 0.8]])
SPEAKERS = "world:joint,lag=1,items=40"


def write_run(folder: Path, model, **said) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**describe(model), "training": {"steps": 1}, **said}))
    save_model(model, str(folder / "model.safetensors"))
    return folder


def region_run(folder: Path) -> tuple[Path, Path, Path]:
    """A tiny UNITER, a table of three pictures, and the regions of the first two."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red square", "a blue circle"], 100, min_frequency=1)
    sizes = find("uniter").sizes["tiny"]
    sizes = replace(sizes, text=replace(sizes.text, vocab_size=tokenizer.vocab_size))
    run = write_run(folder / "regions", coalign.create("uniter", size=sizes).model)
    tokenizer.save(run)
    names = [str(folder / name) for name in ("a.png", "b.png", "c.png")]
    for name in names:
        Image.new("RGB", (20, 10), "red").save(name)
    regions = [{"features": torch.randn(3, 320), "boxes": BOXES} for _ in names[:2]]
    write_shard(folder / "regions.safetensors", names[:2], regions)
    table = folder / "pairs.csv"
    table.write_text("image,caption\na.png,a red square\nb.png,a blue circle\nc.png,a blue square\n")
    return run, table, folder / "regions.safetensors"


def video_run(folder: Path) -> tuple[Path, Loaded]:
    """A run with an index of two videos of colours, and the model that knows colours by their names."""
    run = folder / "films"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"system": "mil_nce", "training": {}}')
    (run / "model.safetensors").write_bytes(b"0")
    for name, stretches in (("one", (("red", 4.0), ("green", 4.0))), ("two", (("blue", 4.0), ("black", 4.0)))):
        coloured_video(folder / "videos" / f"{name}.mp4", *stretches)
    loaded = ColourClips.loaded()
    index_videos(run, loaded, folder / "videos", run / "index")
    return run, loaded


def stream_run(folder: Path) -> Path:
    """A tiny MulT for the utterances of `SPEAKERS`."""
    data = open_series(SPEAKERS)
    torch.manual_seed(0)
    streams = tuple(Stream(name, width) for name, width in data.widths.items())
    model = coalign.create("mult", size="tiny", streams=streams).model
    return write_run(folder / "streams", model, series={"task": data.task, "label_names": list(data.label_names)})
