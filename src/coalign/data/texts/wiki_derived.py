"""Tags, questions and choices derived from the Wikipedia leads (extra `wiki`): real text, labels by rule.

`python -m coalign.data.texts.wiki_derived FOLDER` writes, for each split,

* `subjects-SPLIT.conll`: the first sentence of leads that have a topic; every mention of the article's title is a span
  whose type is that topic. A title that is in the test part is not in training, so that the span must be found by what
  stands around it, and its type by what is said of it;
* `questions-SPLIT.json`, in the format of SQuAD 2.0: "What is X?" and "Who is X?", answered by the phrase after the
  first "is a", "was the" ... ; "When was X born?" and "When did X die?", answered by the dates in the brackets behind
  the name; and as many of the same questions that the lead does not answer, since it has no such date or is about
  something else;
* `descriptions-SPLIT.csv`: a lead, and two short descriptions ("English mathematician") of which one is its own and one
  another article's; which is its own?
* `statements-SPLIT.csv`: a lead, and one short description, its own ("own") or another's ("other");
* `alike-SPLIT.csv`: the short descriptions of two articles, of one topic ("same") or of two ("other").

No human has checked them. They show that a system learns the form of a task, and compare systems; they are not
a benchmark of reading.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.data.texts.conll import OUTSIDE
from coalign.data.texts.sentences import split_sentences
from coalign.data.texts.wiki import SPLITS, Lead, leads

_WORD = re.compile(r"\w+|[^\w\s]")
_IS = re.compile(r"\b(?:is|are|was|were) (?:a|an|the|one of the) ")
_PHRASE_END = re.compile(r"[,.;:(]| (?:that|which|who|whose|where|in which|and|from|with|by|for|used|located|known) ")
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY = rf"(?:\d{{1,2}} )?{_MONTH}(?: \d{{1,2}},)? \d{{3,4}}"
_BORN = re.compile(rf"\(born ({_DAY})\)|\(({_DAY}) [–-] ")
_DIED = re.compile(rf"\({_DAY} [–-] ({_DAY})\)")


# ------------------------------------------------------------------------------------------------------------- tags
def subject_tags(lead: Lead) -> list[tuple[str, str]]:
    """(word, tag) of the first sentence in IOB2; empty where the title does not stand in it, or there is no topic."""
    words = _WORD.findall(next(iter(split_sentences(lead.text)), ""))
    title = _WORD.findall(re.sub(r" \(.*\)$", "", lead.title))
    kind = re.sub(r"\W+", "_", lead.topic or "")
    if not kind or not title:
        return []
    tags = [OUTSIDE] * len(words)
    plain = [word.lower() for word in words]
    for place in range(len(words) - len(title) + 1):
        if plain[place : place + len(title)] == [word.lower() for word in title]:
            tags[place : place + len(title)] = [f"B-{kind}"] + [f"I-{kind}"] * (len(title) - 1)
    return list(zip(words, tags, strict=True)) if any(tag != OUTSIDE for tag in tags) else []


# -------------------------------------------------------------------------------------------------------- questions
def questions(leads: Sequence[Lead], seed: int = 0) -> dict[str, Any]:
    """The SQuAD 2.0 document of some leads."""
    rng = random.Random(seed)
    data: list[dict[str, Any]] = []
    for number, lead in enumerate(leads):
        name = re.sub(r" \(.*\)$", "", lead.title)
        questions = _answered(lead, name)
        entries = [
            _entry(f"{number}-{n}", question, lead.text, span) for n, (question, span) in enumerate(questions.items())
        ]
        if entries and rng.random() < len(entries) / 2:
            entries.append(_entry(f"{number}-none", _unanswered(lead, name, questions, leads, rng), lead.text, None))
        if entries:
            data.append({"title": lead.title, "paragraphs": [{"context": lead.text, "qas": entries}]})
    return {"version": "v2.0", "data": data}


def _answered(lead: Lead, name: str) -> dict[str, tuple[int, int]]:
    """Questions that the lead answers, with the place of the answer."""
    person = lead.topic == "People"
    questions: dict[str, tuple[int, int]] = {}
    first = next(iter(split_sentences(lead.text)), "")
    match = _IS.search(first)
    if match is not None:
        end = _PHRASE_END.search(first, match.end())
        stop = len(first.rstrip(".")) if end is None else end.start()
        if 3 <= stop - match.end() <= 80:
            questions[f"{'Who' if person else 'What'} is {name}?"] = (match.end(), stop)
    for question, pattern in ((f"When was {name} born?", _BORN), (f"When did {name} die?", _DIED)):
        date = pattern.search(lead.text)
        if person and date is not None:
            group = 1 if date[1] else 2
            questions[question] = date.span(group)
    return questions


def _unanswered(
    lead: Lead, name: str, questions: dict[str, tuple[int, int]], leads: Sequence[Lead], rng: random.Random
) -> str:
    """A question that the lead does not answer: a date that it lacks, or what something else is."""
    lacking = [q for q in (f"When was {name} born?", f"When did {name} die?") if q not in questions]
    other = leads[rng.randrange(len(leads))]
    while other.title in lead.text:
        other = leads[rng.randrange(len(leads))]
    if lead.topic == "People" and lacking and rng.random() < 0.5:
        return rng.choice(lacking)
    return f"{'Who' if other.topic == 'People' else 'What'} is {re.sub(r' [(].*[)]$', '', other.title)}?"


def _entry(id: str, question: str, text: str, span: tuple[int, int] | None) -> dict[str, Any]:
    answers = [] if span is None else [{"text": text[slice(*span)], "answer_start": span[0]}]
    return {"id": id, "question": question, "answers": answers, "is_impossible": span is None}


# ---------------------------------------------------------------------------------------------------------- choices
def descriptions(leads: Sequence[Lead], seed: int = 0) -> list[dict[str, str | int]]:
    """Rows of `context`, `ending0`, `ending1` and `label`, one a lead that has a description."""
    rng = random.Random(seed)
    described = [lead for lead in leads if lead.description]
    own = [lead.description for lead in described]
    rows: list[dict[str, str | int]] = []
    for lead in described if len(set(own)) > 1 else ():
        other = rng.choice(own)
        while other == lead.description:
            other = rng.choice(own)
        label = rng.randrange(2)
        endings = (other, lead.description) if label else (lead.description, other)
        rows.append({"context": lead.text, "ending0": endings[0], "ending1": endings[1], "label": label})
    return rows


def statements(leads: Sequence[Lead], seed: int = 0) -> list[dict[str, str]]:
    """Rows of `premise`, `hypothesis` and `label`, one a lead that has a description."""
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    for choice in descriptions(leads, seed):
        shown = rng.randrange(2)
        label = "own" if shown == choice["label"] else "other"
        rows.append({"premise": str(choice["context"]), "hypothesis": str(choice[f"ending{shown}"]), "label": label})
    return rows


def alike(leads: Sequence[Lead], seed: int = 0) -> list[dict[str, str]]:
    """Rows of `sentence1`, `sentence2` and `label`, one a lead that has a topic and a description.

    Either label has the same topics in the first text, and nearly so in the second: one alone says next to nothing.
    """
    rng = random.Random(seed)
    known = [(lead.topic, lead.description) for lead in leads if lead.topic and lead.description]
    by_topic = {topic: [pair for pair in known if pair[0] == topic] for topic, _ in known}
    rows: list[dict[str, str]] = []
    for topic, text in known if len(by_topic) > 1 else ():
        same = rng.randrange(2) == 1
        other = rng.choice(by_topic[topic] if same else known)
        while not same and other[0] == topic:
            other = rng.choice(known)
        rows.append({"sentence1": text, "sentence2": other[1], "label": "same" if same else "other"})
    return rows


def write_files(folder: Path) -> None:
    """Writes the five files of every split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        kept = list(leads(split))
        tagged = [pairs for lead in kept if (pairs := subject_tags(lead))]
        lines = ("\n".join(f"{word} {tag}" for word, tag in pairs) for pairs in tagged)
        (folder / f"subjects-{split}.conll").write_text("\n\n".join(lines) + "\n", "utf-8")
        (folder / f"questions-{split}.json").write_text(json.dumps(questions(kept), ensure_ascii=False), "utf-8")
        _write_table(folder / f"descriptions-{split}.csv", descriptions(kept))
        _write_table(folder / f"statements-{split}.csv", statements(kept))
        _write_table(folder / f"alike-{split}.csv", alike(kept))


def _write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m coalign.data.texts.wiki_derived FOLDER")
    write_files(Path(sys.argv[1]))
