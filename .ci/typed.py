"""How much of the kept Python API has written types, by `pyright --verifytypes`: fails below FLOOR per cent.

    uv run python .ci/typed.py

The API is what docs/stability.md keeps: `coalign.__all__` and the names of docs/api.md, with their members. A name
counts as known only if all that its type leads to is known as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOOR = 98.0


def main() -> None:
    paths = [str(ROOT / "src"), sysconfig.get_path("purelib")]
    pyright = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "coalign", "--ignoreexternal", "--outputjson"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    report = json.loads(pyright.stdout)["typeCompleteness"]
    exported = re.findall(
        r'"(\w+)"', re.search(r"__all__ = \[(.*?)\]", (ROOT / "src/coalign/__init__.py").read_text())[1]
    )
    kept = [f"coalign.{name}" for name in exported if not name.startswith("_")]
    kept += re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE)
    of_api = [symbol for symbol in report["symbols"] if any(f"{symbol['name']}.".startswith(f"{one}.") for one in kept)]
    lacking = [symbol for symbol in of_api if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    unseen = [one for one in kept if not any(f"{symbol['name']}.".startswith(f"{one}.") for symbol in of_api)]
    for symbol in lacking:
        print(symbol["name"], *(each["message"].replace("\n", " ") for each in symbol["diagnostics"]), sep=": ")
    share = 100 * (1 - len(lacking) / len(of_api))
    everything = 100 * report["completenessScore"]
    print(f"typed: {share:.1f} % of the {len(of_api)} names of the API, {everything:.1f} % of all names of all modules")
    if share < FLOOR or unseen:
        sys.exit(f"below {FLOOR} %" if share < FLOOR else f"not found by pyright: {unseen}")


if __name__ == "__main__":
    main()
