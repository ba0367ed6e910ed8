"""Text of other people where it is shown: pages, terminals, tables."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from pathlib import Path

import pytest
import torch

from coalign.analysis.datasets.page import _POLICY, _literal, _with_policy
from coalign.analysis.runs.stream_attention import attention_figure
from coalign.cli.commands.analyze import command as analyze
from coalign.cli.main import main
from coalign.errors import InputError, in_a_line, visible
from coalign.files import guarded, regular, write_table
from coalign.flags import say
from coalign.training.progress import progress_bar
from coalign.types import Layout

HOSTILE = "\x1b[31mred\x1b]8;;http://x\x07\u202egpj.exe\u2066 <script>alert(1)</script>\x9b2J"


def test_terminals_obey_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    say(HOSTILE)
    shown = capsys.readouterr().err
    assert "\\x1b[31mred" in shown and "\\u202egpj.exe" in shown and not re.search("[\x1b\x07\x9b\u202e\u2066]", shown)
    assert visible("a\tb\né 漢字 ✓") == "a\tb\né 漢字 ✓"
    assert in_a_line("a.png\n  2   0.9 b\u2028\x85\r") == "a.png\\n  2   0.9 b\\u2028\\x85\\r"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("coalign.cli.main._dispatch", lambda words: print(HOSTILE) or 0)
    with pytest.raises(SystemExit):
        main(["x"])
    assert "\\x1b[31mred" in terminal.getvalue() and "\x1b" not in terminal.getvalue()


def test_errors_and_the_lines_of_a_training_are_shown_and_not_obeyed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str]) -> int:
        raise InputError(f"t.csv: no column 'text'; the columns there are: {HOSTILE}")

    monkeypatch.setattr("coalign.cli.main._dispatch", fail)
    for words in ([], ["--debug"]):
        with pytest.raises(SystemExit):
            main(words)
        shown = capsys.readouterr().err
        assert "\\x1b[31mred" in shown and not re.search("[\x1b\x07\x9b\u202e\u2066]", shown)
    with progress_bar(2, 0, True) as bar:
        bar.say(f"{HOSTILE} [bold]runs/[/bold] [/x]")
    shown = capsys.readouterr().err.replace("\n", "")
    assert "\\x1b[31mred" in shown and "[bold]runs/[/bold] [/x]" in shown and "\x1b" not in shown


def test_pictures_set_no_formulas(tmp_path: Path) -> None:
    words, name = [r"$\unknown{$", "\x1b[31m", "costs $5$"], r"$\frac{$"
    layouts = {"text": Layout.of([3]), name: Layout.of([2])}
    attention_figure(tmp_path / "a.png", {("text", name): torch.rand(1, 3, 2)}, layouts, words=words, title=name)
    assert (tmp_path / "a.png").stat().st_size


def test_tables_hold_no_formulas(tmp_path: Path) -> None:
    rows = [["=HYPERLINK(1)", "@SUM(A1)", "-1.5", -2, "+49 1", 'a,b\n"c"', "é"]]
    write_table(tmp_path / "t.csv", rows)
    (read,) = csv.reader((tmp_path / "t.csv").open(encoding="utf-8", newline=""))
    assert read == ["'=HYPERLINK(1)", "'@SUM(A1)", "-1.5", "-2", "'+49 1", 'a,b\n"c"', "é"]


def test_pages_run_their_own_scripts_alone() -> None:
    page = _with_policy(f'<meta content="script-src {_POLICY}"><script>own()</script><script type="x">data</script>')
    own = base64.b64encode(hashlib.sha256(b"own()").digest()).decode()
    assert f"script-src 'sha256-{own}'\"" in page and page.count("sha256-") == 1


def test_figures_hold_no_markup_of_the_data() -> None:
    own = {"text": ["a<br>row 3"], "hovertemplate": "%{text}<extra></extra>", "y": [1, None]}
    link = '<a href="http://x">a</a>'
    figure = {"data": [{**own, "name": link, "x": [link]}], "layout": {"title": {"text": link}}}
    found = _literal(figure)
    assert found["data"][0] | own == found["data"][0]
    assert found["data"][0]["name"] == found["data"][0]["x"][0] == found["layout"]["title"]["text"]
    assert found["data"][0]["name"] == '‹a href="http://x">a‹/a>'


def test_no_pair_is_no_number_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--pairs 0"):
        analyze("x.csv", out=tmp_path, pairs=0)


def test_whatever_goes_wrong_names_the_file(tmp_path: Path) -> None:
    class Panic(BaseException):
        pass

    for error in (
        KeyError("a"),
        ValueError(),
        RecursionError(),
        MemoryError(),
        Panic("rust"),
        InputError("no such row"),
    ):
        with pytest.raises(InputError, match=r"^x\.json: "), guarded("x.json"):
            raise error
    with pytest.raises(KeyboardInterrupt), guarded("x.json"):
        raise KeyboardInterrupt
    for missing in (tmp_path / "absent", tmp_path, Path("/dev/null")):
        with pytest.raises(InputError, match=str(missing)):
            regular(missing)
