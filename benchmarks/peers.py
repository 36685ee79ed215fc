"""Seconds and memory of condiff beside the architectures of DDColor and DeOldify, in one run.

    python benchmarks/peers.py --threads 2

The peers are the ARCHITECTURES of their networks with random weights, written here with stock torch
layers after the papers and, where these do not give a width, with the value in the authors' public
code. Neither that code nor their colours are used: the cost of a network does not depend on its
weights. Spectral and weight norms count as folded into the convolutions, which saves the peers work
that the published code does. Seconds are for a forward pass on a CPU in float32, the best of
several: wall time, and processor time, which other programs disturb less. For the peers, reading
the photo, its resize to the network's square and back are left out; condiff does them, from 512x512
pixels to as many. Ratios within one run are more reliable than seconds between runs.

DDColor: Kang et al. 2023, arXiv:2212.11613, section 3: a ConvNeXt (Liu et al. 2022), a pixel
decoder of four upsamplings, a colour decoder of 9 blocks with 100 queries; 512x512 in.
DeOldify: github.com/jantic/DeOldify, README and its U-Nets on fastai's: ResNet-34 "artistic",
ResNet-101 "stable", self-attention (Zhang et al. 2018, arXiv:1805.08318) in the second block;
render_factor 35 is 560x560.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONDIFF_SIDE = 512


class ConvNextBlock(nn.Module):
    """A 7x7 depthwise convolution, then two linear layers at every pixel (channels last)."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.scale = nn.LayerNorm(width, 1e-6), nn.Parameter(torch.ones(width))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Maps of strides 4, 8, 16, 32, each normed."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        super().__init__()
        stages, channels = [], 3
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            down = [nn.Conv2d(channels, width, 4 if i == 0 else 2, 4 if i == 0 else 2)]
            down = [*down, PixelNorm(width)] if i == 0 else [PixelNorm(channels), *down]
            stages.append(nn.Sequential(*down, *(ConvNextBlock(width) for _ in range(depth))))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList(PixelNorm(width) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps


class Shuffle(nn.Module):
    """1x1 convolution, pixel shuffle, 2x2 mean against checkerboards."""

    def __init__(self, channels: int, out: int, scale: int, *, norm: bool, blur: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, out * scale**2, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(out * scale**2) if norm else nn.Identity()
        self.scale, self.blur = scale, blur

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.relu(self.norm(self.conv(x))), self.scale)
        return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), "replicate"), 2, 1) if self.blur else x


def conv_relu_norm(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(out)
    )


class Up(nn.Module):
    """A U-Net's decoder block: upsampling, concatenation with the skip, convolutions."""

    def __init__(self, channels: int, skipped: int, up: int, convs: nn.Module):
        super().__init__()
        self.shuffle = Shuffle(channels, up, 2, norm=True)
        self.norm, self.convs = nn.BatchNorm2d(skipped), convs

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        x = self.shuffle(x)
        if x.shape != skipped.shape:
            x = F.interpolate(x, skipped.shape[2:])
        return self.convs(F.relu(torch.cat([x, self.norm(skipped)], 1)))


class ColourBlock(nn.Module):
    """Cross-attention of the queries to a map, self-attention, then a feed-forward layer."""

    def __init__(self, width: int = 256, heads: int = 8, hidden: int = 2048):
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, queries: Tensor, place: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        first, second, third = self.norms
        seen = self.cross(queries + place, keys, values, need_weights=False)[0]
        queries = first(queries + seen)
        asked = queries + place
        queries = second(queries + self.own(asked, asked, queries, need_weights=False)[0])
        return third(queries + self.mlp(queries))


