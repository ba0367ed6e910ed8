from __future__ import annotations

import json
from pathlib import Path

import pytest

from coalign.data.images.decode import BadSample
from coalign.data.videos.subtitles import Narration, read_caption_json, read_subtitles, subtitles_beside

WANTED = [Narration(1.0, 2.5, "pour the milk"), Narration(62.25, 64.0, "now whisk it")]
SRT = """1
00:00:01,000 --> 00:00:02,500
<i>pour</i> the
milk

2
00:01:02,250 --> 00:01:04,000 X1:10
{\\an8}now whisk it

3
00:01:05,000 --> 00:01:06,000
[Music]
"""
VTT = """WEBVTT
Kind: captions

NOTE made by hand

first
00:01.000 --> 00:02.500 align:start
pour the milk

00:01:02.250 --> 00:01:04.000
now&nbsp;whisk it
"""
SEGMENTS = [{"start": 1, "end": 2.5, "text": " pour the milk"}, {"start": 62.25, "end": 64.0, "text": "now whisk it"}]
JSON3 = {
    "events": [
        {"tStartMs": 0, "dDurationMs": 90000, "id": 1},
        {"tStartMs": 1000, "dDurationMs": 1500, "segs": [{"utf8": "pour"}, {"utf8": " the milk", "tOffsetMs": 300}]},
        {"tStartMs": 2500, "dDurationMs": 10, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 62250, "dDurationMs": 1750, "segs": [{"utf8": "now whisk it"}]},
    ]
}
COLUMNS = {"start": [1.0, 62.25], "end": [2.5, 64], "text": ["pour the milk", "now whisk it"]}
CPP = {"transcription": [{"offsets": {"from": 1000, "to": 2500}, "text": " pour the milk"}]}
FORMS = {
    "a.srt": SRT,
    "b.vtt": VTT,
    "c.json": json.dumps({"text": "", "segments": SEGMENTS, "language": "en"}),
    "d.json": json.dumps(SEGMENTS),
    "e.json3": json.dumps(JSON3),
    "f.csv": 'start,end,text\n1.0,2.5,pour the milk\n62.25,64.0,"now whisk it"\n',
    "g.json": json.dumps(COLUMNS),
    "no-empty-lines.srt": "1\n00:00:01,000 --> 00:00:02,500\npour the milk\n2\n"
    "00:01:02,250 --> 00:01:04,000\nnow whisk it\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_subtitles(tmp_path / name) == WANTED


def test_whisper_cpp_and_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(CPP))
    assert read_subtitles(tmp_path / "a.json") == WANTED[:1]
    for encoding in ("utf-8-sig", "cp1252", "utf-16"):
        (tmp_path / "b.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\ncrème brûlée\n".encode(encoding))
        assert read_subtitles(tmp_path / "b.srt") == [Narration(1.0, 2.0, "crème brûlée")]


def test_rolling_captions_are_said_once(tmp_path: Path) -> None:
    cues = ["0 --> 2\npour the", "2 --> 2.01\npour the", "2.01 --> 4\npour the\nmilk <00:00:03.000><c> in</c>"]
    cues += ["4 --> 6\nmilk in\nand stir", "9 --> 10\nand stir"]
    times = [[f"00:00:{float(t):06.3f}" for t in cue.split("\n")[0].split(" --> ")] for cue in cues]
    body = "\n\n".join(" --> ".join(time) + "\n" + cue.split("\n", 1)[1] for time, cue in zip(times, cues, strict=True))
    (tmp_path / "a.vtt").write_text(f"WEBVTT\n\n{body}\n")
    assert [n.text for n in read_subtitles(tmp_path / "a.vtt")] == ["pour the", "milk in", "and stir", "and stir"]


def test_no_speech_overlaps_and_a_cue_that_ends_before_it_begins(tmp_path: Path) -> None:
    rows = [
        (5, 4, "late"),
        (-1, 0.5, "early"),
        (1, 3, "one"),
        (2, 6, "two (laughs)"),
        (3, 4, "♪ ♪"),
        (4, 5, ">> [Applause] "),
    ]
    (tmp_path / "a.csv").write_text("start,end,text\n" + "".join(f"{a},{b},{t}\n" for a, b, t in rows))
    wanted = [Narration(0.0, 0.5, "early"), Narration(1.0, 3.0, "one"), Narration(2.0, 6.0, "two")]
    assert read_subtitles(tmp_path / "a.csv") == [*wanted, Narration(5.0, 5.0, "late")]
    assert len(read_subtitles(tmp_path / "a.csv", keep_sounds=True)) == 6


def test_howto100m_captions_of_many_videos(tmp_path: Path) -> None:
    (tmp_path / "caption.json").write_text(json.dumps({"x": COLUMNS, "y": {"start": [], "end": [], "text": []}}))
    assert read_caption_json(tmp_path / "caption.json") == {"x": WANTED, "y": []}
    (tmp_path / "caption.json").write_text(json.dumps({"x": {"start": [1], "end": [], "text": []}}))
    with pytest.raises(BadSample, match="entry 'x'"):
        read_caption_json(tmp_path / "caption.json")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.srt", "1\n00:00:01 -> 00:02\nhello", "no line like"),
        ("a.srt", "1\n1 s --> 2 s\nhello", "line 2"),
        ("a.csv", "begin,end,text\n1,2,a", "no column 'start'"),
        ("a.csv", "start,end,text\n1,2,a\n1,b,c\n", "line 3"),
        ("a.csv", "start,end,text\n1,2,a\nnan,2,c\n", "caption 1: from nan to 2"),
        ("a.json", "{", "not subtitles"),
        ("a.json", '{"segments": [{"start": 1}]}', "segment 0"),
        ("a.json", '{"other": 1}', "neither"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadSample, match=reason) as caught:
        read_subtitles(tmp_path / name)
    assert name in str(caught.value)


def test_finds_the_file_of_a_video(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.en.vtt", "a[1].mp4", "a[1].srt", "a.b.c.srt", "c.mp4"):
        (tmp_path / name).touch()
    assert subtitles_beside(tmp_path / "a.mp4") == tmp_path / "a.en.vtt"
    assert subtitles_beside(tmp_path / "a[1].mp4") == tmp_path / "a[1].srt"
    assert subtitles_beside(tmp_path / "c.mp4") is None
    (tmp_path / "a.srt").touch()
    assert subtitles_beside(tmp_path / "a.mp4") == tmp_path / "a.srt"
    assert subtitles_beside(Path("elsewhere/a.mp4"), tmp_path) == tmp_path / "a.srt"
