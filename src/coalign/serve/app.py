"""The web application: what each address answers. `coalign serve` runs it under uvicorn."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from coalign import __version__
from coalign.data.core.samples import Source
from coalign.data.regions.regions import RegionFile
from coalign.errors import InputError
from coalign.serve.data_addresses import MOST_ANSWERS, DataAddresses, condition
from coalign.serve.gallery import IndexGallery, Modality
from coalign.serve.openapi import description, page_of
from coalign.serve.pairs import Pair, deleted, explained
from coalign.serve.pictures import MEDIA
from coalign.serve.queries import Query, Term
from coalign.serve.security import Guard
from coalign.serve.served import MOST_ROWS
from coalign.serve.sessions import open_sessions
from coalign.serve.uploads import Fields, Missing, TooLarge, check_picture, picture_in, read_body, read_json
from coalign.serve.worker import BOUND, Busy

PAGES = Path(__file__).parent / "pages"
FILES = {"/": "index.html", "/app.js": "app.js", "/app.css": "app.css", "/icon.svg": "icon.svg"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
VIDEOS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}
SIDES = (64, 128, 256, 512, 1024)
MOST_TERMS = 8

log = logging.getLogger("coalign.serve")
Handler = Callable[[Request], Awaitable[Response]]


def app(
    runs: Sequence[Path],
    data: Source | None = None,
    token: str | None = None,
    *,
    regions: RegionFile | None = None,
    series: str | None = None,
    loopback: bool = True,
    names: tuple[str, ...] = (),
    bound: int = BOUND,
    images: Path | None = None,
) -> Starlette:
    """The application that serves some runs.

    Args:
        runs: Their folders; a run is known by its folder's name.
        data: Pairs to show runs on that have no index.
        token: What requests must bring. None asks for nothing, which is right on a loopback address alone.
        regions: Region features of the pictures, for models that read regions.
        series: The utterances of runs that read streams, as `coalign train` takes them.
        loopback: Whether the server listens on a loopback address; requests for another Host are then refused.
        names: Names by which the server is known besides.
        images: The folder in which the pictures of indices lie. By default those that they had when they were indexed.
        bound: Requests that wait for one model at most; further ones get status 429.

    Raises:
        InputError: One of the folders is no run.
    """
    service = Service(open_sessions(runs, data, regions, series, bound, images))
    application = Starlette(
        routes=service.routes(), exception_handlers={Exception: _unforeseen, HTTPException: _refused}
    )
    application.router.redirect_slashes = False
    application.state.service = service
    application.add_middleware(Guard, token=token, loopback=loopback, names=names)  # pyright: ignore[reportArgumentType]
    return application


class Service(DataAddresses):
    """The handlers; each is called on the event loop, and whatever takes time is done elsewhere."""

    def routes(self) -> list[Route]:
        listed: list[tuple[str, str, Handler]] = [
            ("GET", "/api/health", self.health),
            ("GET", "/api/search", self.search),
            ("POST", "/api/search", self.search),
            ("POST", "/api/align", self.align),
            ("POST", "/api/deletion", self.deletion),
            ("GET", "/api/bytes/{key}", self.bytes_of),
            ("GET", "/api/image/{row}", self.image),
            ("GET", "/api/video/{row}", self.video),
            ("GET", "/api/rows", self.rows),
            ("GET", "/api/map", self.map),
            ("GET", "/api/findings", self.findings),
            ("POST", "/api/findings", self.findings),
            ("GET", "/api/marks", self.marks),
            ("POST", "/api/marks", self.marks),
            ("GET", "/api/marks/table", self.marks_table),
            ("GET", "/api/run", self.run),
            ("GET", "/api/streams", self.streams),
            ("GET", "/api/openapi.json", self.openapi),
            ("GET", "/api/docs", self.docs),
            *[("GET", path, self.page) for path in FILES],
        ]
        by_path: dict[str, dict[str, Handler]] = {}
        for method, path, handler in listed:
            by_path.setdefault(path, {})[method] = handler
        return [Route(path, _told(handlers), methods=list(handlers)) for path, handlers in by_path.items()]

    # ------------------------------------------------------------------------------------------------------ answers
    async def health(self, request: Request) -> Response:
        del request
        runs = [
            {
                "name": session.name,
                "system": session.config.get("system"),
                "head": session.config.get("head"),
                "reads": "streams" if session.config.get("series") else "pairs",
                "loaded": session.is_loaded,
                "waiting": session.worker.waiting,
            }
            for session in self.sessions.values()
        ]
        return JSONResponse({"status": "ok", "version": __version__, "runs": runs})

    async def search(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self.session(fields)
        gallery = await self.opened(session)
        terms = [Term("text", text) for text in fields.texts("text")]
        terms += [Term("text", text, -1) for text in fields.texts("minus")]
        terms += [Term("row", self.row(gallery, name)) for name in fields.all("like")]
        terms += [Term("row", self.row(gallery, name), -1) for name in fields.all("unlike")]
        if request.method == "POST":
            data = await read_body(request)
            if not data:
                raise InputError("the body should be a picture's bytes")
            sign = -1 if fields.flag("minus_image") else 1
            terms.append(Term("image", await run_in_threadpool(check_picture, data), sign))
        if not any(term.sign > 0 for term in terms):
            raise InputError('give words to search for, such as ?text=red+fruit, or a picture, or "like" a row')
        if len(terms) > MOST_TERMS:
            raise InputError(f"the query has {len(terms)} terms; give at most {MOST_TERMS}")
        reranked = fields.flag("rerank")
        query = Query(
            tuple(terms),
            _wanted(gallery, terms, reranked, fields),
            fields.integer("offset", 0, MOST_ROWS, 0),
            fields.integer("k", 1, MOST_ANSWERS, 10),
            fields.fraction("least"),
            tuple(condition(value) for value in fields.texts("where")),
            reranked,
        )
        page = await session.worker.batched(session.search_all, query)
        answers = [self.answer(session, gallery, answer) for answer in page.answers]
        following = query.offset + len(answers)
        more = following if following < page.total and answers else None
        said = {"run": session.name, "answers": answers, "total": page.total, "next": more}
        return JSONResponse({**said, "calibrating": page.calibrating})

    async def align(self, request: Request) -> Response:
        pair = await self._pair(request)
        maps, chance = await pair.session.worker.call(explained, pair)
        values = maps.to_bytes()
        key = hashlib.blake2b(values + repr(maps.to_json()).encode(), digest_size=12).hexdigest()
        self.maps.put(key, values)
        picture = None if pair.row is None else self.address(pair.source, "image", pair.row)
        said = {"run": pair.session.name, "row": pair.row, "text": pair.text, "p_match": chance, **maps.to_json()}
        return JSONResponse({**said, "image": picture, "bytes": f"/api/bytes/{key}"})

    async def deletion(self, request: Request) -> Response:
        pair = await self._pair(request)
        return JSONResponse(await pair.session.worker.call(deleted, pair))

    async def _pair(self, request: Request) -> Pair:
        """The pair to be aligned: JSON, or a picture as the body and the rest in the query."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        data: bytes | None = None
        if kind.startswith("image/") or kind == "application/octet-stream":
            fields, data = Fields.of_query(request), await read_body(request)
        else:
            fields = Fields.of_json(await read_json(request))
            image = fields.one("image")
            data = None if image is None else picture_in(image)
        session, text = self.session(fields), fields.text("text")
        if (data is None) == (fields.one("row") is None):
            raise InputError('give either the "row" of a picture, or an "image" of your own')
        row = None if data is not None else fields.integer("row", 0, MOST_ROWS)
        source = self.named(fields.text("of") or session.name)
        if data is not None:
            await run_in_threadpool(check_picture, data)
        else:
            item = self.item(await self.opened(source), row or 0)
            text = text or item.text
        if not text:
            raise InputError('give a "text" to align with the picture')
        words = tuple(self.number(word) for word in fields.all("words"))
        return Pair(session, source, text, row, data, fields.text("method", "auto"), words)

    async def bytes_of(self, request: Request) -> Response:
        result = self.maps.get(request.path_params["key"])
        if result is None:
            raise Missing("these values are no longer kept; ask for the alignment again")
        return Response(
            result, media_type="application/octet-stream", headers={"Cache-Control": "private, max-age=600"}
        )

    async def image(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self.session(fields)
        row = self.row(await self.opened(session), request.path_params["row"])
        side = fields.integer("side", SIDES[0], SIDES[-1], 512)
        side = next(known for known in SIDES if known >= side)
        film = fields.integer("film", 0, 64, 0)
        key = (session.name, row, side, film)
        result = self.pictures.get(key)
        if result is None:
            result = await run_in_threadpool(self.encoded, session, row, side, film)
            self.pictures.put(key, result)
        return Response(result, media_type=MEDIA, headers={"Cache-Control": "private, max-age=600"})

    async def video(self, request: Request) -> Response:
        """The file of a moment, whole or the part that the browser asks for."""
        session = self.session(Fields.of_query(request))
        gallery = await self.opened(session)
        item = self.item(gallery, self.number(request.path_params["row"]))
        path = gallery.video(item.row) if item.modality == "video" else None
        if path is None or path.suffix.lower() not in VIDEOS:
            raise Missing(f"row {item.row} has no video that a browser plays")
        return FileResponse(path, media_type=VIDEOS[path.suffix.lower()])

    async def openapi(self, request: Request) -> Response:
        del request
        return JSONResponse(description())

    async def docs(self, request: Request) -> Response:
        del request
        return HTMLResponse(page_of(description()))

    async def page(self, request: Request) -> Response:
        path = PAGES / FILES[request.url.path]
        if not path.is_file():
            raise Missing("the pages are not built; run npm run build in src/coalign/serve/web")
        return FileResponse(path, media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


def _wanted(gallery: Any, terms: Sequence[Term], reranked: bool, fields: Fields) -> Modality:
    """The modality that is searched: pictures, or the query's. Re-ranking a picture's answers asks for texts."""
    if isinstance(gallery, IndexGallery) and gallery.count("video"):
        default = "video"
    elif reranked and all(term.kind == "image" for term in terms):
        default = "text"
    else:
        default = "image"
    chosen: Any = fields.choice("answers", ("image", "text", "video"), default)
    return chosen


def _told(handlers: Mapping[str, Handler]) -> Handler:
    """The handler of a request's method, its errors as JSON."""

    async def handle(request: Request) -> Response:
        try:
            return await handlers["GET" if request.method == "HEAD" else request.method](request)
        except Missing as error:
            return _error(404, error)
        except TooLarge as error:
            return _error(413, error)
        except InputError as error:
            return _error(400, error)
        except Busy:
            answer = _error(429, "so many requests wait for this model that no more are taken; try again shortly")
            answer.headers["Retry-After"] = "1"
            return answer

    return handle


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")


async def _unforeseen(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return _error(500, f"something went wrong that nobody foresaw: {type(error).__name__}; the log says more")


def _error(status: int, error: Exception | str) -> JSONResponse:
    return JSONResponse({"error": " ".join(str(error).split())}, status)
