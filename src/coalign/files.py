"""Files from outside, read under a guard; files of our own, written whole or not at all.

A damaged file breaks a library in ways that nobody lists: a key that is not there, a size that is negative, a panic of
Rust. `guarded` turns all of them into an `InputError` that names the file; `reader` is the same for a function, and
what the fuzz tests hold to be complete: whatever reads a user's file is marked by it.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from glob import escape
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Literal, ParamSpec, TypeVar

from coalign.errors import InputError, WriteError, redacted

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

P = ParamSpec("P")
T = TypeVar("T")
PathLike = str | os.PathLike[str]
MARK = "__reader__"
"""The attribute of a function that `reader` marks."""
OUTSIDE = "COALIGN_OUTSIDE_PATHS"
"""The variable that is 1 where paths in data may lead out of its folder: the flag sets it, for all processes."""


# ---------------------------------------------------------------------------------------------------------- reading
@contextmanager
def guarded(*paths: PathLike) -> Generator[None]:
    """Raises an `InputError` that names the first path for whatever goes wrong inside, save for interrupts.

    An `InputError` that names one of the paths passes as it is.
    """
    # a Path has one slash of `hf://`
    names = [redacted(re.sub(r"^hf:/(?!/)", "hf://", os.fspath(path))) for path in paths]
    try:
        yield
    except InputError as error:
        if type(error) is not InputError or any(name in redacted(str(error)) for name in names):
            raise
        raise InputError(f"{names[0]}: {error}") from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise InputError(f"{names[0]}: {_reason(error)}") from error


def reader(read: Callable[P, T]) -> Callable[P, T]:
    """Marks a function that reads a user's file or folder, and guards it (see `guarded`): its first argument is the
    path, and what else of its arguments is a path may be named by an error too."""

    @wraps(read)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        values = (*arguments, *named.values())
        first = next((value for value in values if isinstance(value, str | os.PathLike)), None)
        if first is None:  # what is in memory is no damaged file
            return read(*arguments, **named)
        with guarded(first, *(value for value in values if isinstance(value, os.PathLike))):
            return read(*arguments, **named)

    setattr(call, MARK, f"{read.__module__}.{read.__qualname__}")
    return call


def regular(path: PathLike) -> Path:
    """The path of a regular file. A pipe or a device would block the reader, or never end.

    Raises:
        InputError: Nothing is there, or something that is no file.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise InputError(f"{path}: {'no such file' if missing else _reason(error)}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, not a file")
    return path


class Inside:
    """The folders in which the paths that some data names stay, and the links that lie in it: its own folder, or one
    that the user names. The flag --outside-paths, or the variable `OUTSIDE`, lets them lead anywhere."""

    def __init__(self, *folders: PathLike) -> None:
        self._anywhere = os.environ.get(OUTSIDE) == "1"
        self.roots = tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders))
        self._within = tuple(f"{root.rstrip(os.sep)}{os.sep}" for root in self.roots)
        self._real: dict[str, str] = {}

    def refusal(self, path: PathLike, said: str = "") -> str:
        """Why a path is not followed, be there a file or not; empty where it is. `said` is what data that takes a
        folder of images says of it."""
        if self._anywhere:
            return ""
        try:
            real = self._real_path(path)
        except ValueError:  # a NUL, half a surrogate pair: no file has such a name
            return ""
        if real in self.roots or real.startswith(self._within):
            return ""
        absolute = said.startswith(os.sep)
        how = "--images FOLDER with the pictures below it, or --outside-paths" if absolute else "--outside-paths"
        return f"leads out of {' and '.join(self.roots)}; if that is meant: {how}"

    def _real_path(self, path: PathLike) -> str:
        """Without links. Those of a folder are looked up once."""
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = f"{self._real[folder].rstrip(os.sep)}{os.sep}{name}"
        link = name in ("", ".", "..") or os.path.islink(real)  # noqa: PTH114 - a Path takes ten times as long
        return os.path.realpath(path) if link else real

    def checked(self, path: Path) -> Path:
        """The path. Raises InputError where it is not followed."""
        refusal = self.refusal(path)
        if refusal:
            raise InputError(f"{path}: {refusal}")
        return path


@contextmanager
def outside_paths() -> Generator[None]:
    """Data that is opened meanwhile, by this process and those that it starts, names paths anywhere (`Inside`)."""
    before = os.environ.get(OUTSIDE)
    os.environ[OUTSIDE] = "1"
    try:
        yield
    finally:
        os.environ.pop(OUTSIDE)
        if before is not None:
            os.environ[OUTSIDE] = before


