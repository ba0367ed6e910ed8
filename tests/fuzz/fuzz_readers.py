"""Every reader of a user's file, with a sound file for it: what `fuzz_run` damages.

`covers` names the functions that a target exercises, as `coalign.files.reader` marks them; a test holds that none is
left out.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("data", "training")]

from files import encoded, noise, picture
from safetensors.torch import save_file
from video_files import make_video

from coalign.data.images.decode import BadSample, check_image, decode_image
from coalign.data.words.load import load_tokenizer
from coalign.data.words.tokenizer import Tokenizer
from coalign.files import regular


@dataclass(frozen=True)
class Target:
    """`write` fills a folder with a sound file, `read` reads it; `names` are the files or suffixes to damage, all
    where empty."""

    name: str
    covers: tuple[str, ...]
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    names: tuple[str, ...] = ()


TARGETS: list[Target] = []


def target(name: str, *covers: str, write: Callable[[Path], object], names: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Adds the decorated function, which reads a folder, as a target."""

    def add(read: Callable[[Path], object]) -> Callable[[Path], object]:
        TARGETS.append(Target(name, tuple(f"coalign.{cover}" for cover in covers), write, read, tuple(names)))
        return read

    return add


PRELOADED = (
    *(
        "av",
        "h5py",
        "lmdb",
        "msgpack",
        "soundfile",
        "pyarrow.parquet",
        "scipy.signal",
        "torch._dynamo",
        "toy",
        "pytest",
    ),
    *("coalign.registry", "coalign.data.pairs.sources", "coalign.data.series.sources", "coalign.data.videos.captions"),
    *("coalign.data.questions.vqa", "coalign.retrieval.querybank", "coalign.parity.case", "coalign.models.bert.model"),
)
"""Imported once, before children are forked; what starts threads as it is imported (LanceDB) is not."""


def prepare() -> None:
    """What the parent of all children does."""
    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    Image.init()


