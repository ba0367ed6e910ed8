"""Alignments that are looked at without a server: a page of its own, and a widget for notebooks.

Both, and reports, draw with the heat maps of the served pages (`serve/web/src/viewer.ts`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from coalign.analysis.runs.maps import Maps, explain
from coalign.data.images.decode import ImageLike
from coalign.data.images.pictures import Picture, data_uri, fit, open_picture, write_text
from coalign.data.loaded import Loaded
from coalign.errors import InputError

PAGES = Path(__file__).parent / "pages"
SIDE = 640


def shown(maps: Maps, text: str, picture: Picture, side: int = SIDE) -> dict[str, Any]:
    """Data for the viewer: the alignment, its values in base64, the picture as a `data:` URI, its longer side `side`
    pixels at most."""
    values = base64.b64encode(maps.to_bytes()).decode()
    return {**maps.to_json(), "text": text, "picture": data_uri(fit(open_picture(picture), side)), "values": values}


def page(alignments: Sequence[dict[str, Any]], title: str = "Alignment") -> str:
    """A page that needs nothing but itself; scripts and styles that are not its own do not run."""
    style = built("alone.css")
    policy = f"default-src 'none'; img-src data:; style-src '{digest(style)}'; {script_policy()}"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main id='root'><h1>{escape(title)}</h1></main>{scripts(alignments)}</body></html>\n"
    )


def scripts(alignments: Sequence[dict[str, Any]]) -> str:
    """The data of alignments and the script that draws them, for the end of a page."""
    data = json.dumps(list(alignments), ensure_ascii=False).replace("<", "\\u003c")
    return f"<script type='application/json' id='alignment-data'>{data}</script><script>{built('alone.js')}</script>"


def script_policy() -> str:
    """The part of a Content-Security-Policy that lets the script of `scripts` run and no other."""
    return f"script-src '{digest(built('alone.js'))}'; base-uri 'none'; form-action 'none'"


def save_page(path: Path, alignments: Sequence[dict[str, Any]], title: str = "Alignment") -> Path:
    """Writes the page, whole or not at all."""
    return write_text(path, page(alignments, title))


def show(
    loaded: Loaded,
    images: ImageLike | Sequence[ImageLike],
    texts: str | Sequence[str],
    *,
    regions: Sequence[Any] | None = None,
    method: str = "auto",
) -> Any:
    """A widget of which word of each text draws on which part of its picture, for notebooks (extra `notebook`).

    Args:
        loaded: What `coalign.load` gives.
        images: One or several pictures.
        texts: A text a picture.
        regions: The detected regions of each picture, for models that read regions.
        method: auto, or one of the model's methods.

    Raises:
        InputError: The model has no alignment maps, or there are not as many texts as pictures.
    """
    anywidget, traitlets = _import("anywidget"), _import("traitlets")
    pictures: list[Any] = (
        list(images) if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
    )
    words = [texts] if isinstance(texts, str) else list(texts)
    if len(pictures) != len(words):
        raise InputError(f"{len(pictures)} pictures and {len(words)} texts; give as many of each")
    boxes: list[Any] = [None] * len(words) if regions is None else list(regions)
    alignments = [
        shown(explain(loaded, text, picture, own, method), text, picture)
        for picture, text, own in zip(pictures, words, boxes, strict=True)
    ]
    body = {
        "_esm": built("widget.js"),
        "_css": built("heat.css"),
        "alignments": traitlets.List(alignments).tag(sync=True),
    }
    return type("Alignments", (anywidget.AnyWidget,), body)()


def built(name: str) -> str:
    """A file of the viewer."""
    path = PAGES / name
    if not path.is_file():
        raise InputError(f"{path} is missing; in a copy of the sources: npm run build in src/coalign/serve/web")
    return path.read_text("utf-8")


def digest(text: str) -> str:
    """The hash of a script or a style, as a policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError("the widget needs anywidget: pip install 'coalign[notebook]'") from None
