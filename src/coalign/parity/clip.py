"""Recorded cases of openai/CLIP and mlfoundations/open_clip, and Hugging Face's layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.errors import InputError
from coalign.models.clip.model import Clip, ClipConfig
from coalign.models.clip.names import open_clip, open_clip_custom, openai, transformers
from coalign.models.clip.sizes import Facts, of_weights
from coalign.models.coca.model import Coca
from coalign.models.siglip.model import Siglip
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import images_of
from coalign.trunks.text import rows_of_marker
from coalign.types import Images, Packed


def config_of(described: Described) -> ClipConfig:
    """The sizes of the weights, with heads, GELU and end marker as the description says."""
    c = described.config
    gelu = c.get("quick_gelu", c.get("hidden_act", "quick_gelu") == "quick_gelu")
    facts = Facts(
        c.get("vision_heads"), c.get("transformer_heads"), bool(gelu), eps_of(c), end_of(described), images=images_of(c)
    )
    config = of_weights(described.weights, facts)
    if config is None:
        raise InputError(f"{described.path}: has the names of no known CLIP")
    return config


def eps_of(config: Any, default: float = 1e-5) -> float:
    return next((config[n] for n in ("layer_norm_eps", "norm_eps", "eps", "ln_eps") if config.get(n)), default)


def end_of(described: Described) -> int | None:
    """The end marker's id where it is not the largest: as the description says, or as the recorded texts end."""
    c = described.config
    given = next((c[n] for n in ("eos_token_id", "eos", "end", "end_id", "eot") if c.get(n) is not None), None)
    if given is not None:
        return None if given == 2 and layout_of(described) == "transformers" else int(given)
    if isinstance(described, Case) and "lengths" in c and layout_of(described) == "transformers":
        last = {int(row[length - 1]) for row, length in zip(described.inputs["input_ids"], c["lengths"], strict=True)}
        return last.pop() if len(last) == 1 else None
    return None


def layout_of(described: Described) -> str:
    """Whose names: a file's own word is not needed, since the names tell."""
    names = described.weights
    if "text_model.embeddings.token_embedding.weight" in names:
        return "transformers"
    if "text.token_embedding.weight" in names:
        return "open_clip_custom"
    return "openai" if "input_resolution" in names else "open_clip"


def build(described: Described) -> tuple[nn.Module, StateMap]:
    config = config_of(described)
    layouts = {
        "openai": openai,
        "open_clip": open_clip,
        "open_clip_custom": open_clip_custom,
        "transformers": transformers,
    }
    return Clip(config), layouts[layout_of(described)](config)


def texts_of(case: Case, keep_padding: bool, marker: int | None) -> Packed:
    """The recorded texts; packed, up to their end markers, and where there is no mask every row is real."""
    ids, mask = case.inputs["input_ids"], case.inputs.get("attention_mask")
    if mask is None and not keep_padding:
        end = rows_of_marker(Packed.uniform(ids), marker) - torch.arange(len(ids)) * ids.shape[1]
        mask = torch.arange(ids.shape[1]) <= end[:, None]
    return Packed.from_padded(ids, mask, keep_padding)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    assert isinstance(model, Clip)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        rows, image = model.read_image(Images(case.inputs["image"]), record)
        texts = texts_of(case, keep_padding, model.config.end)
        states, text = model.read_text(texts, record)
    out: dict[str, Tensor | Packed] = {
        "image_features": image,
        "text_features": text,
        "text_tokens": states,
        **contrast(model, image, text),
    }
    for i in range(model.config.text.depth):
        out[f"text_block.{i}"] = states.with_values(record[f"text.{i}.hidden"])
    if model.config.resnet is None:
        every = case.outputs.get("image_pooled", image).dim() == 3  # OpenCLIP norms all rows, OpenAI the first alone
        out["image_pooled"] = rows.to_padded() if every else rows.first
        out["image_embedded"] = rows.with_values(record["image.embedded"]).to_padded()
        for i in range(model.config.image.depth):
            out[f"image_block.{i}"] = rows.with_values(record[f"image.{i}.hidden"]).to_padded()
    else:
        out["image_stem"] = record["image.stem"]
        for i in range(len(model.config.resnet.blocks)):
            out[f"image_layer.{i + 1}"] = record[f"image.layer.{i + 1}"]
    return out


def contrast(model: Clip | Siglip | Coca, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Unit vectors, similarities, the loss, and its gradients by the names of all layouts."""
    vectors = [torch.nn.functional.normalize(side, dim=-1).requires_grad_() for side in (image, text)]
    learned = {"logit_scale": model.scale} | ({} if model.bias is None else {"logit_bias": model.bias})
    with torch.enable_grad():
        loss = model.loss(*vectors)
        slopes = torch.autograd.grad(loss, [*vectors, *learned.values()])
    logits = model.similarities(*vectors).detach()
    names = ("image_embeds", "text_embeds", *learned)
    out = {f"grad/{name}": slope for name, slope in zip(names, slopes, strict=True)}
    return out | {
        "image_embeds": vectors[0].detach(),
        "text_embeds": vectors[1].detach(),
        "logits_per_image": logits,
        "logits_per_text": logits.T,
        "loss": loss.detach(),
    }


def claims(described: Described) -> bool:
    return described.system.lower().replace("_", "").startswith(("clip", "openclip"))


ADAPTOR = Adaptor(claims, build, run)
