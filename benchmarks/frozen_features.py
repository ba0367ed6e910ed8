"""A linear classifier on frozen vectors of texts that `coalign embed` has written: what a representation holds.

    coalign embed minilm --texts train.csv --out train.parquet
    coalign embed minilm --texts test.csv --out test.parquet
    python benchmarks/frozen_features.py train.csv train.parquet test.csv test.parquet

The tables are those that `bert-classify` reads; the strength of the regularisation is chosen by cross-validation on the
training rows.
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import f1_score

from coalign.data.texts.text_tables import read_texts


def read(table: str, vectors: str) -> tuple[np.ndarray, list[str]]:
    """[N, D] vectors and N labels."""
    rows = read_texts(table, texts=1, need_labels=True).rows
    stored = pq.read_table(vectors).to_pydict()
    if [row.texts[0] for row in rows] != stored["text"]:
        sys.exit(f"{vectors}: holds vectors of other texts than {table}")
    return np.array(stored["vector"]), [row.label or "" for row in rows]


def main() -> None:
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    (x, y), (x_test, y_test) = read(*sys.argv[1:3]), read(*sys.argv[3:])
    linear = LogisticRegressionCV(Cs=np.logspace(-1, 3, 9), cv=5, max_iter=2000).fit(x, y)
    guess = linear.predict(x_test)
    accuracy, macro = np.mean(guess == np.array(y_test)), f1_score(y_test, guess, average="macro")
    print(f"{len(y)} rows to train, {len(y_test)} to test, C {linear.C_[0]:.3g}")
    print(f"frozen vectors, logistic regression: accuracy {accuracy:.4f}, macro F1 {macro:.4f}")


if __name__ == "__main__":
    main()
