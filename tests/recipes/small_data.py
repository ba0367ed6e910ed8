"""Small data of every kind, and a command line of every recipe over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from coalign.data.regions.files.shards import write_shard
from coalign.data.videos.regions import picture_name
from coalign.data.words.tokenizer import Tokenizer
from coalign.worlds.scene_files import write_world
from coalign.worlds.scenes import make_scenes
from coalign.worlds.video_files import write_video_world
from coalign.worlds.videos import make_videos

WORDS = ["sun", "moon", "bright", "dark", "the", "is", "day", "night"]
STEPS = ["--steps", "2", "--save-every", "2", "--log-every", "1"]


def write_data(folder: Path) -> Path:
    """Small files of every kind."""
    draw = torch.Generator().manual_seed(0)

    def regions(count: int) -> dict[str, torch.Tensor]:
        low = torch.rand(count, 2, generator=draw) / 2
        classes = torch.rand(count, 5, generator=draw).softmax(-1)
        features = torch.randn(count, 24, generator=draw)
        return {"features": features, "boxes": torch.cat([low, low + 0.4], 1), "classes": classes}

    write_world(folder / "w", {"train": 12}, side=32, things=(2, 3))
    scenes = make_scenes(12, things=(2, 3))
    write_shard(folder / "w.safetensors", [s.number for s in scenes], [regions(len(s.things)) for s in scenes])
    names = [f"dev-{n}-0-img{side}" for n in range(4) for side in range(2)]
    write_shard(folder / "named.safetensors", names, [regions(2) for _ in names])
    labels = ("entailment", "neutral", "contradiction", "neutral")
    lines: dict[str, list[dict[str, Any]]] = {
        "nlvr2.jsonl": [
            {"identifier": f"dev-{n}-0-{k}", "sentence": f"there are {n}", "label": str(bool(k))}
            for n in range(4)
            for k in range(2)
        ],
        "ve.jsonl": [
            {"Flickr30K_ID": name, "sentence2": name, "gold_label": label}
            for name, label in zip(names, labels * 2, strict=True)
        ],
        "vcr.jsonl": [
            {"objects": ["person"], "question": ["Why", [0], "?"], "answer_label": 2, "annot_id": name}
            | {"answer_choices": [["so", str(n)] for n in range(4)], "img_fn": f"x/{name}.jpg"}
            | {"rationale_choices": [["so", str(n)] for n in range(4)], "rationale_label": 1}
            for name in names
        ],
    }
    for name, rows in lines.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    gqa = {str(n): {"question": "?", "imageId": name, "answer": ("yes", "dog")[n % 2]} for n, name in enumerate(names)}
    (folder / "gqa.json").write_text(json.dumps(gqa))
    texts = [f"the {WORDS[n % 2]} is {WORDS[2 + n % 2]}" for n in range(16)]
    (folder / "texts.tsv").write_text("sentence\tlabel\n" + "".join(f"{t}\t{t[-1]}\n" for t in texts))
    header = "sentence1\tsentence2\tlabel\n"
    (folder / "two.tsv").write_text(header + "".join(f"{t}\t{t}\t{t[-1]}\n" for t in texts))
    (folder / "tags.conll").write_text("\n\n".join("\n".join(f"{w} {w[0]}" for w in t.split()) for t in texts) + "\n")
    swag = "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    (folder / "swag.csv").write_text(
        swag + "".join(f"v,{n},{t},{t},the,gold,{t},sun,moon,day,0\n" for n, t in enumerate(texts))
    )
    paragraphs = [
        {"context": t, "qas": [{"id": str(n), "question": "is ?", "answers": [{"text": "the", "answer_start": 0}]}]}
        for n, t in enumerate(texts)
    ]
    (folder / "squad.json").write_text(
        json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})
    )
    (folder / "corpus.txt").write_text("\n\n".join(" . ".join(texts[n : n + 4]) + " ." for n in range(12)))
    Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "?"]).save(folder / "vocab")
    for kind in ("a", "b"):
        (folder / "pictures" / "train" / kind).mkdir(parents=True)
        for n in range(8):
            pixels = torch.randint(0, 255, (32, 32, 3), generator=draw, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / "pictures" / "train" / kind / f"{n}.png")
    videos = make_videos(4, steps=3, seconds=1.6, split="train", kinds=6)
    write_video_world(folder / "v", {"train": videos}, side=32, fps=5)
    (folder / "clips").mkdir()
    for video in videos:
        times = torch.stack([torch.arange(6) * 0.8, torch.arange(6) * 0.8 + 0.8], 1)
        rows = torch.randn(6, 16, generator=draw)
        save_file({"features": rows, "times": times}, folder / "clips" / f"{video.name}.safetensors")
    frames = [picture_name(video.name, float(second)) for video in videos for second in range(5)]
    write_shard(folder / "frames.safetensors", frames, [regions(2) for _ in frames])
    return folder


def scratch(data: Path) -> list[str]:
    return ["--from", "scratch", "--vocab", str(data / "vocab"), "--size", "tiny"]


def cases(data: Path, out: Path) -> list[list[str]]:
    """A command line of every recipe: two steps."""
    w, v = data / "w", data / "v" / "train"
    pairs = ["--data", str(w / "captions_train.json"), "--words", "200", "--batch-size", "4"]
    seen, named = ["--regions", str(data / "w.safetensors")], ["--regions", str(data / "named.safetensors")]
    asked = ["--questions", str(w / "questions_train.json"), "--annotations", str(w / "annotations_train.json")]
    of = ["--system", "uniter", "--words", "200", "--batch-size", "2"]
    text, gpt = [*scratch(data), "--batch-size", "4"], ["--size", "tiny", "--vocab-size", "60", "--max-length", "32"]
    speakers = ["--data", "world:joint,items=24,events=1", "--batch-size", "4", "--evaluate-every", "2"]
    pictures = ["--data", str(data / "pictures"), "--batch-size", "4", "--size", "mini"]
    narrated = ["--data", str(v), "--batch-size", "2"]
    small = [*gpt, "--batch-size", "4"]
    short, corpus = ["--max-length", "32"], ["--data", str(data / "corpus.txt")]
    clips = ["--features", str(data / "clips")]
    found: dict[str, list[str]] = {
        **{f"{name}-pretrain": [*pairs, *seen] for name in ("visualbert", "uniter", "vilbert")},
        "lxmert-pretrain": [*pairs, *seen, *asked, "--least", "1"],
        **{f"{name}-pretrain": pairs for name in ("vilt", "albef", "blip", "clip", "coca", "siglip")},
        "xvlm-pretrain": [*pairs, "--boxes", str(w / "refs.json")],
        "retrieval-finetune": [*pairs, *seen, "--system", "uniter"],
        "vqa": [*of, *asked, *seen, "--least-answers", "1"],
        "gqa": [*of, "--system", "lxmert", "--questions", str(data / "gqa.json"), *named],
        "nlvr2": [*of, "--data", str(data / "nlvr2.jsonl"), *named],
        "entailment": [*of, "--data", str(data / "ve.jsonl"), *named],
        "vcr": [*of, "--data", str(data / "vcr.jsonl"), *named],
        "referring": [*of, "--data", str(w / "refs.json"), "--instances", str(w / "instances.json"), *seen],
        "bert-classify": [*text, *short, "--data", str(data / "texts.tsv")],
        "bert-tag": [*text, *short, "--data", str(data / "tags.conll")],
        "bert-choice": [*text, *short, "--data", str(data / "swag.csv")],
        "bert-squad": [*text, *short, "--stride", "8", "--max-question", "8", "--data", str(data / "squad.json")],
        "bert-pretrain": ["--vocab", str(data / "vocab"), *short, *corpus, "--batch-size", "2"],
        "gpt-pretrain": [*small, *corpus],
        "gpt-classify": [*small, "--data", str(data / "texts.tsv")],
        "gpt-entail": [*small, "--data", str(data / "two.tsv")],
        "gpt-similarity": [*small, "--data", str(data / "two.tsv")],
        "gpt-choice": [*small, "--data", str(data / "swag.csv")],
        **{f"{n}-mosi": [*speakers, *scratch(data)] for n in ("bert", "mag-bert", "concat", "fusion-bert")},
        **{f"{name}-mosi": speakers for name in ("mult", "fusion", "raven")},
        "vit-finetune": pictures,
        "vit-probe": [*pictures, "--from", "scratch"],
        "lit": [*pairs, "--tower", str(out / "vit-finetune")],
        "mae-pretrain": [*pictures, "--pictures", "2"],
        "mae-finetune": [*pictures, "--from", "scratch"],
        "mae-probe": [*pictures, "--from", "scratch"],
        "sasa-train": ["--data", str(data / "pictures"), "--batch-size", "4"],
        "mil-nce-train": [*narrated, "--image-size", "32", "--workers", "0"],
        "mil-nce-finetune": [
            "--from",
            str(out / "mil-nce-train"),
            "--data",
            str(data / "v" / "captions_train.csv"),
            "--batch-size",
            "2",
            "--workers",
            "0",
        ],
        "videobert-pretrain": [*narrated, *scratch(data), "--words", str(data / "words"), *clips],
        "actbert-pretrain": [
            *narrated,
            *clips,
            "--regions",
            str(data / "frames.safetensors"),
            "--verbs",
            "turns",
            "moves",
        ],
    }
    return [[name, *words, *STEPS, "--out", str(out / name)] for name, words in found.items()]
