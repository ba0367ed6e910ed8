"""Checksums of an index's files, kept beside them: a flipped bit is found when the index is opened.

LanceDB never changes a file of these kinds that it has written, so a digest (BLAKE2b, 128 bits) is made of each once.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from coalign.errors import InputError
from coalign.files import digest, read_json, regular, replace_file

FILE = "checksums.json"
WRITTEN_ONCE = ("*.lance/data/**/*", "*.lance/_indices/**/*", "*.lance/_versions/*.manifest", "*.arrow")
MOST = 1 << 30
"""Bytes that are read when an index is opened: all of one that is smaller, files drawn at random of a larger one."""


def write_checksums(index: Path) -> None:
    """Writes the digests of an index's files; those of files that it has already are taken over."""
    known = _known(index)
    written = (file for pattern in WRITTEN_ONCE for file in index.glob(pattern) if file.is_file())
    files = sorted(file.relative_to(index).as_posix() for file in written)
    kept = {name: known.get(name) or digest(index / name) for name in files}
    if kept != known:
        text = json.dumps(kept, indent=0)
        replace_file(index / FILE, lambda part: part.write_text(text, encoding="utf-8"))


def check(index: Path) -> None:
    """Holds an index's files against their digests. Files that have none, such as of an older version, pass.

    Raises:
        InputError: One is damaged, or no file: a pipe would block the library that reads it.
    """
    for folder, _, names in os.walk(index):
        for name in names:
            if (Path(folder) / name).exists():  # versions are removed with time
                regular(Path(folder) / name)
    kept, left = _known(index), MOST
    for name in random.sample([*kept], len(kept)):
        try:
            left -= (index / name).stat().st_size
            if left < 0:
                return
            sound = digest(index / name) == kept[name]
        except FileNotFoundError:  # versions are removed with time
            continue
        if not sound:
            raise InputError(f"{index / name}: is damaged; make the index again: coalign index ... --overwrite")


def _known(index: Path) -> dict[str, str]:
    content: object = read_json(index / FILE) if (index / FILE).is_file() else {}
    if not isinstance(content, dict):
        raise InputError(f"{index / FILE}: is damaged; delete it, and the index goes unchecked")
    return {str(name): str(value) for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
