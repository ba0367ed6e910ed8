"""BLIP against Hugging Face and by its own rules."""

from dataclasses import replace

import pytest
import torch
from random_weights import randomised
from safetensors.torch import save_file

import coalign
from coalign.errors import InputError
from coalign.models.blip.heads import HEADS, BlipCaptioner, BlipMatching, BlipVqa
from coalign.models.blip.model import Blip
from coalign.models.blip.names import original
from coalign.models.blip.trunk import BlipConfig, text_tower
from coalign.ops.generation import Generation
from coalign.registry import describe
from coalign.retrieval.rerank import match_pairs
from coalign.trunks.vit import VitConfig
from coalign.types import Batch, Draws, Images, Packed, Text

IMAGE = VitConfig(image_size=16, patch_size=8, dim=64, depth=2, heads=1, hidden_dim=96)
CONFIG = BlipConfig(
    IMAGE,
    text_tower(vocab_size=40, dim=64, depth=2, heads=1, hidden_dim=96, positions=20, context_dim=64, dropout=0.0),
    embed_dim=24,
    queue_size=8,
    sep_id=3,
)


def pairs(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = Packed.from_items([torch.tensor([2, *range(5 + 3 * i, 7 + 4 * i), 3]) for i in range(size)])
    return Batch(Text(ids), Images(torch.randn(size, 3, 16, 16, generator=generator)), ids=torch.arange(size))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("matching", "BlipForImageTextRetrieval"),
        ("caption", "BlipForConditionalGeneration"),
        ("vqa", "BlipForQuestionAnswering"),
    ],
)
def test_a_folder_of_hugging_face_and_back(tmp_path, head, name):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    markers = {"bos_token_id": 38, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config={**sizes, "vocab_size": 40, "max_position_embeddings": 20, **markers},
        vision_config={**sizes, "image_size": 16, "patch_size": 8, "layer_norm_eps": 1e-5},
        image_text_hidden_size=24,
    )
    kind = getattr(transformers, name)
    theirs = randomised(kind(config))
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path / "theirs")
    mine = coalign.load(tmp_path / "theirs", "blip").model
    assert type(mine) is HEADS[head].model
    coalign.convert(tmp_path / "theirs", tmp_path / "back", system="blip", to="transformers")
    again = kind.from_pretrained(tmp_path / "back").eval()
    ids, mask = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batch = Batch(Text(Packed.from_padded(ids, mask)), Images(pixels))
    with torch.no_grad():
        if head == "matching":
            given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
            expected, got = (m(**given).itm_score for m in (theirs, again))
            mine_gives = mine.encode(batch).pooled["match_logits"]
        elif head == "caption":
            expected, got = (m(input_ids=ids[:1], pixel_values=pixels[:1]).logits for m in (theirs, again))
            image = mine.memory(Images(pixels[:1]))
            mine_gives = mine.towers.logits(mine.towers.answer(Packed.uniform(ids[:1]), image).values)[None]
            text = theirs.generate(pixel_values=pixels, num_beams=3, max_length=12, min_length=4)
            made = mine.captions(Images(pixels), Generation(beams=3, max_length=12, min_length=4))
            theirs_made = [[i for i in row[1:] if i not in (0, 3)] for row in text.tolist()]
            assert [[i for i in row if i != 0] for row in made] == theirs_made
        else:
            question = {"input_ids": ids[:1], "pixel_values": pixels[:1]}
            expected, got = (
                m.text_encoder(ids[:1], encoder_hidden_states=m.vision_model(pixels[:1])[0], attention_mask=None)[0]
                for m in (theirs, again)
            )
            made = theirs.generate(**question, max_length=9)
            assert torch.equal(made, again.generate(**question, max_length=9))
            states = mine.towers.read(Packed.uniform(ids[:1]), Images(pixels[:1]))
            (answer,) = mine.answers(states, Generation(beams=1, max_length=9))
            assert len(made[0]) > 3 and answer.tolist() == made[0].tolist()
            mine_gives = states.to_padded()
    torch.testing.assert_close(mine_gives, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got, expected)


def test_files_of_the_authors_are_told_apart(tmp_path):
    """Pre-training, retrieval, matching, captions and questions by their names alone, and written back the same."""
    kinds = {None: Blip, "retrieval": Blip, "matching": BlipMatching, "caption": BlipCaptioner, "vqa": BlipVqa}
    for head, kind in kinds.items():
        config = CONFIG if head is None else HEADS[head].config(CONFIG)
        names = original(config) if head is None else HEADS[head].weights["original"](config)
        tensors = names.export(kind(config).state_dict())
        path = tmp_path / f"{head}.safetensors"
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
        loaded = coalign.load(path, "blip")
        assert type(loaded.model) is kind
        assert loaded.model.config.image == IMAGE
        assert describe(loaded.model)["head"] == (None if kind is Blip else head)
        back = names.export(loaded.model.state_dict())
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_the_decoder_has_no_weights_but_self_attention_and_word_head():
    names = {name.split(".")[0] + "." + name.split(".")[1] for name in dict(Blip(CONFIG).decoder.named_parameters())}
    assert {name.split(".")[0] for name in names} == {"blocks", "words"}
    model = Blip(CONFIG)
    before = sum(p.numel() for p in model.parameters())
    assert before == sum(p.numel() for p in set(model.parameters()))
    assert not any("feed_forward" in name for name in dict(model.decoder.named_parameters()))


