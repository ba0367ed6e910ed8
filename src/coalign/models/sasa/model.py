"""SASA: Stand-Alone Self-Attention in Vision Models (Ramachandran et al., NeurIPS 2019, arXiv 1906.05909).

A ResNet whose spatial convolutions are attention: every pixel attends to its 7 x 7 neighbourhood with relative
positions, and a 2 x 2 average pool follows where the convolution would stride. The stem may be attention too, within
4 x 4 blocks, with values that know their place. Stages can keep their convolutions (section 4.3: convolution early,
attention late does best).

No official code or weights exist. The paper's text (section 3.1) lets each head transform its own slice of the
channels (`grouped=True`); its parameter counts are those of heads that see all channels, which is the default here: see
`count`. The border of the image, which the paper leaves open, is an option. Relative offsets start with deviation
1/sqrt(head width), since scores are not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checkpoints import Rename, Reshape, Stack, StateMap, Transpose
from coalign.checkpoints.statemap import Rule
from coalign.layers.initialise import shapes_alone
from coalign.layers.local_attention import AttentionStem, Border, LocalAttention, Positions
from coalign.objectives.classification import Classification
from coalign.types import FREE, Batch, Draws, Encoding, ImageSpec, InputSpec, Model, Packed, Record, System
from coalign.types.spec import IMAGENET_MEAN, IMAGENET_STD

EXPANSION = 4


@dataclass(frozen=True)
class SasaConfig:
    """`blocks` of each stage; `attention` says which stages attend, the others convolve (3 x 3).

    `stem`: "attention" within blocks (the paper), "convolution" (7 x 7, max pool), or "attention_image", the reading
    of MerHS/SASA-pytorch, whose tables fit `image_size`. `stem_pool` 1 keeps the full size for small images.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    attention: tuple[bool, ...] = (True, True, True, True)
    stem: Literal["attention", "attention_image", "convolution"] = "attention"
    width: int = 64
    kernel: int = 7
    heads: int = 8
    stem_kernel: int = 4
    stem_pool: int = 4
    stem_heads: int = 4
    mixtures: int = 4
    grouped: bool = False
    positions: Positions = "shared"
    border: Border = "zeros"
    classes: int = 1000
    image_size: int = 224


SIZES = {
    "tiny": SasaConfig(
        blocks=(1, 1, 1), attention=(True,) * 3, width=32, kernel=5, heads=4, stem_pool=2, image_size=32
    ),
    "resnet26": SasaConfig(blocks=(1, 2, 4, 1)),
    "resnet38": SasaConfig(blocks=(2, 3, 5, 2)),
    "resnet50": SasaConfig(),
    "resnet50-convolution-stem": SasaConfig(stem="convolution"),
    "resnet50-late-attention": SasaConfig(stem="convolution", attention=(False, False, True, True)),
}


class Stem(nn.Module):
    """Attention (or a 7 x 7 convolution), BatchNorm, ReLU, max pool: to a quarter of the image's size."""

    def __init__(self, config: SasaConfig) -> None:
        super().__init__()
        c = config
        self.mix: nn.Module
        self.pool: nn.Module
        if c.stem == "convolution":
            self.mix = nn.Conv2d(3, c.width, 7, 2, 3, bias=False)
            self.pool = nn.MaxPool2d(3, 2, 1)
        else:
            self.mix = (
                AttentionStem(3, c.width, c.stem_kernel, c.mixtures, heads=c.stem_heads)
                if c.stem == "attention"
                else AttentionStem(3, c.width, c.stem_kernel, c.mixtures, place="image", image_size=c.image_size)
            )
            self.pool = nn.MaxPool2d(c.stem_pool)
        self.norm = nn.BatchNorm2d(c.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.norm(self.mix(x))))


class Bottleneck(nn.Module):
    """1 x 1 convolution, attention (or 3 x 3 convolution), 1 x 1 convolution, beside a shortcut (He et al. 2016).

    Downsampling is a 2 x 2 average pool after the attention, before its norm (section 3.2).
    """

    def __init__(self, config: SasaConfig, channels: int, width: int, stride: int, attention: bool) -> None:
        super().__init__()
        c, out = config, width * EXPANSION
        self.conv1, self.norm1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.mix: nn.Module
        if attention:
            self.mix = LocalAttention(
                width, width, c.kernel, c.heads, grouped=c.grouped, positions=c.positions, border=c.border
            )
        else:
            self.mix = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if attention and stride > 1 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.pool(self.mix(h))))
        return F.relu(self.norm3(self.conv3(h)) + self.shortcut(x))


