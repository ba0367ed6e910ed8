"""SNLI-VE: does the image entail the sentence (Xie et al. 2019)?

JSON lines: {"Flickr30K_ID" or "Flickr30kID" or "captionID": the photograph, "sentence2": the hypothesis, "gold_label":
"entailment", "neutral" or "contradiction", "pairID"}. A row whose annotators did not agree ("-") has no label.
"""

from __future__ import annotations

from pathlib import Path

from coalign.data.core.json_files import field_of, read_lines
from coalign.data.questions.items import Item
from coalign.errors import InputError
from coalign.files import reader

LABELS = ("contradiction", "neutral", "entailment")
"""The classes in the order of the released ViLBERT and ALBEF."""
_IMAGE = ("Flickr30K_ID", "Flickr30kID", "Flickr30KID", "captionID")


@reader
def read_snli_ve(path: Path, labels: tuple[str, ...] = LABELS) -> list[Item]:
    """The hypotheses with their images; targets are numbers of `labels`, None where there is none.

    Raises:
        InputError: the file cannot be read, or a line lacks a field.
    """
    items: list[Item] = []
    for line, row in read_lines(path):
        where = f"{path}, line {line}"
        image = next((str(row[name]) for name in _IMAGE if name in row), None)
        if image is None:
            raise InputError(f"{where}: lacks {_IMAGE[0]!r}")
        label = str(row.get("gold_label", "-"))
        if label not in (*labels, "-", ""):
            raise InputError(f"{where}: the label {label!r} is none of {', '.join(labels)}")
        id = str(row.get("pairID", line))
        target = labels.index(label) if label in labels else None
        items.append(Item(id, (image.split("#")[0],), (str(field_of(row, "sentence2", where)),), target))
    return items
