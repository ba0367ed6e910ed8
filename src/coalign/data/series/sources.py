"""One way to open any of the forms in which multimodal series come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coalign.data.pairs.tables import is_table
from coalign.data.series.csd import read_csd
from coalign.data.series.folder import FILE, is_series_folder, read_folder
from coalign.data.series.pickles import FUNNY, Padding, read_pickle, read_ur_funny
from coalign.data.series.utterances import SeriesData
from coalign.errors import InputError
from coalign.files import inside, reader


@reader
def open_series(
    source: str | Path,
    *,
    padding: Padding = "strip",
    by_word: bool = True,
    streams: Mapping[str, str] | None = None,
    labels: str = "sentiment",
) -> SeriesData:
    """Reads a data set of utterances.

    Args:
        source: A pickle of MulT, MAG or MMSA; a folder of .csd files, of UR-FUNNY's pickles, or one that
            `coalign convert-data` wrote.
        padding: What becomes of a pickle's padding (see `read_pickle`).
        by_word, streams, labels: For .csd files (see `read_csd`).

    Raises:
        InputError: It is none of these, or damaged.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    data = _opened(path, padding, by_word, streams, labels)
    _ = data.widths, data.outputs  # which are errors where utterances disagree, or the task is unknown
    return data


def _opened(path: Path, padding: Padding, by_word: bool, streams: Mapping[str, str] | None, labels: str) -> SeriesData:
    if path.is_dir():
        inside(path, path.iterdir())
        if is_series_folder(path):
            return read_folder(path)
        if (path / FUNNY).is_file():
            return read_ur_funny(path)
        if any(path.glob("*.csd")):
            return read_csd(path, by_word=by_word, streams=streams, labels=labels)
        raise InputError(f"{path}: holds neither {FILE}, nor .csd files, nor UR-FUNNY's {FUNNY}")
    if path.suffix.lower() in (".pkl", ".pickle", ".p"):
        return read_pickle(path, padding)
    if is_table(path):
        raise InputError(f"{path}: make features of its sounds and pictures first: coalign convert-data {path} OUT")
    raise InputError(
        f"{path}: unknown kind of data; expected a .pkl of MulT, MAG or MMSA, a folder of .csd files or one that "
        "coalign convert-data wrote"
    )
