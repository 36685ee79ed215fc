"""Writes a model folder with the mean of two models' weights, as model soups are made.

    python examples/average_weights.py runs/sketch/model condiff/weights/sketch mean/ --share 0.6

If one model was trained from the other, their mean often errs less than both (Wortsman et al. 2022,
arXiv:2203.05482). Settings are those of the first; graphs have to be exported again.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NAME = "diffusion_pytorch_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="a model folder")
    parser.add_argument("second", type=Path, help="another one of the same shape")
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--share", type=float, default=0.5, help="of the first model, 0 to 1")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists already")
    parts = sorted(path.relative_to(args.first) for path in args.first.glob(f"*/{NAME}"))
    if not parts:
        parser.error(f"{args.first} is not a model folder")
    means = {}
    for part in parts:
        if not (args.second / part).exists():
            parser.error(f"{args.second} has no {part}")
        first, second = load_file(args.first / part), load_file(args.second / part)
        if shapes_of(first) != shapes_of(second):
            parser.error(f"the models have different shapes in {part.parent}")
        means[part] = {name: mix(value, second[name], args.share) for name, value in first.items()}
    shutil.copytree(args.first, args.output, ignore=shutil.ignore_patterns("*.onnx"))
    for part, weights in means.items():
        save_file(weights, args.output / part, metadata={"format": "pt"})


def shapes_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {name: value.shape for name, value in weights.items()}


def mix(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """The weighted mean, computed in single precision."""
    return torch.lerp(second.float(), first.float(), share).to(first.dtype)


if __name__ == "__main__":
    main()
