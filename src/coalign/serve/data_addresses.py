"""The addresses of the Data and Runs screens: rows, the map, findings, marks, learning curves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from coalign.errors import InputError
from coalign.serve.gallery import IndexGallery
from coalign.serve.marks import KINDS, marked_table
from coalign.serve.queries import Answer
from coalign.serve.served import MOST_ROWS, Served
from coalign.serve.sessions import Session
from coalign.serve.study import FEW, Floats, Of, choices_of, findings_of, lay_out, principal
from coalign.serve.training import training_of
from coalign.serve.uploads import Fields, read_json

MOST_ANSWERS = 200


class DataAddresses(Served):
    """Handlers of what is known of a set and of a training."""

    async def rows(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self.session(fields)
        gallery = await self.opened(session)
        offset, k = fields.integer("offset", 0, MOST_ROWS, 0), fields.integer("k", 1, MOST_ANSWERS, 50)
        wanted = [self.row(gallery, value) for value in fields.all("row")]
        where = [condition(value) for value in fields.texts("where")]
        return JSONResponse(await run_in_threadpool(self._rows, session, wanted, where, offset, k))

    def _rows(
        self, session: Session, wanted: Sequence[int], where: Sequence[tuple[str, str]], offset: int, k: int
    ) -> dict[str, Any]:
        gallery = session.gallery
        shown: Sequence[int] = wanted or gallery.shown
        if where:
            kept = gallery.having(where)
            shown = [row for row in shown if kept[row]]
        listed = [self.answer(session, gallery, Answer(row, 0.0, None)) for row in shown[offset : offset + k]]
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
        session = self.session(fields)
        await self.opened(session)
        choices = choices_of(session.gallery) if isinstance(session.gallery, IndexGallery) else ["image"]
        of: Any = fields.choice("of", ("image", "text", "both"), choices[0] if choices else "image")
        if isinstance(session.gallery, IndexGallery):
            rows, vectors = await run_in_threadpool(session.map_vectors, of)
        else:  # which the model is asked for
            rows, vectors = await session.worker.call(session.map_vectors, of)
        said = await run_in_threadpool(self._map, session, of, rows, vectors)
        return JSONResponse({**said, "choices": choices})

    def _map(self, session: Session, of: Of, rows: npt.NDArray[np.int64], vectors: Floats) -> dict[str, Any]:
        gallery = session.gallery
        job = None if len(rows) < FEW else self.studies.start(("map", session.name, of), lay_out, vectors)
        is_laid_out = job is not None and job.done() and job.exception() is None
        key = f"map-{session.name}-{of}-{'umap' if is_laid_out else 'pca'}"
        if self.maps.get(key) is None:
            places = job.result() if job is not None and is_laid_out else principal(vectors)
            self.maps.put(key, rows.astype("<i4").tobytes() + places.astype("<f4").tobytes())
        columns: dict[str, Any] = {}
        for number, (name, known) in enumerate(gallery.values.items()):
            column = f"codes-{session.name}-{of}-{number}"
            self.maps.put(column, gallery.codes[name][rows].tobytes())
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
        session = self.session(fields)
        await self.opened(session)
        key = ("findings", session.name)
        wanted = request.method == "POST" and len(session.index)
        job = self.studies.start(key, findings_of, session.run, session.images, again=True) if wanted else None
        job = job or self.studies.job(key)
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
            return self._marked(self.session(Fields.of_query(request)))
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise InputError('a mark is JSON: {"run", "row", "mark"}')
        fields = Fields.of_json(await read_json(request, 2**16))
        session = self.session(fields)
        item = self.item(await self.opened(session), fields.integer("row", 0, MOST_ROWS))
        mark = fields.choice("mark", KINDS, "wrong")
        said = {"text": item.text, "image": item.image}
        await run_in_threadpool(self.marks_of[session.name].put, item.row, mark, said)
        return self._marked(session)

    def _marked(self, session: Session) -> Response:
        marks = self.marks_of[session.name]
        file = None if marks.file is None else str(marks.file)
        return JSONResponse({"file": file, "marks": sorted(marks.by_row.values(), key=lambda mark: mark["row"])})

    async def marks_table(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session = self.session(fields)
        gallery, of = await self.opened(session), fields.choice("of", ("kept", "marked"), "kept")
        name, media, parts = await run_in_threadpool(
            marked_table, gallery, self.marks_of[session.name], "kept" if of == "kept" else "marked"
        )
        return StreamingResponse(
            parts, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    async def run(self, request: Request) -> Response:
        session = self.session(Fields.of_query(request))
        return JSONResponse({"run": session.name, **await run_in_threadpool(training_of, session.run)})

    async def streams(self, request: Request) -> Response:
        fields = Fields.of_query(request)
        session, item = self.session(fields), fields.integer("item", 0, MOST_ROWS, 0)
        said, values = await session.worker.call(session.streams.attention, item)
        key = hashlib.blake2b(values + session.name.encode(), digest_size=12).hexdigest()
        self.maps.put(key, values)
        return JSONResponse({"run": session.name, **said, "bytes": f"/api/bytes/{key}"})


def condition(value: str) -> tuple[str, str]:
    """ "column:value" as both parts."""
    name, colon, wanted = value.partition(":")
    if not colon:
        raise InputError(f'"where" should be column:value, it is {value[:60]!r}')
    return name, wanted
