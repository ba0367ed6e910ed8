"""`coalign systems`."""

from __future__ import annotations

import json as json_format
import pkgutil
from pathlib import Path
from typing import Any

from coalign.arguments import OptionalPath, Switch
from coalign.cli.commands import Help
from coalign.cli.output import Json, print_json
from coalign.errors import InputError

FACTS = Path(__file__).parents[2] / "models" / "systems.json"
HELP = Help("start here", "", "the published systems there are", 20)


def command(json: Json = False, readme: OptionalPath = None, kernels: Switch = False) -> int:
    """The published systems there are: papers, sizes, objectives, tasks.

    Args:
        kernels: Which kernels attend on a GPU in bfloat16, in every size, and why.
        readme: Put the table of systems, as they are declared, into this Markdown file, between its two marks; and
            what this command says of them into its own file.
    """
    if readme is not None:
        _put_table(readme)
    elif kernels:
        rows = kernels_of_systems()
        if json:
            print_json(rows)
        for row in [] if json else rows:
            print(f"{row['name']} {row['size']}: {row['attention']}")
    elif json:
        print_json(system_rows())
    else:
        for row in system_rows():
            print(f"{row['name']:12} {row['title']}\n{'':12} {row['paper']}")
            for key in ("sizes", "objectives", "tasks", "weights", "recipes"):
                if row[key]:
                    print(f"{'':12} {key}: {', '.join(row[key])}")
    return 0


def system_rows() -> list[dict[str, Any]]:
    """A row of facts for each system: as written down, without torch, if those are the systems there are."""
    from coalign import models

    there = {module.name for module in pkgutil.iter_modules(models.__path__) if module.ispkg}
    written: list[dict[str, Any]] = json_format.loads(FACTS.read_text("utf-8")) if FACTS.is_file() else []
    return written if {row["name"] for row in written} == there else facts_of_systems()


def facts_of_systems() -> list[dict[str, Any]]:
    """The facts as the systems declare them."""
    from coalign import parity, systems
    from coalign.recipes import recipe_names

    verified = {module.name for module in pkgutil.iter_modules(parity.__path__)}
    return [
        {
            "name": system.name,
            "title": system.title,
            "paper": system.paper,
            "sizes": list(system.sizes),
            "objectives": list(system.objectives),
            "tasks": list(system.heads),
            "weights": list(system.weights),
            "recipes": [name for name in recipe_names() if _system_of(name).startswith(f"{system.name}_")],
            "verified": system.name in verified,
        }
        for system in systems().values()
    ]


def _system_of(recipe: str) -> str:
    """A recipe's name, behind that of its system."""
    return f"compact_{recipe}" if recipe in ("quickstart", "albef-small") else recipe.replace("-", "_")


def kernels_of_systems() -> list[dict[str, Any]]:
    """Of every size of every system: the attention layers, and their kernels on a GPU."""
    from coalign import create, systems
    from coalign.layers.initialise import shapes_alone
    from coalign.layers.kernels import attending

    rows: list[dict[str, Any]] = []
    for system in systems().values():
        for size in system.sizes:
            with shapes_alone():
                kinds = attending(create(system.name, size).model)
            rows += [{"name": system.name, "size": size, "attention": str(kind)} for kind in kinds]
    return rows


def systems_table() -> str:
    """The README's table of systems, in Markdown."""
    lines = ["| name | system | objectives | tasks | reads weights of | state |", "|---|---|---|---|---|---|"]
    for row in system_rows():
        title, *subtitle = row["title"].split(":", 1)
        state = ["held against recordings" if row["verified"] else "tested against its formulas; no recordings exist"]
        state += [f"trains: `{name}`" for name in row["recipes"]]
        cells = [
            f"`{row['name']}`",
            f"**{title}**{''.join(subtitle) and ':' + ''.join(subtitle)} ({row['paper']})",
            *(", ".join(row[key]) or "–" for key in ("objectives", "tasks", "weights")),
            "; ".join(state),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _put_table(readme: Path) -> None:
    from coalign.data.images.pictures import write_text

    facts = json_format.dumps(facts_of_systems(), indent=1, ensure_ascii=False)
    write_text(FACTS, facts + "\n")
    before, begins, rest = readme.read_text("utf-8").partition("<!-- systems -->\n")
    _, ends, after = rest.partition("<!-- /systems -->")
    if not begins or not ends:
        raise InputError(f"{readme}: has no lines <!-- systems --> and <!-- /systems --> for the table")
    write_text(readme, f"{before}{begins}{systems_table()}\n{ends}{after}")
    print(readme)
