"""A local server's answers, for tests that stand in for somebody else's."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class Replying(BaseHTTPRequestHandler):
    """Answers with bytes or JSON, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def reply(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...
