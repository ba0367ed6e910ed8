"""Text tasks: the run, its outputs on the data, files of predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import arg

from coalign.arguments import load_run, run_config, say
from coalign.data.core.samples import Problem
from coalign.data.inputs import device_of
from coalign.data.texts.choices import ChoiceRow
from coalign.data.texts.encoded_texts import EncodedTexts, encode_choices, encode_texts
from coalign.data.texts.structured import Sequencer, encode_sequences
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.files import replace_file
from coalign.progress import with_progress
from coalign.types import Batch, Encoding, Model, needed

TABLE_HELP = (
    "The rows: a .tsv in GLUE's layout, or any .csv, .tsv, .jsonl, .json or .parquet table with a column of texts, or "
    "two of pairs, and one of labels; a folder that datasets saved; the name of a Hugging Face data set."
)
Table = Annotated[str, arg(metavar="TABLE", help=TABLE_HELP)]
ColumnNames = Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")]
UNLABELLED = {"labels": "none in the data"}
"""The extra figures of data without labels."""
SHOWN = 3  # how many of the rows that were left out are told one by one


def open_run(run: Path, task: str) -> tuple[Any, Tokenizer, dict[str, Any]]:
    """The run's model, its vocabulary and its config.json.

    Raises:
        InputError: There is no run, or it was trained for another task.
    """
    config = run_config(run)
    if config.get("task") != task:
        raise InputError(f"{run}: was trained for {config.get('task') or 'no task'}, not for {task}")
    loaded = load_run(run)
    return loaded.model, loaded.vocabulary, config


def encode_items(
    model: Model, tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], labels: Tensor | None = None
) -> EncodedTexts:
    """Texts or pairs as the model reads them: BERT's [CLS] a [SEP] b [SEP], or the sequences that GPT makes."""
    if isinstance(model, Sequencer):
        return encode_sequences(model, tokenizer, texts, labels)
    return encode_texts(tokenizer, texts, needed(model.input_spec.text, "texts").max_length, labels)


def encode_questions(model: Model, tokenizer: Tokenizer, rows: Sequence[ChoiceRow]) -> EncodedTexts:
    """Contexts with their endings as the model reads them, and the labels where all rows have one."""
    if not isinstance(model, Sequencer):
        return encode_choices(tokenizer, rows, needed(model.input_spec.text, "texts").max_length)
    known = [row.label for row in rows if row.label is not None]
    labels = torch.tensor(known) if len(known) == len(rows) else None
    return encode_sequences(model, tokenizer, [(row.context, *row.endings) for row in rows], labels)


@torch.no_grad()
def outputs(
    model: Model, encoded: EncodedTexts, read: Callable[[Encoding, Batch], Tensor], batch_size: int, name: str
) -> list[Tensor]:
    """The output of `read` on the model's encoding of each batch, on the CPU."""
    device, collected = device_of(model), list[Tensor]()
    loader = encoded.batches(batch_size, train=False, name=name)
    for batch in with_progress(loader, "reading", len(loader), True):
        moved = batch.to(device)
        collected.append(read(model.encode(moved), moved).float().cpu())
    return collected


def report_problems(problems: Sequence[Problem], kept: int, cut: int = 0, limit: float = 0.1) -> None:
    """Says which rows were left out, and how many texts were longer than the model reads.

    Raises:
        InputError: More than `limit` of the rows are unusable: something is wrong with the file.
    """
    if not problems and not cut:
        return
    if len(problems) > limit * (kept + len(problems)):
        raise InputError(f"{len(problems)} of {kept + len(problems)} rows are unusable; the first: {problems[0]}")
    for problem in problems[:SHOWN]:
        say(f"left out: {problem}")
    if len(problems) > SHOWN:
        say(f"left out: {len(problems) - SHOWN} more rows")
    if cut:
        say(f"{cut} texts are longer than the model reads and were cut (see --max-length of the recipe)")


def check_out(out: Path | None, overwrite: bool, endings: Sequence[str] = (".tsv", ".jsonl")) -> None:
    """Refuses, before any work, a predictions file that exists or whose ending says no format."""
    if out is None:
        return
    if out.suffix.lower() not in endings:
        raise InputError(f"{out}: should end in {' or '.join(endings)}")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; give another name, or --overwrite")


def write_predictions(
    out: Path | None, ids: Sequence[str], predicted: Sequence[str | int | float], more: Sequence[Mapping[str, Any]] = ()
) -> None:
    """.tsv in the form that GLUE's site takes, "index" and "prediction"; .jsonl with what `more` adds a row."""
    if out is None:
        return
    if out.suffix.lower() == ".tsv":
        lines = ["index\tprediction", *(f"{id}\t{answer}" for id, answer in zip(ids, predicted, strict=True))]
    else:
        added = more or [{}] * len(ids)
        rows = zip(ids, predicted, added, strict=True)
        lines = [json.dumps({"id": id, "prediction": p, **a}, ensure_ascii=False) for id, p, a in rows]
    replace_file(out, lambda part: part.write_text("\n".join(lines) + "\n", encoding="utf-8"))
