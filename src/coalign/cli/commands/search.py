"""`coalign search`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from coalign.arguments import OptionalName, OptionalPath, RunFolder, Switch, load_run, run_config, say
from coalign.cli.commands import Help
from coalign.cli.output import Json, print_json
from coalign.errors import InputError, in_a_line

HELP = Help("a trained run", 'RUN "TEXT"', "ranked answers to a text (or to --image FILE)", 20)


def command(
    run: RunFolder,
    text: Annotated[Positional[str | None], arg(metavar="TEXT", help_behavior_hint="")] = None,
    image: OptionalPath = None,
    k: Annotated[int, arg(aliases=("-k",))] = 10,
    answers: Annotated[Literal["image", "text"] | None, arg(metavar="image|text", help_behavior_hint="")] = None,
    rerank: Switch = False,
    where: OptionalName = None,
    open: Switch = False,
    index: OptionalPath = None,
    images: OptionalPath = None,
    json: Json = False,
) -> int:
    """Ranked answers out of the run's index: pictures for a text, texts for a picture; moments of videos for a text.

    Where all answers are farther from the query than the best answers to 98 in 100 of the index's own items are from
    them, a line on standard error says that nothing is near.

    Args:
        text: What to search for, in words.
        image: Search with this picture instead of words.
        k: How many answers.
        answers: Whether pictures or texts are wanted. By default what the query is not, or what there is.
        rerank: Score the best answers again with the fusion layers, which see the text and the picture together.
        where: Answers that fulfil this alone, in SQL on text, image and meta: "text LIKE '%boat%'".
        open: Write a contact sheet of the answers (PNG) and print its path.
        index: Another index than RUN/index.
        images: The folder of the index's pictures or videos. By default the folders that they had when it was made.
    """
    from coalign.retrieval.index import Index
    from coalign.retrieval.rerank import Reranking
    from coalign.retrieval.search import picture_of, search, usual_similarity

    if (text is None) == (image is None) or (text is not None and not text.strip()):
        raise InputError('give either words to search for, coalign search RUN "red fruit", or --image FILE')
    if image is not None and not image.is_file():
        raise InputError(f"{image}: no such picture")
    path = index or run / "index"
    run_config(run)
    if not path.is_dir():
        raise InputError(f"{path}: no index; make one with: coalign index {run} --data YOUR_PAIRS")
    opened = Index.open(path, images)
    if opened.count("video"):
        if text is None or rerank or answers is not None or where is not None:
            raise InputError(
                f"{path}: an index of videos is searched in words alone, without --rerank, --answers or --where"
            )
        return _moments(run, opened, text, k, open, json)
    query = image if image is not None else str(text)
    wanted = answers or ("text" if image is not None and opened.count("text") else "image")
    reranking = Reranking.of_run(run) if rerank else None
    hits = search(load_run(run, half=True), opened, query, k, answers=wanted, reranking=reranking, where=where)
    usual = usual_similarity(opened, "text" if image is None else "image", wanted)
    best = max((hit.similarity for hit in hits), default=-math.inf)
    near = None if usual is None else best >= usual
    sheet = _contact_sheet(run, query, hits, partial(picture_of, opened)) if open else None
    if json:
        rows = [
            {
                "score": hit.score,
                "row": hit.row,
                "modality": hit.modality,
                "text": hit.entry.text,
                "image": hit.entry.image,
                "meta": hit.entry.meta,
            }
            for hit in hits
        ]
        where = None if sheet is None else str(sheet)
        built = opened.approximate
        about = {"near": near, "usual_similarity": usual, "approximate": None if built is None else asdict(built)}
        print_json({"query": str(query), "answers": rows, "sheet": where, **about})
        return 0
    if near is False:
        say(f"nothing near: the best similarity is {best:.3f}; most of the index's own items reach {usual:.3f}")
    for place, hit in enumerate(hits, 1):
        where = f"  {hit.entry.image}" if hit.entry.image else ""
        print(in_a_line(f"{place:3}  {hit.score:7.4f}  {hit.entry.text or ''}{where}"))
    if sheet is not None:
        print(sheet)
    return 0


def _moments(run: Path, index: Any, text: str, k: int, open: bool, json: bool) -> int:
    """Answers out of an index of videos: file, time span, and what is said then."""
    from coalign.retrieval.moments import picture_of_moment, search_moments, span_of

    hits = search_moments(load_run(run), index, text, k)

    def caption(hit: Any) -> str:
        return f"{span_of(hit.entry)} {Path(hit.entry.meta['video']).name}"

    sheet = _contact_sheet(run, text, hits, partial(picture_of_moment, index), caption) if open else None
    if json:
        rows = [{"score": hit.score, **hit.entry.meta, "said": hit.entry.text} for hit in hits]
        print_json({"query": text, "answers": rows, "sheet": None if sheet is None else str(sheet)})
        return 0
    for place, hit in enumerate(hits, 1):
        said = f"  {hit.entry.text}" if hit.entry.text else ""
        print(in_a_line(f"{place:3}  {hit.score:8.4f}  {hit.entry.meta['video']}  {span_of(hit.entry)}{said}"))
    if sheet is not None:
        print(sheet)
    return 0


def _contact_sheet(
    run: Path,
    query: str | Path,
    hits: Sequence[Any],
    picture: Callable[[Any], Any],
    caption: Callable[[Any], str] = lambda hit: hit.entry.text or "",
) -> Path:
    """A sheet of the answers' pictures in RUN/searches, named after the query."""
    from coalign.analysis.runs.contact_sheet import Cell, contact_sheet
    from coalign.data.images.pictures import save_picture

    pictures = [(picture(hit.entry), hit) for hit in hits]
    cells = [Cell(shown, caption(hit), hit.score) for shown, hit in pictures if shown is not None]
    if not cells:
        raise InputError("no answer has a picture in the index, so there is no contact sheet; leave out --open")
    words = query.stem if isinstance(query, Path) else query
    name = re.sub(r"\W+", "-", words.lower()).strip("-")[:60] or "search"
    return save_picture(contact_sheet(cells, title=words), run / "searches" / f"{name}.png")
