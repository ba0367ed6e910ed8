"""The baseline of tagging: every word gets the tag that it has most often in training, unknown ones the commonest.

python benchmarks/most_frequent_tag.py TRAIN.conll TEST.conll
"""

from __future__ import annotations

import sys
from pathlib import Path

from coalign.data.texts.conll import read_conll
from coalign.tasks.texts.tagging import most_frequent_tags, score_tags


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    train, test = (read_conll(Path(name)) for name in sys.argv[1:])
    print(score_tags(test, most_frequent_tags(train, test)).table())


if __name__ == "__main__":
    main()
