"""A stored, searchable corpus on LanceDB: unit vectors beside their texts, pictures and whatever the user wants kept.

An index is a folder with one LanceDB table (columns: row, modality, text, image, thumbnail, meta as JSON, vector).
Every append is one atomic version of the table, so an interrupted embedding leaves a readable index that can be
continued. Search is exact unless an approximate index is built and asked for.
"""

import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from coalign.errors import InputError, without_secrets
from coalign.extras import optional
from coalign.files import guarded, locked, reader, remove_parts
from coalign.retrieval import index_copy
from coalign.retrieval.approximate import FILE as APPROXIMATE
from coalign.retrieval.approximate import Approximate, tuned
from coalign.retrieval.checksums import FILE as CHECKSUMS
from coalign.retrieval.checksums import check, write_checksums
from coalign.retrieval.embed import Entry
from coalign.retrieval.index_copy import Copy
from coalign.retrieval.index_files import FOLDERS, IndexFiles
from coalign.retrieval.index_folder import TABLE, holds_index, refuse_others
from coalign.retrieval.index_rows import Similarity, checked, key_of, only, schema_of, unseen
from coalign.retrieval.vector_table import ABOUT, batches_of, table_schema

pa = optional("pyarrow")

JOINED = "joined.json"
"""The file that says of an index of joined parts how many rows they have, and what they were (`parts.py`)."""
SIMILARITY = "similarity"
COLUMNS = ["row", "modality", "text", "image", "thumbnail", "meta"]
KEPT = timedelta(days=7)
"""How long a version stays that is not the newest."""
LARGE, REBUILT = 100_000, 1.5
"""Rows above which an index is searched approximately, and the growth after which it is built anew."""
BATCH = 64
"""Queries that the library is asked at once: their answers are in memory together."""
PRODUCT_WIDTH = 8  # dimensions that one code of the product quantiser stands for


@dataclass(frozen=True)
class Hit:
    """One answer: its score, its row in the index, what was stored with it, and its similarity to the query, which is
    the score unless it was re-ranked."""

    score: float
    row: int
    modality: str
    entry: Entry
    similarity: float = math.nan


