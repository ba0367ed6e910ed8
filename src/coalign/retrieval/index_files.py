"""Which files an index's rows lead to: those below the folders that its pictures and videos had when it was made.

An index names pictures, videos and tables by full paths, so one that somebody else made could name any file of whoever
shows it. What lies outside is neither shown nor read, unless the user names a folder, or allows all (`files.OUTSIDE`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from coalign.data.core.samples import Source
from coalign.data.images.decode import BadSample
from coalign.errors import InputError
from coalign.files import Inside, is_broad

FOLDERS = "folders"
"""The entry of what is kept with an index that lists the folders of its files."""


def folders_of(source: Source) -> dict[str, list[str]]:
    """What an index keeps of the folders in which its pictures lie."""
    return {FOLDERS: [os.path.abspath(folder) for folder in source.folders]}  # noqa: PTH100 - texts


class IndexFiles:
    """The files of the index in the folder `index`, of which `about` says what it was made from: below the folders that
    it lists, of one that lists none below its data; or below `images`. Those in the index's own folder are, too. A
    folder that has everybody's files, such as /, allows nothing: an index says itself what it was made from."""

    def __init__(self, index: Path, about: Mapping[str, Any], images: str | os.PathLike[str] | None = None) -> None:
        kept = about.get(FOLDERS)
        if images is not None:
            if not os.path.isdir(images):  # noqa: PTH112
                raise InputError(f"{images}: no such folder of pictures")
            folders = [os.fspath(images)]
        elif isinstance(kept, list) and kept:
            folders = [str(folder) for folder in cast("list[object]", kept)]
        else:
            data = str(about.get("data") or index)
            folders = [data if os.path.isdir(data) else os.path.dirname(os.path.abspath(data))]  # noqa: PTH100, PTH112, PTH120
        self._inside = Inside(index, *(folder for folder in folders if images is not None or not is_broad(folder)))

    def refusal(self, path: str | None) -> str:
        """Why a file that a row names is not read; empty where it is, or the row names none."""
        return self._inside.refusal(path, path) if path else ""

    def checked(self, path: str | None) -> str | None:
        """The path. Raises BadSample where it leads out."""
        refusal = self.refusal(path)
        if refusal:
            raise BadSample(refusal, path or "")
        return path
