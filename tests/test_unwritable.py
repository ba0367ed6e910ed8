"""A place that cannot be written to is told in one line that names it, by every way of writing."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coalign.cli.failures import report_error
from coalign.errors import InputError, WriteError
from coalign.files import locked, output, replace_file, replace_folder, shared, writing
from coalign.retrieval.export import save_program

FULL = "No space left on device"


def _held(manager: Callable[[Path], object]) -> Callable[[Path], object]:
    def call(path: Path) -> None:
        with manager(path):  # pyright: ignore[reportGeneralTypeIssues]
            pass

    return call


WAYS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: replace_file(path, lambda part: part.write_text("new")),
    "folder": lambda path: replace_folder(path, lambda part: (part / "a").write_text("new")),
    "locked": _held(lambda path: locked(path, "is training")),
    "shared": _held(shared),
    "writing": _held(writing),
    "output": _held(lambda path: output([path], True)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path, way: str) -> None:
    (tmp_path / "file").write_text("kept")
    path = tmp_path / "file" / "new"
    with pytest.raises(WriteError, match=rf"^{path}: cannot be written: Not a directory; name a place that you may"):
        WAYS[way](path)
    assert (tmp_path / "file").read_text() == "kept" and len([*tmp_path.iterdir()]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="modes of folders")
@pytest.mark.parametrize("way", WAYS)
def test_a_folder_of_somebody_else_is_named(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write in any folder
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WriteError, match=rf"^{tmp_path / 'new'}: cannot be written: Permission denied; name a place"):
        WAYS[way](tmp_path / "new")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FULL), RuntimeError(f"LanceError(IO): {FULL} (os error 28)")])
def test_a_full_disk_is_told_whatever_the_library_says(tmp_path: Path, error: Exception) -> None:
    def fail(part: Path) -> None:
        part.mkdir() if part.parent == tmp_path and not part.exists() else None
        raise error

    path = tmp_path / "a"
    for write in (replace_file, replace_folder):
        with pytest.raises(WriteError, match=rf"^{path}: cannot be written: {FULL}; make room"):
            write(path, fail)
    with pytest.raises(WriteError, match=rf"^{tmp_path}: cannot be written: {FULL}"), locked(tmp_path, "is indexing"):
        raise error
    assert not path.exists() and [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_another_disk_that_is_full_is_named_and_other_errors_stay(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"^/elsewhere/cache: cannot be written"), locked(tmp_path, "is indexing"):
        raise OSError(errno.ENOSPC, FULL, "/elsewhere/cache")
    for error in (ValueError("of another kind"), InputError("a.csv: is empty"), FileNotFoundError(2, "gone", "b")):
        with pytest.raises(type(error)) as found, locked(tmp_path, "is indexing"):
            raise error
        assert found.value is error


def test_a_temporary_name_is_shown_to_nobody(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(WriteError, match=rf"^{tmp_path / 'a'}: cannot be written: File too large"):
            replace_file(tmp_path / "a", lambda part: save_file({"a": torch.zeros(4000)}, part))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not [*tmp_path.iterdir()]


def test_a_program_that_finds_no_room_ends_in_a_line(tmp_path: Path) -> None:
    """PyTorch ends the process where it writes the file itself."""
    program = torch.export.export(torch.nn.Linear(64, 64), (torch.zeros(1, 64),))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(WriteError, match=rf"^{tmp_path / 'a.pt2'}: cannot be written: File too large"):
            replace_file(tmp_path / "a.pt2", lambda part: save_program(program, part, "{}"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not [*tmp_path.iterdir()]


def test_other_errors_of_files_are_told_without_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(PermissionError(errno.EACCES, "Permission denied", "/a/b"))
    assert capsys.readouterr().err == "coalign: /a/b: Permission denied\n"
