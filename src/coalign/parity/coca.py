"""Recorded cases of mlfoundations/open_clip's CoCa."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.coca.model import Coca
from coalign.models.coca.names import open_clip
from coalign.models.coca.sizes import Facts, of_weights
from coalign.models.coca.trunk import CocaConfig
from coalign.parity.blip import as_recorded, generated, generation
from coalign.parity.case import Case, Described
from coalign.parity.clip import contrast, eps_of
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import images_of
from coalign.types import Images, Packed


def config_of(described: Described) -> CocaConfig:
    """The sizes of the weights, with heads, padding and mask as the description says."""
    c = described.config
    heads = c.get("text_heads")
    facts = Facts(
        c.get("vision_heads"),
        heads,
        c.get("decoder_heads", heads),
        c.get("pooler_heads"),
        eps_of(c),
        images=images_of(c),
    )
    config = of_weights(described.weights, facts)
    if config is None:
        raise InputError(f"{described.path}: has the names of no known CoCa")
    late = not c.get("correct_cls_mask", False)
    return replace(config, padding=c.get("pad_id", 0), late_mask=late)


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    return Coca(config), open_clip(config)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, Coca)
    given, record = case.inputs["input_ids"], dict[str, Tensor]()
    ids = Packed.from_padded(given, given != model.config.padding, keep_padding)
    with torch.no_grad():
        rows, queries, image = model.read_image(Images(case.inputs["image"]), record)
        words, text = model.read_text(ids, record)
        decoded = model.decoder(words, queries, record=record)
        logits = model.decoder.logits(decoded.values)
        loss = model.config.caption_weight * model.words(*_predicted(model, ids, logits))
    seen = contrast(model, image, text)
    out: dict[str, Tensor | Packed] = {
        **seen,
        "image_features": image,
        "text_features": text,
        "image_embs": queries.to_padded(),
        "text_embs": words,
        "caption_logits": ids.with_values(logits),
        "loss_contrastive": seen["loss"],
        "loss_caption": loss,
    }
    for i in range(model.config.image.depth):
        out[f"image_block.{i}"] = rows.with_values(record[f"image.{i}.hidden"]).to_padded()
    if keep_padding:  # packed, the class row follows the words at once
        for i in range(model.config.text.depth):
            out[f"text_block.{i}"] = record[f"text.{i}.hidden"].unflatten(0, (len(ids), -1))
    for i in range(model.config.decoder_depth):
        out[f"decoder_block.{i}"] = ids.with_values(record[f"decoder.{i}.hidden"])
        out[f"decoder_cross_block.{i}"] = ids.with_values(record[f"decoder.{i}.cross_hidden"])
    for name, how in generated(case).items():
        begin = torch.full((len(image), 1), model.begin)
        out[name] = as_recorded(case, name, model.texts(queries, begin, generation(how, model.longest)))
    return out


def _predicted(model: Coca, ids: Packed, logits: Tensor) -> tuple[Tensor, Tensor]:
    rows, labels = model.labelled(ids)
    return logits[rows], labels


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("coca"), build, run)
