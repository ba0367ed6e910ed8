"""The addresses: what they answer, what they refuse, and that a model's work waits in a bounded queue."""

import base64
import io
import json
import signal
import threading
import time
import webbrowser
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

import coalign
from coalign.analysis.runs.alignment import read_alignment
from coalign.analysis.runs.maps import explain
from coalign.arguments import load_run
from coalign.cli.commands.serve import command
from coalign.retrieval.index import Index
from coalign.retrieval.search import search
from coalign.serve import chances, sessions
from coalign.serve.app import app
from coalign.serve.security import COOKIE

BASE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def client(run, other):
    with TestClient(app([run, other]), base_url=BASE, raise_server_exceptions=False) as client:
        yield client


def picture(run, row: int) -> bytes:
    return Path(Index.open(run / "index").columns(["image"])["image"][row].as_py()).read_bytes()


def test_health_and_description(client):
    said = client.get("/api/health").json()
    assert said["status"] == "ok" and [r["name"] for r in said["runs"]] == ["tiny", "other"]
    paths = client.get("/api/openapi.json").json()["paths"]
    assert set(paths["/api/search"]) == {"get", "post"} and "/api/align" in paths
    page = client.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html") and "/api/search" in page.text


def test_search_by_text_is_the_command_lines(client, run):
    found = client.get("/api/search", params={"text": "a red circle", "k": 5}).json()
    hits = search(load_run(run), Index.open(run / "index"), "a red circle", 5)
    assert [a["row"] for a in found["answers"]] == [hit.row for hit in hits]
    assert [a["score"] for a in found["answers"]] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert [a["text"] for a in found["answers"]] == [hit.entry.text for hit in hits]
    assert all(a["image"] == f"/api/image/{a['row']}" and 0 < a["p_match"] < 1 for a in found["answers"])
    assert found["total"] == 9 and found["next"] == 5


def test_reranked_search_is_the_command_lines(client, run):
    from coalign.retrieval.rerank import Reranking

    found = client.get("/api/search", params={"text": "a blue square", "k": 9, "rerank": 1}).json()["answers"]
    hits = search(load_run(run), Index.open(run / "index"), "a blue square", 9, reranking=Reranking.of_run(run))
    assert [a["row"] for a in found] == [hit.row for hit in hits]
    assert [a["score"] for a in found] == pytest.approx([hit.score for hit in hits], abs=1e-4)


def test_reranked_scores_are_calibrated_while_nothing_waits(run, monkeypatch):
    """A first re-ranked search re-ranks its own list and no other; P(match) comes when the rest is done."""
    served, lists, plain = app([run]), list[int](), sessions.rerank
    loaded = served.state.service.sessions["tiny"].loaded

    def counted(number):
        return lambda own, *given: (lists.append(number) if own is loaded else None) or plain(own, *given)

    monkeypatch.setattr(sessions, "rerank", counted(0))
    monkeypatch.setattr(chances, "rerank", counted(1))
    asked = {"text": "a blue square", "k": 4, "rerank": 1}
    with TestClient(served, base_url=BASE) as client:
        first = client.get("/api/search", params=asked).json()
        assert first["calibrating"] and lists[0] == 0 and {a["p_match"] for a in first["answers"]} == {None}
        found, until = first, time.monotonic() + 30
        while found["calibrating"] and time.monotonic() < until:
            time.sleep(0.05)
            found = client.get("/api/search", params=asked).json()
        assert sum(lists) == 9 and [a["row"] for a in found["answers"]] == [a["row"] for a in first["answers"]]
        shares = [a["p_match"] for a in found["answers"]]
        assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < 1
        count = len(lists)
        assert client.get("/api/search", params={**asked, "offset": 9}).json()["answers"] == []
        assert len(lists) == count  # a page behind the re-ranked ones re-ranks nothing


@pytest.mark.parametrize("rerank", [0, 1])
def test_pages_join_to_the_whole(client, rerank):
    whole = client.get("/api/search", params={"text": "green", "k": 9, "rerank": rerank}).json()["answers"]
    parts, offset = [], 0
    while offset is not None:
        asked = {"text": "green", "k": 4, "offset": offset, "rerank": rerank}
        said = client.get("/api/search", params=asked).json()
        parts += said["answers"]
        offset = said["next"]
    assert [a["row"] for a in parts] == [a["row"] for a in whole] and len(parts) == 9


