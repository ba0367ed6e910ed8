"""Shards and tables of Google's storage and of a hub: of local servers that answer what their clients ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from files import encoded, picture
from replies import Replying
from test_shards import numbers, samples, write_shard

from coalign.data.core import remote
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError

COMMIT, OID = "a" * 40, "0" * 40


class _Handler(Replying):
    """`files` by name; `parts` are the places and lengths that were asked of them."""

    files: dict[str, bytes]
    parts: list[tuple[str, int, int]]

    def content(self, name: str, **headers: str) -> None:
        data = self.files[name]
        begin, _, end = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(begin) : int(end) + 1 if end else None]
        self.parts.append((name, int(begin), len(part)))
        self.reply(part, 206 if "Range" in self.headers else 200, **headers)


class _Google(_Handler):
    """A bucket called `b`, by the JSON interface."""

    def do_GET(self) -> None:  # noqa: N802 - the name of http.server
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        _, is_object, encoded_name = url.path.partition("/b/b/o/")
        name = unquote(encoded_name)
        if is_object and name not in self.files:
            self.reply({"error": {"code": 404, "message": "Not Found"}}, 404)
        elif is_object and asked.get("alt") == ["media"]:
            self.content(name)
        elif is_object:
            self.reply(self.about(name))
        elif url.path.endswith("/b/b/o"):
            begin, cut = (asked.get(key, [""])[0] for key in ("prefix", "delimiter"))
            names = [name for name in self.files if name.startswith(begin)]
            within = {name: name[len(begin) :].partition(cut) if cut else (name, "", "") for name in names}
            folders = sorted({begin + first + cut for first, below, _ in within.values() if below})
            items = [self.about(name) for name, (_, below, _) in within.items() if not below]
            self.reply({"kind": "storage#objects", "items": items, "prefixes": folders})
        else:
            self.reply({"error": {"code": 404, "message": "Not Found"}}, 404)

    def about(self, name: str) -> dict[str, str]:
        times = dict.fromkeys(("updated", "timeCreated"), "2026-01-01T00:00:00Z")
        return {"name": name, "bucket": "b", "size": str(len(self.files[name])), "generation": "1", **times}


class _Hub(_Handler):
    """A data set called `me/pictures`."""

    def do_GET(self) -> None:  # noqa: N802 - the name of http.server
        path = unquote(urlsplit(self.path).path)
        own, content = "/api/datasets/me/pictures", "/datasets/me/pictures/resolve/main/"
        if path in (own, f"{own}/revision/main"):
            self.reply({"id": "me/pictures", "sha": COMMIT, "siblings": [], "tags": [], "private": False})
        elif path.startswith(f"{own}/tree/main"):
            folder = path.removeprefix(f"{own}/tree/main").strip("/")
            below = [name for name in self.files if folder in ("", name.rpartition("/")[0])]
            folders = {name.partition("/")[0] for name in below if "/" in name} if not folder else set[str]()
            found = [{"type": "directory", "path": name, "oid": OID, "size": 0} for name in folders]
            found += [
                {"type": "file", "path": name, "size": len(self.files[name]), "oid": OID}
                for name in below
                if name.rpartition("/")[0] == folder
            ]
            self.reply(found if found else {"error": "Entry not found"}, 200 if found else 404)
        elif path.startswith(content) and path.removeprefix(content) in self.files:
            self.content(path.removeprefix(content), ETag=f'"{OID}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
        else:
            self.reply({"error": "no such thing"}, 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", ())
    for number, (start, count) in enumerate([(0, 3), (3, 2)]):
        write_shard(tmp_path / f"s-{number:02d}.tar", samples(start, count))
    pq.write_table(pa.table({"image": [encoded(picture(9))], "text": ["text 9"]}), tmp_path / "t.parquet")
    shards = {f"shards/{file.name}": file.read_bytes() for file in sorted(tmp_path.glob("*.tar"))}
    return {**shards, "t.parquet": (tmp_path / "t.parquet").read_bytes()}


@contextmanager
def serving(kind: type[_Handler], files: dict[str, bytes]) -> Iterator[tuple[str, type[_Handler]]]:
    handler = type("Handler", (kind,), {"files": files, "parts": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def check(place: str, handler: type[_Handler]) -> None:
    """Shards by folder, glob and braces; a table; what is not there. A sample is one request of its own bytes."""
    for name in ("shards", "shards/s-*.tar", "shards/s-{00..01}.tar"):
        source = open_source(f"{place}/{name}")
        assert numbers(source, [4, 0, 3, 1, 2]) == [4, 0, 3, 1, 2]
    handler.parts.clear()
    assert numbers(source, [4]) == [4]
    (part,) = handler.parts
    assert part[0] == "shards/s-01.tar" and part[1] > 0 and part[2] < len(handler.files["shards/s-01.tar"]) / 4
    assert numbers(open_source(f"{place}/t.parquet"), [0]) == [9]
    with pytest.raises(InputError, match=r"none\.tar"):
        open_source(f"{place}/none.tar")


def test_shards_and_tables_are_read_from_googles_storage(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    gcsfs = pytest.importorskip("gcsfs")
    with serving(_Google, files) as (address, handler):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        gcsfs.GCSFileSystem.clear_instance_cache()
        check("gs://b", handler)
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_shards_and_tables_are_read_from_a_hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    with serving(_Hub, files) as (address, handler):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        hub.HfFileSystem.clear_instance_cache()
        check("hf://datasets/me/pictures", handler)
    hub.HfFileSystem.clear_instance_cache()