class Sasa(Model):
    """The classifier. Labels are `labels.label`: [B] int64, or [B, classes] shares."""

    def __init__(self, config: SasaConfig) -> None:
        super().__init__()
        c = self.config = config
        if len(c.attention) != len(c.blocks):
            raise ValueError(f"{len(c.blocks)} stages, and `attention` speaks of {len(c.attention)}")
        self.stem = Stem(c)
        self.stages = nn.ModuleList()
        channels = c.width
        for number, (count, attention) in enumerate(zip(c.blocks, c.attention, strict=True)):
            width = c.width * 2**number
            blocks: list[nn.Module] = []
            for place in range(count):
                stride = 2 if number and place == 0 else 1
                blocks.append(Bottleneck(c, channels, width, stride, attention))
                channels = width * EXPANSION
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Linear(channels, c.classes)
        self.classify = Classification()
        self.apply(init_sasa)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(image=ImageSpec.square(self.config.image_size, IMAGENET_MEAN, IMAGENET_STD))

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """The cells of the last map as rows "image", their mean, class "logits", and the mean at unit length.

        With `record`: "stem" and "stage{i}" [B, C, h, w].
        """
        if batch.images is None or batch.images.pixels is None:
            raise ValueError("this batch holds no pixels")
        kept: Record = {}
        kept["stem"] = x = self.stem(batch.images.pixels)
        for number, stage in enumerate(self.stages):
            kept[f"stage{number}"] = x = stage(x)
        pooled = x.mean((2, 3))
        rows = Packed.uniform(x.flatten(2).transpose(1, 2))
        return Encoding(
            {"image": rows},
            {"image": pooled, "logits": self.head(pooled)},
            {"image": F.normalize(pooled, dim=-1)},
            kept if record else {},
        )

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Cross-entropy of the classes."""
        del draws
        return {"classification": self.classify(self.encode(batch).pooled["logits"], batch.labels.require("label"))}


def init_sasa(module: nn.Module) -> None:
    """Kaiming-normal convolutions (He et al. 2015); norms and the head as PyTorch makes them."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# ------------------------------------------------------------------------------------------------------------ counts
@dataclass(frozen=True)
class Counts:
    """`parameters`, and `flops` of one image: a multiplication and an addition count as two, as in the paper."""

    parameters: int
    flops: int


