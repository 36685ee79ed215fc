"""The reports of a run: sample grids, cards, curves."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ImageColor

from condiff.config import TrainConfig
from condiff.errors import TrainingError
from condiff.figures import COLORS
from condiff.tasks import TASKS, find_task
from condiff.training.curves import make_curves, read_metrics, smooth
from condiff.training.model_card import make_card
from condiff.training.trainer import Trainer


def config(task):
    return TrainConfig.model_validate({
        "task": task, "train_batch_size": 2, "max_train_steps": 2,
        "model": {
            "sample_size": 16, "backbone_variant": None, "block_out_channels": [8, 16],
            "norm_num_groups": 4, "attention_head_dim": 8, "fold": 1,
        },
        "data": {"size": 16},
    })  # fmt: skip


@pytest.mark.parametrize("task", ["colorize", "edge", "none"])
def test_the_grid_has_condition_sample_and_truth(photo_folder, tmp_path, task):
    trainer = Trainer(config(task), photo_folder, tmp_path)
    grid = trainer.sample_grid(photos=3, steps=2)
    rows = 2 if task == "none" else 3
    assert grid.size == (3 * 18 + 2, rows * 18 + 2)
    pixels = np.asarray(grid.crop((2, 2 + 18 * (rows - 1), 18, 18 * rows)), np.float32)
    first = trainer.first_batch(1)
    if task != "colorize":
        truth = (first["x_0"][0].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(pixels - truth).max() <= 1


def test_later_grids_show_the_photos_of_the_first_without_reading_them(photo_folder, tmp_path):
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    trainer = Trainer(config("edge"), photos, tmp_path / "run")
    grid = trainer.sample_grid(photos=3, steps=1)
    shutil.rmtree(photos)
    assert trainer.sample_grid(photos=3, steps=1) == grid


@pytest.mark.skipif(os.name == "nt", reason="Windows does not count the time of other processes")
def test_grids_start_no_workers(photo_folder, tmp_path):
    settings = config("edge")
    data = settings.data.model_copy(update={"num_workers": 2})
    trainer = Trainer(settings.model_copy(update={"data": data}), photo_folder, tmp_path)
    plain = Trainer(settings, photo_folder, tmp_path)
    before = os.times()
    grid = trainer.sample_grid(photos=3, steps=1)
    after = os.times()
    assert after.children_user + after.children_system == pytest.approx(
        before.children_user + before.children_system
    )
    assert grid == plain.sample_grid(photos=3, steps=1)


def test_folded_lines_are_shown_at_their_own_size(photo_folder, tmp_path):
    folded = config("sketch").model_dump()
    folded["model"]["fold"], folded["data"]["size"] = 2, 32
    trainer = Trainer(TrainConfig.model_validate(folded), photo_folder, tmp_path)
    grid = trainer.sample_grid(photos=2, steps=1)
    assert grid.size == (2 * 34 + 2, 3 * 34 + 2)
    lines = trainer.first_batch(1)["condition"][0, 0].numpy()  # ink is 1, paper -1
    shown = np.asarray(grid.crop((2, 2, 34, 34)).convert("L"), np.float32)
    assert np.abs(shown - (1 - lines) * 127.5).max() <= 1


@pytest.mark.parametrize("name", TASKS)
def test_the_card_is_readable_by_the_hub_and_says_how_it_was_made(name):
    card = make_card(
        config(name), find_task(name), data="12 photos from here", parameters=1_500_000, step=7,
        batch_size=4, minutes=1.5, device="1 x cpu", loss=0.25, init="other/model",
    )  # fmt: skip
    _, front, text = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["tags"] == ["condiff", "diffusion", name]
    assert facts["pipeline_tag"].endswith("image-generation" if name == "none" else "to-image")
    for message in ("12 photos from here", "1.50 M", "28 in all", "0.2500", "other/model"):
        assert message in text
    # condiff eval measures a second stage by the pictures of the first.
    judged = "--model sketch --upscale FOLDER" if name == "upscale" else "--model FOLDER"
    assert card.count("```") == 4 and "{" not in card and card.endswith("`.\n")
    assert f"`condiff eval {judged} --data PHOTOS`" in text


def test_curves_are_drawn_from_the_metrics(tmp_path):
    rows = [{"step": n, "loss": 1 / n, "learning_rate": 0.1} for n in range(1, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    curves = np.asarray(make_curves(read_metrics(tmp_path / "metrics.jsonl")), float)
    for color, panel in ((COLORS[1], curves[:, :640]), (COLORS[2], curves[:, 640:])):
        near = np.abs(panel - ImageColor.getrgb(color)).max(axis=2) < 8
        columns = np.flatnonzero(near[:400].any(axis=0))
        assert columns[-1] - columns[0] > 400  # from the first step to the last
        rows = [np.flatnonzero(near[:400, column]).mean() for column in columns]
        assert rows[-1] - rows[0] > 100 if color == COLORS[1] else np.ptp(rows) < 2
    with pytest.raises(TrainingError, match="Cannot read the metrics"):
        read_metrics(tmp_path / "none.jsonl")


def test_smoothing_has_no_bias_at_its_beginning():
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smooth([1.0, float("nan"), 1.0])[1] == 1.0
    assert smooth([0.0, 1.0], keep=0.5) == pytest.approx([0.0, 2 / 3])
