"""Recorded cases of stand-alone self-attention, and the names of its two public re-implementations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.checkpoints import Carry, Rename, StateMap
from coalign.layers.local_attention import AttentionStem, Border, LocalAttention
from coalign.models.sasa.model import Bottleneck, Sasa, SasaConfig, leaderj, merhs, merhs_block_rules
from coalign.parity.case import Case, Described
from coalign.parity.verify import Adaptor, Outputs


class Pieces(nn.Module):
    """The modules that a recorded case runs, each by itself: the layer, a bottleneck, the stem."""

    def __init__(self, layer: LocalAttention, bottleneck: Bottleneck, stem: AttentionStem) -> None:
        super().__init__()
        self.layer, self.bottleneck, self.stem = layer, bottleneck, stem


def build(described: Described) -> tuple[nn.Module, StateMap]:
    if "layer.weight_query.weight" in described.weights:
        return pieces(described)
    if "dense.weight" in described.weights:
        config = leaderj_config(described)
        return Sasa(config), leaderj(config)
    config = merhs_config(described)
    return Sasa(config), merhs(config)


def pieces(described: Described) -> tuple[nn.Module, StateMap]:
    c, shape = described.config, described.shape
    out, own, *_ = shape("layer.weight_query.weight")
    kernel = shape("layer.relative_x")[1]
    layer = LocalAttention(own * c["groups"], out, kernel, c["groups"], grouped=True)
    planes, channels, *_ = shape("bottleneck.conv1.weight")
    heads = planes // shape("bottleneck.conv2.weight_query.weight")[1]
    config = SasaConfig(kernel=shape("bottleneck.conv2.relative_x")[1], heads=heads, grouped=True)
    bottleneck = Bottleneck(config, channels, planes, c["bstride"], attention=True)
    mixtures, width, colours, *_ = shape("stem.values")
    stem = AttentionStem(colours, width, shape("stem.emb_row")[0], mixtures)
    names = StateMap(
        Carry("lj.{rest}"),
        Rename("layer.relative_x", "layer.column"),
        Rename("layer.relative_y", "layer.row"),
        [Rename(f"layer.weight_{part}.weight", f"layer.{part}.weight") for part in ("query", "key", "value")],
        merhs_block_rules("bottleneck.", "bottleneck."),
        Rename("stem.emb_row", "stem.row"),
        Rename("stem.emb_col", "stem.column"),
        Rename("stem.nu", "stem.mixture"),
        Rename("stem.values", "stem.value"),
        # the case stores the stem's 1 x 1 convolutions without a module of their own
        Rename("stem.query", "stem.query.weight"),
        Rename("stem.key", "stem.key.weight"),
    )
    return Pieces(layer, bottleneck, stem), names


def merhs_config(described: Described) -> SasaConfig:
    """A whole ResNet's sizes, from its weights."""
    weights, shape = described.weights, described.shape
    config = network_config(described, "layer{}.0.conv2.relative_x", "layer{}.0.conv1.weight", "fc.weight")
    if "conv1.weight" in weights:
        return replace(config, stem="convolution", grouped=True)
    kernel = shape("conv1.relative_x")[1]
    return replace(
        config,
        stem="attention_image",
        stem_kernel=kernel,
        mixtures=shape("conv1.emb_m")[0],
        image_size=shape("conv1.emb_x")[1] - 2 * (kernel // 2),
        grouped=True,
    )


def leaderj_config(described: Described) -> SasaConfig:
    """A whole ResNet's sizes, from its weights, as built for small images: no pool after the stem."""
    config = network_config(described, "layer{}.0.conv2.0.rel_h", "layer{}.0.conv1.0.weight", "dense.weight")
    mixtures, kernel = described.shape("init.0.emb_mix")[0], described.shape("init.0.emb_a")[1]
    return replace(config, stem_pool=1, stem_heads=1, stem_kernel=kernel, mixtures=mixtures, positions="by_channel")


def network_config(described: Described, offsets: str, first: str, head: str) -> SasaConfig:
    """`offsets` and `first` name a stage's column offsets and first convolution. The heads are the config's, or 8."""
    weights = described.weights
    stages = [stage for stage in range(1, 10) if first.format(stage) in weights]
    attending = [stage for stage in stages if offsets.format(stage) in weights]
    return SasaConfig(
        blocks=tuple(described.count(f"layer{stage}.{{}}.") for stage in stages),
        attention=tuple(stage in attending for stage in stages),
        width=described.shape(first.format(1))[0],
        kernel=max(described.shape(offsets.format(attending[0]))[1:]) if attending else 7,
        heads=described.config.get("heads", 8),
        classes=described.shape(head)[0],
    )


@torch.no_grad()
def run(case: Case, model: nn.Module | None, keep_padding: bool) -> Outputs:
    del keep_padding  # maps have none
    assert isinstance(model, Pieces)
    out: dict[str, Tensor] = {}
    x, image, step = case.inputs["x"], case.inputs["image"], case.config.get("stride", 1)
    borders: dict[str, Border] = {"y_masked_border": "masked", "y": "zeros"}
    for name, border in borders.items():
        model.layer.border = border
        out[name] = model.layer(x)[..., ::step, ::step]
    out["bottleneck"] = model.bottleneck(x)
    out["stem_mixture_p"] = model.stem.mixture_weights(model.stem.row, model.stem.column).permute(2, 0, 1)
    out["stem_block_attention"] = model.stem(image)
    return out


ADAPTOR = Adaptor(lambda d: d.system.lower() in ("sasa", "stand-alone self-attention"), build, run)
