"""Metrics of the tasks about images, against figures by hand and against plain formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from coalign import create
from coalign.analysis.runs.scores import match_scores
from coalign.data.loaded import Loaded
from coalign.data.prepare import prepare
from coalign.data.questions.items import Item
from coalign.data.questions.pictures import open_pictures
from coalign.data.questions.vqa import Question
from coalign.data.regions.files import write_shard
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation import matching as match_scoring
from coalign.evaluation.matching import PairScorer
from coalign.recipes._start import with_vocabulary
from coalign.registry import find
from coalign.retrieval.rerank import Shortlist
from coalign.tasks.pairs import cross_retrieval, matching
from coalign.tasks.questions import gqa, nlvr2, vqa
from coalign.types import Encoding


def asked(*answers: str, type: str = "other") -> Question:
    return Question("1", 1, "?", answers, type=type)


@pytest.mark.parametrize(
    ("answer", "said", "score"),
    [
        ("red", ["red"] * 10, 1.0),
        ("red", ["red"] * 3 + ["blue"] * 7, 0.9),
        ("red", ["red"] * 2 + ["blue"] * 8, 0.6),
        ("red", ["red"] + ["blue"] * 9, 0.3),
        ("green", ["red"] * 10, 0.0),
        ("The red!", ["red"] * 9 + ["Blue"], 1.0),  # normalised where people disagree
        ("2", ["two"] * 9 + ["3"], 1.0),
        ("t shirt", ["t-shirt"] * 9 + ["shirt"], 1.0),
        ("t shirt", ["t-shirt"] * 10, 0.0),  # and taken as they are where all agree
        ("The red!", ["red"] * 10, 0.0),
        (" two\n", ["two\t"] * 10, 1.0),
        ("somebodyd", ["somebody'd"] * 9 + ["x"], 1.0),  # the authors' slip
        ("yes", ["Yes."], 1.0),  # a lone answer counts in full
        ("no", ["Yes."], 0.0),
    ],
)
def test_vqa_accuracy_is_that_of_the_data_sets_authors(answer: str, said: list[str], score: float) -> None:
    assert vqa.accuracy(answer, asked(*said)) == pytest.approx(score)


def test_vqa_figures_by_type_and_what_they_compare_with() -> None:
    questions = [asked(*["yes"] * 10, type="yes/no"), asked(*["red"] * 10), asked(*["yes"] * 10, type="yes/no")]
    result = vqa.measured(questions, ["yes", "blue", "no"], ["yes", "no", "blue"])
    assert result.metrics == pytest.approx({"accuracy": 1 / 3, "accuracy, other": 0, "accuracy, yes/no": 0.5})
    assert result.extra["best_possible"] == pytest.approx(2 / 3) and result.extra["commonest_answer"] == "yes"
    assert result.extra["always_that"] == pytest.approx(2 / 3)
    scored = Question("1", 1, "?", scores={"red": 0.6})
    assert vqa.accuracy("red", scored) == 0.6 and vqa.accuracy("blue", scored) == 0


def test_gqa_figures_are_those_of_the_authors_evaluation() -> None:
    def one(id: str, answer: str, type: str, entailed: tuple[str, ...] = (), group: str = "") -> Question:
        return Question(id, 1, "?", scores={answer: 1.0}, type=type, entailed=entailed, group=group)

    questions = [
        one("a", "red", "query", ("b", "c", "gone"), "colour"),
        one("b", "yes", "verify", ("a",)),
        one("c", "left", "choose"),  # binary, though it is no yes or no
        one("d", "blue", "query", ("a",), "colour"),
        one("e", "blue", "query", (), "colour"),
    ]
    result = gqa.measured(questions, ["red", "yes", "right", "red", "green"], ["red"])
    expected = {"accuracy": 2 / 5, "binary": 1 / 2, "open": 1 / 3, "consistency": (1 / 2 + 1) / 2}
    expected |= {"kind, query": 1 / 3, "kind, verify": 1.0, "kind, choose": 0.0}
    expected["distribution"] = ((2 - 1) ** 2 / 1 + (0 - 2) ** 2 / 2) / 100
    assert result.metrics == pytest.approx(expected)
    assert result.extra["commonest_answer"] == "blue" and result.extra["always_that"] == 2 / 5
    plain = gqa.measured([Question("1", 1, "?", scores={"yes": 1.0})], ["yes"], ["yes"])
    assert plain.metrics == {"accuracy": 1.0, "binary": 1.0}


def test_nlvr2_consistency_needs_all_pairs_of_a_statement() -> None:
    ids = ["dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-2-0-0"]
    items = [Item(id, ("a", "b"), ("x",), target) for id, target in zip(ids, [1, 0, 1, 1], strict=True)]
    result = nlvr2.measured(items, [1, 1, 1, 0])
    assert result.metrics == pytest.approx({"accuracy": 0.5, "consistency": 1 / 3})
    assert result.extra == {"commoner_label": 0.75, "statements": 3}


def test_matching_figures() -> None:
    scores = torch.tensor([[2.0, -1.0], [0.5, 1.0], [-1.0, -2.0], [1.0, 1.0]])
    result = matching.measured(scores, ["colour", "colour", "size", "size"])
    assert result.metrics["accuracy"] == pytest.approx(5 / 8)
    assert result.metrics["right_wins"] == pytest.approx(2.5 / 4)
    pairs = [(r, w) for r in scores[:, 0].tolist() for w in scores[:, 1].tolist()]
    by_hand = sum((r > w) + 0.5 * (r == w) for r, w in pairs) / len(pairs)
    assert result.metrics["auc"] == pytest.approx(by_hand)
    assert result.metrics["right_wins, colour"] == 0.5 and result.metrics["right_wins, size"] == 0.75
    assert "accuracy" not in matching.measured(scores, [""] * 4, odds=False).metrics  # cosines have no zero


def test_which_logit_says_that_a_pair_matches() -> None:
    two = Encoding({}, {"match_logits": torch.tensor([[1.0, 3.0]])})
    assert match_scores(SimpleNamespace(), two).item() == 2
    assert match_scores(SimpleNamespace(match_class=0), two).item() == -2
    assert match_scores(SimpleNamespace(), Encoding({}, {"logits": torch.tensor([[5.0]])})).item() == 5


class Table(PairScorer):
    """A scorer that looks its scores up and counts the pairs."""

    def __init__(self, scores: Tensor) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.scores, self.images, self.pairs = scores, list(range(len(scores))), 0

    def row(self, image: int, texts: Tensor, done: Callable[[int], None] | None = None) -> Tensor:
        self.pairs += len(texts)
        if done is not None:
            done(len(texts))
        return self.scores[image, texts]


def plain_ranks(scores: Tensor, owner: Sequence[int]) -> dict[str, list[int]]:
    images, texts = scores.shape
    to_text = [
        min(
            1 + sum(bool(scores[i, u] >= scores[i, t]) for u in range(texts) if owner[u] != i)
            for t in range(texts)
            if owner[t] == i
        )
        for i in range(images)
    ]
    to_image = [
        1 + sum(bool(scores[j, t] >= scores[owner[t], t]) for j in range(images) if j != owner[t]) for t in range(texts)
    ]
    return {"image_to_text": to_text, "text_to_image": to_image}


def test_ranks_counted_on_the_way_are_those_of_the_whole_table() -> None:
    owner = [0, 0, 1, 2, 2, 2, 3]
    scores = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(0)).float()  # with ties
    told: list[int] = []
    table = Table(scores)
    ranks = cross_retrieval.all_pairs_ranks(table, torch.arange(max(owner) + 1), torch.tensor(owner), told.append)
    assert {name: rank.tolist() for name, rank in ranks.items()} == plain_ranks(scores, owner)
    assert sum(told) == 28 and table.pairs == 28 + 7


def test_images_that_share_an_id_are_right_answers_for_each_other() -> None:
    table = Table(torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 0.0, 1.0]]))
    ranks = cross_retrieval.all_pairs_ranks(table, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0]))
    assert ranks["image_to_text"].tolist() == [2, 3, 1]  # alone, the third would be the second
    assert ranks["text_to_image"].tolist() == [1, 2, 2]


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
def test_a_shortlist_scores_its_pairs_alone(direction: str) -> None:
    scores = torch.arange(12.0).view(3, 4)
    indices = torch.tensor(
        [[3, 0], [1, 2], [0, 1]] if direction == "image_to_text" else [[2, 0], [1, 2], [0, 1], [2, 1]]
    )
    table = Table(scores)
    found = cross_retrieval._scored(table, Shortlist(indices, torch.zeros(indices.shape)), direction, lambda _: None)
    expected = scores.gather(1, indices) if direction == "image_to_text" else scores.T.gather(1, indices)
    assert found.logits is not None and found.logits.equal(expected) and table.pairs == indices.numel()


@pytest.mark.parametrize("system", ["lxmert", "vilbert"])
@pytest.mark.parametrize("kept", [0, match_scoring.KEPT])
def test_two_streams_are_seen_apart_once(
    system: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_scoring, "KEPT", kept)
    texts = ["a red boat", "", "boat", "a boat a boat", "red"]
    tokenizer = Tokenizer.train(texts * 5, 60)
    model: Any = create(
        system, replace(with_vocabulary(find(system).sizes["tiny"], tokenizer), region_width=4)
    ).model.eval()
    sets = [{"features": torch.randn(n, 4), "boxes": torch.rand(n, 4).sort(1).values} for n in (2, 0)]
    write_shard(tmp_path / "r.safetensors", ["a", "b"], sets)
    found = Loaded(model, tokenizer)
    scorer = PairScorer(found, open_pictures(found.spec, tmp_path / "r.safetensors", None), ["a", "b"], texts, chunk=2)
    read: list[int] = []
    states = scorer._encode_texts
    monkeypatch.setattr(scorer, "_encode_texts", lambda part: (read.append(len(part)), states(part))[1])
    wanted = torch.tensor([4, 0, 1, 3])
    for image in (0, 1):
        plain = scorer._encode_pairs(scorer.pictures.batch(["ab"[image]]), wanted)
        torch.testing.assert_close(scorer.row(image, wanted), plain)
    assert sum(read) == (2 + len(texts) if kept else 2 * len(wanted))  # the first part says how wide states are


def test_dual_encoders_match_by_their_vectors_and_read_each_text_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a red boat", "boat", "a boat a boat"]
    tokenizer = Tokenizer.train(texts * 5, 60)
    torch.manual_seed(0)
    found = Loaded(create("clip", with_vocabulary(find("clip").sizes["tiny"], tokenizer)).model.eval(), tokenizer)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    scorer = PairScorer(found, open_pictures(found.spec, None, tmp_path), ["a.png", "b.png"], texts)
    read: list[int] = []
    encode = found.model.encode
    monkeypatch.setattr(
        found.model,
        "encode",
        lambda batch: (read.append(0 if batch.text is None else len(batch.text.ids)), encode(batch))[1],
    )
    wanted = torch.tensor([2, 0])
    rows = torch.stack([scorer.row(image, wanted) for image in (0, 1)])
    batch = prepare(found, images=[tmp_path / "a.png", tmp_path / "b.png"], texts=[texts[0], texts[2]])
    vectors = encode(batch).vectors
    torch.testing.assert_close(rows, (vectors["image"] @ vectors["text"].flip(0).T).detach())
    assert read == [2, 3, 0]  # the first image with two texts, all texts, the other image alone


@pytest.mark.parametrize("task", ["matching", "cross-retrieval"])
def test_full_paths_are_taken_from_the_folder_of_images(task: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "pictures").mkdir()
    lines = ["image,text"]
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(tmp_path / "pictures" / f"{name}.png")
        lines.append(f"{tmp_path / 'pictures' / name}.png,a {name} thing")
    table = tmp_path / "data" / "pairs.csv"
    table.write_text("\n".join(lines))
    spec = create("vilt", size="tiny").spec
    found = SimpleNamespace(spec=spec, model=None)
    seen: dict[str, Any] = {}

    def scored(_: Any, pictures: Any, images: Sequence[str], texts: Sequence[str], *rest: Any) -> str:
        seen.update(images=images, shown=pictures.batch(images).images.pixels)
        return "scorer"

    def through(_: Any, items: Sequence[Item], pictures: Any, *rest: Any) -> list[Tensor]:
        scored(_, pictures, [str(item.images[0]) for item in items], [])
        return [torch.tensor([1.0, 0.0])] * len(items)

    monkeypatch.setattr(matching, "through", through)
    monkeypatch.setattr(cross_retrieval, "PairScorer", scored)
    ranks = {"image_to_text": torch.ones(2), "text_to_image": torch.ones(2)}
    monkeypatch.setattr(cross_retrieval, "all_pairs_ranks", lambda *_: ranks)
    evaluate: Any = (matching if task == "matching" else cross_retrieval).Evaluate
    monkeypatch.setattr(evaluate, "load", lambda self: found)
    evaluate(run=tmp_path, data=str(table), images=tmp_path / "pictures").evaluate()
    assert [Path(image).name for image in seen["images"]] == ["red.png", "blue.png"]
    assert len(seen["shown"]) == 2 and not torch.equal(seen["shown"][0], seen["shown"][1])
    Image.new("RGB", (8, 8)).save(table.parent / "own.png")
    with pytest.raises(InputError, match=r"leads out of .*--images FOLDER"):
        evaluate(run=tmp_path, data=str(table)).evaluate()
