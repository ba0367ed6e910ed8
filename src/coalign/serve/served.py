"""The runs that are served, and what all addresses say of their rows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from coalign.errors import InputError
from coalign.serve.marks import Marks
from coalign.serve.pictures import Kept, encoded, film_strip
from coalign.serve.queries import Answer
from coalign.serve.sessions import Session
from coalign.serve.study import Studies
from coalign.serve.uploads import Fields, Missing

MOST_ROWS = 100_000_000
PICTURE_BYTES, MAP_BYTES = 64 * 2**20, 256 * 2**20


class Served:
    """Runs by name, with what is kept of them between requests."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.sessions = sessions
        self.pictures, self.maps = Kept(PICTURE_BYTES), Kept(MAP_BYTES)
        self._openings = threading.Lock()
        self.studies = Studies()
        self.marks_of = {name: Marks(session.run) for name, session in sessions.items()}

    def close(self) -> None:
        """Ends what is still being computed beside the server."""
        self.studies.close()

    def session(self, fields: Fields) -> Session:
        return self.named(fields.text("run") or next(iter(self.sessions)))

    def named(self, name: str) -> Session:
        if name not in self.sessions:
            raise Missing(f"no run {name[:60]!r}; there are: {', '.join(self.sessions)}")
        return self.sessions[name]

    async def opened(self, session: Session) -> Any:
        """The run's gallery, opened in another thread the first time."""
        if "gallery" in session.__dict__:
            return session.gallery
        return await run_in_threadpool(self._open, session)

    def _open(self, session: Session) -> Any:
        with self._openings:
            gallery = session.gallery
            gallery.columns  # noqa: B018 - read here, off the event loop
            return gallery

    def row(self, gallery: Any, value: Any) -> int:
        return int(self.item(gallery, self.number(value)).row)

    @staticmethod
    def number(value: Any) -> int:
        return Fields([("row", value)]).integer("row", 0, MOST_ROWS)

    @staticmethod
    def item(gallery: Any, row: int) -> Any:
        try:
            return gallery.item(row)
        except InputError as error:
            raise Missing(str(error)) from None

    def encoded(self, session: Session, row: int, side: int, film: int) -> bytes:
        clip = session.gallery.clip(row) if film else None
        picture = session.gallery.picture(row) if clip is None else film_strip(session.gallery.item(row).meta, film)
        if picture is None:
            raise Missing(f"row {row} has no picture")
        try:
            return encoded(picture, side)
        except InputError as error:
            raise Missing(str(error)) from None

    def address(self, session: Session, kind: str, row: int) -> str:
        first = session.name == next(iter(self.sessions))
        return f"/api/{kind}/{row}" + ("" if first else f"?run={session.name}")

    def answer(self, session: Session, gallery: Any, answer: Answer) -> dict[str, Any]:
        item = gallery.item(answer.row)
        said: dict[str, Any] = {
            "row": answer.row,
            "score": answer.score,
            "p_match": answer.p_match,
            "modality": item.modality,
            "text": item.text,
            "image": self.address(session, "image", answer.row),
            "columns": {name: values[answer.row] for name, values in gallery.columns.items()},
        }
        if item.modality == "video":
            span = {name: item.meta.get(name) for name in ("start", "end")}
            said |= {"video": self.address(session, "video", answer.row), **span}
            said["file"] = Path(str(item.meta.get("video", ""))).name
        return said
