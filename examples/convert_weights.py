"""Converts published weights that are pickles into one safetensors file that condiff reads.

    python examples/convert_weights.py pt_inception-2015-12-05-6726825d.pth inception.safetensors
    python examples/convert_weights.py alexnet-owt-7be5be79.pth alex.pth lpips-alex.safetensors

A pickle can run any program when it is opened. `weights_only` loads only tensors; run this once,
on files from authors you trust, and keep the result.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="+", help=".pth files")
    parser.add_argument("output", type=Path, help=".safetensors file")
    args = parser.parse_args()
    if args.output.suffix != ".safetensors" or args.output.exists():
        parser.error(f"the last name, {args.output}, has to be of a new .safetensors file")
    weights: dict[str, torch.Tensor] = {}
    for source in args.sources:
        found = torch.load(source, map_location="cpu", weights_only=True)
        weights |= {name: tensor.contiguous() for name, tensor in found.items()}
    save_file(weights, args.output)


if __name__ == "__main__":
    main()
