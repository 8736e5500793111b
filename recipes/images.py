"""Convolutional networks for images of any size: LeNet, the four layers of papers/002, a residual one, an auto-encoder.

Plain torch modules without buffers, safe under vmap, grad and jvp, as in `networks`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel.recipes.conditional import PART, conditional_layers
from bilevel.recipes.networks import Norm, checked_norm, normalisation
from bilevel.recipes.records import bad_argument, require_positive
from bilevel.registry import model

IMAGE = ("channels", "size", "size")


class Pooled(nn.Module):
    """5 x 5 convolutions with ReLU, each followed by pooling over 2 x 2, then linear layers with ReLU."""

    def __init__(
        self, image: tuple[int, int], filters: list[int], padding: int, widths: list[int], pool: str, cn: nn.ModuleList
    ) -> None:
        super().__init__()
        channels, size = image
        body: list[nn.Module] = []
        for count in filters:
            body.append(nn.Conv2d(channels, count, kernel_size=5, padding=padding))
            channels, size, padding = count, (size + 2 * padding - 4) // 2, 0
        sizes = [channels * size * size, *widths]
        self.body = nn.ModuleList(body)
        *hidden, head = (nn.Linear(a, b) for a, b in pairwise(sizes))
        self.hidden = nn.ModuleList(hidden)
        self.head = head
        self.cn = cn
        self.largest = pool == "max"

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, real[n, width]."""
        for layer, cn in zip(self.body, self.cn, strict=False):
            x = cn(pooled(torch.relu(layer(x)), self.largest))
        x = x.flatten(1)
        for layer, cn in zip(self.hidden, list(self.cn)[len(self.body) :], strict=True):
            x = cn(torch.relu(layer(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Scores real[n, classes] of images real[n, channels, size, size]."""
        return self.head(self.features(x))  # type: ignore[no-any-return]


def pooled(x: Tensor, largest: bool) -> Tensor:
    """Largest or mean of every 2 x 2 square, real[n, c, h / 2, w / 2]; a row or column over is left out."""
    height, width = (size // 2 * 2 for size in x.shape[-2:])
    squares = x[..., :height, :width].reshape(*x.shape[:-2], height // 2, 2, width // 2, 2)
    return squares.amax((-3, -1)) if largest else squares.mean((-3, -1))


@model(
    input=IMAGE, output=("classes",), parts={"body": "body.*", "head": "head.*", **PART}, outputs={"features": (84,)}
)
def lenet(classes: int, channels: int = 1, size: int = 28, cn: str = "none") -> nn.Module:
    """LeNet-5 with ReLU: two 5 x 5 convolutions (6, 16) with average pooling, linear layers 120, 84 and the output.

    Takes real[n, channels, size, size], gives real[n, classes]. `cn`: conditional normalisation (part "cn") after
    "all" hidden layers, the "last" or "none". Source: LeCun et al. 1998, with ReLU in place of tanh, the second
    convolution on all maps, and padding so that 28 x 28 images need no frame.
    """
    require_positive("lenet", {"classes": classes, "channels": channels})
    _require_size("lenet", size, 12)
    layers = conditional_layers("lenet", cn, [6, 16, 120, 84])
    return Pooled((channels, size), [6, 16], 2, [120, 84, classes], "mean", layers)


@model(
    input=IMAGE, output=("classes",), parts={"body": "body.*", "head": "head.*", **PART}, outputs={"features": (1024,)}
)
def cnn4(classes: int, channels: int = 1, size: int = 28, cn: str = "none") -> nn.Module:
    """Two 5 x 5 convolutions (32, 64) with ReLU and 2 x 2 max-pooling, linear layers of 1,024 and the output.

    Takes real[n, channels, size, size], gives real[n, classes]. `cn`: conditional normalisation (part "cn") after
    "all" hidden layers, the "last" or "none". Source: papers/002, table A.1, "4-Layer CNN"; pooling follows from its
    1,024 inputs to the linear layers at size 28.
    """
    require_positive("cnn4", {"classes": classes, "channels": channels})
    _require_size("cnn4", size, 16)
    layers = conditional_layers("cnn4", cn, [32, 64, 1024])
    return Pooled((channels, size), [32, 64], 0, [1024, classes], "max", layers)


def _require_size(part: str, size: int, least: int) -> None:
    if size < least:
        raise bad_argument(part, "size", f"{least} or more", size)


# ---- residual ------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two 3 x 3 convolutions whose result is added to the input; ReLU after each normalisation and after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, cn: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.first_norm = normalisation(norm, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.second_norm = normalisation(norm, outputs)
        self.short = nn.Identity() if stride == 1 and inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)
        self.cn = cn

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps real[n, outputs, size / stride, size / stride]."""
        inside = torch.relu(self.first_norm(self.first(x)))
        return self.cn(torch.relu(self.short(x) + self.second_norm(self.second(inside))))  # type: ignore[no-any-return]


class SmallResidual(nn.Module):
    """A convolution, three residual blocks that double the width and halve the image, average, linear layer."""

    def __init__(self, classes: int, channels: int, width: int, norm: Norm, cn: nn.ModuleList) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1)
        self.stem_norm = normalisation(norm, width)
        sizes = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        self.body = nn.Sequential(*(Residual(*s, norm, layer) for s, layer in zip(sizes, cn, strict=True)))
        self.head = nn.Linear(4 * width, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, real[n, 4 width]."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        return self.body(x).mean((-2, -1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Scores real[n, classes] of images real[n, channels, size, size]."""
        return self.head(self.features(x))  # type: ignore[no-any-return]


@model(
    input=IMAGE,
    output=("classes",),
    parts={"body": "body.*", "head": "head.*", "norm": "*norm.*", **PART},
    outputs={"features": ("4*width",)},
)
def resnet_small(
    classes: int, norm: str = "none", width: int = 16, channels: int = 1, size: int = 28, cn: str = "none"
) -> nn.Module:
    """Residual network of seven 3 x 3 convolutions; `norm` is "none", "batch_stats", "layer" or "group".

    Takes real[n, channels, size, size], gives real[n, classes]. Never running statistics: they are hidden state.
    `cn`: conditional normalisation (part "cn") after "all" blocks, the "last" or "none". Source: He et al. 2016,
    section 4.2, with one block in each of its three stages (ResNet-8), and 1 x 1 convolutions where shapes change.
    """
    require_positive("resnet_small", {"classes": classes, "width": width, "channels": channels, "size": size})
    layers = conditional_layers("resnet_small", cn, [width, 2 * width, 4 * width])
    return SmallResidual(classes, channels, width, checked_norm("resnet_small", norm, width), layers)


# ---- images to gradients -------------------------------------------------------------------------------------


class ImageToGradient(nn.Module):
    """Convolutions down to an eighth of the image and transposed ones back; ReLU, then normalisation, between."""

    def __init__(self, channels: int, size: int, norm: Norm) -> None:
        super().__init__()
        odd = size // 4 % 2  # then the smallest map has lost a row, and a 3 x 3 kernel without padding gives it back
        down = [(channels, 16, 3, 1, 1), (16, 32, 4, 2, 1), (32, 64, 4, 2, 1), (64, 64, 4, 2, 1)]
        up = [(64, 32, 4 - odd, 2, 1 - odd), (32, 16, 4, 2, 1), (16, 8, 4, 2, 1)]
        self.encoder = nn.ModuleList(nn.Conv2d(*layer) for layer in down)
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(*layer) for layer in up)
        self.norms = nn.ModuleList(normalisation(norm, layer[1]) for layer in (*down, *up))
        self.output = nn.ConvTranspose2d(8, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gradients real[n, channels, size, size] of images of that shape."""
        for layer, norm in zip((*self.encoder, *self.decoder), self.norms, strict=True):
            x = norm(functional.relu(layer(x)))
        return self.output(x)  # type: ignore[no-any-return]


@model(input=IMAGE, output=IMAGE, parts={"encoder": "encoder.*", "decoder": "decoder.*", "norm": "norms.*"})
def image_to_gradient(channels: int = 1, size: int = 28, norm: str = "batch_stats") -> nn.Module:
    """Auto-encoder from an image to the gradient of a victim's loss there: the meta-attacker.

    Takes and gives real[n, channels, size, size]; `size` is a multiple of 4. `norm` is "none", "batch_stats",
    "layer" or "group". Source: papers/001, appendix B, with the layers of Du et al. 2020 (encoder 16, 32, 64, 64,
    decoder 32, 16, 8), whose batch normalisation here uses the statistics of the batch alone.
    """
    require_positive("image_to_gradient", {"channels": channels})
    if size < 8 or size % 4:
        raise bad_argument("image_to_gradient", "size", "a multiple of 4, 8 or more", size)
    return ImageToGradient(channels, size, checked_norm("image_to_gradient", norm, 8))
