"""`coalign completion`: the TAB key of bash, zsh and fish."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

from coalign.cli.commands import Help, command_names, run_command
from coalign.errors import InputError

HELP = Help("start here", "bash|zsh|fish", "a script that completes commands, recipes and flags", 30)

SCRIPTS = {
    "bash": """_coalign() {
  local found; found="$(coalign completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
  [ -n "$found" ] && COMPREPLY=($(compgen -W "$found" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _coalign coalign""",
    "zsh": """#compdef coalign
_coalign() {
  local -a found; found=(${(f)"$(coalign completion words -- ${words[2,CURRENT]} 2>/dev/null)"})
  (( $#found )) && compadd -- $found || _files
}
compdef _coalign coalign""",
    "fish": """function _coalign
  coalign completion words -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c coalign -a '(_coalign)'""",
}
USAGE = """usage: coalign completion bash|zsh|fish

Prints a script that completes commands, recipes, tasks and flags. In ~/.bashrc or ~/.zshrc:

  eval "$(coalign completion bash)"

Of fish: coalign completion fish > ~/.config/fish/completions/coalign.fish"""


def dispatch(words: list[str]) -> int:
    """Prints a shell's script, or for that script the words that may follow what is typed: `words -- TYPED ...`."""
    if words[:1] == ["words"]:
        print("\n".join(completions(words[2:])))
        return 0
    if len(words) == 1 and words[0] in SCRIPTS:
        print(SCRIPTS[words[0]])
        return 0
    if not {"-h", "--help"} & set(words):
        raise InputError(f"give the name of a shell: coalign completion {'|'.join(SCRIPTS)}")
    print(USAGE)
    return 0


def completions(typed: Sequence[str]) -> list[str]:
    """The words that the last of the typed ones may become; none where a file name is wanted."""
    from coalign.extraction import extractors
    from coalign.recipes import recipe_names
    from coalign.tasks import tasks

    *before, last = typed or ("",)
    if not before:
        words = [*command_names(), "--help", "--version"]
    elif before[-1] == "--task":
        words = list(tasks())
    elif last.startswith("-"):
        words = flags(before)
    elif before == ["train"] or before[0] == "compare":
        words = list(recipe_names())
    else:
        words = list(extractors()) if before == ["extract"] else []
    return [word for word in words if word.startswith(last)]


def flags(before: list[str]) -> list[str]:
    """The flags in the help of what is typed."""
    task = before[before.index("--task") :][:2] if "--task" in before else []
    named = before[:2] if before[0] in ("train", "extract") else [before[0], *task]
    said = io.StringIO()
    with contextlib.suppress(SystemExit, InputError), contextlib.redirect_stdout(said):
        run_command(named[0], [*named[1:], "--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", said.getvalue())))