class DDColor(nn.Module):
    """(B,3,H,W) -> (B,2,H,W)."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], *, queries: int = 100):
        super().__init__()
        self.encoder = ConvNext(widths, depths)
        outs, channels, ups = (512, 512, 256), widths[-1], []
        for out, skipped in zip(outs, widths[-2::-1], strict=True):
            ups.append(Up(channels, skipped, out, conv_relu_norm(out + skipped, out)))
            channels = out
        self.ups = nn.ModuleList(ups)
        self.last = Shuffle(256, 256, 4, norm=False)
        self.project = nn.ModuleList(nn.Conv2d(out, 256, 1) for out in outs)
        self.levels = nn.Parameter(torch.randn(3, 256))
        self.queries = nn.Parameter(torch.randn(2, 1, queries, 256))
        self.blocks = nn.ModuleList(ColourBlock() for _ in range(9))
        self.embed = nn.Sequential(
            nn.LayerNorm(256),
            nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256),
        )  # fmt: skip
        self.refine = nn.Conv2d(queries + 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.encoder(image)
        maps = []
        for up, skipped in zip(self.ups, skips[::-1], strict=True):
            x = up(x, skipped)
            maps.append(x)
        queries, place = self.queries
        keys, values = [], []
        for tensor, project, level in zip(maps, self.project, self.levels, strict=True):
            flat = project(tensor).flatten(2).transpose(1, 2) + level
            values.append(flat)
            keys.append(flat + wave_positions(*tensor.shape[2:]))
        for i, block in enumerate(self.blocks):
            queries = block(queries, place, keys[i % 3], values[i % 3])
        colours = torch.einsum("bqc,bchw->bqhw", self.embed(queries), self.last(x))
        return self.refine(torch.cat([colours, image], 1))


def wave_positions(height: int, width: int, channels: int = 256) -> Tensor:
    """Sines and cosines of row and column, (H W, channels)."""
    rates = 10000 ** (-torch.arange(channels // 4) / (channels // 4))
    sides = [torch.arange(1, n + 1)[:, None] / n * 2 * torch.pi * rates for n in (height, width)]
    rows, columns = (torch.cat([side.sin(), side.cos()], 1) for side in sides)
    half = channels // 2
    grid = [rows[:, None].expand(-1, width, half), columns[None].expand(height, -1, half)]
    return torch.cat(grid, 2).flatten(0, 1)


class Residual(nn.Module):
    """A ResNet block (He et al. 2016): two 3x3, or 1x1, 3x3, 1x1 four times as wide."""

    def __init__(self, channels: int, width: int, stride: int, *, bottleneck: bool):
        super().__init__()
        rows = [(1, width, 1), (3, width, stride), (1, 4 * width, 1)]
        rows = rows if bottleneck else [(3, width, stride), (3, width, 1)]
        layers: list[nn.Module] = []
        last = channels
        for kernel, out, step in rows:
            conv = nn.Conv2d(last, out, kernel, step, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
            last = out
        self.body = nn.Sequential(*layers[:-1])
        self.skip = nn.Sequential()
        if stride > 1 or channels != last:
            conv = nn.Conv2d(channels, last, 1, stride, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(last))
        self.channels = last

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class SelfAttention(nn.Module):
    """Self-attention over all positions (SAGAN)."""

    def __init__(self, channels: int):
        super().__init__()
        outs = (channels // 8, channels // 8, channels)
        self.maps = nn.ModuleList(nn.Conv1d(channels, out, 1, bias=False) for out in outs)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        query, key, value = (layer(flat) for layer in self.maps)
        weights = torch.softmax(query.transpose(1, 2) @ key, 1)
        return (self.gain * (value @ weights) + flat).view_as(x)


class DeOldify(nn.Module):
    """(B,3,H,W) -> (B,3,H,W); "deep" blocks have two convolutions, "wide" ones a fixed width."""

    def __init__(self, depths: tuple[int, ...], *, bottleneck: bool, wide: int = 0):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        stages, channels, skips = [], 64, [64]
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                block = Residual(channels, 64 << i, stride, bottleneck=bottleneck)
                blocks.append(block)
                channels = block.channels
            stages.append(nn.Sequential(*blocks))
            skips.append(channels)
        self.stages = nn.ModuleList(stages)
        self.middle = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(),
            conv_relu_norm(channels, 2 * channels), conv_relu_norm(2 * channels, channels),
        )  # fmt: skip
        ups = []
        for i, skipped in enumerate(skips[-2::-1]):
            last = i == len(depths) - 1
            up = wide // (4 if last else 2) if wide else channels // 2
            both = up + skipped
            out = up if wide else int((both // 2 if last else both) * 1.5)
            convs = [conv_relu_norm(both, out)]
            convs += [] if wide else [conv_relu_norm(out, out)]
            convs += [nn.Sequential(SelfAttention(out))] if i == 1 else []
            ups.append(Up(channels, skipped, up, nn.Sequential(*convs)))
            channels = out
        self.ups = nn.ModuleList(ups)
        self.last = Shuffle(channels, channels, 2, norm=False, blur=False)
        channels += 3
        self.cross = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Conv2d(channels, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        maps = [x]
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = self.middle(maps.pop())
        for up, skipped in zip(self.ups, maps[::-1], strict=True):
            x = up(x, skipped)
        x = torch.cat([self.last(x), image], 1)
        return torch.sigmoid(self.out(x + self.cross(x))) * 6 - 3


# Name -> builder, side of its square, published size in MB of float32, page of that size.
PEERS: dict[str, tuple[Callable[[], nn.Module], int, int, str]] = {
    "DDColor-T": (
        lambda: DDColor((96, 192, 384, 768), (3, 3, 9, 3)),
        512, 220, "huggingface.co/piddnad/ddcolor_paper_tiny",
    ),
    "DDColor-L": (
        lambda: DDColor((192, 384, 768, 1536), (3, 3, 27, 3)),
        512, 912, "huggingface.co/piddnad/ddcolor_paper",
    ),
    "DeOldify artistic": (
        lambda: DeOldify((3, 4, 6, 3), bottleneck=False),
        560, 255, "huggingface.co/spensercai/DeOldify",
    ),
    "DeOldify stable": (
        lambda: DeOldify((3, 4, 23, 3), bottleneck=True, wide=1024),
        560, 874, "huggingface.co/spensercai/DeOldify",
    ),
}  # fmt: skip
CONDIFF = "condiff"


def main() -> None:
    """Every model in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="colorize", help="condiff's")
    parser.add_argument("--only", choices=[CONDIFF, *PEERS], help="print this one's figures")
    args = parser.parse_args()
    if args.only:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.only, args.repeats, args.model)))
        return
    print("The peers have the shape of their networks and random weights: not the authors' code.")
    print(f"{args.threads} threads, load {os.getloadavg()[0]:.1f} at the start.\n")
    print("|  | input | parameters, M | published, M | s | processor s | × condiff | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    own = 0.0
    for name in (CONDIFF, *PEERS):
        command = [sys.executable, __file__, "--only", name, "--model", args.model]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout)
        own = own or found["processor"]
        side = PEERS[name][1] if name in PEERS else CONDIFF_SIDE
        published = f"{PEERS[name][2] / 4:.1f}" if name in PEERS else "–"
        print(
            f"| {name} | {side}² | {found['parameters'] / 1e6:.1f} | {published} | "
            f"{found['seconds']:.2f} | {found['processor']:.2f} | "
            f"{found['processor'] / own:.1f} | {found['rss']:.0f} |",
            flush=True,
        )
    print("\nPublished: the size of the weights' file in float32, a quarter of its bytes, from")
    print(", ".join(dict.fromkeys(source for *_, source in PEERS.values())) + ".")


