"""examples/distill_backbone.py: a backbone for grey photos, taught by the one for colour photos."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from condiff.config import ModelConfig, SamplingConfig, TrainConfig
from condiff.models.backbone import load_pretrained
from condiff.models.denoiser import build_model
from condiff.models.loading import load_model, save_model
from condiff.tasks import find_task

SCRIPT = Path(__file__).parents[1] / "examples" / "distill_backbone.py"


@pytest.fixture
def tuned(tmp_path):
    """A tiny colorizer whose backbone was trained before: its last bias is larger by 1."""
    shape = ModelConfig(
        sample_size=8, backbone_variant="lite0", neck_channels=4, block_out_channels=(8, 16),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    task = find_task("colorize")
    model = build_model(shape, task)
    with torch.no_grad():
        model.backbone.blocks[15].project.bias += 1
    save_model(
        tmp_path / "tuned", model.eval(), task=task, dtype=torch.float32, condition_size=32,
        diffusion=TrainConfig(max_train_steps=1).diffusion, sampling=SamplingConfig(steps=3),
    )  # fmt: skip
    return tmp_path / "tuned"


def distill(tuned, photos, out, *more, processes=1):
    settings = {"task": "colorize", "max_train_steps": 1, "data": {"size": 32}}
    settings["model"] = {"sample_size": 8, "backbone_variant": "lite0"}
    file = tuned.parent / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    line = [*start, SCRIPT, tuned, "--config", file, "--data", photos, "-o", out, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, line)], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_students_change_is_added_to_the_models_backbone(
    tuned, photo_folder, tmp_path, processes
):
    out = tmp_path / "new"
    done = distill(
        tuned, photo_folder, out, "--batch", 4, "--minutes", 0.08, processes=processes
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    models = [load_model(folder) for folder in (tuned, out)]
    assert models[1].sampling == models[0].sampling != SamplingConfig()
    before, after = (each.model.state_dict() for each in models)
    published = load_pretrained("lite0").state_dict()
    for name, weight in before.items():
        key = name.removeprefix("encoder.backbone.")
        change = (after[name] - weight).abs().max()
        assert (change > 0) == (key in published), name
        assert change < 0.05  # of the published weights, not of those with the larger bias


@pytest.mark.slow
def test_a_share_of_zero_changes_nothing(tuned, photo_folder, tmp_path):
    done = distill(tuned, photo_folder, tmp_path / "new", "--share", 0, "--minutes", 0.01)
    assert done.returncode == 0, done.stderr
    before, after = (load_model(folder).model for folder in (tuned, tmp_path / "new"))
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_wrong_models_and_folders_are_refused(tuned, tiny_folder, photo_folder, tmp_path):
    done = distill(tuned, photo_folder, tuned)
    assert done.returncode == 2 and "is there already: give a new folder" in done.stderr
    line = [sys.executable, SCRIPT, tiny_folder, "--config", tuned.parent / "run.yaml"]
    line += ["--data", photo_folder, "-o", tmp_path / "new"]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True)
    assert done.returncode == 2 and "has no backbone" in done.stderr
