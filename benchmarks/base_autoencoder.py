"""Time and memory of the VAE of Stable Diffusion 1.5 and of a tiny autoencoder of TAESD's shape.

python benchmarks/base_autoencoder.py --sides 256 512

Both encode and decode one picture, on one processor core, with random weights: they need no file.
Each runs in a process of its own. Memory is its peak resident set minus that before its weights
were made. The last line of a side is the ratio of the tiny one to the other.
"""

import argparse
import resource
import time
from multiprocessing import get_context
from pathlib import Path

KINDS = {
    "AutoencoderKL": {  # the differences from diffusers' defaults
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    "AutoencoderTiny": {},
}


def resident(peak: bool = False) -> int:
    """Resident bytes of this process, now or at the peak."""
    if peak:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


def measure(kind: str, side: int) -> tuple[float, float, int, int]:
    """Processor seconds of encoding and decoding, bytes of memory, and weights."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    make = getattr(diffusers, kind)  # which diffusers imports now
    before = resident()
    vae = make(**KINDS[kind]).eval()
    with torch.no_grad():
        began = time.process_time()
        encoded = vae.encode(torch.rand(1, 3, side, side) * 2 - 1)
        latents = encoded.latents if kind == "AutoencoderTiny" else encoded.latent_dist.mode()
        encoding = time.process_time() - began
        vae.decode(latents)
        decoding = time.process_time() - began - encoding
    weights = sum(p.numel() for p in vae.parameters())
    return encoding, decoding, resident(peak=True) - before, weights


def main() -> None:
    """Read the arguments, measure, print a row for each autoencoder and side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    for side in parser.parse_args().sides:
        print(f"{side}x{side}: CPU seconds to encode, to decode; memory; weights")
        found = []
        for kind in KINDS:
            with get_context("spawn").Pool(1) as pool:
                found.append(pool.apply(measure, (kind, side)))
            encoding, decoding, memory, weights = found[-1]
            print(
                f"  {kind:<16}{encoding:7.2f}{decoding:7.2f}{memory / 2**20:8.0f} MiB"
                f"{weights / 1e6:7.1f} M",
                flush=True,
            )
        print("  share           " + "".join(f"{b / a:7.3f}" for a, b in zip(*found, strict=True)))


if __name__ == "__main__":
    main()