class Index:
    """Vectors of one width with their entries. Made by `create`, `open` or `resume`."""

    def __init__(
        self, path: Path, table: Any = None, images: str | Path | None = None, copy: Copy | None = None
    ) -> None:
        self.path = path
        self._opened, self._copy = table, copy
        self._keys: dict[str, set[bytes]] = {}
        schema: Any = self._table.schema if copy is None else copy.schema
        self.width: int = schema.field("vector").type.list_size
        stored: dict[str, Any] = json.loads((schema.metadata or {}).get(ABOUT, b"{}"))
        self.similarity: Similarity = stored.pop(SIMILARITY, "cosine")
        self.about = stored
        self.files: IndexFiles = IndexFiles(path, stored, images)

    @classmethod
    def create(
        cls,
        path: str | Path,
        width: int,
        about: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        similarity: Similarity = "cosine",
    ) -> "Index":
        """A new, empty index of vectors of `width` dimensions in the folder `path`.

        `about` (JSON) is kept with it: the run and the data that it was made from. With `similarity` "dot" vectors keep
        their lengths, for models that were trained with the plain product. An index that stands there already
        is emptied only with `overwrite`; a folder that holds anything else is refused either way.
        """
        path = Path(path)
        if holds_index(path) and not overwrite:
            raise InputError(f"{path} is an index already; open it, give another path, or ask to overwrite it")
        refuse_others(path)
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", str(path.absolute())):
            said = "control characters, or bytes that are no UTF-8, in its name"
            raise InputError(f"{path}: LanceDB takes no folder with {said}; name another: --out")
        kept = without_secrets(about or {}) | ({} if similarity == "cosine" else {SIMILARITY: similarity})
        schema = schema_of(width).with_metadata({ABOUT: json.dumps(kept).encode()})
        path.mkdir(parents=True, exist_ok=True)
        for name in (APPROXIMATE, JOINED, CHECKSUMS):
            (path / name).unlink(missing_ok=True)
        index_copy.remove(path)
        return cls(path, _connect(path).create_table(TABLE, schema=schema, mode="overwrite"))

    def finish(self) -> None:
        """Upkeep of an index after rows were added: its pieces merged, checksums and, where it is large, an approximate
        index with settings that find what exact search finds."""
        self.compact()
        rows, built = self.count(), self.approximate
        if rows > LARGE and (built is None or rows > REBUILT * built.rows):
            self.build_approximate()
            tuned(self).write(self.path)
        index_copy.write(self.path, self._table)
        write_checksums(self.path)

    @property
    def approximate(self) -> Approximate | None:
        """The approximate index and what it was measured to find; None where none was built."""
        return Approximate.read(self.path)

    @classmethod
    @reader
    def open(cls, path: str | Path, images: str | Path | None = None) -> "Index":
        """The index in the folder `path`, whose pictures lie in `images`, by default in the folders that they had when
        it was made. Raises InputError where there is none, or it is damaged."""
        path = Path(path)
        if not holds_index(path):
            raise InputError(f"{path} is not an index; `coalign index` makes one")
        check(path)
        return cls(path, images=images, copy=Copy.read(path))

    @property
    def _table(self) -> Any:
        """LanceDB's table, which is opened when it is first asked for, and from then on is what is read."""
        self._copy = None
        if self._opened is None:
            self._opened = _connect(self.path).open_table(TABLE)
        return self._opened

    @classmethod
    def resume(
        cls, path: str | Path, width: int, about: Mapping[str, Any], similarity: Similarity = "cosine"
    ) -> "Index":
        """The index in `path`, made anew where there is none, to go on with an interrupted embedding.

        Raises InputError where it was made with other vectors: of another width, or with another `about`.
        """
        if not holds_index(Path(path)):
            return cls.create(path, width, about, similarity=similarity)
        index = cls.open(path)
        wanted = {**without_secrets(json.loads(json.dumps(dict(about)))), "width": width, "similarity": similarity}
        before = {"width": index.width, "similarity": index.similarity, **without_secrets(index.about)}
        other = [name for name, kept in before.items() if wanted.get(name) != kept and name != FOLDERS]
        if other:
            changed = "; ".join(f"{name} was {before[name]}, is {wanted.get(name)} now" for name in other)
            raise InputError(
                f"{path} was made from something else: {changed}. Give another path, or ask to overwrite it: "
                "--overwrite"
            )
        return index

    @staticmethod
    @contextmanager
    def writing(path: str | Path, wait: bool = False) -> Generator[None]:
        """Keeps other processes from adding to the index in a folder meanwhile; with `wait` the others are waited for.

        Raises:
            InputError: Another one does; the folder holds something that is no index.
        """
        refuse_others(Path(path))
        with locked(Path(path), "is indexing", wait):
            remove_parts(Path(path))
            yield

    def __len__(self) -> int:
        return self.count()

    def count(self, modality: str | None = None) -> int:
        """The number of rows, of one modality or of all."""
        wanted = None if modality is None else only(modality)
        with guarded(self.path):
            copy = self._copy
            return self._table.count_rows(wanted) if copy is None else copy.count(modality)

    def append(self, vectors: Tensor, entries: Sequence[Entry], modality: str) -> None:
        """Adds `vectors` [N, width] with one entry each: all of them or none. An entry that the index holds already, as
        its text, picture and `meta` tell, is passed over; one without `meta` is taken for new.

        They are brought to unit length, unless the index is of plain products.
        """
        only(modality)
        if vectors.shape != (len(entries), self.width):
            raise InputError(f"vectors are {tuple(vectors.shape)}, expected {(len(entries), self.width)}")
        first = self._table.count_rows()
        kept = checked(vectors, self.similarity)
        known = self._known(modality)
        fresh = [place for place, entry in enumerate(entries) if not entry.meta or key_of(entry) not in known]
        if len(fresh) < len(entries):
            kept, entries = kept[fresh], [entries[place] for place in fresh]
            if not entries:
                return
        columns = [
            pa.array(range(first, first + len(entries)), pa.int64()),
            pa.array([modality] * len(entries), pa.string()),
            pa.array([entry.text for entry in entries], pa.string()),
            pa.array([entry.image for entry in entries], pa.string()),
            pa.array([entry.thumbnail for entry in entries], pa.binary()),
            pa.array([json.dumps(entry.meta) for entry in entries], pa.string()),
            _lists(kept),
        ]
        with _written(self.path):
            self._table.add(pa.Table.from_arrays(columns, schema=schema_of(self.width)))
            write_checksums(self.path)  # a damaged file of an indexing that was stopped can end the process
        known.update(key_of(entry) for entry in entries)

    def append_files(self, files: Sequence[Path], read: Callable[[int], object] | None = None) -> None:
        """Adds the rows of tables of vectors (`vector_table` with thumbnails), file after file, by one commit; `read`
        gets their number before it."""
        schema, first = schema_of(self.width), self._table.count_rows()

        def batches() -> Iterator[Any]:
            row, known = first, set[bytes]()
            for file in files:
                for batch in batches_of(file, table_schema(self.width, thumbnails=True)):
                    kept = batch.filter(pa.array(unseen(batch, known), pa.bool_()))
                    rows = pa.array(range(row, row + kept.num_rows), pa.int64())
                    row += kept.num_rows
                    flat = torch.from_numpy(kept.column("vector").flatten().to_numpy(zero_copy_only=False).copy())
                    vectors = checked(flat.view(-1, self.width), self.similarity)
                    columns = [rows, *(kept.column(name) for name in schema.names[1:-1]), _lists(vectors)]
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)
            if read is not None:
                read(row - first)

        failed: list[InputError] = []

        def told() -> Iterator[Any]:
            try:
                yield from batches()
            except InputError as error:
                failed.append(error)
                raise

        try:
            self._table.add(pa.RecordBatchReader.from_batches(schema, told()))
        except Exception:  # the library's own, which holds ours as text
            if failed:
                raise failed[0] from None
            raise
        self._keys.clear()

    def delete(self, where: str) -> int:
        """Removes the rows that fulfil `where`, as in `search`, for whoever is `writing`; how many these were.

        One commit writes the rows that stay, numbered anew in their order. `finish` afterwards, which also builds the
        approximate index of what is left.

        Raises:
            InputError: The condition cannot be read.
        """
        table = self._table
        with guarded(self.path):
            gone = table.count_rows(f"({where})")
            if not gone:
                return 0
            stays = f"({where}) IS NOT TRUE"  # a condition on what a row lacks is neither true nor false
            numbers = table.search().where(stays).select(["row"]).limit(None).to_arrow().column("row").to_numpy()
            numbers = np.sort(numbers)
            if len(numbers) + gone != table.count_rows():
                raise InputError(f"{where}: does not tell each row from the others")
            schema = table.schema

        def batches() -> Iterator[Any]:
            for batch in table.search().where(stays).select(schema.names).limit(None).to_batches():
                rows = pa.array(np.searchsorted(numbers, batch.column("row").to_numpy()), pa.int64())
                others = [batch.column(name) for name in schema.names[1:]]
                yield pa.RecordBatch.from_arrays([rows, *others], schema=schema)

        for name in (APPROXIMATE, JOINED, CHECKSUMS):
            (self.path / name).unlink(missing_ok=True)
        index_copy.remove(self.path)
        rows = pa.RecordBatchReader.from_batches(schema, batches())
        with _written(self.path):
            self._opened = _connect(self.path).create_table(TABLE, data=rows, mode="overwrite")
        self._keys.clear()
        return gone

    def _known(self, modality: str) -> set[bytes]:
        """The items of a modality that the index holds already: each is there once, however often it is added."""
        if modality not in self._keys:
            columns = ["text", "image", "meta"]
            rows = self._table.search().where(only(modality)).select(columns).limit(None).to_batches()
            self._keys[modality] = {
                key_of(Entry(row["text"], row["image"], None, json.loads(row["meta"])))
                for batch in rows
                for row in batch.to_pylist()
            }
        return self._keys[modality]

    def search(
        self,
        vectors: Tensor,
        k: int,
        modality: str | None = None,
        *,
        exact: bool | None = True,
        probes: int = 20,
        refine: int = 4,
        where: str | None = None,
    ) -> list[list[Hit]]:
        """The `k` nearest rows of every query by the index's similarity, best first.

        `vectors` is [Q, width] or one [width]; `modality` searches among its rows alone. With `exact` every row is
        compared; without, the approximate index is used where `build_approximate` has made one, reading `probes` of
        its partitions and re-scoring k · `refine` candidates with the full vectors. With None it is used where it was
        built and measured, with the settings that were. `where` is a condition in LanceDB's SQL on the columns `row`,
        `text`, `image` and `meta` (JSON as text); rows that do not fulfil it are no answers.
        """
        if exact is None:
            built = self.approximate
            exact, probes = built is None, probes if built is None else built.probes
        queries = checked(vectors[None] if vectors.dim() == 1 else vectors, self.similarity)
        if queries.shape[1] != self.width:
            raise InputError(f"queries are {queries.shape[1]} wide, the index holds vectors of width {self.width}")
        if k < 1:
            raise InputError(f"k is {k}; ask for at least one answer")
        with guarded(self.path):
            wanted = [] if modality is None else [only(modality)]
            condition = " AND ".join(wanted + ([] if where is None else [f"({where})"]))
            copy = self._copy  # another thread may turn to the table
            if copy is not None and exact and where is None:
                found = [copy.nearest(query, k, modality, self.similarity) for query in queries]
            else:
                some = queries.split(BATCH)
                found = [rows for part in some for rows in self._nearest(part, k, condition, exact, probes, refine)]
            return [[_hit(row) for row in rows] for rows in found]

    def vectors(self, modality: str, most: int) -> Tensor:
        """[n, width] the vectors of the first rows of a modality, `most` at the most."""
        copy = self._copy
        if copy is not None:
            return copy.vectors(modality)[:most]
        rows = self._table.search().where(only(modality)).select(["vector"]).limit(most).to_arrow()
        column = rows.column("vector").combine_chunks()
        return torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy()).view(-1, self.width)

    def _nearest(
        self, vectors: Tensor, k: int, condition: str, exact: bool, probes: int, refine: int
    ) -> list[list[dict[str, Any]]]:
        """The rows of every query, which the library looks for together."""
        asked: Any = vectors[0].numpy() if len(vectors) == 1 else list(vectors.numpy())
        query = self._table.search(asked, vector_column_name="vector").distance_type(self.similarity).limit(k)
        if condition:
            query = query.where(condition, prefilter=True)
        query = query.bypass_vector_index() if exact else query.nprobes(probes).refine_factor(refine)
        found: list[list[dict[str, Any]]] = [[] for _ in vectors]
        for row in query.select([*COLUMNS, "_distance"]).to_list():
            found[row.pop("query_index", 0)].append(row)
        return found

    @property
    def partitions(self) -> int:
        """Of an approximate index of so many rows."""
        return max(isqrt(self.count()), 1)

    def modalities(self) -> list[str]:
        """The modalities of the rows."""
        return sorted(set(self.columns(["modality"]).column("modality").unique().to_pylist()))

    def columns(self, names: Sequence[str], modality: str | None = None) -> Any:
        """Some columns of every row (of one modality, or of all), as a `pyarrow.Table` in the order of the rows."""
        wanted = list(dict.fromkeys(["row", *names]))
        copy = self._copy
        if copy is not None:
            return copy.columns(wanted, modality)
        query = self._table.search()
        if modality is not None:
            query = query.where(only(modality))
        return query.select(wanted).to_arrow().sort_by("row")

    def thumbnail(self, row: int) -> bytes | None:
        """The picture that is kept in the index with a row, if any."""
        return self.thumbnails([row]).get(row)

    def thumbnails(self, rows: Sequence[int]) -> dict[int, bytes]:
        """The pictures that are kept in the index with some rows; those without one are left out."""
        copy = self._copy  # another thread may turn to the table
        if copy is not None:
            return {row: kept for row, kept in copy.thumbnails(rows).items() if kept is not None}
        thumbnails: dict[int, bytes] = {}
        for begin in range(0, len(rows), 1000):
            some = sorted({int(row) for row in rows[begin : begin + 1000]})
            wanted = f"row = {some[0]}" if len(some) == 1 else f"row in ({', '.join(map(str, some))})"
            query = self._table.search().where(wanted).select(["row", "thumbnail"]).limit(len(some))
            thumbnails.update((one["row"], one["thumbnail"]) for one in query.to_list() if one["thumbnail"] is not None)
        return thumbnails

    def build_approximate(
        self, kind: Literal["flat", "product"] = "flat", partitions: int | None = None, sub_vectors: int | None = None
    ) -> None:
        """Builds the approximate (inverted-file) index that `search(..., exact=False)` reads.

        Worth it from about 10^5 rows. `partitions` defaults to the square root of the number of rows. `kind="product"`
        keeps product-quantised codes instead of full vectors in the partitions, smaller and coarser: `sub_vectors`
        codes a vector, width / 8 by default. Rows appended later are found too, each by being compared.
        """
        rows = self.count()
        cells = partitions or self.partitions
        codes = sub_vectors or max(self.width // PRODUCT_WIDTH, 1)
        if rows < max(cells, 256 if kind == "product" else 1):
            raise InputError(f"{self.path} has {rows} rows, too few for an approximate index; exact search serves them")
        if kind == "product" and self.width % codes:
            raise InputError(f"{codes} sub-vectors do not divide width {self.width}; give sub_vectors that do")
        lance = _lancedb(".index")
        shape = {"distance_type": self.similarity, "num_partitions": cells}
        config = lance.IvfFlat(**shape) if kind == "flat" else lance.IvfPq(**shape, num_sub_vectors=codes)
        self._table.create_index("vector", config=config, replace=True)

    def compact(self) -> None:
        """Merges the pieces that many appends leave behind, which makes search faster, and removes what killed
        processes left; for whoever is `writing`. Versions of the last days stay, for those who are reading them."""
        self._table.optimize(cleanup_older_than=KEPT, delete_unverified=True)


def _lists(vectors: Tensor) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().reshape(-1), pa.float32()), vectors.shape[1])


def _hit(row: Mapping[str, Any]) -> Hit:
    entry = Entry(row["text"], row["image"], row["thumbnail"], json.loads(row["meta"]))
    similarity = 1 - float(row["_distance"])
    return Hit(similarity, int(row["row"]), row["modality"], entry, similarity)


def _connect(path: Path) -> Any:
    return _lancedb().connect(str(path))


def _lancedb(part: str = "") -> Any:
    return optional(f"lancedb{part}")


@contextmanager
def _written(path: Path) -> Generator[None]:
    """Tells what keeps the library from writing, such as a full disk, in a line that names the index."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, OSError) as error:
        full = "No space left on device"
        said = full if full in str(error) else " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be written: {said}; the rows that were added before are whole") from error
