"""Regions, videos and streams: what is served of runs that do not read whole pictures."""

import numpy as np
import pytest
import torch
from serve_runs import BOXES, SPEAKERS, region_run, stream_run, video_run
from starlette.testclient import TestClient

from coalign.analysis.runs.scores import match_scores
from coalign.arguments import load_run
from coalign.data.pairs.sources import open_source
from coalign.data.prepare import prepare
from coalign.data.regions.files import open_regions
from coalign.serve.app import app

BASE = "http://127.0.0.1:8765"


def test_words_onto_regions(tmp_path):
    run, table, file = region_run(tmp_path)
    served = app([run], open_source(table), regions=open_regions(file))
    with TestClient(served, base_url=BASE) as client:
        rows = client.get("/api/rows").json()
        assert rows["total"] == 2 and not rows["searchable"]  # the third picture has no regions
        said = client.post("/api/align", json={"row": 1, "text": "a red square"}).json()
        assert said["kind"] == "boxes" and np.allclose(said["boxes"], BOXES) and said["places"] == 3
        assert len(client.get(said["bytes"]).content) == 3 * (1 + said["layers"] * said["heads"]) * (8 + 3)
        assert client.get("/api/image/1").status_code == 200
        found = client.get("/api/search", params={"text": "a red square"}).json()
        loaded, regions = load_run(run), open_regions(file)
        names = [str(tmp_path / name) for name in ("a.png", "b.png")]
        batch = prepare(loaded, regions=[regions[name] for name in names], texts=["a red square"] * 2)
        with torch.no_grad():
            odds = match_scores(loaded.model, loaded.encode(batch))
        assert [a["row"] for a in found["answers"]] == odds.argsort(descending=True).tolist()
        assert [a["score"] for a in found["answers"]] == pytest.approx(odds.sort(descending=True).values.tolist())
        assert found["total"] == 2 and {a["p_match"] for a in found["answers"]} == {None}
        shown = client.get("/api/map").json()
        assert shown["choices"] == ["image"] and len(client.get(shown["bytes"]).content) == 2 * 12
        assert client.get("/api/findings").json() == {"state": "none", "findings": []}
        for asked in ({"like": 1}, {"text": "red", "minus": "blue"}, {"text": "red", "rerank": 1}):
            refused = client.get("/api/search", params=asked)
            assert refused.status_code == 400 and "without one" in refused.json()["error"]
    with TestClient(app([run], open_source(table)), base_url=BASE) as client:
        refused = client.post("/api/align", json={"row": 1, "text": "a red square"})
        assert refused.status_code == 400 and "--regions" in refused.json()["error"]


@pytest.fixture
def videos(tmp_path):
    """The address book of an index of two videos, with a model that knows colours."""
    run, loaded = video_run(tmp_path)
    served = app([run])
    served.state.service.sessions["films"].__dict__["loaded"] = loaded
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
    assert videos.get("/api/rows").json()["columns"] == {"video": ["one.mp4", "two.mp4"]}
    assert videos.get("/api/map").json()["choices"] == ["image"]
    said = videos.post("/api/align", json={"row": found[0]["row"], "text": "green red"}).json()
    assert said["words"] == ["green", "red"] and said["kind"] == "moments"
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
    run = stream_run(tmp_path)
    with TestClient(app([run], series=SPEAKERS), base_url=BASE) as client:
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
