"""Pushing to a hub and loading from it, against a server on this machine that speaks the hub's protocol as
huggingface-hub calls it: repositories, preupload, Git LFS batches, commits, revisions, resolve."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from replies import Replying
from safetensors.torch import save_model

import coalign
from coalign.checkpoints.hub import push_folder
from coalign.cli.main import main
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.card import staged
from coalign.registry import describe

pytest.importorskip("huggingface_hub")


class Hub(ThreadingHTTPServer):
    """Repositories as lists of commits, each a whole tree of files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.private: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(Replying):
    server: Hub

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            known, there = name in self.server.repositories, f"{self.server.address}/{name}"
            if not known and (said.get("private") or said.get("visibility") == "private"):
                self.server.private.add(name)
            self.server.repositories.setdefault(name, [])
            return self.reply({"url": there, "id": name, "error": "exists" * known}, 409 if known else 200)
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if parts[0] == "objects":
            self.server.objects[parts[1]] = body
            assert hashlib.sha256(body).hexdigest() == parts[1]
            return self.reply({})
        if path.endswith("/info/lfs/objects/batch"):
            return self.reply({"transfer": "basic", "objects": [self.upload(o) for o in json.loads(body)["objects"]]})
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        commits = self.server.repositories.get(name)
        if commits is None:
            return self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if parts[0] == "api" and len(parts) > 4:
            action, revision = parts[4], parts[5] if len(parts) > 5 else "main"
            if action == "preupload":
                files = json.loads(body)["files"]
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in files
                ]
                return self.reply({"files": modes})
            if action == "commit":
                return self.commit(name, commits, body)
            if action == "revision":
                return self.about(name, commits, revision)
            if action == "tree":
                return self.about(name, commits, revision, tree=True)
        if parts[0] == "api":
            return self.about(name, commits, "main")
        if parts[2] == "resolve":
            return self.resolve(commits, parts[3], "/".join(parts[4:]))
        return self.reply({"error": "no such thing"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        there = {"href": f"{self.server.address}/objects/{wanted['oid']}", "header": {}}
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": there}}

    def commit(self, name: str, commits: list[Any], body: bytes) -> None:
        files = dict(commits[-1][1]) if commits else {}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        oid = hashlib.sha1(b"".join(files.values()) + str(len(commits)).encode()).hexdigest()
        commits.append((oid, files))
        self.reply({"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"})

    def found(self, commits: list[Any], revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return commits[-1] if commits else ("0" * 40, {})
        return next((commit for commit in commits if commit[0] == revision), None)

    def about(self, name: str, commits: list[Any], revision: str, tree: bool = False) -> None:
        found = self.found(commits, revision)
        if found is None:
            return self.reply({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        if tree:
            return self.reply([{"type": "file", "path": p, "size": len(d), "oid": "0"} for p, d in found[1].items()])
        files = [{"rfilename": path} for path in found[1]]
        return self.reply(
            {
                "id": name,
                "modelId": name,
                "sha": found[0],
                "siblings": files,
                "tags": [],
                "private": name in self.server.private,
            }
        )

    def resolve(self, commits: list[Any], revision: str, file: str) -> None:
        found = self.found(commits, revision)
        if found is None or file not in found[1]:
            return self.reply({"error": "no entry"}, 404, X_Error_Code="EntryNotFound")
        etag = hashlib.sha256(found[1][file]).hexdigest()
        return self.reply(found[1][file], ETag=f'"{etag}"', X_Repo_Commit=found[0], Accept_Ranges="bytes")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    yield server
    server.shutdown()


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red boat", "a blue car"], 60, min_frequency=1)
    model = coalign.create("bert").model
    about = {**describe(model), "recipe": "bert-pretrain", "seed": 3, "training": {"steps": 7, "lr": 0.001}}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "fingerprints.json").write_text(json.dumps({"data": {"documents": 12}}))
    (folder / "metrics.jsonl").write_text('{"step": 7, "loss": 1.25, "lr": 0.001}\n')
    (folder / "results.json").write_text(json.dumps({"seen": {"R@1": 0.4321}}))
    (folder / "map.png").write_bytes(b"picture")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "state.pt").write_bytes(b"a pickle")
    save_model(model, str(folder / "model.safetensors"))
    tokenizer.save(folder)
    return folder


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


def vectors(address: str | Path) -> torch.Tensor:
    loaded = coalign.load(address)
    with torch.no_grad():
        return loaded.encode(coalign.prepare(loaded, texts=["a red car"])).tokens["text"].values


def test_a_pushed_model_that_is_loaded_gives_equal_vectors(hub, run, capsys):
    words = (
        "push",
        run,
        "ann/small",
        "--licence",
        "cc-by-4.0",
        "--trained-on",
        "Twelve texts.",
        "--show",
        run / "map.png",
    )
    assert call(*words, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    oid, files = hub.repositories["ann/small"][-1]
    assert said["address"] == f"hf://ann/small@{oid}"
    assert set(files) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "results.json",
        "pictures/1.png",
    }
    card = files["README.md"].decode()
    for part in ('license: "cc-by-4.0"', "Twelve texts.", "12", "| steps | 7 |", "| seen · R@1 | 0.4321 |", "1.25"):
        assert part in card, part
    assert torch.equal(vectors("hf://ann/small"), vectors(run))

    # a revision stays what it was when the model is trained further
    changed = coalign.load(run).model
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    save_model(changed, str(run / "model.safetensors"))
    before = vectors(said["address"])
    assert call(*words) == 0
    assert torch.equal(vectors(said["address"]), before) and not torch.equal(vectors("hf://ann/small"), before)
    assert "ann/small@" in capsys.readouterr().out


def test_a_card_shows_what_a_run_says_as_text(run):
    hostile = "a | b\n# <script>alert(1)</script> ![x](http://x/?) \x1b[31m \u202e`c`"
    (run / "results.json").write_text(json.dumps({hostile: {"R@1": 0.5}}))
    (run / "fingerprints.json").write_text(json.dumps({"data": hostile, hostile: "3 items"}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, f"loss {hostile}": 0.25}) + "\n")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "training": {"data": hostile}}))
    with staged(run, "ann/small", hostile, "a sentence\x1b[31m with *marks*") as folder:
        card = (folder / "README.md").read_text("utf-8")
    assert "\x1b" not in card and r"a sentence\x1b[31m with *marks*" in card
    header, card = card.split("\n---\n", 1)
    assert "\n# " not in header and f"license: {json.dumps(hostile)}" in header
    shown = r"a \| b # &lt;script&gt;alert(1)&lt;/script&gt; !\[x\](http://x/?) \\x1b\[31m \\u202e\`c\`"
    assert card.count(shown) == 6 and "<script" not in card and "![x]" not in card
    assert {line.count(" | ") for line in card.splitlines() if line.startswith("| ")} == {1}


