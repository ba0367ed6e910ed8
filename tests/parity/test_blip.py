from dataclasses import replace

import pytest
import torch
from recorded import failures, rewritten

from coalign.errors import InputError
from coalign.models.blip.heads import HEADS, BlipVqa
from coalign.models.blip.names import vqa_original
from coalign.models.blip.trunk import BlipConfig, text_tower
from coalign.ops.generation import Generation
from coalign.parity import blip
from coalign.parity.case import Case
from coalign.parity.verify import verify, verify_manifest
from coalign.trunks.vit import VitConfig


@pytest.mark.parametrize(("case", "lines"), [("blip", 25), ("blip_itm", 6), ("blip_caption", 8)])
def test_recorded_case(golden, case, lines):
    found = verify(golden / f"{case}.safetensors")
    assert len(found) == lines
    assert [str(line) for line in found if line.status != "ok"] == []


@pytest.mark.parametrize("task", ["pretrain", "itm", "caption", "vqa"])
def test_manifest(manifests, task):
    assert [line.status for line in verify_manifest(manifests / f"blip_{task}_base.json")] == ["ok"]


@pytest.mark.parametrize(
    ("case", "fact"),
    [
        ("blip_itm", {"encode_marker": True}),
        ("blip_caption", {"smoothing": 0.0}),
        ("blip", {"encode_marker": False}),
        ("blip", {"alpha": 0.1, "momentum": 0.8}),
    ],
)
def test_a_broken_fact_is_seen(golden, monkeypatch, case, fact):
    real = blip.HEADS

    def other(head):
        return replace(head, config=lambda config: replace(head.config(config), **fact))

    monkeypatch.setattr(blip, "HEADS", {name: other(head) for name, head in real.items()})
    config = blip.config_of
    monkeypatch.setattr(blip, "config_of", lambda described: replace(config(described), **fact))
    assert failures(golden / f"{case}.safetensors")


def test_a_decoder_that_is_not_tied_is_refused(golden, tmp_path):
    def change(tensors):
        tensors["weight/text_decoder.bert.encoder.layer.0.output.dense.weight"][0, 0] += 0.1

    with pytest.raises(InputError, match="should equal text_encoder"):
        verify(rewritten(tmp_path / "case.safetensors", golden / "blip.safetensors", change))


def vqa_case(tmp_path):
    """A case of question answering as a recorder would write it, by the model's own formulas item by item."""
    torch.manual_seed(0)
    image = VitConfig(image_size=16, patch_size=8, dim=24, depth=1, heads=4, hidden_dim=48)
    text = text_tower(vocab_size=40, dim=32, depth=2, heads=4, hidden_dim=48, positions=20, context_dim=24)
    config = HEADS["vqa"].config(BlipConfig(image, text, sep_id=3))
    model = BlipVqa(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    inputs = {
        "image": torch.randn(3, 3, 16, 16),
        "input_ids": torch.tensor([[2, 8, 9, 3, 0], [2, 11, 3, 0, 0], [2, 5, 6, 7, 3]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        "answer_ids": torch.tensor([[2, 9, 3, 0], [2, 12, 13, 3], [2, 20, 3, 0], [2, 21, 3, 0]]),
        "answer_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]),
        "answers_per_question": torch.tensor([1, 2, 1]),
        "answer_weights": torch.tensor([1.0, 0.5, 0.5, 1.0]),
        "candidate_ids": torch.tensor([[38, 9, 3, 0], [38, 12, 13, 3], [38, 20, 3, 0], [38, 21, 3, 0]]),
        "candidate_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]),
    }
    weights = vqa_original(config).export(model.state_dict())
    outputs = {
        "generated": torch.zeros(3, 10, dtype=torch.int64),
        "rank_ids": torch.zeros(3, dtype=torch.int64),
        "rank_topk_probs": torch.zeros(3, 2),
    }
    described = {"vision_heads": 4, "num_attention_heads": 4, "image_size": 16, "ids": {"sep": 3, "pad": 0}}
    return Case(tmp_path, "blip", "vqa", "", described, weights, inputs, outputs), model


def test_answers_are_ranked_by_the_whole_answer(tmp_path):
    """What no visible recording holds: the first word shortlists, the whole answer wins."""
    case, model = vqa_case(tmp_path)
    built, names = blip.build(case)
    built.load_state_dict(names.load(case.weights).state)
    padded, packed = (blip.run(case, built.eval(), keep) for keep in (True, False))
    assert torch.allclose(padded["loss"], packed["loss"], atol=1e-5)
    assert torch.equal(padded["rank_ids"], packed["rank_ids"])
    best = []
    for i in range(3):
        real = case.inputs["attention_mask"][i].bool()
        ids = blip.Packed.from_items([case.inputs["input_ids"][i][real]])
        one = blip.Batch(text=blip.Text(ids), images=blip.Images(case.inputs["image"][i : i + 1]))
        states, losses = model.read(one), []
        for row, mask in zip(case.inputs["candidate_ids"], case.inputs["candidate_mask"], strict=True):
            answer = blip.Packed.from_items([row[mask.bool()]])
            losses.append(model.towers.text_losses(answer, states, None, model.each).item())
        first = model.towers.next_words(torch.tensor([[38]]), states, torch.tensor([0])).softmax(1)[0]
        likely = first[case.inputs["candidate_ids"][:, 1]].topk(2).indices.tolist()
        best.append(min(likely, key=losses.__getitem__))
    assert packed["rank_ids"].tolist() == best
    assert padded["generated"].shape == (3, 10)
    assert "generated" not in packed
    with torch.no_grad():
        alone = model.answers(states, Generation(beams=3, max_length=10, min_length=1))[0]
    assert padded["generated"][2, : len(alone)].tolist() == alone.tolist()
