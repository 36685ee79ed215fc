"""Memory and time of a training step on a U-Net of the shape of Stable Diffusion 1.5, on a CPU.

python benchmarks/base_memory.py --rank 8 --sides 256 512
python benchmarks/base_memory.py --rank 8 --sides 512 --table

Compares the estimate of `condiff train --base … -n` with the memory of a process: its peak resident
set minus that before the U-Net was made, for a forward and a backward pass of one image and a step
of AdamW. The weights are zeros, and only low-rank updates are trained: no file is needed, and a
laptop is enough. Each choice runs in a process of its own. The last column is measured / estimate.
--table prints only the estimates, for all choices.
"""

import argparse
import resource
import time
from multiprocessing import get_context
from pathlib import Path

WORDS = (77, 768)
UNET = {  # the differences from diffusers' defaults, which are of Stable Diffusion 1
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": WORDS[1],
    "attention_head_dim": 8,
}


def resident(peak: bool = False) -> int:
    """Resident bytes of this process, now or at the peak."""
    if peak:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


def measure(rank: int, checkpointing: bool, side: int) -> tuple[int, float]:
    """Bytes and processor seconds of a step on pictures of this side."""
    import torch
    from diffusers import UNet2DConditionModel

    from condiff.models.latent import add_lora

    torch.set_num_threads(1)
    before = resident()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    unet.to_empty(device="cpu")
    for weight in unet.parameters():
        weight.data.zero_()
    add_lora(unet, rank)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    trained = [p for p in unet.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    began = time.process_time()
    x, words = torch.randn(1, 8, side // 8, side // 8), torch.randn(1, *WORDS)
    unet(x, torch.tensor([500]), encoder_hidden_states=words).sample.square().mean().backward()
    optimizer.step()
    return resident(peak=True) - before, time.process_time() - began


def count(rank: int, checkpointing: bool, side: int) -> int:
    """The estimated bytes, without the EMA, which `measure` does not make."""
    from condiff.models.base import Base
    from condiff.training.memory import Choice, count_memory

    base = Base("", Path(), {}, UNET, {}, {}, {})
    found = count_memory(base, Choice(rank, checkpointing), side=side // 8, words=WORDS)
    return found.total(1)


def print_table(rank: int, sides: list[int]) -> None:
    """The table of `condiff train -n`, for one image a step."""
    from condiff.config import parse_config
    from condiff.models.base import Base
    from condiff.training.memory import make_table

    base = Base("", Path(), {}, UNET, {}, {}, {})
    for side in sides:
        values = {
            "train_batch_size": 1,
            "max_train_steps": 1,
            "model": {"sample_size": side // 8, "fold": 8},
            "data": {"size": side},
            "base": {"lora_rank": rank},
        }
        config = parse_config(values, origin="the benchmark")
        print("\n".join(make_table(base, config, words=WORDS)))


def main() -> None:
    """Print a row for each choice."""
    parser = argparse.ArgumentParser(description="Memory of a step on a Stable Diffusion base.")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--sides", type=int, nargs="+", default=[256])
    parser.add_argument("--table", action="store_true", help="print the arithmetic alone")
    options = parser.parse_args()
    if options.table:
        print_table(options.rank, options.sides)
        return
    print(f"{'choice':<44}{'arithmetic':>12}{'measured':>12}{'CPU s':>8}{'ratio':>7}")
    for side in options.sides:
        for checkpointing in (False, True):
            choice = (options.rank, checkpointing, side)
            with get_context("spawn").Pool(1) as pool:
                counted = pool.apply(count, choice)
            with get_context("spawn").Pool(1) as pool:
                measured, seconds = pool.apply(measure, choice)
            name = f"{side}x{side}, rank {options.rank}"
            name += ", gradient checkpointing" if checkpointing else ""
            row = f"{name:<44}{counted / 2**30:>8.2f} GiB{measured / 2**30:>8.2f} GiB"
            print(f"{row}{seconds:>8.0f}{measured / counted:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
