"""`coalign embed`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from coalign.arguments import OptionalInt, OptionalName, OptionalPath, Pairs, RunFolder, Switch, load_run
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer, new_file, not_the_data
from coalign.errors import InputError

HELP = Help("a trained run", "RUN --data PAIRS --out T", "the vectors of a corpus as a Parquet table", 40)


def dispatch(words: list[str]) -> int:
    """Vectors of image-text pairs; with --texts of texts, or of words in their context."""
    texts = any(word == "--texts" or word.startswith("--texts=") for word in words)
    called = text_command if texts else command
    return tyro.cli(called, prog="coalign embed", args=words, config=(FlagCreatePairsOff,))


def command(
    run: RunFolder,
    pairs: Pairs,
    out: Path,
    overwrite: Switch = False,
    batch_size: int = 64,
    workers: int = 0,
    part: OptionalName = None,
    onnx: Annotated[tuple[Path, ...], arg(metavar="FILE ...", help_behavior_hint="")] = (),
    json: Json = False,
) -> int:
    """Writes the vectors of a corpus as a Parquet table: one row an image or text, with the unit vector.

    With --texts FILE instead of --data: vectors of texts, or of words in their context, of any layer
    (`coalign embed --texts . --help`).

    Args:
        out: The .parquet file to write. Columns: modality, text, image, meta, vector.
        overwrite: Replace the file if it exists.
        batch_size: Images at a time.
        workers: Processes that read images ahead.
        part: I/N: the I-th of N parts alone, I from 0, into a file of OUT.parts; the last to finish joins them. By
            default each process of torchrun has its part.
        onnx: Towers of `coalign export RUN FILE`, of image and text, that compute in the model's place.
    """
    from coalign.checkpoints.hub import local_folder
    from coalign.data.core.parts import Part
    from coalign.retrieval.embed import vector_width
    from coalign.retrieval.search import embed_pairs
    from coalign.retrieval.vector_table import vector_table

    chosen = Part.chosen(part)
    new_file(out, overwrite or chosen is not None, (".parquet",))  # another process may have joined
    not_the_data(out, pairs.data)
    loaded = load_run(run, half=not onnx)
    if onnx:
        from coalign.retrieval.export import OnnxModel

        loaded = replace(loaded, model=OnnxModel.of(loaded, onnx))
    source = pairs.open()
    if chosen is not None:
        from coalign.retrieval.parts import Parts

        parts = Parts.beside(out, local_folder(run), source)
        if out.exists() and not overwrite:
            parts.check(out)
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "show_progress": True}
        added = parts.embed(loaded, source, chosen, overwrite=overwrite, **options)
        there = len(parts.there(chosen))
        rows = parts.join_table(out, chosen, overwrite=overwrite) if there == chosen.of else None
        words = f"{rows} rows: {out}" if rows else f"{there} of {chosen.of} parts are there: {parts.folder}"
        answer(json, {"out": str(out), **added, "parts": there, "rows": rows}, words)
        return 0
    with vector_table(out, vector_width(loaded)) as table:
        added = embed_pairs(loaded, source, table, batch_size=batch_size, workers=workers, show_progress=True)
    answer(json, {"out": str(out), **added}, f"{added['image']} images and {added['text']} texts: {out}")
    return 0


def text_command(
    run: Annotated[Positional[str], arg(metavar="RUN", help="A run, a Hugging Face folder (--system), or minilm.")],
    texts: Annotated[str, arg(metavar="FILE", help="A .txt with a text a line, or a table with a column of texts.")],
    out: Path,
    system: OptionalName = None,
    vocab: OptionalPath = None,
    text_column: OptionalName = None,
    layer: OptionalInt = None,
    pool: Literal["model", "mean", "cls", "last"] = "model",
    tokens: Annotated[tuple[str, ...], arg(metavar="WORD ...", help_behavior_hint="")] = (),
    overwrite: Switch = False,
    batch_size: int = 64,
    json: Json = False,
) -> int:
    """Writes vectors of texts as a Parquet table: one row a text; with --tokens one row an occurrence of a word.

    Args:
        out: The .parquet file to write. Columns: row, text, vector; with --tokens also word and position.
        system: Whose weights RUN has, where it is none of our runs: bert, gpt ...
        vocab: Their vocabulary, where it does not lie beside them.
        text_column: The table's column; by default found by its name.
        layer: 0 is the embedding, i the states after block i. By default what the model gives out.
        pool: How a text's vector is made: model, as the model makes its own; mean, cls or last of a layer's states.
        tokens: Vectors of these words, each in its context, instead of whole texts: the mean over a word's pieces.
        overwrite: Replace the file if it exists.
        batch_size: Texts at a time.
    """
    from coalign.data.texts.text_tables import read_lines
    from coalign.retrieval.text_features import embed_texts
    from coalign.retrieval.vector_table import write_vectors

    new_file(out, overwrite, (".parquet",))
    not_the_data(out, texts)
    loaded = _text_model(run, system, vocab)
    rows = embed_texts(
        loaded, read_lines(texts, text_column), layer=layer, pool=pool, words=tokens, batch_size=batch_size
    )
    if not rows:
        raise InputError(f"{texts}: none of its texts has the word {' or '.join(tokens)}")
    write_vectors(out, rows)
    answer(json, {"out": str(out), "rows": len(rows)}, f"{len(rows)} vectors: {out}")
    return 0


def _text_model(run: str, system: str | None, vocab: Path | None):
    from coalign import load
    from coalign.checkpoints.packages import minilm_folder

    if run == "minilm":
        folder = minilm_folder()
        return load(folder, "bert", head="encoder", vocab=folder)
    path = Path(run)
    if system is None:
        return load_run(path)
    beside = any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    return load(path, system, vocab=vocab or (path if beside else None))
