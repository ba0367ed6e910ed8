"""CLIP against Hugging Face and by its own rules."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from random_weights import randomised
from safetensors.torch import save_file

import coalign
from coalign.checkpoints import read_tensors
from coalign.errors import InputError
from coalign.models.clip.model import Clip, ClipConfig
from coalign.models.clip.names import open_clip, openai
from coalign.models.clip.resnet import ResNetConfig
from coalign.models.clip.sizes import of_weights
from coalign.ops.attention import Mask
from coalign.trunks.text import TextConfig
from coalign.trunks.vit import clip_tower
from coalign.types import Batch, Draws, Images, Packed, Text

CONFIG = ClipConfig(
    clip_tower(image_size=16, patch_size=4, dim=64, depth=2, heads=1, hidden_dim=96),
    TextConfig(40, 9, 64, 2, 1, 96),
    24,
)
RESNET = replace(CONFIG, resnet=ResNetConfig(64, (1, 2, 1, 1), 8, 4))


def pairs(config=CONFIG, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    height, width = config.image.image if config.resnet is None else (64, 64)
    pixels = torch.randn(size, 3, height, width, generator=generator)
    ids = [torch.tensor([38, *range(1 + i, 4 + 2 * i), 39]) for i in range(size)]
    return Batch(text=Text(Packed.from_items([row[-9:] for row in ids])), images=Images(pixels))


@pytest.mark.parametrize("end", [2, 17])
def test_a_folder_of_hugging_face_and_back(tmp_path, end):
    """Both ways, with an end marker that is the largest id (2 means that) or another, padded with it and masked."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = transformers.CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": 40,
            "max_position_embeddings": 9,
            "eos_token_id": end,
            "hidden_act": "gelu",
        },
        vision_config={**sizes, "image_size": 16, "patch_size": 4, "layer_norm_eps": 1e-4},
        projection_dim=24,
    )
    theirs = randomised(transformers.CLIPModel(config))
    theirs.save_pretrained(tmp_path / "theirs")
    mine = coalign.load(tmp_path / "theirs", "clip").model
    marker = 39 if end == 2 else end
    ids = torch.tensor([[3, 5, marker, marker, marker], [3, 30, 7, 9, marker]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels)
        seen = mine.encode(Batch(text=Text(Packed.from_padded(ids, mask)), images=Images(pixels))).vectors
    torch.testing.assert_close(seen["image"], expected.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["text"], expected.text_embeds, atol=1e-5, rtol=1e-5)
    coalign.convert(tmp_path / "theirs", tmp_path / "back", system="clip", to="transformers")
    again = transformers.CLIPModel.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        got = again(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    torch.testing.assert_close(got.logits_per_image, expected.logits_per_image)


def test_files_tell_whose_gelu_they_were_trained_with(tmp_path):
    """OpenAI's archives by the numbers in them; other files under the same names have the exact one, unless told."""
    model = Clip(CONFIG)
    plain = open_clip(CONFIG).export(model.state_dict())
    numbers = {"input_resolution": 16, "context_length": 9, "vocab_size": 40}
    save_file(plain, tmp_path / "open.safetensors")
    save_file(plain | {name: torch.tensor(n) for name, n in numbers.items()}, tmp_path / "openai.safetensors")
    for name, layout, activation in (
        ("openai", None, "quick_gelu"),
        ("open", None, "gelu"),
        ("open", "openai", "quick_gelu"),
    ):
        loaded = coalign.load(tmp_path / f"{name}.safetensors", "clip", layout=layout).model
        assert loaded.config.image.activation == loaded.config.text.activation == activation
    coalign.convert(tmp_path / "openai.safetensors", tmp_path / "back.safetensors", system="clip", to="openai")
    assert int(read_tensors(tmp_path / "back.safetensors")["context_length"]) == 9


def test_half_precision_is_read():
    model = Clip(CONFIG)
    half = {name: tensor.half() for name, tensor in openai(CONFIG).export(model.state_dict()).items()}
    other = Clip(CONFIG)
    other.load_state_dict(openai(CONFIG).load(half).state)
    assert all(parameter.dtype == torch.float32 for parameter in other.parameters())


def test_resnet_sizes_come_from_the_weights_and_pooling_from_the_formula():
    model = randomised(Clip(RESNET), 0.1)
    found = of_weights(open_clip(RESNET).export(model.state_dict()))
    assert found is not None
    assert found.resnet == replace(RESNET.resnet, heads=8 * 32 // 64)
    batch = pairs(RESNET)
    with torch.no_grad():
        rows, pooled = model.read_image(batch.images)
        own = rows.to_padded()
        expected = F.multi_head_attention_forward(
            own[:, :1].transpose(0, 1),
            own.transpose(0, 1),
            own.transpose(0, 1),
            own.shape[2],
            4,
            None,
            torch.cat([getattr(model.image.pool, part).bias for part in ("query", "key", "value")]),
            None,
            None,
            False,
            0.0,
            model.image.pool.out.weight,
            model.image.pool.out.bias,
            use_separate_proj_weight=True,
            q_proj_weight=model.image.pool.query.weight,
            k_proj_weight=model.image.pool.key.weight,
            v_proj_weight=model.image.pool.value.weight,
        )[0][0]
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    assert len(model.alignment(batch)) == 4
    assert model.alignment(batch)[0].shape == (len(batch.text.ids.select([0]).values), 2, 2)


def test_packed_equals_padded_and_items_do_not_mix():
    model, batch = randomised(Clip(CONFIG)), pairs()
    ids = batch.text.ids
    whole = model.encode(batch).vectors
    padded = Packed.from_padded(ids.to_padded(), ids.padding_mask(), keep_padding=True)
    torch.testing.assert_close(model.encode(Batch(text=Text(padded))).vectors["text"], whole["text"])
    order = [2, 0, 3, 1]
    other = Batch(text=Text(ids.select(order)), images=Images(batch.images.pixels[order]))
    for name, vectors in model.encode(other).vectors.items():
        torch.testing.assert_close(vectors, whole[name][order])


def test_pairs_are_learned_and_equal_texts_are_all_right():
    torch.manual_seed(0)
    model, batch = Clip(CONFIG), pairs()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        model.before_step()
        loss = model.losses(batch)["contrastive"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.1 < losses[0]
    vectors = model.encode(batch).vectors
    doubled = (vectors["image"][[0, 1, 1]], vectors["text"][[0, 1, 1]])
    with torch.no_grad():
        apart, joined = model.loss(*doubled), model.loss(*doubled, torch.tensor([0, 1, 1]))
        model.scale.fill_(9.0)
        model.before_step()
    assert float(apart) == pytest.approx(float(joined), abs=1e-4)  # equal columns share their probability either way
    assert float(model.scale.exp()) == pytest.approx(100.0)


def coloured(size, generator):
    """Grey pictures with two patches of different colours, captions that name them, and their places [size, 2]."""
    colours = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in range(size)])
    places = torch.stack([torch.randperm(16, generator=generator)[:2] for _ in range(size)])
    tints = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).float()
    patches = 0.1 * torch.randn(size, 16, 3, generator=generator)
    patches.scatter_(1, places[:, :, None].expand(-1, -1, 3), 2 * tints[colours])
    pixels = patches.unflatten(1, (4, 4)).permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    ids = [torch.tensor([38, *(10 + own).tolist(), 39]) for own in colours]
    same = colours.sort(1).values @ torch.tensor([6, 1])
    return Batch(text=Text(Packed.from_items(ids)), images=Images(pixels), ids=same), places


def test_filip_is_learned_beside_the_contrast():
    """Where words point afterwards differs from seed to seed (docs/log.md), and is no part of this."""
    torch.manual_seed(0)
    model, (batch, _) = Clip(CONFIG), coloured(16, torch.Generator().manual_seed(0))
    optimiser, curve = torch.optim.AdamW(model.parameters(), 2e-3), list[float]()
    for _ in range(60):
        losses = model.losses(batch, Draws(only=("filip",)))
        assert list(losses) == ["filip"]
        optimiser.zero_grad()
        losses["filip"].backward()
        optimiser.step()
        curve.append(float(losses["filip"].detach()))
    assert curve[-1] < 0.4 * curve[0]
    both = model.losses(batch, Draws(only=("contrastive", "filip")))
    torch.testing.assert_close(both["contrastive"], model.losses(batch)["contrastive"])


def test_maps_are_cosines_and_bad_input_is_told():
    model, batch = randomised(Clip(CONFIG)), pairs()
    maps = model.alignment(batch)
    assert [tuple(own.shape) for own in maps] == [(int(n), 4, 4) for n in batch.text.ids.lengths]
    assert all(float(own.abs().max()) <= 1.0001 for own in maps)
    model.image.requires_grad_(False)  # a locked tower has gradient maps too
    drawn = model.alignment(batch, "grad_cam")
    assert [tuple(own.shape) for own in drawn] == [tuple(own.shape) for own in maps]
    assert all(float(own.sum()) > 0 for own in drawn)
    seen = model.alignment(batch, "cross_attention")[0][0]
    weights = model.encode(batch, record=True).record["image.1.attention"]
    torch.testing.assert_close(seen.flatten(), weights[0].mean(0)[0, 1:])
    with pytest.raises(InputError, match="9 positions"):
        model.encode(Batch(text=Text(Packed.from_items([torch.ones(10, dtype=torch.int64)]))))
    with pytest.raises(InputError, match="lacks images or texts"):
        model.losses(Batch(text=batch.text))
    assert Mask.within(batch.text.ids, 1).causal == 1


def test_other_image_sizes_and_shapes(tmp_path):
    model = Clip(CONFIG)
    (tmp_path / "run").mkdir()
    save_file(open_clip(CONFIG).export(model.state_dict()), tmp_path / "file.safetensors")
    wide = coalign.load(tmp_path / "file.safetensors", "clip", image_size=(16, 24)).model
    assert wide.config.image.grid_size == (4, 6)
    seen = wide.encode(Batch(images=Images(torch.zeros(1, 3, 16, 24))))
    assert seen.tokens["image"].values.shape == (25, 64)
    assert json.dumps(wide.config.image.image) == "[16, 24]"
