"""Files and folders that are either whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a file. A reader, or a crash at any moment, finds the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    write(part)
    sync(part)
    part.replace(path)
    sync(path.parent)


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Makes a folder whose files `fill` writes. It gets its name when all of them are on disk."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    fill(part)
    for file in part.iterdir():
        sync(file)
    sync(part)
    if path.exists():
        shutil.rmtree(path)
    part.replace(path)
    sync(path.parent)


def link_or_copy(source: Path, path: Path) -> None:
    """Gives a file a second name, in place of what had that name. Copied where the file system has no links."""

    def write(part: Path) -> None:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)

    replace_file(path, write)


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
