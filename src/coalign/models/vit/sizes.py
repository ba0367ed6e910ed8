"""The sizes of a published ViT classifier, read from the names and shapes of its tensors: Google's, timm's (MAE's too),
Hugging Face's."""

from __future__ import annotations

from coalign.models.vit.config import VitClassifierConfig, timm_crop
from coalign.trunks.vit import VitConfig
from coalign.trunks.vit_sizes import SizeHints, Weights, count, grid_of, rows_of, timm_trunk, transformers_trunk


def classifier_of(weights: Weights, hints: SizeHints | None = None) -> VitClassifierConfig | None:
    """The configuration of a ViT file of any of the three layouts; None where it is none of them."""
    hints = hints or SizeHints()
    if "embedding/kernel" in weights:
        return google_classifier(weights, hints)
    if "patch_embed.proj.weight" in weights:
        trunk, classes = timm_trunk(weights, hints), rows_of(weights, "head.weight")
        return VitClassifierConfig(trunk, classes, resize="bicubic_antialias", keep=timm_crop(trunk))
    prefix = "vit." if "vit.embeddings.cls_token" in weights else ""
    if f"{prefix}embeddings.cls_token" not in weights:
        return None
    return VitClassifierConfig(
        transformers_trunk(weights, hints, prefix),
        classes=rows_of(weights, "classifier.weight"),
        representation_dim=rows_of(weights, f"{prefix}pooler.dense.weight"),
    )


def google_classifier(weights: Weights, hints: SizeHints) -> VitClassifierConfig:
    """Google's .npz files. A file without class token averages the patches."""
    height, width, _, dim = weights["embedding/kernel"].shape
    token = "cls" in weights
    patches = weights["Transformer/posembed_input/pos_embedding"].shape[1] - token
    rows, columns = grid_of(patches, (height, width), hints.images)
    query = next(name for name in weights if name.endswith("/query/kernel"))
    up = next(name for name in weights if name.endswith("/Dense_0/kernel"))
    trunk = VitConfig(
        image_size=rows * height,
        image_width=columns * width,
        patch_size=height,
        patch_width=width,
        dim=dim,
        depth=count(weights, "Transformer/encoderblock_{}/"),
        heads=weights[query].shape[1],
        hidden_dim=weights[up].shape[1],
        activation="gelu_tanh",
        class_token=token,
    )
    head, layer = weights.get("head/kernel"), weights.get("pre_logits/kernel")
    return VitClassifierConfig(
        trunk,
        classes=None if head is None else head.shape[1],
        pool="token" if token else "mean",
        representation_dim=None if layer is None else layer.shape[1],
        resize="bilinear_corners",
        interpolation="bilinear",
    )


OF_WEIGHTS = classifier_of
