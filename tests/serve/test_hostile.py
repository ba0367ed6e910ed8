"""A thousand hostile requests: each is answered 4xx, in JSON, and with nothing that should not be served."""

import asyncio
import io
import json
import random
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pytest
from PIL import Image
from serve_pages import served

from coalign.serve.app import app

SECRETS = (b"root:x:", b"[build-system]", b"__metadata__", b"Traceback")
PATHS = ("etc/passwd", "config.json", "model.safetensors", "index/items.lance", "pyproject.toml", "app.py")
CLIMBS = (
    "../",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%5c",
    "....//",
    "%252e%252e%252f",
    "//",
    "/./../",
    "..%c0%af",
    "%00",
)
BASES = ("/", "/api/image/", "/api/video/", "/api/bytes/", "/app.js/", "/pages/", "/static/", "/api/marks/")
HOSTS = ("evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "0.0.0.0", "[::ffff:10.0.0.1]", "a b", "")
NUMBERS = ("-1", "1e3", "0x10", "999999999", "1.0", "NaN", "１２", "1;drop", "' or 1=1", "9" * 400, "true", "[]", "+-1")
BODIES = (
    '{"row": 0, "text": "\\ud800"}',
    '{"row": {}, "text": "a"}',
    '{"row": 1e400}',
    "null",
    "[" * 5000,
    "{",
    '{"row": 0, "image": "aGk=", "text": "a"}',
    '{"image": "..", "text": "a"}',
    '{"row": 0, "method": "x"}',
    '{"run": "../../etc", "row": 0}',
    '{"row": [0, 1]}',
    '{"row": "0; x"}',
    '{"row": true, "text": "a"}',
)
ADDRESSES = (
    f"/api/search?text={'x' * 2001}",
    f"/api/search?run={'../' * 50}",
    "/api/search?text=%00%00",
    "/api/search?text=red&where=a:b",
    "/api/search?text=red&answers=<script>",
    "/api/rows?k=0",
    "/api/map?of=../x",
    "/api/search?text=red" + "&text=a" * 20,
    "/api/image/0?side=100000",
)


def requests(count: int):
    """(method, path, headers, body) drawn with a fixed seed, of eight kinds."""
    draw = random.Random(0)
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(picture, "PNG")
    plain = picture.getvalue()
    forged = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(forged, "PNG")
    for number in range(count):
        kind = number % 8
        host: dict[str, str] = {}
        if kind == 0:
            yield "GET", draw.choice(BASES) + draw.choice(CLIMBS) * draw.randint(1, 9) + draw.choice(PATHS), host, None
        elif kind == 1:
            origin = draw.choice(("http://evil.example", "null", "file://", "http://127.0.0.1:1"))
            headers = {"host": draw.choice(HOSTS)} if draw.random() < 0.5 else {"origin": origin}
            yield draw.choice(("GET", "POST")), "/api/search?text=red", headers, None
        elif kind == 2:
            name = draw.choice(("k", "offset", "like", "unlike"))
            bad = draw.choice(NUMBERS)
            bad = f"-{draw.randint(1, 99)}" if name == "offset" and bad == "999999999" else bad
            yield "GET", f"/api/search?text=red&{name}={bad}", host, None
        elif kind == 3:  # a picture cut short, or with bytes turned over
            data = bytearray(plain[: draw.randint(0, len(plain) - 200)])
            for _ in range(draw.randint(0, 40)):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            yield "POST", "/api/search?k=3", {"content-type": "image/png"}, bytes(data)
        elif kind == 4:
            body = draw.choice(
                (b"<svg onload=alert(1)>", b"<html>", b"%!PS-Adobe", b"\x00" * 99, b"GIF89a", b"PK\x03\x04")
            )
            yield "POST", draw.choice(("/api/search", "/api/align?text=red")), {"content-type": "image/png"}, body
        elif kind == 5:
            value = draw.choice(BODIES)
            yield "POST", "/api/align", {"content-type": "application/json"}, value.encode()
        elif kind == 6:
            body = draw.choice(
                (b'{"row": 0, "mark": "<b>"}', b"row=0&mark=wrong", b'{"mark": "wrong"}', b'{"row": -1}', b"", b"[]")
            )
            media = (
                "application/json" if draw.random() < 0.5 or body.startswith(b'{"row": 0, "mark": "w') else "text/plain"
            )
            yield "POST", "/api/marks", {"content-type": media}, body
        else:
            long = draw.choice(ADDRESSES)
            yield draw.choice(("GET", "GET", "DELETE", "PUT")), long, host, forged.getvalue() if number == 15 else None


@dataclass
class Said:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def ask(application, method: str, path: str, headers: dict[str, str], body: bytes | None) -> Said:
    """The answer to one request, without a connection: what a server would hand to the application."""
    path, _, query = path.partition("?")
    own = {"host": "127.0.0.1:8765", "content-length": str(len(body or b"")), **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in own.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8765),
    }
    said = Said(0, {}, b"")

    async def receive():
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            said.status, said.headers = message["status"], dict(message["headers"])
        else:
            said.body += message.get("body", b"")

    await application(scope, receive, send)
    return said


def test_a_thousand_hostile_requests(run):
    application = app([run])

    async def ask_all() -> Counter[int]:
        statuses: Counter[int] = Counter()
        for method, path, headers, body in requests(1000):
            found = await ask(application, method, path, headers, body)
            case = (method, path[:120], headers, body[:60] if body else body, found.status, found.body[:200])
            assert 400 <= found.status < 500, case
            assert found.headers[b"content-type"] == b"application/json" and json.loads(found.body)["error"], case
            assert not any(secret in found.body for secret in SECRETS), case
            assert found.headers[b"x-content-type-options"] == b"nosniff", case
            statuses[found.status] += 1
        marks = await ask(application, "GET", "/api/marks", {}, None)
        assert json.loads(marks.body) == {"file": None, "marks": []}
        assert (await ask(application, "GET", "/api/health", {}, None)).status == 200
        return statuses

    with ThreadPoolExecutor(1) as apart:  # a browser's tests keep a loop in the main thread
        statuses = apart.submit(lambda: asyncio.run(ask_all())).result()
    assert statuses.total() == 1000 and {400, 403, 404, 405, 413} <= set(statuses)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
        b"GET http://evil.example/api/health HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 99999999999\r\n\r\n",
    ],
)
def test_requests_below_http(run, raw):
    with served(app([run])) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(raw.replace(b"{port}", str(port).encode()))
            connection.settimeout(10)
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
