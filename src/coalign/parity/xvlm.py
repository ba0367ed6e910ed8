"""Recorded cases of zengyan-97/X-VLM."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.xvlm.model import Xvlm
from coalign.models.xvlm.names import original
from coalign.models.xvlm.sizes import Facts, of_weights
from coalign.models.xvlm.trunk import XvlmConfig
from coalign.objectives.matching import matched_pairs
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import images_of
from coalign.types import Batch, Draws, Images, Packed, Places, Text


def config_of(described: Described) -> XvlmConfig:
    """The sizes of the weights, with heads, eps and the depth of local attention as the description says."""
    c = described.config
    bert = c.get("bert") or {}
    facts = Facts(
        c.get("vision_heads"),
        bert.get("num_attention_heads"),
        local_depth=c.get("local_attn_depth", 4),
        text_eps=bert.get("layer_norm_eps", 1e-12),
        images=images_of(c),
    )
    config = of_weights(described.weights, facts)
    if config is None:
        raise InputError(f"{described.path}: has the names of no known X-VLM")
    return config


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return Xvlm(config), original(config)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    """One training step, on texts about whole pictures and about parts of them."""
    assert isinstance(model, Xvlm)
    given = case.inputs

    def packed(name: str) -> Packed:
        return Packed.from_padded(given[name], given["attention_mask"], keep_padding)

    places = Places(given["image_index"], given["boxes"], given["whole"].bool())
    batch = Batch(text=Text(packed("input_ids")), images=Images(given["image"]), places=places)
    choices = {name: given[name] for name in ("neg_image_index", "neg_text_index")}
    choices |= {name: packed(name).values for name in ("mlm_input_ids", "mlm_labels")}
    own, whole = model.towers.of_places(batch)
    losses = model.losses(batch, Draws(choices=choices))
    boxes, target = model.predict_boxes(batch, own.text, whole)
    far, apart = model.box.parts(boxes, target)
    hidden = own.text.with_values(choices["mlm_input_ids"])
    every = torch.arange(len(hidden.values))
    texts, images, _ = matched_pairs(choices)
    out: dict[str, Tensor | Packed] = {
        "region_rows": own.image.values,
        "region_vectors": own.image_vector,
        "text_embeds": own.text,
        "text_vectors": own.text_vector,
        "image_embeds": whole.to_padded(),
        "image_vectors": model.towers.image_vector(whole),
        "loss_itc": losses["itc"],
        "loss_itc_ids": model.losses(replace(batch, ids=given["ids"]), Draws(only=("itc",)))["itc"],
        "itm_logits": model.match_head(model.towers.fuse_first(own.text, own.image, texts, images)),
        "loss_itm": losses["itm"],
        "mlm_logits": hidden.with_values(model.towers.predict(model.towers.read(hidden), own.image, every)),
        "loss_mlm": losses["mlm"],
        "boxes": boxes_of_all(model, batch, own.text, whole),
        "loss_l1": far,
        "loss_giou": apart,
        "fused": model.towers.fuse(own.text, own.image),
    }
    return out | gradients(model, losses)


def boxes_of_all(model: Xvlm, batch: Batch, text: Packed, whole: Packed) -> Tensor:
    """The boxes of texts about whole pictures too, which no loss reads."""
    assert batch.places is not None
    every = replace(batch.places, whole=torch.zeros_like(batch.places.whole))
    return model.predict_boxes(replace(batch, places=every), text, whole)[0]


def gradients(model: Xvlm, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the sum of all losses, by the file's names; "patch" is the kernel of the patches."""
    ours = dict(model.named_parameters())
    slopes = torch.autograd.grad(sum(losses.values()), list(ours.values()), allow_unused=True)  # pyright: ignore
    known = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(ours.items(), slopes, strict=True)}
    patch = known["online.image.patch.projection.weight"]
    return {f"grad/{n}": t for n, t in {**original(model.config).export(known), "patch": patch}.items()}


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("xvlm"), build, run)
