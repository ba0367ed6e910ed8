"""Recorded cases of dandelin/ViLT, and the manifests of its files and Hugging Face's."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import StateMap
from coalign.layers.joint import Joint
from coalign.models.vilt.heads import ViltClassifier, ViltRetrieval, ViltTaskConfig, task_original, task_transformers
from coalign.models.vilt.model import Vilt, ViltConfig, ViltTrunk
from coalign.models.vilt.names import original, transformers
from coalign.ops.patches import pack_patches
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs
from coalign.parity.vit import images_of
from coalign.trunks.vit import VitConfig, sides
from coalign.trunks.vit_sizes import grid_of
from coalign.types import Batch, Draws, Images, Packed, Text

Produced = dict[str, Tensor | Packed]


def config_of(described: Described) -> ViltConfig:
    """The authors' configuration or Hugging Face's; sizes that both name differently come from the weights."""
    c = described.config
    hugging_face = hf(described)
    text = "vilt.embeddings.text_embeddings" if hugging_face else "text_embeddings"
    positions = "vilt.embeddings.position_embeddings" if hugging_face else "transformer.pos_embed"
    layer = "vilt.encoder.layer.{}." if hugging_face else "transformer.blocks.{}."
    up = "intermediate.dense.weight" if hugging_face else "mlp.fc1.weight"
    patch = sides(c["patch_size"])
    rows, columns = grid_of(described.shape(positions)[1] - 1, patch, images_of(described.config))
    image = VitConfig(
        image_size=rows * patch[0],
        patch_size=patch[0],
        dim=c["hidden_size"],
        depth=described.count(layer),
        heads=c.get("num_heads") or c["num_attention_heads"],
        hidden_dim=described.shape(layer.format(0) + up)[0],
        eps=c.get("layer_norm_eps", 1e-6),
        dropout=0.1,
        image_width=columns * patch[1],
        patch_width=patch[1],
    )
    return ViltConfig(
        image,
        vocab_size=described.shape(f"{text}.word_embeddings.weight")[0],
        max_text_length=described.shape(f"{text}.position_embeddings.weight")[0],
        modalities=described.shape(
            "vilt.embeddings.token_type_embeddings.weight" if hugging_face else "token_type_embeddings.weight"
        )[0],
        real_patches="pixels",
        objectives=("mlm", "itm") if "itm_score.fc.weight" in described.weights else ("mlm",),
    )


def hf(described: Described) -> bool:
    return any(name.startswith("vilt.") for name in described.weights)


def build(described: Described) -> tuple[nn.Module, StateMap]:
    base, weights = config_of(described), described.weights
    if "rank_output.weight" in weights:
        task = ViltTaskConfig(base, "retrieval", 1)
        return ViltRetrieval(task), (task_transformers if hf(described) else task_original)(task)
    kinds: tuple[tuple[str, Literal["vqa", "nlvr2"] | None], ...] = (
        ("vqa_classifier", "vqa"),
        ("nlvr2_classifier", "nlvr2"),
        ("classifier", None),
    )
    for prefix, name in kinds:
        if f"{prefix}.0.weight" in weights:
            images: Literal[1, 2] = 2 if described.shape(f"{prefix}.0.weight")[1] == 2 * base.image.dim else 1
            kind = name or ("nlvr2" if images == 2 else "vqa")
            task = ViltTaskConfig(base, kind, described.shape(f"{prefix}.3.weight")[0], images)
            return ViltClassifier(task), (task_transformers if hf(described) else task_original)(task)
    return Vilt(base), (transformers if hf(described) else original)(base)


def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    if isinstance(model, Vilt):
        return pretraining(case, model, keep_padding)
    if isinstance(model, ViltRetrieval):
        return retrieval(case, model, keep_padding)
    assert isinstance(model, ViltClassifier)
    return classifier(case, model, keep_padding)


def text_of(case: Case, keep: bool, ids: str = "text_ids") -> Text:
    return Text(Packed.from_padded(case.inputs[ids], case.inputs["text_masks"], keep))


class Pass:
    """One recorded call of `infer`: its states, and what it is recorded by."""

    def __init__(
        self,
        case: Case,
        trunk: ViltTrunk,
        call: int,
        text: Text,
        images: Images,
        source: Tensor | None = None,
        kind: int = 1,
        keep: bool = False,
    ) -> None:
        self.select, self.call, self.trunk = case.inputs[f"select_{call}"], call, trunk
        real = trunk.real(images).flatten(1)
        real = real if source is None else real[source]
        self.patches = pack_patches(self.select, real, keep)
        self.image = trunk.embed_image(images, self.patches, source)
        self.joint = trunk(text, images, self.patches, source, kind=kind)
        self.mask = F.pad(real.gather(1, self.select).long(), (1, 0), value=1)

    def outputs(self, name: str) -> Produced:
        text, image = self.joint.split()
        return {
            f"image_embeds_{self.call}": self.image,
            f"image_masks_{self.call}": self.mask,
            f"{name}/text_feats": text,
            f"{name}/image_feats": image,
            f"{name}/raw_cls_feats": self.joint.rows.first,
            f"{name}/cls_feats": self.trunk.pool(self.joint),
        }


def pretraining(case: Case, model: Vilt, keep: bool) -> Produced:
    given, out = case.inputs, Produced()
    call = 0
    if "text_ids_mlm" in given:
        images, hidden = Images(given["image"]), text_of(case, keep, "text_ids_mlm")
        seen = Pass(case, model.trunk, call, hidden, images, keep=keep)
        states = seen.joint.split()[0]
        labels = Packed.from_padded(given["text_labels_mlm"], given["text_masks"], keep).values
        choices = {"mlm_input_ids": hidden.ids.values, "mlm_labels": labels, "select_mlm": seen.select}
        out |= seen.outputs("mlm") | {"mlm_logits": states.with_values(model.words(states.values))}
        out["mlm_loss"] = model.losses(Batch(text=hidden, images=images), Draws(choices=choices, only=("mlm",)))["mlm"]
        call += 1
    if "itm_permutation" in given:
        out |= matching(case, model, call, keep)
    return out


def matching(case: Case, model: Vilt, call: int, keep: bool) -> Produced:
    given, text = case.inputs, text_of(case, keep)
    size = len(text.ids)
    labels = (torch.arange(size) < size // 2)[given["itm_permutation"]]
    images = Images(torch.cat([given["image"], given["false_image_0"]]))
    source = torch.arange(size) + size * (~labels)
    seen = Pass(case, model.trunk, call, text, images, source, keep=keep)
    choices = {"image_index": source, "matched": labels, "select_itm": seen.select}
    losses = model.losses(Batch(text=text, images=images), Draws(choices=choices, only=("itm",)))
    alignment = model.align(seen.joint)
    words, patches = given["text_ids"].shape[1], seen.select.shape[1] + 1
    room = (0, patches - alignment.cost.shape[2], 0, words - alignment.cost.shape[1])
    length = given["text_masks"].sum(1, keepdim=True)
    place = torch.arange(words)
    return seen.outputs("itm") | {
        "itm_labels": labels.float(),
        "itm_logits": model.match_logits(seen.joint),
        "itm_loss": losses["itm"],
        "itm_wpa_loss": losses["wpa"],
        "ot_cost": F.pad(alignment.cost, room),
        "ot_plan": F.pad(alignment.plan, room).transpose(1, 2),
        "ot_distance": alignment.distance,
        "ot_text_pad": ~((place > 0) & (place < length - 1)),
        "ot_image_pad": ~(seen.mask.bool() & (torch.arange(patches) > 0)),
    }


def classifier(case: Case, model: ViltClassifier, keep: bool) -> Produced:
    text, out = text_of(case, keep), Produced()
    names = ("first", "second") if model.config.images == 2 else ("vqa",)
    seen: list[Joint] = []
    for i, name in enumerate(names):
        images = Images(case.inputs.get(f"image_{i}", case.inputs.get("image")))
        made = Pass(case, model.trunk, i, text, images, kind=i + 1, keep=keep)
        seen.append(made.joint)
        out |= made.outputs(name)
    logits = model.answer(seen)
    if model.config.task == "vqa":
        given, scores = case.inputs["vqa_labels"], case.inputs["vqa_scores"]
        padded = logits.new_zeros(len(logits), logits.shape[1] + 1)  # one more answer takes the padded slots
        target = padded.scatter(1, given.masked_fill(given < 0, logits.shape[1]), scores)[:, :-1]
        return out | {"vqa_logits": logits, "vqa_targets": target, "vqa_loss": model.answers(logits, target)}
    return out | {"nlvr2_logits": logits, "nlvr2_loss": model.answers(logits, case.inputs["answers"])}


def retrieval(case: Case, model: ViltRetrieval, keep: bool) -> Produced:
    given = case.inputs
    count = sum(name.startswith("false_text_") and name.endswith("_ids") for name in given)
    names = ["text", *(f"false_text_{i}" for i in range(count))]
    ids, masks = (
        torch.stack([given[f"{name}_{kind}"] for name in names], 1).flatten(0, 1) for kind in ("ids", "masks")
    )
    batch = Batch(text=Text(Packed.from_padded(ids, masks, keep)), images=Images(given["image"]))
    assert batch.text is not None and batch.images is not None
    seen = Pass(case, model.trunk, 0, batch.text, batch.images, model.source(batch), keep=keep)
    loss = model.losses(batch, Draws(choices={"select_0": seen.select}))["retrieval"]
    return seen.outputs("irtr") | {"rank_score": model.rank(seen.joint, len(batch.images)), "irtr_loss": loss}


ADAPTOR = Adaptor(lambda d: d.system.lower().startswith("vilt"), build, run)
