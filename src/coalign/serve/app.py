"""The web application: what each address answers. `coalign serve` runs it under uvicorn."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from coalign import __version__
from coalign.data.core.samples import Source
from coalign.data.regions.regions import RegionFile
from coalign.errors import InputError
from coalign.serve.gallery import IndexGallery, Modality
from coalign.serve.maps import Maps, deletion, explain
from coalign.serve.marks import KINDS, Marks, marked_table
from coalign.serve.openapi import description, page_of
from coalign.serve.pictures import MEDIA, Kept, encoded, film_strip
from coalign.serve.security import Guard
from coalign.serve.sessions import Answer, Query, Session, Term, open_sessions
from coalign.serve.study import FEW, Of, Studies, findings_of, lay_out, principal, vectors_of
from coalign.serve.training import training_of
from coalign.serve.uploads import Fields, Missing, TooLarge, check_picture, picture_in, read_body, read_json
from coalign.serve.worker import BOUND, Busy

PAGES = Path(__file__).parent / "pages"
FILES = {"/": "index.html", "/app.js": "app.js", "/app.css": "app.css", "/icon.svg": "icon.svg"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
VIDEOS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}
SIDES = (64, 128, 256, 512, 1024)
MOST_ANSWERS, MOST_ROWS, MOST_TERMS = 200, 100_000_000, 8
PICTURE_BYTES, MAP_BYTES = 64 * 2**20, 256 * 2**20

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
        bound: Requests that wait for one model at most; further ones get status 429.

    Raises:
        InputError: One of the folders is no run.
    """
    service = Service(open_sessions(runs, data, regions, series, bound))
    found = Starlette(routes=service.routes(), exception_handlers={Exception: _unforeseen, HTTPException: _refused})
    found.router.redirect_slashes = False
    found.state.service = service
    found.add_middleware(Guard, token=token, loopback=loopback, names=names)  # pyright: ignore[reportArgumentType]
    return found


