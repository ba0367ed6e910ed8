"""SigLIP and SigLIP 2 against Hugging Face and by their own rules."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from random_weights import randomised

import coalign
from coalign.data.images.transforms import sides_of_patches
from coalign.data.pairs.loader import Loader
from coalign.data.pairs.sources import open_source
from coalign.errors import InputError
from coalign.models.siglip.model import Siglip, SiglipConfig, image_tower, text_tower
from coalign.ops.pairing import take_images
from coalign.ops.patches import cut_pictures, pictures
from coalign.types import Batch, Images, InputSpec, Packed, Text

CONFIG = SiglipConfig(
    image_tower(image_size=16, patch_size=4, dim=32, depth=2, heads=2, hidden_dim=48),
    text_tower(vocab_size=40, positions=7, dim=32, depth=2, heads=2, hidden_dim=48),
    32,
)
NAFLEX = replace(CONFIG, image=replace(CONFIG.image, any_shape=True), padding=0)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def texts():
    return Packed.from_items([torch.tensor([5, 6, 1]), torch.tensor([9, 8, 7, 3, 1]), torch.tensor([2, 1])])


def ragged(sizes=((8, 12), (16, 4), (20, 8))):
    drawn = [torch.randn(3, *size, generator=torch.Generator().manual_seed(size[0])) for size in sizes]
    return Images(patches=cut_pictures(drawn, (4, 4)))


def test_a_folder_of_hugging_face_and_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipConfig(
        text_config={**SIZES, "vocab_size": 40, "max_position_embeddings": 7, "projection_size": 32},
        vision_config={**SIZES, "image_size": 16, "patch_size": 4},
    )
    theirs = randomised(transformers.SiglipModel(config))
    theirs.save_pretrained(tmp_path / "theirs")
    mine = coalign.load(tmp_path / "theirs", "siglip").model
    pixels, ids = torch.randn(3, 3, 16, 16), texts().to_padded(7, fill=1)
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=pixels)
        seen = mine.encode(Batch(text=Text(texts()), images=Images(pixels))).vectors
        logits = mine.similarities(seen["image"], seen["text"])
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-5, rtol=1e-5)
    coalign.convert(tmp_path / "theirs", tmp_path / "back", system="siglip", to="transformers")
    again = transformers.SiglipModel.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids, pixel_values=pixels).logits_per_text, expected.logits_per_text)


def test_pictures_of_any_proportions_agree_with_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Siglip2Config(
        text_config={**SIZES, "vocab_size": 40, "max_position_embeddings": 7, "projection_size": 32},
        vision_config={**SIZES, "num_patches": 16, "patch_size": 4},
    )
    theirs = randomised(transformers.Siglip2Model(config))
    theirs.save_pretrained(tmp_path / "theirs")
    mine = coalign.load(tmp_path / "theirs", "siglip").model
    assert mine.config.image.any_shape
    images = ragged()
    shapes = images.patches.grids
    patches = torch.zeros(3, 12, 48)
    mask = torch.zeros(3, 12, dtype=torch.int64)
    for i, picture in enumerate(pictures(images.patches)):
        rows, columns = shapes[i].tolist()
        cells = picture.unflatten(2, (columns, 4)).unflatten(1, (rows, 4))
        patches[i, : rows * columns] = cells.permute(1, 3, 2, 4, 0).flatten(2).flatten(0, 1)
        mask[i, : rows * columns] = 1
    with torch.no_grad():
        expected = theirs.get_image_features(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        expected = getattr(expected, "pooler_output", expected)
        got = mine.encode(Batch(images=images))
    torch.testing.assert_close(got.pooled["image"], expected, atol=1e-5, rtol=1e-5)
    assert got.tokens["image"].lengths.tolist() == [6, 4, 10]
    coalign.convert(tmp_path / "theirs", tmp_path / "back", system="siglip", to="transformers")
    assert transformers.Siglip2Model.from_pretrained(tmp_path / "back").config.vision_config.num_patches == 16


def test_a_picture_does_not_depend_on_its_neighbours_and_is_not_padded():
    model = randomised(Siglip(NAFLEX))
    with torch.no_grad():
        whole = model.encode(Batch(images=ragged()))
        for i, (height, width) in enumerate(((8, 12), (16, 4), (20, 8))):
            alone = model.encode(Batch(images=ragged(((height, width),))))
            torch.testing.assert_close(alone.vectors["image"][0], whole.vectors["image"][i], atol=1e-6, rtol=1e-5)
    assert whole.tokens["image"].values.shape[0] == 6 + 4 + 10
    assert model.grids(Batch(images=ragged())) == [(2, 3), (4, 1), (5, 2)]


def test_maps_of_words_over_patches():
    model = randomised(Siglip(NAFLEX))
    batch = Batch(text=Text(texts()), images=ragged())
    assert [tuple(own.shape) for own in model.alignment(batch)] == [(3, 2, 3), (5, 4, 1), (2, 5, 2)]
    probe = model.alignment(batch, "cross_attention")
    assert [float(own[0].sum()) for own in probe] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    with pytest.raises(InputError, match="not by 'transport'"):
        model.alignment(batch, "transport")
    alone = [
        model.alignment(
            Batch(text=Text(batch.text.ids.select([i])), images=take_images(batch.images, torch.tensor([i]))),
            "grad_cam",
        )[0]
        for i in range(3)
    ]
    for mine, own in zip(model.alignment(batch, "grad_cam"), alone, strict=True):
        torch.testing.assert_close(mine, own, atol=1e-6, rtol=1e-4)
        assert float(own.min()) >= 0
        assert len({tuple(row.flatten().tolist()) for row in own}) == len(own)  # each piece has a map of its own


def test_pairs_are_learned():
    torch.manual_seed(0)
    model = Siglip(CONFIG)
    batch = Batch(text=Text(texts()), images=Images(torch.randn(3, 3, 16, 16)))
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        loss = model.losses(batch)["sigmoid"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    vectors = model.encode(batch).vectors
    assert (vectors["image"] @ vectors["text"].T).argmax(1).tolist() == [0, 1, 2]
    assert float(loss) < 0.3


def test_the_loss_is_the_papers():
    model = Siglip(CONFIG)
    image, text = (F.normalize(torch.randn(4, 32), dim=-1) for _ in range(2))
    logits = model.similarities(image, text)
    sign = 2 * torch.eye(4) - 1
    torch.testing.assert_close(model.loss(image, text), -F.logsigmoid(sign * logits).sum() / 4)
    with pytest.raises(InputError, match="must agree"):
        Siglip(replace(CONFIG, embed_dim=24))


def test_pictures_are_as_large_as_the_limit_of_patches_allows():
    """big_vision's rule, as Hugging Face has it; very long pictures by their middle."""
    library = pytest.importorskip("transformers.models.siglip2.image_processing_siglip2")
    for sides in ((224, 224), (1, 40), (3, 5), (640, 480), (33, 700), (4000, 3000)):
        for patch, limit in ((16, 256), (4, 9), (8, 64)):
            expected = library.get_image_size_for_max_num_patches(*sides, patch, limit)
            assert sides_of_patches(sides, (patch, patch), limit) == expected
    loaded = coalign.create("siglip", replace(NAFLEX, max_patches=20))
    drawn = [Image.new("RGB", size) for size in ((4000, 1), (1, 4000), (300, 200), (5, 5))]
    images = coalign.prepare(loaded, drawn).images
    grids = loaded.model.grids(Batch(images=images))
    assert all(10 < rows * columns <= 20 for rows, columns in grids)
    assert grids[0] == grids[1][::-1] == (1, 20)
    assert grids[2] == (4, 5)
    lengths = [rows * columns for rows, columns in grids]
    assert loaded.encode(Batch(images=images)).tokens["image"].lengths.tolist() == lengths


