"""examples/average_weights.py: a model folder with the mean of two models' weights."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from condiff.models.loading import load_model

SCRIPT = Path(__file__).parents[1] / "examples" / "average_weights.py"
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


def average(*arguments):
    line = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.fixture
def doubled(tiny_folder, tmp_path):
    """The tiny model with its U-Net's weights doubled."""
    folder = shutil.copytree(tiny_folder, tmp_path / "doubled")
    weights = load_file(folder / WEIGHTS)
    save_file({name: 2 * value for name, value in weights.items()}, folder / WEIGHTS)
    return folder


def test_the_mean_lies_between_both_models(tiny_folder, doubled, tmp_path):
    (doubled / "unet" / "model.onnx").write_text("a graph of other weights")
    done = average(doubled, tiny_folder, tmp_path / "mean", "--share", 0.25)
    assert done.returncode == 0, done.stderr
    first, mean = load_file(tiny_folder / WEIGHTS), load_file(tmp_path / "mean" / WEIGHTS)
    for name, value in first.items():
        torch.testing.assert_close(mean[name], 1.25 * value)
    assert load_model(tmp_path / "mean").task.name == "colorize"
    assert not list((tmp_path / "mean").glob("*/*.onnx"))


def test_models_of_other_shapes_are_refused(tiny_folder, sketch_folder, tmp_path):
    done = average(tiny_folder, sketch_folder, tmp_path / "mean")
    assert done.returncode == 2 and "different shapes" in done.stderr
    assert not (tmp_path / "mean").exists()
    done = average(tmp_path, tiny_folder, tmp_path / "mean")
    assert done.returncode == 2 and "is not a model folder" in done.stderr