def test_an_item_depends_on_no_other():
    model, batch = randomised(Blip(CONFIG)), pairs()
    seen = model.encode(batch)
    for i in (0, 3):
        one = Batch(Text(batch.text.ids.select([i])), Images(batch.images.pixels[i : i + 1]))
        alone = model.encode(one)
        torch.testing.assert_close(
            alone.pooled["match_logits"][0], seen.pooled["match_logits"][i], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(alone.vectors["text"][0], seen.vectors["text"][i], atol=1e-5, rtol=1e-5)


def test_matching_from_kept_states_is_matching_of_pairs():
    """What re-ranking computes of an image and a text that were encoded apart."""
    model, batch = randomised(Blip(CONFIG)), pairs()
    seen = model.encode(batch)
    chosen = torch.tensor([[0, 0], [2, 1], [3, 3], [2, 2], [0, 3]])
    logits = match_pairs(model, seen.matched("image"), seen.matched("text"), chosen)
    for (image, text), logit in zip(chosen.tolist(), logits, strict=True):
        one = Batch(Text(batch.text.ids.select([text])), Images(batch.images.pixels[image : image + 1]))
        torch.testing.assert_close(model.encode(one).pooled["match_logits"][0, 1], logit, atol=1e-5, rtol=1e-4)


def test_each_objective_is_learned():
    torch.manual_seed(0)
    model, batch = Blip(CONFIG).train(), pairs()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    generator, curve = torch.Generator().manual_seed(0), []
    for _ in range(60):
        model.before_step()
        losses = model.losses(batch, Draws(generator, {"alpha": torch.tensor(0.0)}))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        model.after_step()
        curve.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert curve[0].keys() == {"itc", "itm", "lm"}
    assert min(losses["itm"] for losses in curve[-5:]) < 0.45 < 0.6 < curve[0]["itm"]
    assert curve[-1]["lm"] < 1.4 < 3 < curve[0]["lm"]
    assert min(losses["itc"] for losses in curve[-5:]) < 0.7 * curve[0]["itc"]  # at this rate single steps jump
    captions = model.eval().captions(batch.images, Generation(beams=2, max_length=12))
    assert captions == [ids[1:-1].tolist() for ids in batch.text.ids.values.split(batch.text.ids.lengths.tolist())]


def test_a_captioner_starts_from_pretraining_and_leaves_the_prompt_out_of_its_loss():
    pretrained, batch = randomised(Blip(CONFIG)), pairs(2)
    how = Generation(beams=2, max_length=9, min_length=3)
    config = HEADS["caption"].config(CONFIG)
    captioner = BlipCaptioner(config).eval()
    captioner.start_from(pretrained)
    assert captioner.captions(batch.images, how) == pretrained.captions(batch.images, how)
    prompted = BlipCaptioner(replace(config, prompt=(30, 31))).eval()
    prompted.load_state_dict(captioner.state_dict())
    image = prompted.memory(batch.images)
    given = Packed.from_items([torch.tensor([2, 30, 31, 5, 6, 3]), torch.tensor([2, 30, 31, 8, 9, 10, 3])])
    torch.testing.assert_close(prompted.losses(batch)["lm"], prompted.loss(given, image, 2))
    assert not torch.isclose(prompted.loss(given, image, 2), prompted.loss(given, image, 0))
    question = BlipVqa(HEADS["vqa"].config(CONFIG)).eval()
    question.start_from(pretrained)
    torch.testing.assert_close(question.towers.words.bias, pretrained.decoder.words.bias)


def test_what_cannot_be_done_is_said():
    config = HEADS["retrieval"].config(CONFIG)
    with pytest.raises(InputError, match="without the language-modelling objective"):
        Blip(config).captions(pairs().images, Generation(max_length=5))
    with pytest.raises(InputError, match="max_length is 30, the model has 20 positions"):
        Blip(CONFIG).captions(pairs().images, Generation(max_length=30))


@pytest.mark.parametrize("method", ["grad_cam", "cross_attention", "rollout", "relevance", "similarity"])
def test_maps_of_words_on_patches(method):
    model, batch = randomised(Blip(CONFIG)), pairs(2)
    maps = model.alignment(batch, method)
    assert [tuple(own.shape) for own in maps] == [(int(n), 2, 2) for n in batch.text.ids.lengths]
    assert all(own.isfinite().all() and own.abs().sum() > 0 for own in maps)
