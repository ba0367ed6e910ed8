"""Which requests are answered: those of this machine's own pages and programs.

The server listens on 127.0.0.1, which every page in the user's browser can reach. A page of another site is kept out by
its Origin, and one that has pointed its own name here (DNS rebinding) by the Host that it asks for. Listening elsewhere
needs a token.
"""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "coalign-token"
MOST_HEADER_BYTES = 32_768
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which no other one can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request through whose Host is allowed, whose Origin is its own and that knows the token, if there is one.

    On a loopback address the Host has to be one. Elsewhere it may be any address, for rebinding needs a name, or one
    of `names`. The token comes as `Authorization: Bearer`, as the cookie that the printed link sets, or in that link.
    """

    def __init__(self, app: ASGIApp, *, token: str | None = None, loopback: bool = True, names: tuple[str, ...] = ()):
        self.app, self.token, self.loopback, self.names = app, token, loopback, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self.refusal(scope, headers)

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await (self.app if refused is None else refused)(scope, receive, secured)

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that is not let through; None where it is."""
        if sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEADER_BYTES:
            return _error(431, f"the headers of a request hold {MOST_HEADER_BYTES} bytes at most")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_host(hosts[0]):
            return _error(403, "this server is not known by that name; open it by the address that it printed")
        origins = headers.getlist("origin")
        if origins and origins != [f"{scope.get('scheme', 'http')}://{hosts[0]}"]:
            return _error(403, "requests of other sites are not answered")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate":
            return _error(403, "requests of other sites are not answered")
        if self.token is None:
            return None
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        given = query.pop("token", [""])[0]
        if self._is_token(given) and scope["path"] == "/":
            target = "/" + ("?" + urlencode(query, doseq=True) if query else "")
            answer = RedirectResponse(target, 303)
            answer.set_cookie(self._cookie(hosts[0]), self.token, httponly=True, samesite="strict", path="/")
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer) or self._is_token(_cookie_of(headers, self._cookie(hosts[0]))):
            return None
        return _error(401, "this needs the token: open the link that coalign serve printed")

    def _is_host(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname, parts.port
        except ValueError:
            return False
        if not name or parts.username is not None or parts.path or parts.query or parts.fragment:
            return False
        if is_loopback(name) or name in self.names:
            return True
        if self.loopback:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    @staticmethod
    def _cookie(host: str) -> str:
        """Cookies do not know ports; two servers on one machine have each their own."""
        return f"{COOKIE}-{urlsplit(f'//{host}').port or 80}"


def _cookie_of(headers: Headers, name: str) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