def count(config: SasaConfig) -> Counts:
    """Parameters and FLOPs of convolutions, linear layers and attention at `image_size`.

    The paper's table 1 (millions, billions), in brackets where ours is more than 2 % off what is printed:

        =========  ============  ======================  ==============
        network    baseline      convolution stem        full attention
        =========  ============  ======================  ==============
        ResNet-26  13.7, 4.7     10.3, 4.5               10.3, [4.7]
        ResNet-38  19.6, 6.5     14.1, 5.7               14.1, [6.0]
        ResNet-50  25.6, 8.2     18.0, 7.0               18.0, 7.2
        =========  ============  ======================  ==============

    Ours are 4.60 and 5.84 there. q · r is counted as written, once for each place of the window (`LocalAttention` does
    it once for each row and column); the stem has no relative term, as appendix A.1 writes it without. The paper must
    have counted one: with it the counts are 4.70, 5.94 and 7.18, and the two other stems of table 7, 7.1 and 7.4 there,
    come out at 7.10 and 7.39, but at 7.00 and 7.29 without. Tables 3 (which stages attend), 4 (kernels 3 to 11) and 5
    (no relative term), all with the convolutional stem, agree within 2 %. The parameters need `grouped=False`: with
    `grouped=True` they are 14 to 18 % and the FLOPs 24 to 27 % fewer.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        cells = output[0, 0].numel() if output.dim() == 4 else 1
        if isinstance(module, nn.Conv2d):
            total += 2 * module.weight.numel() * cells
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel()
        elif isinstance(module, LocalAttention):  # q · k, q · r, weighted sum
            products = 2 if module.row is None else 3
            total += 2 * products * module.kernel**2 * module.out_channels * cells
        elif isinstance(module, AttentionStem):  # the values of all mixtures and their sum, scores, weighted sum
            mixtures, width, channels = module.value.shape[:3]
            total += 2 * width * (mixtures * (channels + 1) + 2 * module.kernel**2) * cells

    with shapes_alone():
        model = Sasa(config).eval()
        for module in model.modules():
            module.register_forward_hook(add)
        x = model.stem(torch.empty(1, 3, config.image_size, config.image_size))
        for stage in model.stages:
            x = stage(x)
        model.head(x.mean((2, 3)))
    return Counts(sum(p.numel() for p in model.parameters()), total)


# ------------------------------------------------------------------------------------------------------- checkpoints
def merhs(config: SasaConfig) -> StateMap:
    """The names of MerHS/SASA-pytorch."""
    stem: list[Rule] = [Rename("bn1.{p}", "stem.norm.{p}"), Rename("fc.{p}", "head.{p}")]
    if config.stem == "convolution":
        stem.append(Rename("conv1.weight", "stem.mix.weight"))
    else:
        stem += [
            Rename("conv1.weight_query.weight", "stem.mix.query.weight"),
            Rename("conv1.weight_key.weight", "stem.mix.key.weight"),
            Stack(tuple(f"conv1.weight_values.{m}.weight" for m in range(config.mixtures)), "stem.mix.value"),
            Transpose("conv1.emb_x", "stem.mix.column"),
            Transpose("conv1.emb_y", "stem.mix.row"),
            Rename("conv1.emb_m", "stem.mix.mixture"),
            Rename("conv1.relative_x", "stem.mix.relative_column"),
            Rename("conv1.relative_y", "stem.mix.relative_row"),
        ]
    rules = [merhs_block_rules(f"layer{s + 1}.{{i}}.", f"stages.{s}.{{i}}.") for s in range(len(config.blocks))]
    return StateMap(stem, *rules)


def merhs_block_rules(file: str, ours: str) -> list[Rule]:
    """One bottleneck of MerHS/SASA-pytorch."""
    names = {
        "conv1.weight": "conv1.weight",
        "bn1.{p}": "norm1.{p}",
        "conv2.weight": "mix.weight",
        "conv2.weight_query.weight": "mix.query.weight",
        "conv2.weight_key.weight": "mix.key.weight",
        "conv2.weight_value.weight": "mix.value.weight",
        "conv2.relative_x": "mix.column",
        "conv2.relative_y": "mix.row",
        "bn2.{p}": "norm2.{p}",
        "conv3.weight": "conv3.weight",
        "bn3.{p}": "norm3.{p}",
        "downsample.{j}.{p}": "shortcut.{j}.{p}",
    }
    return [Rename(f"{file}{theirs}", f"{ours}{mine}") for theirs, mine in names.items()]


def leaderj(config: SasaConfig) -> StateMap:
    """The names of leaderj1001/Stand-Alone-Self-Attention (positions "by_channel", grouped=False, stem_pool=1).

    Their layer departs from the paper (a softmax for each channel); the weights are read into the paper's formula.
    """
    rules: list[Rule] = [
        Rename("dense.{p}", "head.{p}"),
        Rename("init.1.{p}", "stem.norm.{p}"),
        Rename("init.0.query_conv.weight", "stem.mix.query.weight"),
        Rename("init.0.key_conv.weight", "stem.mix.key.weight"),
        Stack(tuple(f"init.0.value_conv.{m}.weight" for m in range(config.mixtures)), "stem.mix.value"),
        Transpose("init.0.emb_a", "stem.mix.row"),
        Transpose("init.0.emb_b", "stem.mix.column"),
        Rename("init.0.emb_mix", "stem.mix.mixture"),
        Rename("init.0.weight", "stem.mix.weight"),
    ]
    for stage in range(len(config.blocks)):
        file, ours = f"layer{stage + 1}.{{i}}.", f"stages.{stage}.{{i}}."
        half, k = config.width * 2**stage // 2, config.kernel
        rules += [
            Reshape(f"{file}conv2.0.rel_h", f"{ours}mix.row", (half, 1, 1, k, 1), (half, k)),
            Reshape(f"{file}conv2.0.rel_w", f"{ours}mix.column", (half, 1, 1, 1, k), (half, k)),
            Rename(f"{file}conv2.0.weight", f"{ours}mix.weight"),
            Rename(f"{file}conv1.0.weight", f"{ours}conv1.weight"),
            Rename(f"{file}conv3.0.weight", f"{ours}conv3.weight"),
            Rename(f"{file}shortcut.{{j}}.{{p}}", f"{ours}shortcut.{{j}}.{{p}}"),
            *(Rename(f"{file}conv{n}.1.{{p}}", f"{ours}norm{n}.{{p}}") for n in (1, 2, 3)),
            *(
                Rename(f"{file}conv2.0.{part}_conv.weight", f"{ours}mix.{part}.weight")
                for part in ("query", "key", "value")
            ),
        ]
    return StateMap(rules)


SYSTEM = System(
    name="sasa",
    title="SASA: stand-alone self-attention",
    paper="Ramachandran et al., NeurIPS 2019, arXiv 1906.05909",
    model=Sasa,
    config=SasaConfig,
    sizes=SIZES,
    weights={"merhs": merhs, "leaderj": leaderj},
    objectives=("classification",),
    with_image_size=lambda config, size: replace(config, image_size=size),
)
