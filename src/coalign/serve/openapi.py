"""The description of the addresses (OpenAPI 3.1), and a page of it."""

from __future__ import annotations

from html import escape
from typing import Any

from coalign import __version__

RUN = ("run", "query", "string", "The run's name; by default the first.")
K = ("k", "query", "integer", "How many, 1 to 200.")
OFFSET = ("offset", "query", "integer", "How many to pass over.")
ROW = ("row", "path", "integer", "A row of the index.")
WHERE = ("where", "query", "string", "column:value; several may be given.")
SEARCH = (
    RUN,
    ("text", "query", "string", "Words to search for; several may be given, their vectors are added."),
    ("minus", "query", "string", "Words whose vector is taken away."),
    ("like", "query", "integer", "A row whose vector is added: more like this."),
    ("unlike", "query", "integer", "A row whose vector is taken away."),
    K,
    OFFSET,
    ("rerank", "query", "boolean", "Score the best answers again with the fusion layers."),
    ("answers", "query", "string", "image, text or video. By default pictures; texts where a picture is re-ranked."),
    ("least", "query", "number", "Leave out answers whose P(match) is smaller, 0 to 1."),
    WHERE,
)
NOTE = (
    "P(match) is the share of right answers at a score, measured by searching for the index's own texts among its own "
    "pictures (isotonic regression); of several terms the product. It is null where the index holds no "
    "pairs, and of re-ranked answers while `calibrating`."
)


def description() -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, Any] = {}

    def add(path: str, method: str, summary: str, parameters: Any = (), body: Any = None, answer: str = "object"):
        said: dict[str, Any] = {
            "summary": summary,
            "parameters": [
                {"name": name, "in": place, "required": place == "path", "schema": {"type": kind}, "description": words}
                for name, place, kind, words in parameters
            ],
            "responses": {
                "200": {"description": answer},
                "4XX": {
                    "description": "What is wrong, in a sentence",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if body is not None:
            said["requestBody"] = {"required": True, "content": body}
        paths.setdefault(path, {})[method] = said

    picture = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
    answers = '{"answers": [{"row", "score", "p_match", "text", "image"}], "total", "next", "calibrating"}'
    add("/api/health", "get", "Whether the server is up, and its runs.", (), None, '{"status": "ok", "runs"}')
    add("/api/search", "get", f"Ranked answers to words or rows. {NOTE}", SEARCH, None, answers)
    add("/api/search", "post", "Ranked answers to a picture, with words or without.", SEARCH, picture, answers)
    align = {
        "run": {"type": "string"},
        "row": {"type": "integer", "description": "A row of the index, or of the data."},
        "of": {"type": "string", "description": "The run whose row it is, where that is another."},
        "image": {"type": "string", "description": "Instead of a row: a picture in base64."},
        "text": {"type": "string", "description": "By default the row's own."},
        "method": {"type": "string", "description": "auto, or one of the methods that an answer lists."},
    }
    add(
        "/api/align",
        "post",
        "How much each word draws on each place of a picture. The values are at the address `bytes`: two float32 a row "
        "(least, greatest), then the rows' places as uint8 between the two. Rows are words: first the method's own "
        "map, then layer by layer and head by head. A picture may also be the body, the rest then in the query.",
        (),
        {"application/json": {"schema": {"type": "object", "properties": align}}, **picture},
        '{"words", "method", "methods", "p_match", "kind", "grid" or "boxes", "layers", "heads", "places", "bytes"}',
    )
    numbers = {"type": "array", "description": "Numbers of the words whose map orders the places; by default all."}
    curves = {"application/json": {"schema": {"type": "object", "properties": {**align, "words": numbers}}}, **picture}
    add(
        "/api/deletion",
        "post",
        "The score as places are hidden, or shown, in the order of the map and in a random one.",
        (),
        curves,
        '{"deletion", "insertion", "random_deletion", "random_insertion"}',
    )
    add(
        "/api/bytes/{key}",
        "get",
        "The values of an answer.",
        (("key", "path", "string", "As answered."),),
        None,
        "bytes",
    )
    film = ("film", "query", "integer", "Of a moment: so many of its pictures side by side.")
    side = ("side", "query", "integer", "Pixels of the longer side: 64 to 1024.")
    add("/api/image/{row}", "get", "The picture of a row, as WebP.", (ROW, RUN, side, film), None, "image/webp")
    add("/api/video/{row}", "get", "The video of a moment; parts may be asked for.", (ROW, RUN), None, "video/*")
    rows = ("row", "query", "integer", "Only these rows; several may be given.")
    add("/api/rows", "get", "Rows of the index or the data, and its columns.", (RUN, rows, OFFSET, K, WHERE))
    of = ("of", "query", "string", "image, text or both.")
    add("/api/map", "get", "Where each row lies on the map: int32 rows, then float32 x and y at `bytes`.", (RUN, of))
    add("/api/findings", "get", "What stands out in the set, once it has been analysed.", (RUN,))
    add("/api/findings", "post", "Begins the analysis.", (RUN,))
    add("/api/marks", "get", "The marks of a run.", (RUN,))
    mark = {"run": {"type": "string"}, "row": {"type": "integer"}, "mark": {"type": "string"}}
    marks = {"application/json": {"schema": {"type": "object", "properties": mark}}}
    add("/api/marks", "post", 'Marks a row as "wrong"; an empty mark takes it back.', (), marks)
    which = ("of", "query", "string", "kept or marked.")
    add("/api/marks/table", "get", "The pairs that are not marked, or those that are, as a table.", (RUN, which))
    add("/api/run", "get", "Settings, learning curves and figures of a run.", (RUN,))
    item = ("item", "query", "integer", "The number of the utterance.")
    add("/api/streams", "get", "Attention between the streams of an utterance: uint8 at `bytes`.", (RUN, item))
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "coalign serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }


def page_of(said: dict[str, Any]) -> str:
    """The document as a page without scripts."""
    parts = [
        "<p><a href='/'>← coalign</a></p><h1>The API of coalign serve</h1>",
        "<p>The same as <a href='/api/openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in said["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(about['summary'])}</p>")
            rows = [(p["name"], p["schema"]["type"], p["description"]) for p in about["parameters"]]
            for kind, body in about.get("requestBody", {}).get("content", {}).items():
                fields = body["schema"].get("properties", {})
                rows += [(f"{name} (body)", f["type"], f.get("description", "")) for name, f in fields.items()]
                if not fields:
                    rows.append(("body", kind, "The picture's bytes."))
            if rows:
                cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
                parts.append(f"<table><thead><tr><th>name<th>type<th>meaning</tr></thead>{cells}</table>")
            parts.append(f"<p>Answers <code>{escape(about['responses']['200']['description'])}</code></p>")
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>coalign serve: the API</title>"
        "<link rel='icon' href='/icon.svg' type='image/svg+xml'><link rel='stylesheet' href='/app.css'>"
    )
    body = f"<body class='docs'><main>{''.join(parts)}</main></body>"
    return f"<!doctype html><html lang='en'><head>{head}</head>{body}</html>"
