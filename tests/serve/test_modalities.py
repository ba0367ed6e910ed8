"""Regions, videos and streams: what is served of runs that do not read whole pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from coloured_videos import ColourClips, coloured_video
from PIL import Image
from safetensors.torch import save_model
from starlette.testclient import TestClient

import coalign
from coalign.data.pairs.sources import open_source
from coalign.data.regions.files import open_regions, write_shard
from coalign.data.words.tokenizer import Tokenizer
from coalign.models.mult.config import Stream
from coalign.registry import describe, find
from coalign.retrieval.moments import index_videos
from coalign.serve.app import app
from coalign.worlds.speakers import open_series

BASE = "http://127.0.0.1:8765"


def write_run(folder, model, **said):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**describe(model), "training": {"steps": 1}, **said}))
    save_model(model, str(folder / "model.safetensors"))
    return folder


def test_words_onto_regions(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red square", "a blue circle"], 100, min_frequency=1)
    sizes = find("uniter").sizes["tiny"]
    sizes = replace(sizes, text=replace(sizes.text, vocab_size=tokenizer.vocab_size))
    model = coalign.create("uniter", size=sizes).model
    run = write_run(tmp_path / "run", model)
    tokenizer.save(run)
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    for name in names:
        Image.new("RGB", (20, 10), "red").save(name)
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.2, 0.2, 0.6, 0.8]])
    regions = [{"features": torch.randn(3, 320), "boxes": boxes} for _ in names[:2]]
    write_shard(tmp_path / "regions.safetensors", names[:2], regions)
    table = tmp_path / "pairs.csv"
    table.write_text("image,caption\na.png,a red square\nb.png,a blue circle\nc.png,a blue square\n")
    served = app([run], open_source(table), regions=open_regions(tmp_path / "regions.safetensors"))
    with TestClient(served, base_url=BASE) as client:
        rows = client.get("/api/rows").json()
        assert rows["total"] == 2 and not rows["searchable"]  # the third picture has no regions
        said = client.post("/api/align", json={"row": 1, "text": "a red square"}).json()
        assert said["kind"] == "boxes" and np.allclose(said["boxes"], boxes) and said["places"] == 3
        assert len(client.get(said["bytes"]).content) == 3 * (1 + said["layers"] * said["heads"]) * (8 + 3)
        assert client.get("/api/image/1").status_code == 200
        refused = client.get("/api/search", params={"text": "red"})
        assert refused.status_code == 400 and "cannot be searched with" in refused.json()["error"]
    with TestClient(app([run], open_source(table)), base_url=BASE) as client:
        refused = client.post("/api/align", json={"row": 1, "text": "a red square"})
        assert refused.status_code == 400 and "--regions" in refused.json()["error"]


@pytest.fixture
def videos(tmp_path):
    """The address book of an index of two videos, with a model that knows colours."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"system": "mil_nce", "training": {}}')
    (tmp_path / "run" / "model.safetensors").write_bytes(b"0")
    for name, stretches in (("one", (("red", 4.0), ("green", 4.0))), ("two", (("blue", 4.0), ("black", 4.0)))):
        coloured_video(tmp_path / "videos" / f"{name}.mp4", *stretches)
    loaded = ColourClips.loaded()
    index_videos(tmp_path / "run", loaded, tmp_path / "videos", tmp_path / "run" / "index")
    served = app([tmp_path / "run"])
    served.state.service.sessions["run"].__dict__["loaded"] = loaded
    with TestClient(served, base_url=BASE) as client:
        yield client


def test_moments_of_videos(videos):
    found = videos.get("/api/search", params={"text": "green", "k": 3}).json()["answers"]
    assert found[0]["file"] == "one.mp4" and found[0]["start"] >= 3 and found[0]["end"] <= 8.5
    for a in found:
        for b in found:
            assert a is b or a["file"] != b["file"] or a["end"] <= b["start"] or b["end"] <= a["start"]
    part = videos.get(found[0]["video"], headers={"range": "bytes=0-99"})
    assert part.status_code == 206 and len(part.content) == 100 and part.headers["content-type"] == "video/mp4"
    film = videos.get(found[0]["image"], params={"film": 4, "side": 256})
    assert film.headers["content-type"] == "image/webp"
    assert videos.get("/api/search", params={"text": "green", "rerank": 1}).status_code == 400
    whole, offset = [], 0
    while offset is not None:
        said = videos.get("/api/search", params={"text": "green", "k": 2, "offset": offset}).json()
        whole += [answer["row"] for answer in said["answers"]]
        offset = said["next"]
    assert len(whole) == len(set(whole)) >= 3


def test_streams_of_an_utterance(tmp_path):
    source = "world:joint,lag=1,items=40"
    data = open_series(source)
    torch.manual_seed(0)
    streams = tuple(Stream(name, width) for name, width in data.widths.items())
    model = coalign.create("mult", size="tiny", streams=streams).model
    about = {"task": data.task, "label_names": list(data.label_names)}
    run = write_run(tmp_path / "run", model, series=about)
    with TestClient(app([run], series=source), base_url=BASE) as client:
        assert client.get("/api/health").json()["runs"][0]["reads"] == "streams"
        said = client.get("/api/streams", params={"item": 1}).json()
        values = np.frombuffer(client.get(said["bytes"]).content, np.uint8)
        start = 0
        for own in said["directions"]:
            shape = (own["layers"], own["heads"], *(said["streams"][own[end]] for end in ("target", "source")))
            part = values[start : start + int(np.prod(shape))].reshape(shape)
            start += part.size
            assert part.max() == 255 and own["most"] <= 1.001
            sums = part.astype(float).sum(-1) * own["most"] / 255
            assert np.abs(sums - 1).max() < 0.1  # rows of attention, within what a byte can say
        assert start == len(values) and len(said["directions"]) == 6
        assert client.get("/api/streams", params={"item": 9999}).status_code == 400
    with TestClient(app([run]), base_url=BASE) as client:
        refused = client.get("/api/streams")
        assert refused.status_code == 400 and "--data" in refused.json()["error"]
