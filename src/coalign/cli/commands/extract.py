"""`coalign extract WHAT`."""

from __future__ import annotations

import tyro

from coalign.cli.commands import Help
from coalign.cli.output import named_list

HELP = Help("your own data", "regions|video ...", "detector regions, video features: once, into files", 30)


def dispatch(words: list[str]) -> int:
    """Computes features once and keeps them in files; without a kind, lists the kinds."""
    from coalign.extraction import extractors, find_extractor

    if not words or words[0] in ("-h", "--help"):
        print("usage: coalign extract WHAT [--field value ...]\n")
        print("Computes features once and keeps them in files that training reads. `coalign extract WHAT --help` lists")
        print("the fields. What can be extracted:\n")
        print(named_list(extractors()))
        return 0
    tyro.cli(find_extractor(words[0]), prog=f"coalign extract {words[0]}", args=words[1:]).run()
    return 0
