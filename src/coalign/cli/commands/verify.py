"""`coalign verify`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from coalign.cli.commands import Help
from coalign.cli.failures import report_error
from coalign.cli.output import Json, print_json
from coalign.errors import InputError

HELP = Help("the authors' files", "CASE ...", "recorded cases of the original implementations against ours", 20)


def command(
    cases: Annotated[Positional[tuple[Path, ...]], arg(metavar="CASE ...", help_behavior_hint="")] = (),
    manifest: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], arg(metavar="FILE.json ...")] = (),
    json: Json = False,
) -> int:
    """Holds recorded cases of the original implementations against ours, one line an output.

    A line: the output's name, the largest |a-b|, the same over 1 + max|b|, and ok, FAIL or skip. Exit status: 0 all
    ok, 1 a FAIL, 2 a file that cannot be read.

    Args:
        cases: Recorded cases (.safetensors, or the JSON trace of data creation).
        manifest: Manifests (.json), whose entries are checked by names and shapes alone, both ways.
    """
    from dataclasses import asdict

    from coalign.parity.verify import verify, verify_manifest

    manifests = [path for paths in manifest for path in paths]
    if not cases and not manifests:
        raise InputError("nothing to verify: name a recorded case, or give --manifest FILE.json")
    work: list[tuple[Path, Callable[[Path], Sequence[Any]]]] = [(path, verify) for path in cases]
    work += [(path, verify_manifest) for path in manifests]
    failed, unreadable, out = 0, 0, list[dict[str, Any]]()
    for path, check in work:
        try:
            lines = check(path)
        except Exception as error:  # whatever a damaged file provokes, the other files are still checked
            unreadable += 1
            report_error(error, path)
            continue
        failed += sum(line.status == "FAIL" for line in lines)
        out += [{"case": str(path), **asdict(line)} for line in lines]
        if not json:
            print("\n".join([str(path), *(f"  {line}" for line in lines)]))
    if json:
        print_json(out)
    else:
        print(f"{len(out)} lines, {failed} FAIL, {unreadable} unreadable")
    return 2 if unreadable else 1 if failed else 0