def test_what_goes_wrong_with_a_hub_is_one_line(hub, run, capsys, monkeypatch):
    for address, said in {
        "hf://nobody": "hf://user/name",
        "hf://nobody/nothing": "hf://nobody/nothing: ",
        "hf://ann/small@main/../x y": "hf://user/name",
    }.items():
        with pytest.raises(InputError, match=said):
            coalign.load(address)
    assert call("push", run, "small", "--licence", "mit") == 2
    assert call("push", run, "ann/small", "--licence", "mit", "--show", run / "none.png") == 2
    assert call("push", run.parent, "ann/small", "--licence", "mit") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 3 and "user/name" in err and "none.png: no such picture" in err and "no run here" in err
    assert hub.repositories == {}


def test_without_a_network_the_server_is_named(hub, run, capsys, monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{found.getsockname()[1]}"  # where nothing listens
    monkeypatch.setenv("HF_ENDPOINT", server)
    assert call("push", run, "ann/small", "--licence", "mit") == 2
    assert call("embed", "hf://ann/small", "--data", "none.csv", "--out", run / "e.parquet") == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith(f"coalign: hf://ann/small: {server} cannot be reached: ") and "a connection?" in line
    assert not (run / "push").exists() and not (run / "e.parquet").exists()


def test_a_dry_run_uploads_nothing(hub, run):
    assert call("push", run, "ann/small", "--licence", "mit", "--dry-run") == 0
    assert (run / "push" / "README.md").is_file() and not hub.asked
    assert torch.equal(vectors(run / "push"), vectors(run))
    assert call("push", run, "ann/small", "--licence", "mit", "--dry-run") == 2


def test_only_what_holds_no_code_is_fetched(hub, run, tmp_path):
    assert call("push", run, "ann/small", "--licence", "mit") == 0
    hub.repositories["ann/small"][-1][1]["pytorch_model.bin"] = b"a pickle"
    hub.asked.clear()
    coalign.load("hf://ann/small")
    fetched = [line for line in hub.asked if "/resolve/" in line]
    assert fetched and not any(line.endswith((".bin", ".pt", ".md", ".png")) for line in fetched)


def test_what_is_to_be_private_is_not_pushed_where_everybody_reads_it(hub, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    hub.repositories["ann/shown"] = []
    with pytest.raises(InputError, match=r"ann/shown: exists already and is public; nothing is uploaded"):
        push_folder("ann/shown", tmp_path / "model", "first", private=True)
    assert hub.repositories["ann/shown"] == [] and not hub.objects
    push_folder("ann/own", tmp_path / "model", "first", private=True)
    push_folder("ann/own", tmp_path / "model", "second", private=True)
    assert hub.private == {"ann/own"} and "config.json" in hub.repositories["ann/own"][-1][1]