@torch.inference_mode()
def measure(name: str, repeats: int, model: str) -> dict[str, float]:
    """Best seconds of a photo, peak resident megabytes of the process, parameters."""
    if name == CONDIFF:
        run, parameters = prepare_condiff(model)
    else:
        build, side, *_ = PEERS[name]
        network, image = build().eval(), torch.rand(1, 3, side, side)
        parameters = sum(p.numel() for p in network.parameters())

        def run() -> None:
            network(image)

    seconds, processor = [], []
    for _ in range(1 + repeats):  # the first one is a warm-up
        started, used = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return {
        "seconds": min(seconds[1:]),
        "processor": min(processor[1:]),
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": parameters,
    }


def prepare_condiff(model: str) -> tuple[Callable[[], object], int]:
    """A function that colours a grey photo, pixels to pixels, with all defaults."""
    from PIL import Image

    from condiff import Pipeline
    from condiff.cli.options import quiet_libraries
    from condiff.models.loading import load_model

    quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    side = (CONDIFF_SIDE, CONDIFF_SIDE)
    photo = Image.fromarray(noise).resize(side, Image.Resampling.BICUBIC)
    loaded = load_model(model).model
    networks = (loaded.unet, loaded.encoder)
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    return lambda: pipeline(photo, seed=0), parameters


if __name__ == "__main__":
    main()