class Service:
    """The handlers; each is called on the event loop, and whatever takes time is done elsewhere."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.sessions = sessions
        self._pictures, self._maps = Kept(PICTURE_BYTES), Kept(MAP_BYTES)
        self._openings = threading.Lock()
        self._studies = Studies()
        self._marks = {name: Marks(session.run) for name, session in sessions.items()}

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

    def close(self) -> None:
        """Ends what is still being computed beside the server."""
        self._studies.close()

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
        session = self._session(fields)
        gallery = await self._opened(session)
        terms = [Term("text", text) for text in fields.texts("text")]
        terms += [Term("text", text, -1) for text in fields.texts("minus")]
        terms += [Term("row", self._row(gallery, name)) for name in fields.all("like")]
        terms += [Term("row", self._row(gallery, name), -1) for name in fields.all("unlike")]
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
            tuple(_condition(value) for value in fields.texts("where")),
            reranked,
        )
        page = await session.worker.batched(session.search_all, query)
        answers = [self._answer(session, gallery, answer) for answer in page.answers]
        following = query.offset + len(answers)
        more = following if following < page.total and answers else None
        return JSONResponse({"run": session.name, "answers": answers, "total": page.total, "next": more})

    async def align(self, request: Request) -> Response:
        pair = await self._pair(request)
        maps = await pair.session.worker.call(_explained, pair)
        values = maps.to_bytes()
        key = hashlib.blake2b(values + repr(maps.to_json()).encode(), digest_size=12).hexdigest()
        self._maps.put(key, values)
        picture = None if pair.row is None else self._address(pair.source, "image", pair.row)
        said = {"run": pair.session.name, "row": pair.row, "text": pair.text, **maps.to_json()}
        return JSONResponse({**said, "image": picture, "bytes": f"/api/bytes/{key}"})

    async def deletion(self, request: Request) -> Response:
        pair = await self._pair(request)
        return JSONResponse(await pair.session.worker.call(_deleted, pair))

    async def _pair(self, request: Request) -> Pair:
        """What is to be aligned: JSON, or a picture as the body and the rest in the query."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        data: bytes | None = None
        if kind.startswith("image/") or kind == "application/octet-stream":
            fields, data = Fields.of_query(request), await read_body(request)
        else:
            fields = Fields.of_json(await read_json(request))
            image = fields.one("image")
            data = None if image is None else picture_in(image)
        session, text = self._session(fields), fields.text("text")
        if (data is None) == (fields.one("row") is None):
            raise InputError('give either the "row" of a picture, or an "image" of your own')
        row = None if data is not None else fields.integer("row", 0, MOST_ROWS)
        source = self._named(fields.text("of") or session.name)
        if data is not None:
            await run_in_threadpool(check_picture, data)
        else:
            item = self._item(await self._opened(source), row or 0)
            text = text or item.text
        if not text:
            raise InputError('give a "text" to align with the picture')
        words = tuple(self._number(word) for word in fields.all("words"))
        return Pair(session, source, text, row, data, fields.text("method", "auto"), words)

    async def bytes_of(self, request: Request) -> Response:
        found = self._maps.get(request.path_params["key"])
        if found is None:
            raise Missing("these values are no longer kept; ask for the alignment again")
        return Response(found, media_type="application/octet-stream", headers={"Cache-Control": "private, max-age=600"})

    async def image(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self._session(fields)
        row = self._row(await self._opened(session), request.path_params["row"])
        side = fields.integer("side", SIDES[0], SIDES[-1], 512)
        side = next(known for known in SIDES if known >= side)
        film = fields.integer("film", 0, 64, 0)
        key = (session.name, row, side, film)
        found = self._pictures.get(key)
        if found is None:
            found = await run_in_threadpool(self._encoded, session, row, side, film)
            self._pictures.put(key, found)
        return Response(found, media_type=MEDIA, headers={"Cache-Control": "private, max-age=600"})

    async def video(self, request: Request) -> Response:
        """The file of a moment, whole or the part that the browser asks for."""
        session = self._session(Fields.of_query(request))
        item = self._item(await self._opened(session), self._number(request.path_params["row"]))
        path = Path(str(item.meta.get("video", "")))
        if item.modality != "video" or path.suffix.lower() not in VIDEOS or not path.is_file():
            raise Missing(f"row {item.row} has no video that a browser plays")
        return FileResponse(path, media_type=VIDEOS[path.suffix.lower()])

    async def rows(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self._session(fields)
        gallery = await self._opened(session)
        offset, k = fields.integer("offset", 0, MOST_ROWS, 0), fields.integer("k", 1, MOST_ANSWERS, 50)
        wanted = [self._row(gallery, value) for value in fields.all("row")]
        where = [_condition(value) for value in fields.texts("where")]
        return JSONResponse(await run_in_threadpool(self._rows, session, wanted, where, offset, k))

    def _rows(
        self, session: Session, wanted: Sequence[int], where: Sequence[tuple[str, str]], offset: int, k: int
    ) -> dict[str, Any]:
        gallery = session.gallery
        shown: Sequence[int] = wanted or gallery.shown
        for name, value in where:
            column = gallery.column(name)
            shown = [row for row in shown if column[row] == value]
        listed = [self._answer(session, gallery, Answer(row, 0.0, None)) for row in shown[offset : offset + k]]
        return {
            "run": session.name,
            "data": gallery.name,
            "searchable": isinstance(gallery, IndexGallery),
            "counts": gallery.counts,
            "columns": gallery.values,
            "total": len(shown),
            "rows": [{k: v for k, v in row.items() if k not in ("score", "p_match")} for row in listed],
        }

    async def map(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self._session(fields)
        await self._opened(session)
        of: Any = fields.choice("of", ("image", "text", "both"), "image")
        return JSONResponse(await run_in_threadpool(self._map, session, of))

    def _map(self, session: Session, of: Of) -> dict[str, Any]:
        gallery = session.index
        rows, vectors = vectors_of(gallery, of)
        job = None if len(rows) < FEW else self._studies.start(("map", session.name, of), lay_out, vectors)
        is_laid_out = job is not None and job.done() and job.exception() is None
        key = f"map-{session.name}-{of}-{'umap' if is_laid_out else 'pca'}"
        if self._maps.get(key) is None:
            places = job.result() if job is not None and is_laid_out else principal(vectors)
            self._maps.put(key, rows.astype("<i4").tobytes() + places.astype("<f4").tobytes())
        columns: dict[str, Any] = {}
        for number, (name, values) in enumerate(gallery.columns.items()):
            known = gallery.values[name]
            code = {value: place for place, value in enumerate(known)}
            column = f"codes-{session.name}-{of}-{number}"
            codes = bytes(255 if (value := values[row]) is None else code[value] for row in rows.tolist())
            self._maps.put(column, codes)
            columns[name] = {"values": known, "codes": f"/api/bytes/{column}"}
        method = "UMAP" if is_laid_out else "principal components"
        said = {
            "run": session.name,
            "of": of,
            "method": method,
            "pending": job is not None and not job.done(),
            "count": len(rows),
        }
        return {**said, "bytes": f"/api/bytes/{key}", "columns": columns}

    async def findings(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self._session(fields)
        await self._opened(session)
        key, run = ("findings", session.name), session.index.index.path.parent
        job = self._studies.start(key, findings_of, run) if request.method == "POST" else None
        job = job or self._studies.job(key)
        if job is None:
            return JSONResponse({"state": "none", "findings": []})
        if not job.done():
            return JSONResponse({"state": "pending", "findings": []})
        error = job.exception()
        if error is not None:
            return JSONResponse({"state": "failed", "error": " ".join(str(error).split()), "findings": []})
        return JSONResponse({"state": "done", "findings": job.result()})

    async def marks(self, request: Request) -> Response:
        if request.method == "GET":
            return self._marked(self._session(Fields.of_query(request)))
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise InputError('a mark is JSON: {"run", "row", "mark"}')
        fields = Fields.of_json(await read_json(request, 2**16))
        session = self._session(fields)
        item = self._item(await self._opened(session), fields.integer("row", 0, MOST_ROWS))
        mark = fields.choice("mark", KINDS, "wrong")
        said = {"text": item.text, "image": item.image}
        await run_in_threadpool(self._marks[session.name].put, item.row, mark, said)
        return self._marked(session)

    def _marked(self, session: Session) -> Response:
        marks = self._marks[session.name]
        file = None if marks.file is None else str(marks.file)
        return JSONResponse({"file": file, "marks": sorted(marks.by_row.values(), key=lambda mark: mark["row"])})

    async def marks_table(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self._session(fields)
        gallery, of = await self._opened(session), fields.choice("of", ("kept", "marked"), "kept")
        name, media, parts = await run_in_threadpool(
            marked_table, gallery, self._marks[session.name], "kept" if of == "kept" else "marked"
        )
        return StreamingResponse(
            parts, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    async def run(self, request: Request) -> Response:
        session = self._session(Fields.of_query(request))
        return JSONResponse({"run": session.name, **await run_in_threadpool(training_of, session.run)})

    async def streams(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session, item = self._session(fields), fields.integer("item", 0, MOST_ROWS, 0)
        said, values = await session.worker.call(session.streams.attention, item)
        key = hashlib.blake2b(values + session.name.encode(), digest_size=12).hexdigest()
        self._maps.put(key, values)
        return JSONResponse({"run": session.name, **said, "bytes": f"/api/bytes/{key}"})

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

    # -------------------------------------------------------------------------------------------------------- parts
    def _session(self, fields: Fields) -> Session:
        return self._named(fields.text("run") or next(iter(self.sessions)))

    def _named(self, name: str) -> Session:
        if name not in self.sessions:
            raise Missing(f"no run {name[:60]!r}; there are: {', '.join(self.sessions)}")
        return self.sessions[name]

    async def _opened(self, session: Session) -> Any:
        """The run's gallery, opened in another thread the first time."""
        if "gallery" in session.__dict__:
            return session.gallery
        return await run_in_threadpool(self._open, session)

    def _open(self, session: Session) -> Any:
        with self._openings:
            gallery = session.gallery
            gallery.columns  # noqa: B018 - read here, off the event loop
            return gallery

    def _row(self, gallery: Any, value: Any) -> int:
        return int(self._item(gallery, self._number(value)).row)

    @staticmethod
    def _number(value: Any) -> int:
        return Fields([("row", value)]).integer("row", 0, MOST_ROWS)

    @staticmethod
    def _item(gallery: Any, row: int) -> Any:
        try:
            return gallery.item(row)
        except InputError as error:
            raise Missing(str(error)) from None

    def _encoded(self, session: Session, row: int, side: int, film: int) -> bytes:
        clip = session.gallery.clip(row) if film else None
        picture = session.gallery.picture(row) if clip is None else film_strip(session.gallery.item(row).meta, film)
        if picture is None:
            raise Missing(f"row {row} has no picture")
        try:
            return encoded(picture, side)
        except InputError as error:
            raise Missing(str(error)) from None

    def _address(self, session: Session, kind: str, row: int) -> str:
        first = session.name == next(iter(self.sessions))
        return f"/api/{kind}/{row}" + ("" if first else f"?run={session.name}")

    def _answer(self, session: Session, gallery: Any, answer: Answer) -> dict[str, Any]:
        item = gallery.item(answer.row)
        said: dict[str, Any] = {
            "row": answer.row,
            "score": answer.score,
            "p_match": answer.p_match,
            "modality": item.modality,
            "text": item.text,
            "image": self._address(session, "image", answer.row),
            "columns": {name: values[answer.row] for name, values in gallery.columns.items()},
        }
        if item.modality == "video":
            span = {name: item.meta.get(name) for name in ("start", "end")}
            said |= {"video": self._address(session, "video", answer.row), **span}
            said["file"] = Path(str(item.meta.get("video", ""))).name
        return said


@dataclass(frozen=True, eq=False)
class Pair:
    """A text and a picture of one's own, or a row of `source`; `words` are the numbers of some of the text's."""

    session: Session
    source: Session
    text: str
    row: int | None
    data: bytes | None
    method: str
    words: tuple[int, ...] = ()

    def inputs(self) -> dict[str, Any]:
        """What `explain` and `deletion` take besides the model."""
        said = {"text": self.text, "method": self.method}
        if self.row is None:
            return {**said, "picture": self.data}
        gallery = self.source.gallery
        try:
            regions = gallery.regions(self.row)
        except KeyError:
            raise InputError(f"there are no regions of the picture in row {self.row}") from None
        return {**said, "picture": gallery.picture(self.row), "regions": regions, "clip": gallery.clip(self.row)}


def _explained(pair: Pair) -> Maps:
    return explain(pair.session.loaded, **pair.inputs())


def _deleted(pair: Pair) -> dict[str, list[float]]:
    return deletion(pair.session.loaded, **pair.inputs(), words=pair.words)


def _wanted(gallery: Any, terms: Sequence[Term], reranked: bool, fields: Fields) -> Modality:
    """What is searched for: pictures, or what else is asked for. Re-ranking a picture's answers asks for texts."""
    if isinstance(gallery, IndexGallery) and gallery.count("video"):
        default = "video"
    elif reranked and all(term.kind == "image" for term in terms):
        default = "text"
    else:
        default = "image"
    chosen: Any = fields.choice("answers", ("image", "text", "video"), default)
    return chosen


def _condition(value: str) -> tuple[str, str]:
    """ "column:value" as both parts."""
    name, colon, wanted = value.partition(":")
    if not colon:
        raise InputError(f'"where" should be column:value, it is {value[:60]!r}')
    return name, wanted


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
