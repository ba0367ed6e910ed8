"""A text model's states as features: vectors of texts, and of words in their context, of any layer.

Layer 0 is the embedding before the first block, i the states after block i, None what the model gives out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.errors import InputError
from coalign.progress import with_progress
from coalign.retrieval.embed import Encoder, as_encoder
from coalign.types import Batch, Encoding, Packed

Pool = Literal["model", "mean", "cls", "last"]
"""How a text's vector is made: as the model makes its own; the mean of its states; the first ([CLS]); the last."""


@dataclass(frozen=True)
class WordVector:
    """One occurrence of a word: in text number `text` of the batch, at word number `word` of it, with its state."""

    text: int
    word: int
    vector: Tensor


@torch.no_grad()
def text_states(model: Encoder, batch: Batch, layer: int | None = None) -> tuple[Packed, Encoding]:
    """States [T, D] of the pieces of a batch of texts at a layer, and the whole encoding.

    Raises:
        InputError: The model reads no texts, or has no such layer.
    """
    encoding = model.encode(batch, record=layer is not None)
    if "text" not in encoding.tokens:
        raise InputError(f"{type(model).__name__} gives no states of texts")
    states = encoding.tokens["text"]
    if layer is None:
        return states, encoding
    name = "text.embedding" if layer == 0 else f"text.{layer - 1}.hidden"
    if name not in encoding.record:
        blocks = sum(key.startswith("text.") and key.endswith(".hidden") for key in encoding.record)
        raise InputError(f"no layer {layer}: 0 is the embedding, {blocks} the last")
    return states.with_values(encoding.record[name]), encoding


@torch.no_grad()
def text_vectors(model: Encoder, batch: Batch, layer: int | None = None, pool: Pool = "model") -> Tensor:
    """[B, D] one unit vector a text."""
    states, encoding = text_states(model, batch, layer)
    if pool == "model":
        if layer is not None:
            raise InputError("a layer's states must be pooled: say how (mean, cls or last)")
        if "text" not in encoding.vectors:
            raise InputError(f"{type(model).__name__} has no vectors of its own for texts; pool its states (mean, cls)")
        return encoding.vectors["text"]
    if pool == "mean":
        pooled = states.mean()
    else:
        rows = states.layout.first if pool == "cls" else states.offsets[1:] - 1
        pooled = states.values[rows]
    return F.normalize(pooled, dim=-1)


@torch.no_grad()
def word_vectors(
    model: Encoder, batch: Batch, words: Sequence[Sequence[str]], wanted: Sequence[str], layer: int | None = None
) -> list[WordVector]:
    """The states of every occurrence of some words, each the mean over the word's pieces, in reading order.

    Args:
        model: The text model.
        batch: Its texts; `Text.words` says which word each piece belongs to.
        words: The words of each text, as the vocabulary splits them.
        wanted: The words to look for, without regard to capitals.
        layer: As above.
    """
    if batch.text is None or batch.text.words is None:
        raise InputError("words cannot be told apart in these texts: they bring no word numbers")
    states, _ = text_states(model, batch, layer)
    sought = {word.lower() for word in wanted}
    numbers, item = batch.text.words, states.layout.item
    vectors: list[WordVector] = []
    for text, of_text in enumerate(words):
        for place, word in enumerate(of_text):
            if word.lower() not in sought:
                continue
            rows = ((item == text) & (numbers == place)).nonzero()[:, 0]
            if len(rows):  # a word that was cut off has none
                vectors.append(WordVector(text, place, states.values[rows].mean(0)))
    return vectors


def embed_texts(
    loaded: Loaded,
    texts: Sequence[str],
    *,
    layer: int | None = None,
    pool: Pool = "model",
    words: Sequence[str] = (),
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """One row a text, with its unit vector; with `words` one an occurrence of any of them, with its state.

    Rows have `row` (the text's number from 1), `text`, `vector`; of words also `word` and `position`, its number among
    the text's words from 1.
    """
    encoder, device, tokenizer = as_encoder(loaded.model), loaded.device, loaded.vocabulary
    rows: list[dict[str, Any]] = []
    starts = range(0, len(texts), batch_size)
    for start in with_progress(starts, "embedding", len(starts), True):
        some = texts[start : start + batch_size]
        batch = prepare(loaded, texts=some).to(device)
        if not words:
            for number, vector in enumerate(text_vectors(encoder, batch, layer, pool).float().cpu().tolist()):
                rows.append({"row": start + number + 1, "text": some[number], "vector": vector})
            continue
        split = [tokenizer.words(text) for text in some]
        for embedded in word_vectors(encoder, batch, split, words, layer):
            rows.append(
                {
                    "row": start + embedded.text + 1,
                    "text": some[embedded.text],
                    "word": split[embedded.text][embedded.word],
                    "position": embedded.word + 1,
                    "vector": embedded.vector.float().cpu().tolist(),
                }
            )
    return rows
