from __future__ import annotations

import json
from pathlib import Path

import pytest

from coalign.data.videos.actions import read_actions, read_coin, read_crosstask
from coalign.data.videos.captions import Captioned, read_captioned, read_choices
from coalign.data.videos.files import TRAIN_SPLITS, Found, Span, VideoFiles
from coalign.errors import InputError


@pytest.fixture
def files(tmp_path: Path) -> VideoFiles:
    for name in ("a.mp4", "deep/101/b.webm", "v_c.d.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    return VideoFiles(tmp_path / "videos")


def captions(found: Found[Captioned]) -> list[tuple[str, float, float | None, tuple[str, ...]]]:
    return [(item.span.video.stem, item.span.start, item.span.end, item.texts) for item in found.items]


def youcook() -> dict[str, object]:
    def entry(subset: str, *segments: tuple[int, int, str]) -> dict[str, object]:
        parts = [{"segment": [a, b], "id": n, "sentence": text} for n, (a, b, text) in enumerate(segments)]
        return {"subset": subset, "recipe_type": "101", "duration": 99.0, "annotations": parts}

    videos = {"a": entry("training", (1, 5, "cut")), "b": entry("validation", (2, 4, "fry"), (7, 9, "eat"))}
    return {"database": videos | {"gone": entry("validation", (0, 1, "x"))}}


def msrvtt() -> dict[str, object]:
    videos = [{"video_id": v, "split": s, "id": 0} for v, s in (("a", "train"), ("b", "test"), ("gone", "test"))]
    sentences = [{"video_id": v, "caption": t, "sen_id": n} for n, (v, t) in enumerate([("b", "one"), ("b", "two")])]
    return {"info": {}, "videos": videos, "sentences": sentences}


CAPTIONS = {
    "youcookii.json": (json.dumps(youcook()), [("b", 2, 4, ("fry",)), ("b", 7, 9, ("eat",))], 1),
    "videodatainfo.json": (json.dumps(msrvtt()), [("b", 0, None, ("one", "two"))], 0),
    "ret.json": (json.dumps([{"video": "a.mp4", "caption": "x"}, {"video": "v_c.d.avi", "caption": ["y", "z"]}]),
                 [("a", 0, None, ("x",)), ("v_c.d", 0, None, ("y", "z"))], 0),
    "validation_youcook.csv": ("end,start,task,text,video_id\n9,2.5,101,fry it,b\n5,1,7,cut,gone\n",
                               [("b", 2.5, 9, ("fry it",))], 1),
    "JSFUSION_test.csv": ("key,vid_key,video_id,sentence\nret0,msr1,a,a man\n", [("a", 0, None, ("a man",))], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPTIONS)
def test_sentences_of_published_files(tmp_path: Path, files: VideoFiles, name: str) -> None:
    text, wanted, missing = CAPTIONS[name]
    (tmp_path / name).write_text(text)
    found = read_captioned(tmp_path / name, files)
    assert captions(found) == wanted and found.missing == missing


def test_names_that_lead_elsewhere_are_not_followed(tmp_path: Path, files: VideoFiles) -> None:
    (tmp_path / "secret.mp4").touch()
    for name in ("../secret", "../secret.mp4", str(tmp_path / "secret.mp4"), "..", "", "a.mp4/../../secret"):
        assert files.find(name) is None
    (tmp_path / "x.csv").write_text("video_id,text\n../secret,x\n..,y\n")
    with pytest.raises(InputError, match="none of its videos"):
        read_captioned(tmp_path / "x.csv", files)


def test_splits_and_what_is_wrong(tmp_path: Path, files: VideoFiles) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(youcook()))
    assert captions(read_captioned(path, files, TRAIN_SPLITS)) == [("a", 1, 5, ("cut",))]
    with pytest.raises(InputError, match="no split dev; there are training, validation"):
        read_captioned(path, files, ("dev",))
    for content, reason in (
        ('{"a": 1}', "neither YouCook2's"),
        ('[{"video": "a"}]', "lacks 'caption'"),
        ('[{"video": "zz", "caption": ""}]', r"none of its videos, such as zz\.mp4, is in"),
        ("{", "not JSON"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=reason):
            read_captioned(path, files)
    (tmp_path / "x.csv").write_text("video_id,text,start,end\na,x,0,1\nb,y,1,z\n")
    with pytest.raises(InputError, match="line 3: start and end"):
        read_captioned(tmp_path / "x.csv", files)
    (tmp_path / "x.csv").write_text("video_id,words\na,x\n")
    with pytest.raises(InputError, match="no column text or sentence"):
        read_captioned(tmp_path / "x.csv", files)
    with pytest.raises(InputError, match="no such file"):
        read_captioned(tmp_path / "nothing.csv", files)


def test_choices(tmp_path: Path, files: VideoFiles) -> None:
    times = "\t".join(["00.00.01.000"] * 4)
    texts = "\t".join("abcde")
    path = tmp_path / "LSMDC16_multiple_choice.csv"
    path.write_text(f"a\t{times}\t{texts}\t4\nb\t{times}\t{texts}\t1\n")  # the public test
    assert [(q.span.video.stem, q.options[q.answer]) for q in read_choices(path, files).items] == [
        ("a", "d"),
        ("b", "a"),
    ]
    path.write_text(f"a\t{times}\t{texts}\n")  # training: the first is right
    (question,) = read_choices(path, files).items
    assert (
        question.options == tuple("abcde") and question.answer == 0 and question.span == Span(files.find("a") or path)
    )
    path.write_text("a\tb\n")
    with pytest.raises(InputError, match="line 1 should have 10 columns"):
        read_choices(path, files)
    path = tmp_path / "msrvtt_mc_test.jsonl"
    path.write_text('{"qid": 7, "clip_name": "a", "options": ["x", "y"], "answer": 1}\n')
    assert [(q.name, q.answer) for q in read_choices(path, files).items] == [("7", 1)]
    path.write_text('{"clip_name": "a", "options": ["x", "y"], "answer": 2}\n')
    with pytest.raises(InputError, match="answer 2 is none of 2"):
        read_choices(path, files)
    (tmp_path / "mc.json").write_text(json.dumps([{"video": "b.webm", "caption": ["p", "q"], "answer": 0}]))
    assert read_choices(tmp_path / "mc.json", files).items[0].options == ("p", "q")


def test_crosstask(tmp_path: Path, files: VideoFiles) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "tasks_primary.txt").write_text("7\nMake tea\nhttp://x\n2\nboil water,pour it\n\n8\nX\n-\n1\nstir\n")
    for name, lines in (("7_a", "1,0.5,2\n2,3,4.5\n1,6,7\n"), ("8_b", "1,1,2\n"), ("9_b", "1,1,2\n"), ("7_gone", "")):
        (tmp_path / "annotations" / f"{name}.csv").write_text(lines)
    found = read_crosstask(tmp_path, files)
    assert [(v.video.stem, v.task, v.steps) for v in found.items] == [
        ("a", "7", ("boil water", "pour it")),
        ("b", "8", ("stir",)),
    ]
    assert found.items[0].shown == ((0, 0.5, 2.0), (1, 3.0, 4.5), (0, 6.0, 7.0)) and found.missing == 1
    (tmp_path / "videos_val.csv").write_text("8,b,http://x\n")
    assert [v.task for v in read_crosstask(tmp_path, files, tmp_path / "videos_val.csv").items] == ["8"]
    (tmp_path / "annotations" / "7_a.csv").write_text("3,0,1\n")
    with pytest.raises(InputError, match="line 1: the task has 2 steps, not 3"):
        read_crosstask(tmp_path, files)
    with pytest.raises(InputError, match="not CrossTask's release"):
        read_crosstask(tmp_path / "videos", files)


def test_coin(tmp_path: Path, files: VideoFiles) -> None:
    def entry(subset: str, *parts: tuple[float, float, str]) -> dict[str, object]:
        return {"subset": subset, "annotation": [{"id": "2", "segment": [a, b], "label": t} for a, b, t in parts]}

    whole = {"database": {"a": entry("training", (1, 2, "cut")), "b": entry("testing", (0, 3.5, "fry"), (5, 6, "eat"))}}
    (tmp_path / "COIN.json").write_text(json.dumps(whole))
    (video,) = read_coin(tmp_path / "COIN.json", files).items
    assert video.segments == (("fry", 0.0, 3.5), ("eat", 5.0, 6.0))
    assert [v.video.stem for v in read_coin(tmp_path / "COIN.json", files, TRAIN_SPLITS).items] == ["a"]


def test_actions(tmp_path: Path, files: VideoFiles) -> None:
    def read(path: Path, split: int = 1) -> list[list[tuple[str, str]]]:
        return [[(v.span.video.stem, v.label) for v in part.items] for part in read_actions(path, files, split)]

    ucf, hmdb = tmp_path / "ucf", tmp_path / "hmdb"
    ucf.mkdir(), hmdb.mkdir()
    (ucf / "trainlist01.txt").write_text("Run/v_c.d.avi 1\nSwim/a.mp4 2\n")
    (ucf / "testlist01.txt").write_text("Swim/b.avi\n")
    assert read(ucf) == [[("v_c.d", "Run"), ("a", "Swim")], [("b", "Swim")]]
    (hmdb / "ride_bike_test_split2.txt").write_text("a.avi 1 \nb.avi 2 \nv_c.d.avi 0 \n")
    assert read(hmdb, 2) == [[("a", "ride_bike")], [("b", "ride_bike")]]
    table = tmp_path / "hmdb51.csv"
    table.write_text("video_id,label,split1,split2\na.avi,run_test,1,0\nb.avi,run_test,2,1\n")
    assert read(table) == [[("a", "run")], [("b", "run")]]
    table.write_text("video,label,split,start,end\na,run,train,1,2\nb,run,test,,\n")
    train, test = read_actions(table, files)
    assert (train.items[0].span.start, train.items[0].span.end, test.items[0].span.end) == (1.0, 2.0, None)
    table.write_text("video_id,label\na,run\n")
    with pytest.raises(InputError, match="split should be train or test"):
        read_actions(table, files)
    with pytest.raises(InputError, match=r"neither UCF101's trainlist03"):
        read_actions(ucf, files, 3)