def test_search_by_picture_finds_it(client, run):
    for row in (0, 3):
        found = client.post("/api/search", params={"k": 3}, content=picture(run, row)).json()["answers"]
        assert found[0]["row"] == row and found[0]["score"] == pytest.approx(1, abs=1e-4)
    texts = client.post("/api/search", params={"answers": "text"}, content=picture(run, 0)).json()["answers"]
    assert {a["modality"] for a in texts} == {"text"} and len(texts) == 9


def test_terms_are_added_and_taken_away(client, run):
    index = Index.open(run / "index")
    rows = torch.tensor(np.stack(index.columns(["vector"], "image")["vector"].to_numpy()))
    texts = {t: load_vector(run, t) for t in ("red", "circle")}
    query = torch.nn.functional.normalize(texts["red"] - texts["circle"] + rows[2], dim=0)
    said = client.get("/api/search", params={"text": "red", "minus": "circle", "like": 2, "k": 9}).json()
    best = (rows @ query).topk(9)
    assert [a["row"] for a in said["answers"]] == best.indices.tolist()
    assert [a["score"] for a in said["answers"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    none = client.get("/api/search", params={"text": "red", "minus": "red"})
    assert none.status_code == 400 and "take each other away" in none.json()["error"]


def load_vector(run, text):
    loaded = load_run(run)
    return loaded.encode(coalign.prepare(loaded, texts=[text])).vectors["text"][0].detach()


def test_filters_and_the_cut_off(client):
    said = client.get("/api/search", params={"text": "square", "where": ["colour:red", "size:large"], "k": 9}).json()
    assert said["total"] == 2 and {a["columns"]["colour"] for a in said["answers"]} == {"red"}
    whole = client.get("/api/search", params={"text": "square", "k": 9}).json()["answers"]
    chances = sorted(a["p_match"] for a in whole)
    least = (chances[0] + chances[-1]) / 2
    cut = client.get("/api/search", params={"text": "square", "k": 9, "least": least}).json()
    assert chances[0] < chances[-1]
    assert {a["row"] for a in cut["answers"]} == {a["row"] for a in whole if a["p_match"] >= least}
    assert cut["total"] < 9


def test_p_match_never_falls_with_the_score(client):
    found = client.get("/api/search", params={"text": "a grey square", "k": 9}).json()["answers"]
    chances = [a["p_match"] for a in found]
    assert chances == sorted(chances, reverse=True)


def test_alignment_travels_as_bytes(client, run):
    said = client.post("/api/align", json={"run": "tiny", "row": 1, "text": "a red circle"}).json()
    assert said["words"] == ["a", "red", "circle"] and said["grid"] == [4, 4]
    maps = explain(load_run(run), "a red circle", picture(run, 1))
    values = client.get(said["bytes"]).content
    rows = 3 * (1 + said["layers"] * said["heads"])
    scale = np.frombuffer(values[: 8 * rows], "<f4").reshape(rows, 2)
    levels = np.frombuffer(values[8 * rows :], np.uint8).reshape(rows, said["places"])
    found = scale[:, :1] + levels / 255 * (scale[:, 1:] - scale[:, :1])
    step = (scale[:, 1] - scale[:, 0]).max() / 255
    assert np.abs(found[:3] - maps.pooled.numpy()).max() <= step
    uploaded = {"image": base64.b64encode(picture(run, 1)).decode(), "text": "a red circle"}
    assert client.get(client.post("/api/align", json=uploaded).json()["bytes"]).content == values
    raw = client.post(
        "/api/align",
        params={"text": "a red circle"},
        content=picture(run, 1),
        headers={"content-type": "image/png"},
    )
    assert client.get(raw.json()["bytes"]).content == values


def test_a_pair_has_the_p_match_of_its_score(client, run):
    """The same figure as in the list of answers, for a row and for the same picture sent."""
    (answer,) = client.get("/api/search", params={"text": "a red circle", "k": 1}).json()["answers"]
    own = client.post("/api/align", json={"row": answer["row"], "text": "a red circle"}).json()
    sent = {"image": base64.b64encode(picture(run, answer["row"])).decode(), "text": "a red circle"}
    assert own["p_match"] == pytest.approx(answer["p_match"], abs=1e-4)
    assert client.post("/api/align", json=sent).json()["p_match"] == pytest.approx(answer["p_match"], abs=1e-3)


def test_layers_and_heads_are_the_models_own(client, run):
    said = client.post("/api/align", json={"row": 1, "text": "a red circle", "method": "cross_attention"}).json()
    assert (said["layers"], said["heads"]) == (2, 2) and np.shape(said["shares"]) == (2, 2)
    assert np.min(said["shares"]) > 0 and np.max(said["shares"]) <= 1
    loaded = load_run(run)
    maps = explain(loaded, "a red circle", picture(run, 1), method="cross_attention")
    batch = coalign.prepare(loaded, images=[picture(run, 1)], texts=["a red circle"])
    assert maps.heads is not None
    for layer in range(2):
        for head in range(2):
            words = [loaded.vocabulary.words("a red circle")]
            (own,) = read_alignment(loaded.model, batch, words, "cross_attention", layer=layer, head=head)
            assert torch.allclose(maps.heads[layer, head], own.values.flatten(1), atol=1e-6)


def test_deletion_curves(client):
    found = client.post("/api/deletion", json={"row": 1, "text": "a red circle", "words": [1]}).json()
    assert set(found) == {"deletion", "insertion", "random_deletion", "random_insertion"}
    assert found["deletion"][0] == pytest.approx(found["insertion"][-1], abs=1e-4)
    assert found["deletion"][-1] == pytest.approx(found["random_deletion"][-1], abs=1e-4)
    assert client.post("/api/deletion", json={"row": 1, "text": "red", "words": [7]}).status_code == 400


def test_pictures_are_made_anew(client, run):
    found = client.get("/api/image/0")
    assert found.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(found.content)).size == (48, 32)
    text_row = client.get("/api/search", params={"text": "red", "answers": "text"}).json()["answers"][0]["row"]
    assert client.get(f"/api/image/{text_row}").status_code == 200


def test_rows_and_columns(client):
    said = client.get("/api/rows", params={"where": "colour:blue"}).json()
    assert said["total"] == 2 and said["columns"]["size"] == ["large", "small"]
    assert said["counts"] == {"image": 9, "text": 9, "video": 0}


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/search", 400, "give words to search for"),
        ("/api/search?text=red&k=0", 400, "whole number from 1"),
        ("/api/search?text=red&k=1e9", 400, "whole number"),
        ("/api/search?text=red&run=nowhere", 404, "no run 'nowhere'"),
        ("/api/search?text=red&where=colour", 400, "column:value"),
        ("/api/search?text=red&where=nothing:1", 400, "no column 'nothing'"),
        ("/api/search?text=red&least=2", 400, "from 0 to 1"),
        ("/api/search?text=red&answers=video", 400, "holds no videos"),
        ("/api/search?like=99999", 404, "there is no row 99999"),
        ("/api/image/99999", 404, "there is no row"),
        ("/api/image/..%2F..%2Fetc%2Fpasswd", 404, "Not Found"),
        ("/api/image/passwd", 400, "whole number"),
        ("/api/video/0", 404, "no video"),
        ("/api/bytes/0", 404, "no longer kept"),
        ("/nothing", 404, "Not Found"),
        (f"/api/search?text={'a' * 3000}", 413, "at most 2000"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(client, path, status, sentence):
    found = client.get(path)
    assert found.status_code == status and sentence in found.json()["error"]


def test_bodies_that_are_no_pictures_are_refused(client):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    cut = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(cut, "PNG")
    bodies = {
        b"": 400,
        b"no picture": 400,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": 400,
        cut.getvalue()[:80]: 400,
        bomb.getvalue(): 413,
        b"x" * (21 * 2**20): 413,
    }
    for body, status in bodies.items():
        found = client.post("/api/search", content=body)
        assert found.status_code == status and found.json()["error"], body[:20]
    for value in ("[]", "{", "[" * 100_000, json.dumps({"row": 0, "text": 5}), json.dumps({"text": "red"})):
        found = client.post("/api/align", content=value, headers={"content-type": "application/json"})
        assert 400 <= found.status_code < 500, value[:20]


def test_other_sites_and_names_are_refused(run):
    client = TestClient(app([run]), base_url=BASE)
    assert client.get("/api/health").status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "user@127.0.0.1", "192.168.0.1", ""):
        assert client.get("/api/health", headers={"host": host}).status_code == 403, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8765"):
        assert client.get("/api/health", headers={"origin": origin}).status_code == 403, origin
    assert client.get("/api/health", headers={"origin": BASE}).status_code == 200
    assert client.get("/api/health", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    said = client.get("/api/health").headers
    assert "unsafe-inline" not in said["content-security-policy"] and said["x-content-type-options"] == "nosniff"


def test_a_token_is_needed_where_there_is_one(run):
    served = app([run], token="a-long-token", loopback=False)
    client = TestClient(served, base_url="http://192.168.0.7:8765", follow_redirects=False)
    assert client.get("/").status_code == 401 and client.get("/api/health").status_code == 401
    assert client.get("/api/health", headers={"authorization": "Bearer a-long-token"}).status_code == 200
    assert client.get("/api/health", headers={"authorization": "Bearer another"}).status_code == 401
    assert client.get("/?token=another").status_code == 401
    linked = client.get("/?token=a-long-token&q=red")
    assert linked.status_code == 303 and linked.headers["location"] == "/?q=red"
    assert COOKIE in linked.headers["set-cookie"] and "HttpOnly" in linked.headers["set-cookie"]
    assert client.get("/api/health").status_code == 200  # by the cookie
    named = TestClient(served, base_url="http://evil.example:8765")
    assert named.get("/api/health", headers={"authorization": "Bearer a-long-token"}).status_code == 403


def test_the_command_prints_its_link_with_a_token_where_others_can_reach_it(run, monkeypatch, capsys, tmp_path):
    made, opened = [], []

    def serve(server, sockets):
        made.append((server.config.app, sockets[0].getsockname()))
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", serve)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    command((run,), port=0, browser=False)
    (_, (address, port)) = made.pop()
    assert address == "127.0.0.1" and capsys.readouterr().out == f"coalign serve: http://127.0.0.1:{port}/\n"
    assert not opened
    command((run,), port=0, host="0.0.0.0")
    (served, _), (link,) = made.pop(), opened
    said, token = capsys.readouterr().out, link.partition("?token=")[2]
    assert link in said and len(token) > 30
    client = TestClient(served, base_url="http://192.168.0.7:8765")
    assert client.get("/api/health").status_code == 401
    assert client.get("/api/health", headers={"authorization": f"Bearer {token}"}).status_code == 200
    with pytest.raises(coalign.InputError, match="8 characters"):
        command((run,), port=0, token="short")
    (tmp_path / "pairs.csv").write_text("image,text\na.png,red\n")
    with pytest.raises(coalign.InputError, match="none: no such folder of images"):
        command((run,), str(tmp_path / "pairs.csv"), tmp_path / "none", port=0)


def test_a_full_queue_says_so_and_the_rest_is_answered(run, monkeypatch):
    served = app([run], bound=2)
    session = served.state.service.sessions["tiny"]
    session.search_all([])  # loads nothing, but the name is there to be replaced
    gate, begun, plain = threading.Event(), threading.Event(), session.search_all

    def slow(queries):
        begun.set()
        gate.wait(20)
        return plain(queries)

    monkeypatch.setattr(session, "search_all", slow)
    with TestClient(served, base_url=BASE) as client:
        statuses: list[int] = []

        def ask():
            statuses.append(client.get("/api/search", params={"text": "red"}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        threads[0].start()
        assert begun.wait(20)
        for thread in threads[1:]:
            thread.start()
        deadline = time.monotonic() + 10
        while len(statuses) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert client.get("/api/health").status_code == 200  # the event loop is free meanwhile
        refused = list(statuses)
        gate.set()
        for thread in threads:
            thread.join()
    assert refused == [429] * 5  # one is worked at, and two wait
    assert statuses.count(200) == 3


def test_a_row_of_another_run(client, run):
    own = client.post("/api/align", json={"run": "other", "row": 1, "of": "tiny", "text": "a red circle"}).json()
    data = base64.b64encode(picture(run, 1)).decode()
    sent = client.post("/api/align", json={"run": "other", "image": data, "text": "a red circle"}).json()
    assert own["bytes"] == sent["bytes"] and own["image"] == "/api/image/1"


def test_two_runs_answer_apart(client):
    first, second = (client.get("/api/search", params={"text": "red", "run": r}).json() for r in ("tiny", "other"))
    assert first["run"] == "tiny" and second["run"] == "other"
    assert second["answers"][0]["image"].endswith("?run=other")
    assert [a["score"] for a in first["answers"]] != [a["score"] for a in second["answers"]]
