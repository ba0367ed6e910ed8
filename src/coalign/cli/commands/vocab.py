"""`coalign vocab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from coalign.arguments import OptionalName, Switch
from coalign.cli.commands import Help
from coalign.cli.output import Json, answer
from coalign.errors import InputError

HELP = Help("your own data", "CORPUS --out FOLDER", "learn a vocabulary from plain text", 60)


def command(
    corpus: Annotated[Positional[str], arg(metavar="CORPUS")],
    out: Path,
    size: int = 30000,
    cased: Switch = False,
    byte_pairs: Switch = False,
    text_column: OptionalName = None,
    split: OptionalName = None,
    json: Json = False,
) -> int:
    """Learns a vocabulary from plain text: word pieces for BERT, byte pairs for GPT (--vocab of their recipes).

    Args:
        corpus: What the pre-training recipes read: a folder of .txt files, a .txt file, a table, a data set's name.
        out: The folder to write tokenizer.json into, and vocab.txt of word pieces.
        size: About how many pieces.
        cased: Keep capitals and accents (word pieces only).
        byte_pairs: GPT's byte pairs instead of word pieces.
        text_column: Of a table or data set; found by its name where it is not given.
        split: Of data with splits; train where it is not given.
    """
    from coalign.data.texts.documents import open_documents
    from coalign.data.words.tokenizer import Tokenizer
    from coalign.files import replace_file

    for name in ("tokenizer.json", "vocab.txt"):
        if (out / name).exists():
            raise InputError(f"{out / name}: exists already; choose another folder")
    if byte_pairs and cased:
        raise InputError("--byte-pairs are lower-cased, as in GPT; leave out --cased")
    documents = open_documents(corpus, text_column=text_column, split=split)
    if byte_pairs:
        tokenizer = Tokenizer.train_byte_pairs(documents, size)
        tokenizer.save(out)
        learned = tokenizer.vocab_size
        answer(json, {"out": str(out), "pieces": learned}, f"{learned} byte pairs: {out}")
        return 0
    tokenizer = Tokenizer.train(documents, size, lowercase=not cased)
    tokenizer.save(out)
    pieces = [tokenizer.id_to_piece(number) for number in range(tokenizer.vocab_size)]
    replace_file(out / "vocab.txt", lambda part: part.write_text("\n".join(pieces) + "\n", encoding="utf-8"))
    answer(json, {"out": str(out), "pieces": len(pieces)}, f"{len(pieces)} word pieces: {out}")
    return 0
