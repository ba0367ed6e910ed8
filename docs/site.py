"""What the site adds to the pages here: the navigation of the systems, and links to files of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = "https://github.com/coalign/coalign/blob/main"
ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """A page for each system, by name."""
    pages = sorted((ROOT / "docs" / "systems").glob("*.md"))
    for entry in config["nav"]:
        if "Systems" in entry:
            entry["Systems"] = [{_title(page): f"systems/{page.name}"} for page in pages]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that lead out of docs/, such as to a source file, lead to the repository."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def outward(found: re.Match[str]) -> str:
        target = (folder / found[1]).resolve()
        if not target.exists() or ((ROOT / "docs") in target.parents and target.suffix in (".md", ".png")):
            return found[0]  # of the site; or broken, which the build then says
        return f"]({REPOSITORY}/{target.relative_to(ROOT).as_posix()}{found[2] or ''})"

    return _LINK.sub(outward, markdown)


def _title(page: Path) -> str:
    return page.read_text("utf-8").partition("\n")[0].removeprefix("# ").partition(":")[0]
