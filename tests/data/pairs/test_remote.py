"""Shards and tables behind URLs: of a local S3 server, and of an HTTP server that breaks connections."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from files import encoded, picture
from test_shards import numbers, samples, write_shard

from coalign.data.core import remote
from coalign.data.core.quarantine import Quarantine, check_source
from coalign.data.pairs.shards import TarShards
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError, redacted, visible
from coalign.retrieval.index_files import folders_of as about_folder
from coalign.training.run import Run

pytest.importorskip("aiohttp")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    (tmp_path / "data").mkdir()
    for number, (start, count) in enumerate([(0, 3), (3, 2)]):
        write_shard(tmp_path / "data" / f"s-{number:02d}.tar", samples(start, count))
    (tmp_path / "data" / "pairs.csv").write_text("image,text\na.png,seven\n")
    (tmp_path / "a.png").write_bytes(encoded(picture(7)))
    return tmp_path


class _Handler(BaseHTTPRequestHandler):
    """Parts of files; `breaks` connections are cut in the middle of an answer, `failures` answers are an error."""

    folder: Path
    breaks = 0
    failures = 0
    endless = False
    error = 503
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        own = type(self)
        file = own.folder / self.path[1:].partition("?")[0]
        if "secret" in self.path or not file.is_file():
            self.send_error(403 if "secret" in self.path else 404)
            return
        if own.failures and self.command == "GET":
            own.failures -= 1
            self.send_error(own.error)
            return
        if own.endless and self.command == "GET":
            self.send_response(200)
            self.end_headers()
            try:
                while own.endless:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                own.asked.append("hung up")
            return
        data, part = file.read_bytes(), re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        whole = len(data)
        begin, end = (int(part[1]), min(int(part[2]), whole - 1)) if part else (0, whole - 1)
        self.send_response(206 if part else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", str(hash(data)))
        self.send_header("Content-Length", str(end + 1 - begin))
        if part:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{whole}")
        self.end_headers()
        if self.command == "HEAD":
            return
        own.asked.append(f"{file.name} {begin}")
        if own.breaks:
            own.breaks -= 1
            self.wfile.write(data[begin : (begin + end) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[begin : end + 1])

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@pytest.fixture
def http(folder: Path) -> Iterator[tuple[str, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"folder": folder / "data", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_shards_are_read_over_http_once_and_a_sample_by_one_request(http: tuple[str, type[_Handler]]) -> None:
    url, handler = http
    source = open_source(f"{url}/s-{{00..01}}.tar")
    assert isinstance(source, TarShards) and numbers(source, [4, 0, 3, 1, 2]) == [4, 0, 3, 1, 2]
    assert source[3].where.file == f"{url}/s-01.tar"
    assert len(handler.asked) == 2 + 5 + 1  # each shard, each sample, and one more sample
    handler.asked.clear()
    assert open_source(f"{url}/s-{{00..01}}.tar").ids.tolist() == source.ids.tolist()
    assert handler.asked == []  # the places are kept
    write_shard(handler.folder / "s-01.tar", samples(5, 4))
    assert len(open_source(f"{url}/s-01.tar")) == 4  # and looked for anew where the file is another


def test_a_broken_connection_is_made_again_and_a_lasting_one_told(http: tuple[str, type[_Handler]]) -> None:
    url, handler = http
    handler.breaks = 1
    source = open_source(f"{url}/s-00.tar")
    assert handler.breaks == 0
    handler.breaks, handler.failures = 1, 1
    assert numbers(source, [1]) == [1] and handler.breaks == handler.failures == 0
    handler.breaks = 100
    with pytest.raises(InputError, match=re.escape(f"{url}/s-00.tar")):
        source[1]
    assert handler.breaks == 97
    handler.breaks, handler.failures, handler.error = 0, 5, 403
    with pytest.raises(InputError, match=re.escape(f"{url}/s-00.tar")):
        source[1]
    assert handler.failures == 4  # what is forbidden stays so
    for name in ("none.tar", "secret.tar"):
        with pytest.raises(InputError, match=re.escape(f"{url}/{name}")):
            open_source(f"{url}/{name}")


def test_a_server_that_is_not_there_is_told_from_a_file_that_is_not(
    http: tuple[str, type[_Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = http
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{found.getsockname()[1]}/a.tar"
    monkeypatch.setattr(remote, "WAITS", (0.0,))
    with pytest.raises(remote.Unreachable, match=rf"^{away}: cannot be read: (?!http).*; is there a connection"):
        open_source(away)
    with pytest.raises(InputError, match=r"none\.tar: cannot be read: 404.*Not Found"):
        open_source(f"{url}/none.tar")


def test_an_outage_leaves_no_sample_out(http: tuple[str, type[_Handler]]) -> None:
    """It stops what reads, whatever share may be broken; a shard that was read by half is not kept as a short one."""
    url, handler = http
    source = open_source(f"{url}/s-{{00..01}}.tar")
    for name, lasting in (("failures", 503), ("failures", 403), ("breaks", 0)):
        setattr(handler, name, 10_000)
        handler.error = lasting
        quarantine = Quarantine()
        with pytest.raises(remote.Unreachable, match=r"s-0\d\.tar: cannot be read"):
            check_source(source, limit=1.0, quarantine=quarantine)
        with pytest.raises(remote.Unreachable):
            source.texts(0)
        assert len(quarantine) == 0
        setattr(handler, name, 0)
        assert check_source(source).broken == 0


def test_a_shard_that_is_cut_off_while_it_is_opened_is_read_again(
    http: tuple[str, type[_Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = http
    whole, calls = remote.read, list[int]()

    def failing(name: str, begin: int, end: int) -> bytes:
        calls.append(begin)
        if len(calls) > 2:
            raise remote.Unreachable(f"{name}: cannot be read: gone")
        return whole(name, begin, end)

    monkeypatch.setattr(remote, "READ_AHEAD", 1024)
    monkeypatch.setattr(remote, "read", failing)
    with pytest.raises(remote.Unreachable, match="gone"):
        open_source(f"{url}/s-00.tar")
    assert len(calls) == 3
    monkeypatch.setattr(remote, "read", whole)
    assert len(open_source(f"{url}/s-00.tar")) == 3


SIGNED = "X-Amz-Credential=AKIA77&X-Amz-Signature=c0ffee"


def test_what_is_secret_in_a_url_is_neither_shown_nor_kept(http: tuple[str, type[_Handler]], folder: Path) -> None:
    url, handler = http
    signed = f"{url}/s-{{00..01}}.tar?{SIGNED}"
    write_shard(handler.folder / "s-01.tar", {"00009.png": b"no picture", **samples(3, 2)})
    source = open_source(signed)
    shown = f"{url}/s-01.tar?***"
    told = [source.name, *map(str, source.problems), source[0].where.file]
    told.append(json.dumps([check_source(source, limit=1.0).source[1].where.file, about_folder(source)]))
    handler.failures, handler.error = 100, 403
    for broken in (
        lambda: source[0],
        lambda: open_source(f"{url}/none.tar?{SIGNED}"),
        lambda: open_source("s3://A:b/c"),
    ):
        with pytest.raises(InputError) as error:
            broken()
        told.append(str(error.value))
    assert not any(secret in text for text in told for secret in ("AKIA77", "c0ffee")), told
    assert any(shown in text for text in told) or any("?***" in text for text in told)


def test_settings_of_a_run_keep_no_secrets_and_are_the_same_with_others(tmp_path: Path) -> None:
    def run(user: str, folder: str = "bucket") -> Run:
        return Run(tmp_path, {"recipe": "r", "data": [f"s3://{user}@{folder}/s.tar", f"https://h/x.tar?sig={user}"]})

    run("AKIA:ab/c+d=").begin({"steps": 1}, 0)
    kept = (tmp_path / "config.json").read_text()
    assert "s3://***@bucket/s.tar" in kept and "AKIA" not in kept and "https://h/x.tar?***" in kept
    run("OTHER:key").begin({"steps": 1}, 0)
    with pytest.raises(InputError, match="other settings") as error:
        run("OTHER:key", "another").begin({"steps": 1}, 0)
    assert "OTHER" not in str(error.value)
    whole = json.loads(kept)  # as an older version wrote it
    whole["data"] = ["s3://AKIA:abc@bucket/s.tar", "https://h/x.tar?sig=1"]
    (tmp_path / "config.json").write_text(json.dumps(whole))
    run("OTHER:key").begin({"steps": 1}, 0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://AKIA:se/cr+et=@bucket/a@b.tar", "s3://***@bucket/a@b.tar"),
        ("filecache::https://user:pw@host:80/x.csv: no", "filecache::https://***@host:80/x.csv: no"),
        ("hf://datasets/owner/name@main/s-{0..1}.tar", "hf://datasets/owner/name@main/s-{0..1}.tar"),
        ("s3://b/s-?.tar and https://h/a?sig=1&x=2: gone", "s3://b/s-?.tar and https://h/a?***: gone"),
        ("URL('https://h/a?token=1'), mail a@b.c", "URL('https://h/a?***'), mail a@b.c"),
        ("https://h/a?t=1 https://me@h/b", "https://h/a?*** https://***@h/b"),
    ],
)
def test_secrets_of_urls(url: str, shown: str) -> None:
    assert redacted(url) == shown == redacted(shown)
    assert visible(url) == shown


def test_a_server_that_sends_without_end_is_left(http: tuple[str, type[_Handler]], folder: Path) -> None:
    url, handler = http
    source = open_source(f"{url}/s-00.tar")
    handler.endless = True
    with pytest.raises(InputError, match=r"s-00\.tar.*the server gives no parts of files"):
        source[1]
    with pytest.raises(InputError, match=r"pairs\.csv: the server sends more than it says"):
        open_source(f"{url}/pairs.csv")
    handler.endless = False
    assert open_source(f"{url}/pairs.csv", images=folder)[0].texts == ("seven",)


def test_the_address_that_a_server_sends_on_to_makes_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"size": 3, "ETag": "a"}
    monkeypatch.setattr(remote, "describe", lambda _: {**told, "url": f"https://b/x?signed={len(places)}"})
    places: list[Path] = []
    for _ in range(2):
        places.append(remote.cached("https://a/x.tar", "shards"))
    told["ETag"] = "b"
    assert places[0] == places[1] != remote.cached("https://a/x.tar", "shards")


def test_files_that_are_longer_than_what_is_read_ahead(
    http: tuple[str, type[_Handler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_AHEAD", 64)
    assert numbers(open_source(f"{http[0]}/s-00.tar"), [2, 0, 1]) == [2, 0, 1]


def test_a_table_is_copied_once(http: tuple[str, type[_Handler]], folder: Path) -> None:
    url, handler = http
    for _ in range(2):
        assert open_source(f"{url}/pairs.csv", images=folder)[0].texts == ("seven",)
    assert handler.asked == ["pairs.csv 0"]


def test_shards_and_tables_are_read_from_s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    threaded = pytest.importorskip("moto.server").ThreadedMotoServer
    import pyarrow as pa
    import pyarrow.parquet as pq
    import s3fs

    for name in KEYS:
        monkeypatch.setenv(name, "test")
    server = threaded(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir("pictures")
        for file in (folder / "data").glob("*.tar"):
            store.put_file(str(file), f"pictures/shards/{file.name}")
        pq.write_table(pa.table({"image": [encoded(picture(9))], "text": ["text 9"]}), folder / "t.parquet")
        store.put_file(str(folder / "t.parquet"), "pictures/t.parquet")
        for name in ("shards", "shards/s-*.tar", "shards/s-{00..01}.tar"):
            assert numbers(open_source(f"s3://pictures/{name}"), [4, 0, 3, 1, 2]) == [4, 0, 3, 1, 2]
        assert numbers(open_source("s3://pictures/t.parquet"), [0]) == [9]
        with pytest.raises(InputError, match=r"s3://pictures/none\.tar"):
            open_source("s3://pictures/none.tar")
        with pytest.raises(InputError, match="no such shards"):
            open_source("s3://pictures/other")
        import moto.core.responses as responses

        monkeypatch.setattr(responses.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from here on keys are looked at
        monkeypatch.setattr(responses.ActionAuthenticatorMixin, "request_count", 0)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match=r"s3://pictures/t\.parquet: cannot be read"):
            open_source("s3://pictures/t.parquet")
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


def test_what_fsspec_does_not_know_is_told() -> None:
    with pytest.raises(InputError, match=r"nothing://x/y\.tar"):
        open_source("nothing://x/y.tar")
