"""Recorded cases of SigLIP and SigLIP 2: google-research/big_vision's, Hugging Face's and OpenCLIP's layouts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.siglip.model import Siglip, SiglipConfig
from coalign.models.siglip.names import open_clip, original, original_stacked, transformers
from coalign.models.siglip.sizes import Facts, of_weights
from coalign.parity.case import Case, Described
from coalign.parity.clip import contrast, eps_of
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import images_of
from coalign.trunks.vit import sides
from coalign.types import Images, Packed, Patches


def config_of(described: Described) -> SiglipConfig:
    """The sizes of the weights, with heads, padding and eps as the description says; a table's grid too."""
    c = described.config
    patch = c.get("patch_size") or c.get("vision_patch_size")
    images = images_of(c)
    if patch and c.get("grid"):
        (rows, columns), (height, width) = sides(c["grid"]), sides(patch)
        images = ((rows * height, columns * width), *images)
    facts = Facts(
        c.get("vision_heads"),
        c.get("text_heads"),
        eps_of(c, 1e-6),
        c.get("pad"),
        sides(patch) if patch else None,
        images=images,
    )
    config = of_weights(described.weights, facts)
    if config is None:
        raise InputError(f"{described.path}: has the names of no known SigLIP")
    if layout_of(described) == "open_clip" or c.get("activation") in ("gelu", "gelu_tanh"):
        gelu = "gelu_tanh" if c.get("activation") == "gelu_tanh" else "gelu"
        config = replace(
            config, image=replace(config.image, activation=gelu), text=replace(config.text, activation=gelu)
        )
    return config


def layout_of(described: Described) -> str:
    names = described.weights
    if "params/t" in names:
        stacked = any("/encoderblock/" in name for name in names)
        return "original_stacked" if stacked else "original"
    return "transformers" if "vision_model.head.probe" in names else "open_clip"


LAYOUTS = {
    "original": original,
    "original_stacked": original_stacked,
    "transformers": transformers,
    "open_clip": open_clip,
}


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return Siglip(config), LAYOUTS[layout_of(described)](config)


def images_given(case: Case, model: Siglip) -> Images:
    """Recorded pixels, or patches, in which the colour changes fastest."""
    if "image" in case.inputs:
        return Images(case.inputs["image"])
    size, grids = model.config.image.patch, case.inputs["spatial_shapes"]
    given = case.inputs["pixel_values"].unflatten(2, (*size, 3)).permute(0, 1, 4, 2, 3).flatten(2)
    rows = [own[:count] for own, count in zip(given, grids.prod(1).tolist(), strict=True)]
    return Images(patches=Patches(Packed.from_items(rows), grids, size))


def texts_of(case: Case, keep_padding: bool) -> Packed:
    """The recorded texts; packed, to the lengths that the description gives: the model pads them itself."""
    ids, lengths = case.inputs["input_ids"], case.config.get("lengths")
    if keep_padding or lengths is None:
        return Packed.uniform(ids)
    return Packed.from_padded(ids, torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None])


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, Siglip)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        rows, image = model.read_image(images_given(case, model), record)
        states, last = model.read_text(texts_of(case, keep_padding), record)
        text = model.head(last)
    out: dict[str, Tensor | Packed] = {
        "image_embedded": rows.with_values(record["image.embedded"]),
        "image_tokens": rows,
        "image_features": image,
        "text_tokens": states,
        "text_pooled": last,
        "text_features": text,
    }
    for name, packed, depth in (("image", rows, model.config.image.depth), ("text", states, model.config.text.depth)):
        for i in range(depth):
            out[f"{name}_block.{i}"] = packed.with_values(record[f"{name}.{i}.hidden"])
    seen = contrast(model, image, text)
    for ours, theirs in (("logit_scale", "t"), ("logit_bias", "b")):
        slope = seen[f"grad/{ours}"]
        for name in (f"grad/{ours}", f"grad/{theirs}"):
            seen[name] = slope.view_as(case.outputs.get(name, slope))
    return out | seen


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("siglip"), build, run)
