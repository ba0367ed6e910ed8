"""What the site adds to the pages here: the navigation of the systems, links to files of the repository, live examples.

The examples are pages of the run that EXAMPLE_RUN names, such as one of `coalign quickstart`; without it they are
left out.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

REPOSITORY = "https://github.com/coalign/coalign/blob/main"
ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """A page for each system, by name; the examples, where a run is named."""
    pages = sorted((ROOT / "docs" / "systems").glob("*.md"))
    for entry in config["nav"]:
        if "Systems" in entry:
            entry["Systems"] = [{_title(page): f"systems/{page.name}"} for page in pages]
    if not os.environ.get("EXAMPLE_RUN"):
        config["nav"] = [entry for entry in config["nav"] if "Examples" not in entry]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Without a run there is no page of examples."""
    del config
    if not os.environ.get("EXAMPLE_RUN"):
        files.remove(files.get_file_from_path("examples.md"))
    return files


def on_post_build(config: Any) -> None:
    """The report of the run, and its maps of a picture."""
    if not (run := os.environ.get("EXAMPLE_RUN")):
        return
    from coalign.analysis.runs.maps import explain
    from coalign.analysis.runs.viewer import page, shown
    from coalign.registry import load
    from coalign.worlds.scenes import make_scenes

    folder = Path(config["site_dir"]) / "examples"
    shutil.copyfile(Path(run) / "report.html", folder / "report.html")
    scene = make_scenes(1, 0, things=(2, 2))[0]
    text = " and ".join(f"a {thing.colour} {thing.shape}" for thing in scene.things)
    picture, loaded = scene.draw(128), load(run)
    (folder / "alignment.html").write_text(page([shown(explain(loaded, text, picture), text, picture)]), "utf-8")


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
