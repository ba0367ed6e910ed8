"""A corpus that is embedded by parts: each is one whole file of vectors, and whoever finishes the last one joins them.

    for i in $(seq 0 15); do coalign index RUN --data PAIRS --part $i/16; done

A part that is there is passed over, so that what was killed is started again as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.data.core.parts import Part
from coalign.data.core.samples import Source
from coalign.data.loaded import Loaded
from coalign.errors import InputError
from coalign.extras import optional
from coalign.files import guarded, locked, read_json, regular, remove_parts, replace_file, shared
from coalign.retrieval.embed import vector_width
from coalign.retrieval.index import ABOUT, JOINED, Index
from coalign.retrieval.index_files import FOLDERS
from coalign.retrieval.index_folder import holds_index
from coalign.retrieval.search import about_index, embed_pairs
from coalign.retrieval.vector_table import join_tables, vector_table

pq = optional("pyarrow.parquet")

ENDING = ".parquet"


@dataclass(frozen=True)
class Parts:
    """The files of a corpus' parts in a folder: all of what `about` (JSON) says they were made from."""

    folder: Path
    about: Mapping[str, Any]

    @staticmethod
    def beside(path: Path, run: Path, source: Source) -> Parts:
        """Those of the index or table `path`."""
        return Parts(path.with_name(f"{path.name}.parts"), about_index(run, source))

    def embed(
        self, loaded: Loaded, source: Source, part: Part, *, overwrite: bool = False, **options: Any
    ) -> dict[str, int]:
        """Writes a part's vectors as one file and gives the numbers of images and texts, 0 where it is there.

        Raises:
            InputError: There is a file of other weights or data.
        """
        file = part.file(self.folder, ENDING)
        with shared(self.folder):
            if file.exists() and not overwrite:
                self.check(file)
                return {"image": 0, "text": 0}
            with vector_table(file, vector_width(loaded), thumbnails=True, about=self.about) as table:
                added = embed_pairs(loaded, part.source(source.grouped()), table, **options)
        return {"image": added["image"], "text": added["text"]}

    def there(self, part: Part) -> list[Path]:
        """The files of all parts that are written, of these weights and this data."""
        return [file for file in part.files(self.folder, ENDING) if file.exists() and self._made(file)]

    def join_index(self, path: Path, width: int, part: Part, *, overwrite: bool = False) -> int:
        """Puts all parts into the index `path` by one commit; returns the number of its rows.

        What another process joined meanwhile, or one that was killed after the commit, is taken as it is.

        Raises:
            InputError: A part is missing; the index holds something else, and `overwrite` does not say to replace it.
        """
        with Index.writing(path, wait=True):
            files = self._all(part)
            parts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
            index = self._joined(path, width, parts, overwrite)

            def keep(rows: int) -> None:  # before the commit: a joined index always has it
                text = json.dumps({"rows": rows, "parts": parts})
                replace_file(path / JOINED, lambda file: file.write_text(text, encoding="utf-8"))

            if not index.count():
                index.append_files(files, keep)
            index.finish()
        return index.count()

    def refuse_other(self, path: Path, width: int) -> None:
        """Before a part is embedded for it: raises an `InputError` where the index holds something else."""
        if holds_index(path):
            self._joined(path, width, (), overwrite=False)

    def _joined(self, path: Path, width: int, parts: Sequence[Any], overwrite: bool) -> Index:
        """The index in which these parts are joined, or an empty one. Raises as `join_index`."""
        try:
            index = Index.resume(path, width, self.about)
            with guarded(path / JOINED):
                kept: dict[str, Any] = dict(read_json(path / JOINED)) if (path / JOINED).exists() else {}
            rows = index.count()
            if not rows or (rows == kept.get("rows") and (not overwrite or kept.get("parts") == parts)):
                return index
            if not overwrite:
                raise InputError(
                    f"{path}: holds {rows} rows that were not joined from the parts in {self.folder}, such as of an "
                    "indexing that was stopped; replace it on purpose (--overwrite), or give another path"
                )
        except InputError:
            if not overwrite:
                raise
        return Index.create(path, width, self.about, overwrite=True)

    def join_table(self, path: Path, part: Part, *, overwrite: bool = False) -> int:
        """Puts all parts into the table `path`, unless another process has; returns the number of its rows.

        Raises:
            InputError: A part is missing; there is another table, and `overwrite` does not say to replace it.
        """
        with locked(self.folder, "is joining", wait=True):
            remove_parts(path.parent, own=True, of=f".{path.name}")
            if path.exists() and not overwrite:
                self.check(path)
                return pq.read_metadata(path).num_rows
            return join_tables(path, self._all(part), self.about)

    def _all(self, part: Part) -> Sequence[Path]:
        files = part.files(self.folder, ENDING)
        for file in files:
            self.check(file)
        return files

    def _made(self, file: Path) -> bool:
        try:
            return self.check(file) is None
        except InputError:
            return False

    def check(self, file: Path) -> None:
        """Raises `InputError` where a part, or the table of all, was made from something else, or is damaged."""
        with guarded(file):
            kept: dict[bytes, bytes] = pq.read_schema(regular(file)).metadata or {}
            made, wanted = json.loads(kept.get(ABOUT, b"{}")), json.loads(json.dumps(dict(self.about)))
            if {**made, FOLDERS: None} != {**wanted, FOLDERS: None}:
                raise InputError(
                    f"{file}: of other data, or made before the run was trained further; replace it on purpose: "
                    "--overwrite"
                )