@cache
def writers(path: str) -> Any:
    """The module of a test, for its writers."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{Path(path).stem}", TESTS / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def by(path: str, name: str) -> Callable[[Path], object]:
    """A writer of a test module."""
    return lambda folder: getattr(writers(path), name)(folder)


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(raw)


def as_json(name: str, content: Any) -> Callable[[Path], object]:
    return text(name, json.dumps(content))


def both(*writes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [write(folder) for write in writes] and None


def images(folder: Path) -> None:
    for number in range(4):
        picture(10 * number).save(folder / f"{number}.png")


# --------------------------------------------------------------------------------------------------------- image-text
def read_pairs(name: str, **options: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        from coalign.data.core.quarantine import check_source
        from coalign.data.pairs.sources import open_source

        source = open_source(folder / name if name else folder, **options)
        checked = check_source(source, limit=1.0, threads=1).source.grouped()
        for index in range(len(checked)):
            sample = checked[index]
            decode_image(sample.image)
        checked.first_texts()

    return read


ROWS = [{"image": f"{n}.png", "caption": f"text {n}", "more": [n, None], "split": "train"} for n in range(4)]


def write_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": encoded(picture(n)), "path": None}, "caption": f"text {n}", "n": n} for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")


def write_saved(folder: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list([{"image": f"{n}.png", "caption": [f"text {n}"]} for n in range(4)])
    table.save_to_disk(folder / "saved")


def write_tar(folder: Path) -> None:
    module = writers("data/pairs/test_shards.py")
    module.write_shard(folder / "s.tar", module.samples(0, 3))


COCO = {
    "images": [{"id": n, "file_name": f"{n}.png"} for n in range(4)],
    "annotations": [{"image_id": n, "id": n, "caption": f"text {n}"} for n in range(4)],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filename": f"{n}.png", "imgid": n, "split": "train", "sentences": [{"raw": f"text {n}", "tokens": ["a"]}]}
        for n in range(4)
    ],
}
SOURCES = "data.pairs.sources.open_source"
for _name, _writes, _file in (
    ("csv", text("t.csv", "image,caption\n" + "".join(f"{n}.png,text {n}\n" for n in range(4))), "t.csv"),
    ("tsv", text("t.tsv", "image\tcaption\n" + "".join(f'{n}.png\t"a {n}"\n' for n in range(4))), "t.tsv"),
    ("jsonl", text("t.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)), "t.jsonl"),
    ("json", as_json("t.json", ROWS), "t.json"),
    ("parquet", write_parquet, "t.parquet"),
    ("coco", as_json("captions.json", COCO), "captions.json"),
    ("karpathy", as_json("karpathy.json", KARPATHY), "karpathy.json"),
    ("tar", write_tar, "s.tar"),
):
    target(_name, SOURCES, write=both(images, _writes), names=[_file])(read_pairs(_file))
target(
    "folder",
    SOURCES,
    write=both(
        images,
        *(text(f"{n}.txt", f"a {n}\nb") for n in (0, 1)),
        *(as_json(f"{n}.json", {"text": ["a"]}) for n in (2, 3)),
    ),
)(read_pairs(""))
target("saved", SOURCES, write=both(write_saved, lambda f: images(f / "saved")), names=[".arrow", ".json"])(
    read_pairs("saved")
)


def write_classes(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "train" / name).mkdir(parents=True)
        picture(9).save(folder / "train" / name / "a.png")
    (folder / "val").mkdir()
    for number in range(2):
        picture(9).save(folder / "val" / f"v{number}.png")
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nv0,cat 1 2 3 4\nv1,dog 1 2 3 4\n")
    (folder / "classes.txt").write_text("cat\ndog\n")


@target(
    "labelled",
    "data.images.labelled_images.open_labelled",
    "data.images.labelled_images.open_images",
    write=write_classes,
)
def read_labelled(folder: Path) -> None:
    from coalign.data.images.labelled_images import open_images, open_labelled

    open_images(folder)
    for split in ("train", "val"):
        for sample in open_labelled(folder, split=split):
            check_image(sample.image, thorough=True)


@target(
    "classes",
    "data.images.labelled_images.Classes.load",
    write=both(
        as_json("a.json", ["a", "b"]),
        as_json("b.json", {"0": ["n1", "x"], "1": ["n2", "y"]}),
        as_json("c.json", {"a": 0, "b": 1}),
        text("d.txt", "n00000001 a b\nn00000002 c\n"),
        as_json("e.json", {"names": ["a"], "shown": ["b"]}),
    ),
)
def read_classes(folder: Path) -> None:
    from coalign.data.images.labelled_images import Classes

    for path in sorted(folder.iterdir()):
        str(Classes.load(path).to_json())


def write_images(folder: Path) -> None:
    kinds = {
        "png": "PNG",
        "jpg": "JPEG",
        "gif": "GIF",
        "webp": "WEBP",
        "tif": "TIFF",
        "bmp": "BMP",
        "ppm": "PPM",
        "avif": "AVIF",
        "jp2": "JPEG2000",
    }
    for suffix, kind in kinds.items():
        if kind in Image.SAVE:  # AVIF since Pillow 11.3
            noise((24, 16)).save(folder / f"a.{suffix}", kind)
    noise((24, 16)).convert("RGBA").save(folder / "b.png")
    Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24)).save(folder / "c.png")
    Image.fromarray(np.linspace(0, 1, 384, dtype=np.float32).reshape(16, 24)).save(folder / "d.tif")
    noise((24, 16)).convert("P").save(folder / "e.gif", save_all=True, append_images=[noise((24, 16))])
    noise((24, 16)).convert("CMYK").save(folder / "f.jpg")
    noise((64, 48)).save(folder / "g.tif", compression="tiff_lzw")


@target("images", "data.images.decode.decode_image", "data.images.decode.check_image", write=write_images)
def read_images(folder: Path) -> None:
    problem: BadSample | None = None
    for path in sorted(folder.iterdir()):
        try:
            check_image(path)
            check_image(path, thorough=True)
            decode_image(path)
            decode_image(path.read_bytes())
        except BadSample as error:
            problem = error if error.file else BadSample(error.reason, str(path))
    if problem is not None:
        raise problem


# ------------------------------------------------------------------------------------------------------------ regions
def read_regions(folder: Path, name: str = "") -> None:
    from coalign.data.regions.files import open_regions
    from coalign.data.regions.regions import pack_regions

    file = open_regions(folder / name if name else folder)
    pack_regions([file[id] for id in file.ids], None, file.ids)


REGIONS = ("data.regions.files.open_regions", "data.regions.regions.RegionFile.__getitem__")
for _name, _writer, _file in (
    ("bottom-up", "bottom_up", "trainval_36.tsv"),
    ("lxmert-tsv", "lxmert_tsv", "mscoco_val.tsv"),
    ("npz-regions", "uniter_npz", ""),
    ("lmdb-uniter", "uniter_lmdb", ""),
    ("lmdb-vilbert", "vilbert_lmdb", ""),
    ("hdf5-groups", "lxmert_h5", "val.h5"),
    ("hdf5-flat", "flat_h5", "val.hdf5"),
    ("region-shards", "shards", ""),
):
    target(
        _name, *REGIONS, write=by("data/regions/test_files.py", _writer), names=["data.mdb"] if "lmdb" in _name else ()
    )(lambda folder, file=_file: read_regions(folder, file))


# ------------------------------------------------------------------------------------------------------------- videos
@target(
    "video",
    "data.videos.decode.probe_video",
    "data.videos.decode.read_frames",
    write=lambda folder: make_video(folder / "a.mp4", 12),
)
def read_video(folder: Path) -> None:
    from coalign.data.videos.decode import probe_video, read_frames, stream_frames

    probe_video(folder / "a.mp4")
    read_frames(folder / "a.mp4", [0.0, 0.5, 1.1])
    for number, _ in enumerate(stream_frames(folder / "a.mp4", 5)):
        if number > 100:
            break


def videos(folder: Path) -> None:
    (folder / "videos").mkdir()
    for name in ("a.mp4", "b.webm", "v_c.d.avi"):
        (folder / "videos" / name).write_bytes(b"")


ANNOTATIONS = "data/test_video_annotations.py"


def write_captions(folder: Path) -> None:
    videos(folder)
    for name, (content, _, _) in writers(ANNOTATIONS).CAPTIONS.items():
        (folder / name).write_text(content)


@target(
    "captioned",
    "data.videos.captions.read_captioned",
    write=write_captions,
    names=["youcookii.json", "videodatainfo.json", "ret.json", "validation_youcook.csv", "JSFUSION_test.csv"],
)
def read_captions(folder: Path) -> None:
    from coalign.data.videos.captions import read_captioned
    from coalign.data.videos.files import VideoFiles

    for name in writers(ANNOTATIONS).CAPTIONS:
        read_captioned(folder / name, VideoFiles(folder / "videos"))


def write_choices(folder: Path) -> None:
    videos(folder)
    times, texts = "\t".join(["00.00.01.000"] * 4), "\t".join("abcde")
    (folder / "lsmdc.csv").write_text(f"a\t{times}\t{texts}\t4\nb\t{times}\t{texts}\t1\n")
    (folder / "mc.jsonl").write_text('{"qid": 7, "clip_name": "a", "options": ["x", "y"], "answer": 1}\n')
    (folder / "mc.json").write_text(
        json.dumps([{"video": "b.webm", "caption": ["p", "q"], "answer": 0, "start": 1, "end": 2}])
    )


@target(
    "video-choices",
    "data.videos.captions.read_choices",
    write=write_choices,
    names=["lsmdc.csv", "mc.jsonl", "mc.json"],
)
def read_video_choices(folder: Path) -> None:
    from coalign.data.videos.captions import read_choices
    from coalign.data.videos.files import VideoFiles

    for name in ("lsmdc.csv", "mc.jsonl", "mc.json"):
        read_choices(folder / name, VideoFiles(folder / "videos"))


def write_actions(folder: Path) -> None:
    videos(folder)
    (folder / "annotations").mkdir()
    (folder / "tasks_primary.txt").write_text("7\nMake tea\nhttp://x\n2\nboil water,pour it\n\n8\nX\n-\n1\nstir\n")
    for name, lines in (("7_a", "1,0.5,2\n2,3,4.5\n1,6,7\n"), ("8_b", "1,1,2\n"), ("9_b", "1,1,2\n")):
        (folder / "annotations" / f"{name}.csv").write_text(lines)
    parts = {"a": ("training", (1, 2, "cut")), "b": ("testing", (0, 3.5, "fry"))}
    entries = {
        video: {"subset": subset, "annotation": [{"id": "2", "segment": [a, b], "label": label}]}
        for video, (subset, (a, b, label)) in parts.items()
    }
    (folder / "COIN.json").write_text(json.dumps({"database": entries}))
    for name, files in (
        ("ucf", {"trainlist01.txt": "Run/v_c.d.avi 1\nSwim/a.mp4 2\n", "testlist01.txt": "Swim/b.avi\n"}),
        ("hmdb", {"ride_bike_test_split1.txt": "a.avi 1 \nb.avi 2 \nv_c.d.avi 0 \n"}),
    ):
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_text(content)
    (folder / "actions.csv").write_text("video,label,split,start,end\na,run,train,1,2\nb,run,test,,\n")
    (folder / "labels.csv").write_text("video_id,start,end,label\na,1,2,cut\nb,0,3.5,fry\n")


@target(
    "actions",
    "data.videos.actions.read_crosstask",
    "data.videos.actions.read_coin",
    "data.videos.actions.read_actions",
    "data.videos.moments.read_action_labels",
    write=write_actions,
    names=[".csv", ".txt", ".json"],
)
def read_video_actions(folder: Path) -> None:
    from coalign.data.videos.actions import read_actions, read_coin, read_crosstask
    from coalign.data.videos.files import VideoFiles
    from coalign.data.videos.moments import read_action_labels

    files = VideoFiles(folder / "videos")
    read_crosstask(folder, files)
    read_coin(folder / "COIN.json", files)
    for name in ("ucf", "hmdb", "actions.csv"):
        read_actions(folder / name, files)
    read_action_labels(folder / "labels.csv")


CUES = "1\n00:00:00,000 --> 00:00:02,000\npour the milk\n\n2\n00:00:01,500 --> 00:00:03,000\nstir <i>it</i>\n"
SEGMENTS = {"segments": [{"start": 0.5, "end": 2, "text": "hello"}, {"start": 2, "end": 3, "text": "you"}]}
JSON3 = {"events": [{"tStartMs": 100, "dDurationMs": 900, "segs": [{"utf8": "hi"}, {"utf8": " you"}]}, {"tStartMs": 5}]}
CPP = {"transcription": [{"offsets": {"from": 0, "to": 900}, "text": "hi"}]}
CAPTION = {"a": {"start": [0, 1], "end": [1, 2.5], "text": ["x", "y"]}, "b": {"start": [], "end": [], "text": []}}


@target(
    "subtitles",
    "data.videos.subtitles.read_subtitles",
    "data.videos.subtitles.read_caption_json",
    "data.videos.narrated.read_video_info",
    write=both(
        text("a.srt", CUES),
        text("a.vtt", "WEBVTT\n\n" + CUES.replace(",", ".")),
        text("a.csv", "start,end,text\n0,1,hi\n1.5,2,you\n"),
        as_json("a.json", SEGMENTS),
        as_json("b.json", CPP),
        as_json("a.json3", JSON3),
        as_json("caption.json", CAPTION),
        text("info.csv", "video_id,category_1,task_id\na,Food,12\nb.mp4,Home,13\n"),
    ),
)
def read_subtitle_files(folder: Path) -> None:
    from coalign.data.videos.narrated import read_video_info
    from coalign.data.videos.subtitles import read_caption_json, read_subtitles

    for name in ("a.srt", "a.vtt", "a.csv", "a.json", "b.json", "a.json3"):
        read_subtitles(folder / name)
    read_caption_json(folder / "caption.json")
    read_video_info(folder / "info.csv")


def write_narrated(folder: Path) -> None:
    make_video(folder / "a.mp4", 8)
    both(text("a.srt", CUES), as_json("caption.json", CAPTION), text("info.csv", "video_id,task\na,12\n"))(folder)


@target("narrated", "data.videos.narrated.open_narrated", write=write_narrated, names=[".srt", ".json", ".csv"])
def read_narrated(folder: Path) -> None:
    from coalign.data.videos.narrated import Moments, open_narrated

    for captions in (None, folder / "caption.json"):
        opened = open_narrated(folder, captions=captions, info=folder / "info.csv")
        list(Moments(opened.checked().videos))


def write_features(folder: Path) -> None:
    for name in ("a", "b"):
        times = torch.tensor([[0.0, 1.5], [1.5, 3.0]])
        save_file({"features": torch.randn(2, 4), "times": times}, folder / f"{name}.safetensors")


@target(
    "clip-features",
    "data.videos.clip_features.ClipFeatures",
    "data.videos.clip_features.read_features",
    "data.videos.clip_features._shape",
    write=write_features,
)
def read_clip_features(folder: Path) -> None:
    from coalign.data.videos.clip_features import ClipFeatures, rows_within

    found = ClipFeatures(folder)
    for name in found.names:
        features, times = found.read(name)
        features[slice(*rows_within(times, 0, 2))].float()
    list(found.pieces())


def write_words(folder: Path) -> None:
    from coalign.data.videos.clip_features import ClipFeatures
    from coalign.data.videos.visual_words import VisualWordBook

    (folder / "f").mkdir()
    write_features(folder / "f")
    tree = [torch.randn(1, 2, 4), torch.randn(2, 2, 4)]
    VisualWordBook.of(ClipFeatures(folder / "f"), tree).save(folder / "w")


@target(
    "visual-words",
    "data.videos.visual_words.VisualWordBook.load",
    "data.videos.visual_words.read_examples",
    write=write_words,
    names=["tree.safetensors", "words.json"],
)
def read_visual_words(folder: Path) -> None:
    from coalign.data.videos.visual_words import VisualWordBook

    book = VisualWordBook.load(folder / "w")
    assert book.total >= book.branching > 0 and book.width >= 0


# ------------------------------------------------------------------------------------------------------------- series
@target(
    "csd",
    "data.series.sources.open_series",
    write=by("data/series/test_csd.py", "folder"),
    names=[".csd", "splits.json"],
)
def read_csd(folder: Path) -> None:
    read_series(folder)
    read_series(folder, by_word=False)


def read_series(path: Path, **options: Any) -> None:
    from coalign.data.series.sources import open_series

    data = open_series(path, **options)
    str((data.widths, data.outputs, data.has_words))


def write_series(folder: Path) -> None:
    from coalign.data.series.folder import FILE, write_files
    from coalign.data.series.pickles import read_pickle

    module = writers("data/series/test_pickles.py")
    data = read_pickle(module.save(folder / "mosi.pkl", module.mult_pickle()))
    (folder / "mosi.pkl").unlink()
    (folder / FILE).write_text(json.dumps(write_files(data, folder)))


target("series-folder", "data.series.sources.open_series", write=write_series)(read_series)
for _name, _content in (
    ("mult-pickle", lambda m: m.mult_pickle()),
    ("mmsa-pickle", lambda m: {"train": m.mmsa_part(), "test": m.mmsa_part()}),
    ("mag-pickle", lambda m: m.mag_pickle()),
):

    def _write(folder: Path, content: Any = _content) -> None:
        module = writers("data/series/test_pickles.py")
        module.save(folder / "a.pkl", content(module), 4)

    target(_name, "data.series.sources.open_series", "checkpoints.safe_pickle.load", write=_write)(
        lambda folder: read_series(folder / "a.pkl")
    )


def write_funny(folder: Path) -> None:
    language = {7: {"punchline_sentence": "that is it", "punchline_embedding_indexes": [2, 0, 1]}}
    parts: dict[str, Any] = {
        "data_folds": {"train": [7], "dev": [], "test": []},
        "language_sdk": language,
        "word_embedding_list": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
        "covarep_features_sdk": {7: {"punchline_features": [[7.0] * 81] * 3}},
        "openface_features_sdk": {7: {"punchline_features": [[1.0] * 371] * 3}},
        "humor_label_sdk": {7: 1},
    }
    for name, content in parts.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, 2))


target("ur-funny", "data.series.sources.open_series", write=write_funny)(read_series)


def write_table(folder: Path) -> None:
    import soundfile

    wave = np.sin(np.arange(16_000) / 9).astype(np.float32)
    for name in ("a.wav", "b.flac", "c.ogg"):
        soundfile.write(folder / name, wave, 16_000)
    (folder / "t.csv").write_text(
        "text,label,audio,start,end,split,words\nso good,1.5,a.wav,0,0.5,train,\n"
        "bad,-1,b.flac,,,test,w.ctm\nno,0,c.ogg,,,train,w.json\n"
    )
    (folder / "w.ctm").write_text("a 1 0.1 0.2 bad\na 1 0.4 0.2 luck\n")
    (folder / "w.json").write_text(json.dumps({"words": [{"word": "no", "start": 0.1, "end": 0.5}]}))
    (folder / "a.TextGrid").write_text(writers("data/series/test_table.py").TEXTGRID)


@target(
    "utterances",
    "data.series.table.read_utterances",
    "data.series.word_times.read_word_times",
    "data.series.audio.read_sound",
    write=write_table,
)
def read_utterance_table(folder: Path) -> None:
    from coalign.data.series.table import Extraction, read_utterances
    from coalign.data.series.word_times import read_word_times

    read_utterances(folder / "t.csv", Extraction())
    for name in ("w.ctm", "w.json", "a.TextGrid"):
        read_word_times(folder / name)


def write_scaling(folder: Path) -> None:
    from coalign.data.series.collate import Scaling

    Scaling({"audio": torch.zeros(5)}, {"audio": torch.ones(5)}).save(folder)


@target("scaling", "data.series.collate.Scaling.load", write=write_scaling)
def read_scaling(folder: Path) -> None:
    from coalign.data.series.collate import Scaling

    found = Scaling.load(folder)
    if found is not None:
        for name in found.mean:
            found.apply(name, torch.zeros(3, len(found.mean[name])))


# -------------------------------------------------------------------------------------------------------------- texts
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "The red boat is old.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "Which?",
                            "answers": [{"text": "red", "answer_start": 4}],
                            "is_impossible": False,
                        },
                        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


@target(
    "texts",
    "data.texts.text_tables.read_texts",
    "data.texts.choices.read_choices",
    "data.texts.conll.read_conll",
    "data.texts.squad.read_squad",
    write=both(
        text("a.tsv", "sentence\tlabel\nso good\t1\nbad\t0\n"),
        text("b.csv", 'premise,hypothesis,label\na,b,yes\n"c, d",e,no\n'),
        text("c.jsonl", '{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n'),
        text("d.csv", "sent1,sent2,ending0,ending1,label\na,b,c,d,0\ne,f,g,h,1\n"),
        text("e.conll", "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n"),
        text("f.conllu", "# text\n1\tEU\teu\tPROPN\t_\n2\tgoes\tgo\tVERB\t_\n\n"),
        as_json("g.json", SQUAD),
        as_json("h.json", [{"text": "x", "label": 1}, {"text": "y", "label": 0}]),
    ),
)
def read_text_files(folder: Path) -> None:
    from coalign.data.texts.choices import read_choices
    from coalign.data.texts.conll import read_conll
    from coalign.data.texts.squad import read_squad
    from coalign.data.texts.text_tables import read_texts

    for name in ("a.tsv", "b.csv", "c.jsonl", "h.json"):
        read_texts(folder / name, need_labels=True)
    read_choices(folder / "d.csv")
    for name in ("e.conll", "f.conllu"):
        read_conll(folder / name)
    read_squad(folder / "g.json")


@target(
    "documents",
    "data.texts.documents.open_documents",
    write=both(
        text("a.txt", "One. Two.\n\nThree.\n"),
        text("b.jsonl", '{"text": "x"}\n"y"\n{"text": ["z", "w"]}\n'),
        text("c.csv", "text,split\nx,train\ny,test\n"),
    ),
)
def read_documents(folder: Path) -> None:
    from coalign.data.texts.documents import open_documents

    for name in ("a.txt", "b.jsonl", "c.csv", ""):
        list(open_documents(folder / name if name else folder))


def write_tokens(folder: Path) -> None:
    from coalign.data.texts.token_file import TokenFile

    TokenFile.write(["a red boat", "the dog"], vocabulary(), folder, {"corpus": "x"})


@target(
    "token-file", "data.texts.token_file.TokenFile.open", "data.texts.token_file.TokenFile.find", write=write_tokens
)
def read_tokens(folder: Path) -> None:
    from coalign.data.texts.token_file import TokenFile, collate_windows

    TokenFile.find(folder, {"corpus": "x"})
    found = TokenFile.open(folder)
    windows = found.windows(2)
    for number in range(len(windows)):
        collate_windows([windows[number]])
    found.counts(vocabulary().vocab_size)


def vocabulary() -> Tokenizer:
    words = ["a", "the", "red", "green", "blue", "boat", "fruit", "dog", "cat", "and", "##s"]
    return Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])


def write_vocabularies(folder: Path) -> None:
    from coalign.data.words.word_list import WordList

    for name in ("piece", "bpe", "words"):
        (folder / name).mkdir()
    vocabulary().save(folder / "piece")
    writers("data/words/test_byte_pairs.py").write(folder / "bpe")
    WordList(["red", "boat"]).save(folder / "words")
    np.save(folder / "s3d_dict.npy", np.array(["red", "boat"]))
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "boat", "##s"]) + "\n"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    (folder / "list.txt").write_text("red\nboat\n")
    merges = gzip.compress(b"#version: 0.2\nb o\nbo a\nboa t</w>\n", mtime=0)
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(merges)


@target(
    "vocabularies",
    "data.words.load.load_tokenizer",
    "data.words.word_list.WordList.load",
    "data.words.byte_pairs.read_byte_pairs",
    "data.words.clip_pairs.read_clip_merges",
    write=write_vocabularies,
)
def read_vocabularies(folder: Path) -> None:
    from coalign.data.words.word_list import WordList

    for name in ("piece", "bpe", "words", "s3d_dict.npy", "vocab.txt", "bpe_simple_vocab_16e6.txt.gz"):
        found = load_tokenizer(folder / name)
        str((found.vocab_size, found.lowercase))
        found.encode(["a low boat"])
    WordList.load(folder / "list.txt").encode(["boat"])


# ---------------------------------------------------------------------------------------------------------- questions
VQA = {"questions": [{"question_id": n, "image_id": n, "question": "What?"} for n in (1, 2)]}
VQA_ANSWERS = {
    "annotations": [
        {"question_id": n, "answer_type": "other", "answers": [{"answer": "red"}, {"answer": "a boat"}]} for n in (1, 2)
    ]
}
GQA = {
    "7": {
        "question": "Is it?",
        "imageId": "n1",
        "answer": "yes",
        "isBalanced": True,
        "types": {"structural": "v"},
        "entailed": ["8"],
        "groups": {"global": None},
    }
}
LXMERT = [{"question_id": 1, "img_id": "a", "sent": "What?", "label": {"red": 1.0, "boat": 0.3}}]
VCR = {
    "annot_id": "v-1", "img_fn": "a.jpg", "objects": ["person", "dog"], "question": ["Why", "is", [0], "?"],
    "answer_choices": [["a", [1]], ["b"], ["c"], ["d"]], "answer_label": 1,
    "rationale_choices": [["e"], ["f"], ["g"], ["h"]], "rationale_label": 0,
}  # fmt: skip
REFS = [
    {
        "ref_id": 1,
        "ann_id": 2,
        "image_id": 3,
        "file_name": "x.jpg",
        "split": "val",
        "sentences": [{"sent_id": 1, "sent": "the cat"}],
    }
]
INSTANCES = {
    "images": [{"id": 3, "width": 40, "height": 30}],
    "annotations": [{"id": 2, "bbox": [1, 2, 10, 9], "image_id": 3}],
}


@target(
    "questions",
    "data.questions.vqa.read_vqa",
    "data.questions.vqa.read_gqa",
    "data.questions.vqa.read_answers",
    "data.questions.nlvr2.read_nlvr2",
    "data.questions.entailment.read_snli_ve",
    "data.questions.vcr.read_vcr",
    "data.questions.referring.read_refcoco",
    write=both(
        as_json("q.json", VQA),
        as_json("a.json", VQA_ANSWERS),
        as_json("gqa.json", GQA),
        as_json("lxmert.json", LXMERT),
        as_json("answers.json", ["red", "boat"]),
        text("answers.pkl", pickle.dumps({"red": 0, "boat": 1}, 2)),
        text("nlvr2.jsonl", json.dumps({"identifier": "dev-850-0-0", "sentence": "x", "label": "True"}) + "\n"),
        text(
            "ve.jsonl",
            json.dumps({"Flickr30K_ID": "1", "sentence2": "y", "gold_label": "neutral", "pairID": "p"}) + "\n",
        ),
        text("vcr.jsonl", json.dumps(VCR) + "\n"),
        text("refs.p", pickle.dumps(REFS, 2)),
        as_json("refs.json", REFS),
        as_json("instances.json", INSTANCES),
    ),
)
def read_questions(folder: Path) -> None:
    from coalign.data.questions.entailment import read_snli_ve
    from coalign.data.questions.nlvr2 import read_nlvr2
    from coalign.data.questions.referring import read_refcoco
    from coalign.data.questions.vcr import read_vcr
    from coalign.data.questions.vqa import read_answers, read_gqa, read_vqa, to_items

    questions = [
        *read_vqa(folder / "q.json", folder / "a.json"),
        *read_gqa(folder / "gqa.json"),
        *read_vqa(folder / "lxmert.json"),
    ]
    to_items(questions, read_answers(folder / "answers.json"))
    read_answers(folder / "answers.pkl")
    read_nlvr2(folder / "nlvr2.jsonl")
    read_snli_ve(folder / "ve.jsonl")
    read_vcr(folder / "vcr.jsonl")
    read_vcr(folder / "vcr.jsonl", "rationale")
    for name in ("refs.p", "refs.json"):
        for item in read_refcoco(folder / name):
            item.target.fractions()  # type: ignore[union-attr]


BOXES = "image,x1,y1,x2,y2,text\na.png,0.1,0.2,0.5,0.9,a red boat\nb.png,0,0,1,1,sea\n"


@target(
    "box texts",
    "data.regions.box_texts.read_box_texts",
    write=both(
        text("boxes.csv", BOXES),
        text(
            "boxes.jsonl", json.dumps(dict(zip(BOXES.split()[0].split(","), ["a.png", 0, 0, 1, 1, "x"], strict=True)))
        ),
        as_json("refs.json", REFS),
        as_json("instances.json", INSTANCES),
    ),
)
def read_boxes(folder: Path) -> None:
    from coalign.data.regions.box_texts import read_box_texts

    for name in ("boxes.csv", "boxes.jsonl", "refs.json"):
        boxes = read_box_texts(folder / name)
        boxes.texts([boxes.example])


# -------------------------------------------------------------------------------------------------------- checkpoints
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(4, 3), "a.bias": torch.zeros(4), "n": torch.tensor(3), "h": torch.ones(2).half()}


def write_weights(folder: Path) -> None:
    save_file(tensors(), folder / "a.safetensors", metadata={"format": "pt"})
    torch.save({"model": tensors(), "epoch": 3}, folder / "a.pt")
    torch.save(tensors(), folder / "b.bin", _use_new_zipfile_serialization=False)
    np.savez(folder / "a.npz", **{name: value.numpy() for name, value in tensors().items()})
    paddle = {name: value.numpy() for name, value in tensors().items()}
    (folder / "a.pdparams").write_bytes(pickle.dumps(paddle, 4))
    (folder / "sharded").mkdir()
    save_file(tensors(), folder / "sharded" / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors(), "model-1.safetensors")}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    writers("checkpoints/test_tensorflow.py").write(
        folder / "bert.ckpt", writers("checkpoints/test_tensorflow.py").some_tensors(), 2
    )
    (folder / "gpt").mkdir()
    shapes = [[5, 3], [7, 3], *([[1, 3, 3]] * 12)]
    flat = np.arange(sum(int(np.prod(shape)) for shape in shapes), dtype=np.float32)
    for number, piece in enumerate(np.array_split(flat, 4)):
        np.save(folder / "gpt" / f"params_{number}.npy", piece)
    (folder / "gpt" / "params_shapes.json").write_text(json.dumps(shapes))


@target("weights", "checkpoints.readers.read_tensors", "checkpoints.safe_pickle.load", write=write_weights)
def read_weights(folder: Path) -> None:
    from coalign.checkpoints import read_tensors

    for name in ("a.safetensors", "a.pt", "b.bin", "a.npz", "a.pdparams", "sharded", "bert.ckpt", "gpt"):
        for value in read_tensors(folder / name).values():
            value.float().sum() if not value.is_complex() else None


def write_run(folder: Path) -> None:
    from safetensors.torch import save_model

    from coalign.registry import create, describe

    model = create("bert", "tiny").model
    save_model(model, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({**describe(model), "training": {}, "seed": 0, "versions": {}}))
    vocabulary().save(folder)


@target("run", "registry.load", write=write_run)
def read_run(folder: Path) -> None:
    from coalign.registry import load

    load(folder)


def write_training(folder: Path) -> None:
    import toy

    toy.train(folder / "run", toy.resumable(3))
    (folder / "run" / "quarantine.jsonl").write_text(
        json.dumps({"row": 1, "file": "f", "image": "i", "reason": "r", "used": False}) + "\n"
    )
    (folder / "run" / "plan.json").write_text(json.dumps({"planned": 3, "changes": [[1, 3]]}))
    for name in ("average.safetensors",):
        (folder / "run" / "checkpoints" / "step-3" / name).stat()


@target("training", "training.checkpoint.load_checkpoint", "data.core.quarantine.Quarantine", write=write_training)
def read_training(folder: Path) -> None:
    import toy

    from coalign.data.core.quarantine import Quarantine

    Quarantine(folder / "run" / "quarantine.jsonl").summary()
    toy.train(folder / "run", toy.resumable(3))


# ---------------------------------------------------------------------------------------------------------- retrieval
def write_index(folder: Path) -> None:
    from coalign.retrieval.embed import Entry
    from coalign.retrieval.index import Index
    from coalign.retrieval.querybank import Querybank

    index = Index.create(folder / "index", 4, {"run": "r"})
    index.append(torch.randn(5, 4), [Entry(f"t{n}", meta={"n": n}) for n in range(5)], "text")
    Querybank(torch.eye(4), torch.eye(4)).save(folder)


@target("index", "retrieval.index.Index.open", "retrieval.querybank.Querybank.load", write=write_index)
def read_index(folder: Path) -> None:
    from coalign.retrieval.index import Index
    from coalign.retrieval.querybank import Querybank

    Querybank.load(folder).hubness(torch.eye(4), "image")
    index = Index.open(folder / "index")
    str(len(index))
    index.search(torch.randn(4), 3, "text")


def write_index_copy(folder: Path) -> None:
    import pyarrow as pa

    from coalign.retrieval.index_copy import file_of
    from coalign.retrieval.index_rows import schema_of

    row = {
        "modality": "text",
        "text": "a",
        "image": None,
        "thumbnail": b"1",
        "meta": "{}",
        "vector": [1.0, 0.0, 0.0, 0.0],
    }
    table = pa.Table.from_pylist([{"row": n, **row} for n in range(5)], schema_of(4))
    with pa.OSFile(str(file_of(folder)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@target("index-copy", write=write_index_copy)
def read_index_copy(folder: Path) -> None:
    from coalign.retrieval.index_copy import Copy

    copy = Copy.read(folder)
    if copy is not None:
        copy.nearest(torch.ones(copy.schema.field("vector").type.list_size), 3, "text", "cosine")
        copy.thumbnails([0, 9]), copy.columns(["text", "meta"], "image").to_pylist()


def vectors(path: Path, first: int) -> None:
    from coalign.retrieval.embed import Entry
    from coalign.retrieval.vector_table import vector_table

    with vector_table(path, 4, thumbnails=True, about={"of": "w"}) as table:
        table.append(torch.eye(4), [Entry(f"t{first + n}", meta={"n": n}) for n in range(4)], "text")


@target("vector-tables", write=lambda folder: [vectors(folder / f"{n}.parquet", 4 * n) for n in range(2)])
def read_vector_tables(folder: Path) -> None:
    from coalign.retrieval.vector_table import batches_of, join_tables, table_schema

    parts = [folder / f"{n}.parquet" for n in range(2)]
    for part in parts:
        list(batches_of(part, table_schema(4, thumbnails=True)))
    with tempfile.TemporaryDirectory() as made:
        join_tables(Path(made) / "joined.parquet", parts, {})


def write_tower(folder: Path) -> None:
    import onnx

    numbers = onnx.TensorProto.FLOAT
    values = {name: onnx.helper.make_tensor_value_info(name, numbers, [2, 3]) for name in ("pixels", "vectors")}
    node = onnx.helper.make_node("Add", ["pixels", "kept"], ["vectors"])
    kept = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "kept")
    graph = onnx.helper.make_graph([node], "tower", [values["pixels"]], [values["vectors"]], [kept])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    about = {"part": "image", "shapes": {"pixels": [2, 3]}, "weights": "w"}
    onnx.helper.set_model_props(model, {"coalign": json.dumps(about)})
    (folder / "image.onnx").write_bytes(model.SerializeToString())


@target("tower", write=write_tower)
def read_tower(folder: Path) -> None:
    from coalign.retrieval.export import OnnxTower

    tower = OnnxTower(folder / "image.onnx")
    tower.run({"pixels": torch.zeros(2, 3)})


# ---------------------------------------------------------------------------------------- what commands and serve read
def write_described(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(b"weights")
    config = {"system": "clip", "head": None, "training": {"steps": 3, "betas": [0.9, 0.98]}, "seed": 0, "versions": {}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "results.json").write_text(json.dumps({"seen": {"R@1": 0.5, "n": 3}}))
    (run / "fingerprints.json").write_text(json.dumps({"data": "pairs.csv, 3 items", "vocabulary": "0a"}))
    lines = [{"step": n, "loss": 1 / n, "losses": {"itc": 0.5}, "seconds": 0.1} for n in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "comparison.md").write_text("| system | R@1 |\n|---|---|\n| clip | 0.5 |\n")


@target("described", "arguments.run_config", write=write_described, names=[".json", ".jsonl", ".md"])
def read_described(folder: Path) -> None:
    """The card that is pushed, and what the viewer says of a training."""
    from coalign.evaluation.card import staged
    from coalign.serve.training import training_of

    json.dumps(training_of(folder / "run"))
    with staged(folder / "run", "ann/small", "mit") as made:
        assert "<script" not in (made / "README.md").read_text("utf-8")


FOILS = {"image": "0.png", "caption": "a red boat", "foil": "a blue boat", "attribute": "colour"}
BOXED = {"image": "0.png", "words": ["a", "red", "boat"], "boxes": [None, [1, 2, 8, 9], [1, 2, 8, 9.5]]}


@target(
    "task-files",
    "tasks.pairs.matching.read_triples",
    "tasks.pairs.word_alignment.read_truth",
    write=both(
        text("foils.jsonl", (json.dumps(FOILS) + "\n") * 2),
        text("boxes.jsonl", (json.dumps(BOXED) + "\n") * 2),
    ),
)
def read_task_files(folder: Path) -> None:
    from coalign.tasks.pairs.matching import read_triples
    from coalign.tasks.pairs.word_alignment import read_truth

    for item, _ in read_triples(str(folder / "foils.jsonl")):
        assert all(isinstance(text, str) for text in item.texts)
    read_truth(folder / "boxes.jsonl")


@target(
    "plan",
    "compare.plans.Plan.read",
    write=as_json(
        "plan.json",
        {
            "pretrain": {"steps": 3, "data": "a.csv"},
            "stages": [{"name": "m", "task": "matching", "sets": {"": {"data": "b.csv"}}, "figures": {"auc": "auc"}}],
            "curriculum": [{"steps": 2}],
        },
    ),
)
def read_plan(folder: Path) -> None:
    from coalign.compare.plans import Plan

    Plan.read(folder / "plan.json").work()


@target(
    "templates",
    "tasks.images.zero_shot.read_templates",
    write=text("templates.txt", "a photo of a {}.\nart of the {}.\n"),
)
def read_prompts(folder: Path) -> None:
    from coalign.tasks.images.zero_shot import read_templates

    for prompt in read_templates(folder / "templates.txt"):
        prompt.replace("{}", "cat")


@target("uploads", write=write_images)
def read_uploads(folder: Path) -> None:
    from coalign.errors import InputError
    from coalign.serve.uploads import FORMATS, check_picture

    kinds = {"jpg": "JPEG", "tif": "TIFF"}
    for path in sorted(folder.iterdir()):
        if kinds.get(path.suffix[1:], path.suffix[1:].upper()) in FORMATS:
            try:
                check_picture(regular(path).read_bytes())
            except InputError as error:  # what comes by a request has no name
                raise InputError(f"{path}: {error}") from error


def write_word_vectors(folder: Path) -> None:
    words = {"red": [0.5, 1, 2], "boat": [0, -1, 0.25]}
    binary = b"".join(f"{word} ".encode() + np.array(row, np.float32).tobytes() for word, row in words.items())
    (folder / "a.bin").write_bytes(b"2 3\n" + binary)
    glove = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in words.items())
    (folder / "a.txt").write_text("2 3\n" + glove)
    (folder / "b.txt").write_text(glove)


@target("word-vectors", "data.words.vectors.read_word_vectors", write=write_word_vectors)
def read_vectors_of_words(folder: Path) -> None:
    from coalign.data.words.vectors import read_word_vectors

    for name in ("a.bin", "a.txt", "b.txt"):
        read_word_vectors(folder / name, ("red", "boat"))


# ------------------------------------------------------------------------------------------------------------- parity
def write_case(folder: Path) -> None:
    metadata = {"system": "bert", "task": "x", "config": json.dumps({"a": 1}), "source": "s"}
    parts = {"weight/a": torch.zeros(2), "input/x": torch.zeros(1), "output/y": torch.zeros(1)}
    save_file(parts, folder / "case.safetensors", metadata=metadata)
    save_file(parts, folder / "other.safetensors", metadata={"json": json.dumps({**metadata, "config": {"a": 1}})})
    entries = [{"file": "a", "task": "x", "config": {}, "tensors": {"a": [2, 3], "b": []}}]
    (folder / "manifest.json").write_text(json.dumps({"source": "s", "checkpoints": entries}))


@target("cases", "parity.case.read_case", "parity.case.read_manifest", write=write_case)
def read_cases(folder: Path) -> None:
    from coalign.parity.case import read_case, read_manifest

    read_case(folder / "case.safetensors")
    read_case(folder / "other.safetensors")
    read_manifest(folder / "manifest.json")


def named(name: str) -> Target:
    """The target of a name."""
    return next(target for target in TARGETS if target.name == name)
