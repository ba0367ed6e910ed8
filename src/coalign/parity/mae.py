"""Recorded cases of facebookresearch/mae: pre-training and fine-tuning, and Hugging Face's layout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.mae.model import Mae, MaeConfig, fine_tuning, linear_probe
from coalign.models.mae.names import encoder, original, transformers
from coalign.models.mae.sizes import of_weights
from coalign.models.vit.model import Vit
from coalign.objectives.reconstruction import Reconstruction
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import size_hints
from coalign.trunks.vit_sizes import rows_of, timm_trunk
from coalign.types import Batch, Draws, Images, Labels


def build(described: Described) -> tuple[nn.Module, StateMap]:
    weights = described.weights
    if "decoder.mask_token" in weights or "mask_token" in weights:
        config = config_of(described)
        return Mae(config), transformers(config) if "decoder.mask_token" in weights else original(config)
    base = MaeConfig(timm_trunk(weights, size_hints(described)))
    if "head.1.weight" in weights:
        chosen = linear_probe(base, described.shape("head.1.weight")[0])
    else:
        drop_path = described.config.get("drop_path") or 0.0
        chosen = replace(fine_tuning(base, drop_path=drop_path), classes=rows_of(weights, "head.weight"))
    final_norm = "norm.weight" in weights
    pool = "token" if final_norm else "mean"
    chosen = replace(chosen, trunk=replace(chosen.trunk, final_norm=final_norm), pool=pool, label_smoothing=0.0)
    return Vit(chosen), encoder(chosen)


def config_of(described: Described) -> MaeConfig:
    c = described.config
    config = of_weights(described.weights, size_hints(described), c.get("decoder_num_heads"))
    if config is None:
        raise InputError(f"{described.path}: has the names of no known auto-encoder")
    return replace(config, mask_ratio=c.get("mask_ratio", 0.75), normalise_pixels=False)


@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    del keep_padding  # images of one size have none
    images = Images(case.inputs["imgs"])
    if isinstance(model, Mae):
        return pretraining(case, model, images)
    assert isinstance(model, Vit)
    model.resize(*size_of(images))
    batch = Batch(images=images, labels=Labels(label=case.inputs.get("labels")))
    seen = model.encode(batch).pooled
    out: dict[str, Tensor] = {"features": seen["image"], "interpolated_pos_embed": model.trunk.positions}
    if "logits" in seen:
        out["logits"] = seen["logits"]
    if batch.labels.label is not None:
        out["loss"] = model.losses(batch)["classification"]
    return out


def size_of(images: Images) -> tuple[int, int]:
    assert images.pixels is not None
    return images.pixels.shape[2], images.pixels.shape[3]


def pretraining(case: Case, model: Mae, images: Images) -> Outputs:
    noise = case.inputs["noise"]
    visible, hidden = model.hide(noise)
    order = torch.cat([visible, hidden], 1)
    record: dict[str, Tensor] = {}
    latent = model.see(images, visible, record)
    model.decode(latent, order, record)
    predicted, mask = model.predictions(images, noise)
    patches = model.patchify(images)
    last = model.config.decoder_depth - 1
    out: dict[str, Tensor] = {
        "latent": latent.to_padded(),
        "mask": mask,
        "ids_restore": order.argsort(1),
        "pred": predicted,
        "loss": model.losses(Batch(images=images), Draws(choices={"noise": noise}))["reconstruction"],
        "loss_norm_pix": Reconstruction(normalise=True)(predicted[mask.bool()], patches[mask.bool()]),
        "loss_all_patches": Reconstruction(normalise=False)(predicted, patches),
        "patches": patches,
        "unpatchified_pred": model.unpatchify(predicted),
        "decoder_last_block": record[f"decoder.{last}.hidden"].unflatten(0, (len(latent), -1)),
    }
    for i in range(model.config.trunk.depth):
        out[f"encoder_block{i}"] = latent.with_values(record[f"image.{i}.hidden"]).to_padded()
    return out


ADAPTOR = Adaptor(lambda d: d.system.lower() == "mae" or d.system.lower().startswith("mae "), build, run)