def inside(folder: PathLike, paths: Iterable[Path]) -> list[Path]:
    """The paths, which lie in a folder. Raises InputError for a link that leads out of it (see `Inside`)."""
    kept = Inside(folder)
    return [kept.checked(path) for path in paths]


def read_text(path: PathLike, encoding: str = "utf-8-sig") -> str:
    """The text of a regular file. Raises InputError where there is none, or it is of another encoding."""
    path = regular(path)
    try:
        return path.read_text(encoding)
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from None
    except (UnicodeError, LookupError) as error:
        raise InputError(f"{path}: is not {encoding.removesuffix('-sig').upper()}: {error}") from None


def read_json(path: PathLike, encoding: str | None = None) -> Any:
    """The contents of a JSON file; UTF-8 where no encoding is named. Half a surrogate pair becomes U+FFFD.

    Raises:
        InputError: It cannot be read.
    """
    text = read_text(path, encoding or "utf-8-sig")
    try:
        found = json.loads(text)
        if _SURROGATE.search(text):
            text = json.dumps(found, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            found = json.loads(text)
        return found
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error or 'nested too deeply'}") from None


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/coalign`, that is `~/.cache/coalign`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "coalign"


def digest(path: PathLike) -> str:
    """A file's content in 32 hexadecimal digits (BLAKE2b)."""
    hasher = blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, MemoryError):
        return "cannot be read: it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "cannot be read: it is nested too deeply"
    said = " ".join(str(error)[:500].split())
    damaged = "is damaged or of another form"
    if isinstance(error, KeyError):
        return f"{damaged}: it lacks {said}"
    return f"{damaged}: {said}" if said else f"{damaged} ({type(error).__name__})"


# ---------------------------------------------------------------------------------------------------------- writing
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written(path: PathLike, part: PathLike | None = None) -> Generator[None]:
    """Raises a `WriteError` that names the path where there is no room, by whatever error a library tells it; `part` is
    the temporary name under which the path is written."""
    try:
        yield
    except InputError as error:
        if part is None or not isinstance(error, WriteError) or str(part) not in str(error):
            raise
        raise WriteError(str(error).replace(str(part), str(path))) from error
    except Exception as error:
        said = next((os.strerror(number) for number in _FULL if os.strerror(number) in str(error)), None)
        if said is None:
            raise
        place, file = path, getattr(error, "filename2", None) or getattr(error, "filename", None)
        if isinstance(file, str) and Path(path).absolute().parent not in Path(file).absolute().parents:
            place = file  # such as a cache on another disk
        raise WriteError(
            f"{place}: cannot be written: {said}; make room, or name another place; what was there before is whole"
        ) from error


@contextmanager
def _opened(path: Path) -> Generator[None]:
    """Raises a `WriteError` that names the path where a folder or file cannot be made for it."""
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError) or not error.strerror:
            raise
        said = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise WriteError(f"{path}: cannot be written: {said}; name a place that you may write to") from error


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary name, in a folder beside `path`, where libraries may have temporary files of their own. What is
    written there is synchronised and takes the place of `path` if the block succeeds; a reader, or a crash at any
    moment, finds the old content or the new one."""
    folder = _beside(path)
    with _opened(path):
        folder.mkdir(parents=True)
    part = folder / path.name
    try:
        with written(path, part):
            yield part
            _share(part)
            sync(part)
            try:
                part.replace(path)
            except IsADirectoryError:
                raise InputError(f"{path}: is a folder, where a file of this name is written; move it away") from None
            sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def output(paths: Sequence[Path], overwrite: bool) -> Generator[list[Path]]:
    """Temporary names of files that a command writes together (see `replacing`), while no other process writes them.
    Of several, a note beside the first says which they are until all have their names: the same command, killed in
    between, takes what it left for its own when it is run again.

    Raises:
        InputError: Another process writes one of them, or one exists that no killed command left, without `overwrite`.
    """
    note = paths[0].with_name(f".{paths[0].name}.unfinished")
    with ExitStack() as held:
        for path in paths:
            held.enter_context(writing(path))
        remove_parts(note.parent, own=True, of=f".{note.name}")
        left = _left(note)
        for path in paths:
            if (
                path.exists()
                and not overwrite
                and not (path.is_file() and left.get(str(path.resolve())) == digest(path))
            ):
                raise InputError(f"{path}: exists already; give another name, or --overwrite")
        with ExitStack() as replaced:
            parts = [replaced.enter_context(replacing(path)) for path in paths]
            yield parts
            if len(paths) > 1:
                said = {str(path.resolve()): digest(part) for path, part in zip(paths, parts, strict=True)}
                replace_file(note, lambda part: part.write_text(json.dumps(said), encoding="utf-8"))
        note.unlink(missing_ok=True)


def _left(note: Path) -> dict[str, Any]:
    """The digests of files that a command was about to name; none where no killed one left a note."""
    try:
        said = read_json(note)
    except InputError:
        return {}
    return said if isinstance(said, dict) else {}


def _beside(path: Path) -> Path:
    """A temporary name that no other process has, be it of another container, whose number may be the same."""
    return path.with_name(f".part.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.{path.name}")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node())[:20] or "host"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a file; see `replacing`."""
    with replacing(path) as part:
        write(part)


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes a .csv, whole or not at all. A text that a spreadsheet would take for a formula begins with an apostrophe
    instead, as the spreadsheets' own way to write such a text has it."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Makes a folder whose files `fill` writes. It gets its name when all of them are on disk."""
    part = _beside(path)
    with _opened(path):
        part.mkdir(parents=True)
    try:
        with written(path, part):
            fill(part)
            for file in part.rglob("*"):
                if file.is_file():
                    _share(file)
                sync(file)
            sync(part)
            if path.exists():
                shutil.rmtree(path)
            part.replace(path)
            sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Gives a file a second name, in place of what had that name. Copied where the file system has no links."""

    def write(part: Path) -> None:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)

    replace_file(path, write)


def _share(path: Path) -> None:
    """Gives a file the mode that the user's mask asks for; some libraries write files that the owner alone can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def remove_parts(folder: Path, *, own: bool = False, of: str = "") -> None:
    """Removes what killed processes, or those of this machine (`own`), left half written in a folder, of files of any
    name or of one; for whoever holds the folder's lock."""
    parts = folder.glob(f".part.{_host() + '.' if own else ''}*{escape(of)}")
    for part in [*parts, *([] if own or of else folder.glob(".*.part"))]:
        shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, held: str, wait: bool = False) -> Generator[IO[Any]]:
    """Keeps other processes out of a folder meanwhile, by its file `.lock`; a killed process leaves no lock behind.

    Raises:
        InputError: Another process holds it; `held` says what it does. With `wait` it is waited for instead.
    """
    with _lock_file(folder, folder / ".lock") as file:
        try:
            _lock(file, "EX" if wait else "EX now")
        except OSError as error:
            raise InputError(f"{folder}: another process {held} in this folder") from error
        with written(folder):
            yield file


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Keeps other processes from writing a file or folder meanwhile, by a lock beside it that goes with the work, and
    removes what a killed one of this machine left of it half written.

    Raises:
        InputError: Another process writes it.
    """
    lock = path.with_name(f".{path.name}.lock")
    with _lock_file(path, lock) as file:
        try:
            _lock(file, "EX now")
            alone = lock.exists() and lock.stat().st_ino == os.fstat(file.fileno()).st_ino  # not one that just went
        except OSError:
            alone = False
        if not alone:
            raise InputError(f"{path}: another process writes this file; wait for it, or give another name")
        try:
            remove_parts(path.parent, own=True, of=f".{path.name}")
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                lock.unlink()


@contextmanager
def shared(folder: Path) -> Generator[None]:
    """Several processes write other files into a folder meanwhile, by its file `.shared`. The first of a host removes
    what killed ones of that host left half written."""
    with _lock_file(folder, folder / ".shared") as file:
        with suppress(OSError):  # others are at work, or the file system has no locks
            if _lock(file, "EX now"):
                remove_parts(folder, own=True)
        with suppress(OSError):
            _lock(file, "SH")
        with written(folder):
            yield


def _lock_file(locked: Path, path: Path) -> IO[Any]:
    with _opened(locked):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            regular(path)  # opening a pipe would wait for a reader
        return path.open("w")


def _lock(file: IO[Any], how: Literal["EX", "EX now", "SH"]) -> bool:
    """Locks an open file, alone (EX) or with others (SH). False where there are no locks: on Windows."""
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(file, fcntl.LOCK_SH if how == "SH" else fcntl.LOCK_EX | (fcntl.LOCK_NB if how == "EX now" else 0))
    return True


def is_broad(folder: str) -> bool:
    """Whether a folder is the whole file system, or holds the user's home."""
    try:
        root, home = Path(folder).resolve(), Path.home().resolve()
    except (OSError, RuntimeError, ValueError):
        return True
    return root.parent == root or root in home.parents
