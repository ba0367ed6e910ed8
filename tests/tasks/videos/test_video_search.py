from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from coloured_videos import ColourClips, coloured_video

from coalign.arguments import Pairs
from coalign.cli.commands import index as index_command
from coalign.cli.commands import search as search_command
from coalign.data.core.quarantine import Quarantine
from coalign.errors import InputError
from coalign.retrieval.index import Index
from coalign.retrieval.moments import clock, index_videos, search_moments


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "run" / "config.json").write_text("{}")
    return tmp_path / "run"


@pytest.fixture
def films(tmp_path: Path) -> Path:
    coloured_video(tmp_path / "films" / "a.mp4", ("red", 3), ("green", 2), ("blue", 2.6))
    coloured_video(tmp_path / "films" / "more" / "b.mp4", ("black", 4), ("green", 4))
    (tmp_path / "films" / "a.srt").write_text("1\n00:00:05,500 --> 00:00:06,000\nthe sea\n")
    (tmp_path / "films" / "c.mp4").write_text("no video")
    return tmp_path / "films"


def test_a_text_finds_file_and_time(run: Path, films: Path) -> None:
    loaded, quarantine = ColourClips.loaded(), Quarantine()
    added = index_videos(run, loaded, films, run / "index", step=1.0, quarantine=quarantine)
    assert added == 8 + 8 and quarantine.broken == 1
    index = Index.open(run / "index")
    (best, *others) = search_moments(loaded, index, "blue", 4)
    meta = best.entry.meta
    assert Path(meta["video"]).name == "a.mp4" and (meta["start"], meta["end"]) in ((5.0, 6.0), (6.0, 7.0))
    assert len(others) == 3 and best.score > others[-1].score
    said = {hit.entry.text for hit in search_moments(loaded, index, "blue", 16) if hit.entry.text}
    assert said == {"the sea"}
    # the last clip of a.mp4 begins at 7 s and ends with the video
    ends = [hit.entry.meta["end"] for hit in search_moments(loaded, index, "blue", 16)]
    assert 7.6 in ends and max(ends) == 8.0
    assert Path(search_moments(loaded, index, "green", 1)[0].entry.meta["video"]).name in ("a.mp4", "b.mp4")


def test_answers_do_not_overlap_and_an_index_goes_on(run: Path, films: Path) -> None:
    loaded = ColourClips.loaded()
    index_videos(run, loaded, films, run / "index", step=0.25)
    seen = loaded.model.clips
    assert index_videos(run, loaded, films, run / "index", step=0.25) == 0 and loaded.model.clips == seen
    spans = [hit.entry.meta for hit in search_moments(loaded, Index.open(run / "index"), "red", 100)]
    a = sorted((meta["start"], meta["end"]) for meta in spans if meta["video"].endswith("a.mp4"))
    assert len(a) >= 5 and all(one[1] <= other[0] for one, other in pairwise(a))
    with pytest.raises(InputError, match="ask to overwrite"):
        index_videos(run, loaded, films, run / "index", step=0.5)
    with pytest.raises(InputError, match="no folder of videos"):
        index_videos(run, loaded, run, run / "other")


def test_the_commands(
    run: Path, films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (index_command, search_command):
        monkeypatch.setattr(command, "load_run", lambda _, half=False: ColourClips.loaded())
    assert index_command.command(run, Pairs(str(films)), step=1.0) == 0
    assert "16 moments" in capsys.readouterr().out
    assert search_command.command(run, "something blue", k=3, open=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "films/a.mp4  0:0" in lines[0] and len(lines) == 4 and Path(lines[3]).is_file()
    assert search_command.command(run, "blue", k=1, json=True) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["video"].endswith("a.mp4") and answer["end"] - answer["start"] == 1
    assert search_command.command(run, "../../../blue", k=1, open=True) == 0
    assert Path(capsys.readouterr().out.splitlines()[1]).parent == run / "searches"
    with pytest.raises(InputError, match="in words alone"):
        search_command.command(run, "blue", rerank=True)


def test_clock() -> None:
    assert [clock(t) for t in (0, 9.97, 75.5, 3661.04)] == ["0:00.0", "0:10.0", "1:15.5", "1:01:01.0"]
