import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

import coalign
from coalign.cli.main import main
from coalign.data.series.sources import open_series
from coalign.data.series.table import Extraction, read_utterances
from coalign.data.series.word_times import find_beside, read_word_times, uniform_times
from coalign.errors import InputError
from coalign.extraction.features import picture_features
from coalign.registry import describe

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")

TEXTGRID = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "S"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "so"
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = ""
        intervals [3]:
            xmin = 0.5
            xmax = 1
            text = "2 ""good"""
'''
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1
<exists>
1
"IntervalTier"
"words"
0
1
2
0
0.25
"so"
0.5
1
"good"
"""
SO, GOOD = {"word": "so", "start": 0, "end": 0.25}, {"word": "good", "start": 0.5, "end": 1}
SHORTER = {"words": [{"text": " good", "begin": 0.5, "end": 1}, {"w": "so", "s": 0, "e": "0.25"}]}


# -------------------------------------------------------------------------------------------------------- word times
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([SO, GOOD])),
        ("b.json", json.dumps(SHORTER)),
        ("c.json", json.dumps({"segments": [{"words": [SO]}, {"words": [GOOD]}]})),
        ("d.ctm", ";; a comment\nrec 1 0.00 0.25 so 0.9\nrec 1 0.25 0.25 <eps>\nrec 1 0.50 0.50 good\n"),
        ("e.TextGrid", TEXTGRID.replace('2 ""good""', "good")),
        ("f.TextGrid", SHORT),
    ],
)
def test_word_times_of_every_kind(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    words, times = read_word_times(tmp_path / name)
    assert words == ("so", "good")
    assert times.tolist() == [[0, 0.25], [0.5, 1]]


def test_quotes_and_numbers_in_a_textgrid(tmp_path):
    (tmp_path / "x.TextGrid").write_text(TEXTGRID, encoding="utf-16")
    assert read_word_times(tmp_path / "x.TextGrid")[0] == ("so", '2 "good"')


def test_bad_word_times_are_named(tmp_path):
    for name, content, message in (
        ("a.json", "{", "is not JSON"),
        ("b.json", '{"text": "hi"}', "should be a list"),
        ("c.json", '[{"word": "a", "start": 0}]', "entry 0 should have a word, a start and an end"),
        ("d.json", '[{"word": "a", "start": 2, "end": 1}]', "'a' lasts from 2.0 to 1.0 seconds"),
        ("e.ctm", "rec 1 x 0.2 so\n", "line 1 should be: recording channel start duration word"),
        ("f.textgrid", "nothing", "has no interval tier"),
        ("g.textgrid", '"IntervalTier" "words" 0 1 9 0 1 "a"', "not whole"),
        ("h.srt", "", "word times come as .json, .ctm, .textgrid"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=message) as error:
            read_word_times(tmp_path / name)
        assert name in str(error.value)
    _, times = uniform_times(("a", "b"), 1.0, 2.0)
    assert times.tolist() == [[1, 1.5], [1.5, 2]]
    assert uniform_times((), 0.0, 1.0)[1].shape == (0, 2)
    (tmp_path / "talk[1].ctm").write_text("")
    assert find_beside(tmp_path / "talk[1].wav") == tmp_path / "talk[1].ctm"
    assert find_beside(tmp_path / "other.wav") is None


# ------------------------------------------------------------------------------------------------------------- table
def wav(path, seconds=1.0, hertz=440.0):
    samples = np.sin(2 * math.pi * hertz * np.arange(round(16000 * seconds)) / 16000).astype("float32")
    soundfile.write(path, samples, 16000)


def film(path, seconds=1.0, sound=True):
    """Grey pictures that get brighter, ten a second, with a tone."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        voice = container.add_stream("aac", rate=16000) if sound else None
        for i in range(round(10 * seconds)):
            picture = np.full((32, 32, 3), 20 * i, dtype=np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
        if voice is not None:
            samples = np.sin(np.arange(round(16000 * seconds)) / 6).astype("float32")[None]
            for begin in range(0, samples.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(samples[:, begin : begin + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, begin
                container.mux(voice.encode(frame))
            container.mux(voice.encode())


def brightness(pictures):
    return pictures.float().mean((1, 2, 3))[:, None]


def test_sounds_with_words_beside_them(tmp_path):
    for name in ("a", "b"):
        wav(tmp_path / f"{name}.wav")
    (tmp_path / "a.ctm").write_text("a 1 0.0 0.4 so\na 1 0.4 0.6 good\n")
    (tmp_path / "t.csv").write_text("id,text,audio,label,split\na,so good,a.wav,2.5,train\nb,one two,b.wav,-1,dev\n")
    data = read_utterances(tmp_path / "t.csv", Extraction())
    first, second = data.splits["train"][0], data.splits["valid"][0]
    assert data.task == "regression"
    assert first.label.tolist() == [2.5]
    assert first.words == ("so", "good")
    assert first.streams["audio"].shape == (19, 40)  # 98 frames of 10 ms, five a row
    assert first.places["audio"].tolist() == [0] * 8 + [1] * 11  # 0.4 s is in the middle of row 7 and 8
    assert second.places["audio"].tolist() == [0] * 10 + [1] * 9  # equally long
    by_word = read_utterances(tmp_path / "t.csv", Extraction("mfcc", by_word=True)).splits["train"][0]
    assert by_word.streams["audio"].shape == (2, 13)


def test_films_are_seen_and_heard(tmp_path):
    film(tmp_path / "a.mp4")
    film(tmp_path / "silent.mp4", sound=False)
    rows = "so good,a.mp4,happy,,\nso bad,a.mp4,sad,0.5,0.9\nnothing,silent.mp4,sad,,\n"
    (tmp_path / "t.csv").write_text(f"text,video,label,start,end\n{rows}")
    data = read_utterances(tmp_path / "t.csv", Extraction(fps=5.0, pictures=brightness))
    items = sorted((item for split in data.splits.values() for item in split), key=lambda item: item.id)
    assert data.task == "classes"
    assert data.label_names == ("happy", "sad")
    whole, part, silent = items
    bright = whole.streams["vision"].flatten()
    assert len(bright) == 5
    assert bright.diff().min() > 15  # 40 a step
    assert whole.places["vision"].tolist()[0] == 0
    assert len(whole.streams["audio"]) > 15
    assert len(part.streams["vision"]) == 2
    assert part.streams["vision"][0] > whole.streams["vision"][1]
    assert part.streams["audio"].shape[0] == 7  # 0.4 s
    assert silent.streams["audio"].shape == (0, 40)
    assert any("1 utterances have no row in 'audio'" in note for note in data.notes)


def test_rows_that_cannot_be_read_are_left_out_and_said(tmp_path):
    wav(tmp_path / "a.wav")
    (tmp_path / "broken.wav").write_bytes(b"no")
    rows = ["text,audio,label", "a,a.wav,1", "b,broken.wav,1", "c,none.wav,1", "d,a.wav,", "e,,1"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    data = read_utterances(tmp_path / "t.csv", Extraction())
    assert sum(map(len, data.splits.values())) == 1
    said = "\n".join(data.notes)
    for expected in ("row 3: ", "no readable sound", "none.wav: no such file", "row 5: has no label", "row 6: has nei"):
        assert expected in said
    for header, message in (
        ("text,label", "needs a column audio or video"),
        ("audio,label", "needs the columns text and label"),
        ("text,label,video", "no image model was named"),
    ):
        (tmp_path / "x.csv").write_text(f"{header}\n" + ",".join("a" for _ in header.split(",")) + "\n")
        with pytest.raises(InputError, match=message):
            read_utterances(tmp_path / "x.csv", Extraction())
    (tmp_path / "x.csv").write_text("text,label,audio\na,1,none.wav\n")
    with pytest.raises(InputError, match="no row is usable; row 2"):
        read_utterances(tmp_path / "x.csv", Extraction())


def test_word_features_become_a_stream(tmp_path):
    wav(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text("text,audio,label\nso good,a.wav,1\n")
    extraction = Extraction(words=lambda texts: [torch.ones(len(words), 3) for words in texts])
    data = read_utterances(tmp_path / "t.csv", extraction)
    item = next(item for split in data.splits.values() for item in split)
    assert list(item.streams) == ["text", "audio"]
    assert item.streams["text"].shape == (2, 3)


# ----------------------------------------------------------------------------------------------------- convert-data
@pytest.mark.parametrize(("system", "width"), [("vit", 192), ("mae", 192), ("sasa", 512), ("albef", 128)])
def test_any_image_model_makes_features_of_pictures(tmp_path, system, width):
    torch.manual_seed(0)
    model = coalign.create(system, "tiny").model
    (tmp_path / "config.json").write_text(json.dumps(describe(model) | {"training": {}}))
    save_model(model, str(tmp_path / "model.safetensors"))
    pictures = torch.randint(0, 256, (3, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = picture_features(str(tmp_path))(pictures)
    assert found.shape == (3, width)
    torch.testing.assert_close(picture_features(str(tmp_path))(pictures[1:2]), found[1:2], atol=1e-4, rtol=1e-4)


def test_a_model_that_reads_no_picture_by_itself_is_refused_at_once(tmp_path):
    model = coalign.create("vilt", "tiny").model
    (tmp_path / "config.json").write_text(json.dumps(describe(model) | {"training": {}}))
    save_model(model, str(tmp_path / "model.safetensors"))
    with pytest.raises(InputError, match="reads no picture by itself"):
        picture_features(str(tmp_path))


def run(capsys, *words):
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return done.value.code or 0, said.out, said.err


def test_convert_data_writes_a_folder_that_recipes_read(tmp_path, capsys):
    wav(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text("text,audio,label,split\nso good,a.wav,1,train\nbad,a.wav,-1,test\n")
    code, out, _ = run(capsys, "convert-data", tmp_path / "t.csv", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(out)["streams"] == {"audio": 40}
    again = open_series(tmp_path / "out")
    assert again.splits["train"][0].words == ("so", "good")
    assert again.splits["train"][0].places["audio"].tolist() == [0] * 10 + [1] * 9
    code, _, err = run(capsys, "convert-data", tmp_path / "t.csv", tmp_path / "out")
    assert (code, "exists already" in err) == (2, True)
    code, out, _ = run(capsys, "convert-data", "world:redundant,items=8", tmp_path / "world")
    assert code == 0
    assert "8 train, 1 valid, 2 test; streams text (16), audio (12), vision (10); with words" in out
    code, _, err = run(capsys, "convert-data", tmp_path / "none.pkl", tmp_path / "x")
    assert (code, "no such file" in err) == (2, True)
    assert not (tmp_path / "x").exists()
