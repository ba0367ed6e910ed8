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
from coalign.files import guarded
from coalign.retrieval.embed import vector_width
from coalign.retrieval.index import ABOUT, Index
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
        if file.exists() and not overwrite:
            self._check(file)
            return {"image": 0, "text": 0}
        with vector_table(file, vector_width(loaded), thumbnails=True, about=self.about) as table:
            added = embed_pairs(loaded, part.source(source.grouped()), table, **options)
        return {"image": added["image"], "text": added["text"]}

    def there(self, part: Part) -> list[Path]:
        """The files of all parts that are written."""
        return [file for file in part.files(self.folder, ENDING) if file.exists()]

    def join_index(self, path: Path, width: int, part: Part) -> int:
        """Puts all parts into the index `path` by one commit; returns the number of its rows."""
        files = self._all(part)
        with Index.writing(path):
            index = Index.resume(path, width, self.about)
            if not index.count():
                index.append_files(files)
                index.finish()
        return index.count()

    def join_table(self, path: Path, part: Part) -> int:
        """Puts all parts into the table `path`; returns the number of its rows."""
        return join_tables(path, self._all(part))

    def _all(self, part: Part) -> Sequence[Path]:
        files = part.files(self.folder, ENDING)
        for file in files:
            self._check(file)
        return files

    def _check(self, file: Path) -> None:
        with guarded(file):
            kept: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
            if json.loads(kept.get(ABOUT, b"{}")) != dict(self.about):
                raise InputError(
                    f"{file}: a part of other data, or made before the run was trained further; replace it on purpose: "
                    "--overwrite"
                )
