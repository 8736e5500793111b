"""How hard `glyphs` is without meta-learning: nearest neighbour on pixels, and nearest centroid on learned features.

    python benchmarks/glyph_baselines.py [--tasks 600] [--seconds 40] [--threads 1]

Prints the table of recipes/DATA.md. The features are those of a supervised classifier of the training classes
(conv4 with 32 filters and batch statistics, Adam, random small shifts), trained for `--seconds`. At test time the
statistics are those of training images, so that no query helps another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.recipes.glyph_store import glyph_images
from bilevel.recipes.glyphs import glyphs
from bilevel.recipes.networks import BatchStatistics, Convolution, conv4

Predict = Callable[[Tensor, Tensor, Tensor, int], Tensor]
SETTINGS = ((5, 1), (20, 1), (5, 5), (20, 5))


def nearest_neighbour(support: Tensor, labels: Tensor, query: Tensor, ways: int) -> Tensor:
    """Predicted labels int64[tasks, n] by the nearest support image."""
    nearest = torch.cdist(query.flatten(2), support.flatten(2)).argmin(-1)
    return labels.gather(1, nearest)


def nearest_centroid(network: nn.Module, support: Tensor, labels: Tensor, query: Tensor, ways: int) -> Tensor:
    """Predicted labels by the cosine to the mean feature of each class."""
    known, unknown = features(network, support), features(network, query)
    members = functional.one_hot(labels, ways).to(known.dtype)
    centroids = functional.normalize(members.transpose(1, 2) @ known, dim=-1)
    return (unknown @ centroids.transpose(1, 2)).argmax(-1)


def features(network: nn.Module, images: Tensor) -> Tensor:
    tasks, count = images.shape[:2]
    with torch.no_grad():
        flat = network.get_submodule("body")(images.flatten(0, 1)).flatten(1)
    return functional.normalize(flat, dim=-1).reshape(tasks, count, -1)


def supervised(seconds: float) -> nn.Module:
    """conv4 trained to tell all training classes apart."""
    torch.manual_seed(0)
    images = glyph_images().train
    classes, writers = images.shape[:2]
    flat = images.reshape(-1, 1, 28, 28)
    network = conv4(classes, filters=32, norm="batch_stats")
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    start = time.perf_counter()
    while (spent := (time.perf_counter() - start) / seconds) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1.0 - spent)
        chosen = torch.randint(len(flat), (256,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        x = torch.roll(flat[chosen].float() / 255.0, shift, (2, 3))
        loss = functional.cross_entropy(network(x), chosen // writers, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    freeze(network.get_submodule("body"), flat[torch.randperm(len(flat))[:4_000]].float() / 255.0)
    return network


@torch.no_grad()
def freeze(body: nn.Module, images: Tensor) -> None:
    """Fold the statistics that `images` have in each block into its convolution."""
    for block in body.children():
        if isinstance(block, Convolution) and isinstance(block.norm, BatchStatistics):
            before = block.convolve(images)
            variance, mean = torch.var_mean(before, (0, 2, 3), correction=0)
            scale = block.norm.weight * torch.rsqrt(variance + block.norm.epsilon)
            block.convolve.weight.mul_(scale.reshape(-1, 1, 1, 1))
            bias = block.convolve.get_parameter("bias")
            bias.copy_((bias - mean) * scale + block.norm.bias)
            block.norm = nn.Identity()
        images = block(images)


def accuracy(predict: Predict, ways: int, shots: int, count: int) -> tuple[float, float]:
    """Mean over tasks in per cent, and half the width of its 95 % interval."""
    stream = glyphs(ways=ways, shots=shots, queries=15).test
    found = []
    for keys in fold(make_key(0), torch.arange(count)).split(50):
        (x, y), (query, truth) = stream.sample(keys)
        found.append((predict(x, y, query, ways) == truth).double().mean(1))
    all_tasks = torch.cat(found) * 100.0
    return float(all_tasks.mean()), 1.96 * float(all_tasks.std()) / count**0.5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = supervised(options.seconds)
    rows = {
        "nearest neighbour on pixels": nearest_neighbour,
        f"nearest centroid, supervised features ({options.seconds:.0f} s)": lambda *a: nearest_centroid(network, *a),
    }
    print("| test | " + " | ".join(f"{ways}-way {shots}-shot" for ways, shots in SETTINGS) + " |")
    print("|---" * (1 + len(SETTINGS)) + "|")
    for name, predict in rows.items():
        cells = (accuracy(predict, ways, shots, options.tasks) for ways, shots in SETTINGS)
        print(f"| {name} | " + " | ".join(f"{mean:.1f} ± {half:.1f}" for mean, half in cells) + " |")


if __name__ == "__main__":
    main()
