"""The adaptors of CLIP and SigLIP on tiny models of the peer libraries, of sizes that no recording has: what a recorder
would write down, run as recordings are."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coalign.parity.case import Case
from coalign.parity.compare import compare
from coalign.parity.verify import adaptor_for, load


def drawn(model):
    """The model with random numbers everywhere, running statistics too; norms around 1."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "mask" in name or not tensor.is_floating_point():
                continue
            one = (tensor.dim() == 1 and name.endswith("weight")) or name.endswith("running_var")
            noise = torch.randn(tensor.shape, generator=generator) * 0.2
            tensor.copy_(noise.abs() + 1 if one else torch.full_like(tensor, 2.0) if "scale" in name else noise)
    return model.eval()


def held(system, config, model, inputs, outputs):
    """The lines of a case that are not ok, with all rows and packed."""
    weights = {n: t for n, t in model.state_dict().items() if "mask" not in n and not n.endswith("position_ids")}
    case = Case(Path("peer"), system, "contrastive", "", config, weights, inputs, outputs)
    adaptor = adaptor_for(case)
    loaded, lines = load(case, adaptor)
    for keep in (True, False):
        found = adaptor.run(case, loaded, keep)
        for name, expected in outputs.items():
            got = found[name]
            lines.append(compare(name, got if isinstance(got, torch.Tensor) else got.to_padded(), expected))
    assert len(lines) == 1 + 2 * len(outputs)
    return [str(line) for line in lines if line.status != "ok"]


def ids_of(lengths, width, padding, first, last):
    ids = torch.full((len(lengths), width), padding)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(2, last if last > 9 else 30, (length,), generator=torch.Generator().manual_seed(1))
        row[0], row[length - 1] = first, last
    return ids


@pytest.mark.parametrize("kind", ["oblong", "custom", "resnet"])
def test_open_clip(kind):
    library = pytest.importorskip("open_clip.model")
    vision = {"image_size": (24, 40), "patch_size": 8, "width": 48, "layers": 3, "head_width": 16, "mlp_ratio": 2.0}
    text = {"context_length": 10, "vocab_size": 50, "width": 40, "heads": 5, "layers": 2, "mlp_ratio": 3.0}
    if kind == "resnet":
        vision = {"image_size": 64, "layers": [2, 1, 3, 1], "width": 12, "head_width": 32}
    custom = {"quick_gelu": True, "init_logit_bias": -5.0} if kind == "custom" else {}
    made = library.CustomTextCLIP if custom else library.CLIP
    model = drawn(made(embed_dim=20, vision_cfg=vision, text_cfg=text, **custom))
    sides = (64, 64) if kind == "resnet" else (24, 40)
    pixels, ids = torch.randn(3, 3, *sides), ids_of([10, 4, 7], 10, 49 if custom else 0, 48, 49)
    with torch.no_grad():
        image, words = model.encode_image(pixels), model.encode_text(ids)
        logits = F.normalize(image, dim=-1) @ F.normalize(words, dim=-1).T * model.logit_scale.exp()
    outputs = {
        "image_features": image,
        "text_features": words,
        "logits_per_image": logits if model.logit_bias is None else logits + model.logit_bias,
    }
    config = {
        "quick_gelu": bool(custom),
        "image_resolution": list(sides),
        "vision_heads": 12 if kind == "resnet" else 3,
        "transformer_heads": 5,
    }
    assert held("clip", config, model, {"image": pixels, "input_ids": ids}, outputs) == []


def siglip_outputs(image, text, model):
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T * model.logit_scale.exp() + model.logit_bias
    return {"image_features": image, "text_features": text, "logits_per_image": logits}


@pytest.mark.parametrize("naflex", [False, True])
def test_siglip_of_transformers(naflex):
    """A text tower that is not as wide as the image's; and rows of patches far from the table's grid: longer than it is
    in both directions, and a single one."""
    library = pytest.importorskip("transformers")
    common = {"num_hidden_layers": 2, "intermediate_size": 56}
    text = {**common, "hidden_size": 40, "num_attention_heads": 5, "vocab_size": 50, "projection_size": 48}
    text |= {"max_position_embeddings": 9}
    vision = {**common, "hidden_size": 48, "num_attention_heads": 2, "patch_size": 5}
    kind = "Siglip2" if naflex else "Siglip"
    vision |= {"num_patches": 25} if naflex else {"image_size": 35}
    config = getattr(library, f"{kind}Config")(text_config=text, vision_config=vision)
    model = drawn(getattr(library, f"{kind}Model")(config))
    lengths = [9, 2, 5]
    ids = ids_of(lengths, 9, 0 if naflex else 1, 3, 1)
    said = {"patch_size": 5, "vision_heads": 2, "text_heads": 5, "pad": 0 if naflex else 1, "lengths": lengths}
    if naflex:
        shapes = torch.tensor([[2, 17], [11, 3], [1, 1]])
        real = torch.arange(36) < shapes.prod(1)[:, None]
        patches = torch.randn(3, 36, 75) * real[:, :, None]
        given = {"pixel_values": patches, "pixel_attention_mask": real.long(), "spatial_shapes": shapes}
        inputs, said = given, said | {"grid": 5}
    else:
        inputs = {"image": torch.randn(3, 3, 35, 35)}
        given, said = {"pixel_values": inputs["image"]}, said | {"image_size": 35}
    with torch.no_grad():
        seen = model(input_ids=ids, **given)
    outputs = siglip_outputs(seen.vision_model_output.pooler_output, seen.text_model_output.pooler_output, model)
    assert held(kind.lower(), said, model, {"input_ids": ids, **inputs}, outputs) == []


def test_siglip_of_open_clip():
    """timm's tower with the exact GELU, OpenCLIP's text tower read at the last row."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    library = pytest.importorskip("open_clip.transformer")
    norm = partial(nn.LayerNorm, eps=1e-6)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {"img_size": 24, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 5 / 3}
            self.visual = nn.Module()
            self.visual.trunk = timm.VisionTransformer(
                **sizes, class_token=False, global_pool="map", num_classes=0, norm_layer=norm
            )
            sizes = {"context_length": 10, "vocab_size": 70, "width": 40, "heads": 4, "layers": 2, "mlp_ratio": 1.5}
            self.text = library.TextTransformer(
                **sizes, output_dim=48, no_causal_mask=True, proj_bias=True, pool_type="last", norm_layer=norm
            )
            self.logit_scale, self.logit_bias = (nn.Parameter(torch.tensor(own)) for own in (2.0, -5.0))

    model, lengths = drawn(Both()), [10, 4, 7]
    pixels, ids = torch.randn(3, 3, 24, 24), ids_of([10, 4, 7], 10, 1, 3, 1)
    with torch.no_grad():
        outputs = siglip_outputs(model.visual.trunk(pixels), model.text(ids), model)
    said = {"image_size": 24, "patch_size": 8, "vision_heads": 3, "text_heads": 4, "pad": 1, "lengths": lengths}
    assert held("siglip", said, model, {"image": pixels, "input_ids": ids}, outputs) == []
