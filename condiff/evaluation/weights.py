"""Loads the published networks of FID, KID and LPIPS from a folder of safetensors files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from condiff.errors import ModelError
from condiff.evaluation.inception import Inception
from condiff.evaluation.lpips import Lpips

INCEPTION_FILE, LPIPS_FILE = "inception.safetensors", "lpips-alex.safetensors"
Network = TypeVar("Network", Inception, Lpips)

PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")


@dataclass(frozen=True)
class MetricNetworks:
    """The networks in a folder; None where a file is missing."""

    inception: Inception | None
    lpips: Lpips | None


def load_metric_networks(folder: Path) -> MetricNetworks:
    """Load the networks whose files are in a folder; ModelError if there are none."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: give one with {INCEPTION_FILE} or {LPIPS_FILE}.")
    files = {name: folder / name for name in (INCEPTION_FILE, LPIPS_FILE)}
    if not any(file.is_file() for file in files.values()):
        pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
        way = (
            f"{pickles[0]} is a pickle, which can run any program and is not read: make a "
            "safetensors file of it with examples/convert_weights.py."
            if pickles
            else "docs/evaluation.md tells where they come from."
        )
        raise ModelError(f"{folder} holds neither {INCEPTION_FILE} nor {LPIPS_FILE}: {way}")
    inception, lpips = files.values()
    return MetricNetworks(
        inception=_fill(Inception(), inception) if inception.is_file() else None,
        lpips=_fill(Lpips(), lpips) if lpips.is_file() else None,
    )


def _fill(network: Network, path: Path) -> Network:
    """Load the weights of a file into a network; ModelError if some are missing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is no readable safetensors file ({error}): make it with "
            "examples/convert_weights.py."
        ) from error
    for name, parameter in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "missing"
            raise ModelError(
                f"{path} is not of this network: {name} is {found}, not {tuple(parameter.shape)}. "
                "docs/evaluation.md tells which weights are meant."
            )
    network.load_state_dict(weights, strict=False)
    return network.eval()