def test_the_loaders_batches_hold_no_pixel_of_padding(tmp_path):
    """From the collating worker on there are as many rows as patches, whatever the pictures' proportions."""
    sides = [(60, 10), (10, 60), (40, 40), (9, 30)]
    rows = []
    for number, size in enumerate(sides):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,text {number}")
    (tmp_path / "pairs.csv").write_text("image,text\n" + "\n".join(rows) + "\n")
    loaded = coalign.create("siglip", replace(NAFLEX, max_patches=20))
    spec = InputSpec(image=loaded.model.input_spec.image)
    images = next(
        iter(Loader(open_source(tmp_path / "pairs.csv"), spec, None, batch_size=4, train=False, workers=1))
    ).images
    assert images.pixels is None
    counts = [math.prod(sides_of_patches(size[::-1], (4, 4), 20)) // 16 for size in sides]
    assert images.patches.rows.values.shape == (sum(counts), 48)
    assert images.patches.rows.host_lengths.tolist() == counts
    assert sum(counts) < len(counts) * int(images.patches.grids.amax(0).prod())  # padded to the largest
    chosen = take_images(images, torch.tensor([2, 0]))
    assert [tuple(own.shape[1:]) for own in pictures(chosen.patches)] == [(16, 16), (8, 40)]
    assert torch.equal(pictures(chosen.patches)[1], pictures(images.patches)[0])
