"""The training loop learns, ends, saves, and is a function of its seed."""

import logging
import math
import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import lab2rgb

from condiff import Pipeline, read_photo, train
from condiff.config import OptimizerConfig, SamplingConfig, TrainConfig, read_config
from condiff.errors import ConfigError, TrainingError
from condiff.models.backbone import load_pretrained
from condiff.models.loading import load_model
from condiff.tasks import find_task
from condiff.training.loss import perceptual_distance
from condiff.training.progress import learning_rate_at
from condiff.training.trainer import Trainer


def config(**changes):
    base = {
        "train_batch_size": 4,
        "max_train_steps": 8,
        "model": {
            "sample_size": 8, "backbone_variant": None, "block_out_channels": [8, 16],
            "norm_num_groups": 4, "attention_head_dim": 8,
        },
        "data": {"size": 32},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 2, "ema_decay": 0.5},
    }  # fmt: skip
    return TrainConfig.model_validate(base | changes)


def run(config, photo_folder, output, **changes):
    trainer = Trainer(config, photo_folder, output, **changes)
    list(trainer.fill_cache())
    return trainer, list(trainer.steps())


def error_of(trainer):
    """The error of fixed images under fixed noise."""
    batch = trainer.first_batch(12)
    with torch.no_grad():
        return sum(float(trainer.error(batch, n)[0].mean()) for n in range(1000, 1010))


def test_loss_falls_and_the_model_is_saved(photo_folder, tmp_path):
    untrained = Trainer(config(), photo_folder, tmp_path)
    trainer, _ = run(config(max_train_steps=60), photo_folder, tmp_path)
    assert error_of(trainer) < 0.9 * error_of(untrained)
    loaded = load_model(trainer.save(half=False))
    averaged = trainer.ema.shadow_params
    saved = [p for p in loaded.model.parameters()]
    assert all(torch.allclose(a, b) for a, b in zip(averaged, saved, strict=True))


def test_the_same_seed_trains_the_same_weights(photo_folder, tmp_path):
    runs = [run(config(), photo_folder, tmp_path)[0] for _ in range(2)]
    first, second = (list(trainer.model.parameters()) for trainer in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["epsilon", pytest.param("sample", marks=pytest.mark.slow)])
def test_other_objectives_train_too(photo_folder, tmp_path, kind):
    diffusion = {"prediction_type": kind, "rescale_betas_zero_snr": kind != "epsilon"}
    objective = config(diffusion=diffusion, max_train_steps=40)
    untrained = error_of(Trainer(objective, photo_folder, tmp_path))
    trainer, _ = run(objective, photo_folder, tmp_path)
    assert error_of(trainer) < 0.9 * untrained


def test_learning_rate_warms_up_and_ends_at_zero_by_steps_and_by_the_clock(photo_folder, tmp_path):
    _, by_steps = run(config(max_train_steps=20), photo_folder, tmp_path)
    rates = [step.learning_rate for step in by_steps]
    assert len(rates) == 20
    assert rates[0] < rates[1] > rates[-1]
    assert rates[-1] < 0.02 * max(rates)
    _, by_clock = run(config(max_train_steps=None, max_minutes=0.008), photo_folder, tmp_path)
    assert by_clock[-1].learning_rate < 0.3 * max(s.learning_rate for s in by_clock)
    assert all(b.progress >= a.progress for a, b in zip(by_clock, by_clock[1:], strict=False))


def test_the_rate_stays_until_its_last_share_of_the_run():
    optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_share=0.2)

    def rate(step: int) -> float:
        return learning_rate_at(optimizer, step=step, progress=step / 1000)

    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.1, 0.5, 1.0])
    assert {rate(step) for step in range(10, 801)} == {1.0}
    assert rate(900) == pytest.approx(0.5)
    for step in (850, 950, 1000):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 800) / 200))
        assert rate(step) == pytest.approx(cosine, abs=1e-12)


def test_accumulated_batches_make_one_step(photo_folder, tmp_path):
    accumulated = config(train_batch_size=2, gradient_accumulation_steps=2, max_train_steps=3)
    trainer, steps = run(accumulated, photo_folder, tmp_path)
    assert [s.step for s in steps] == [1, 2, 3]
    assert trainer.ema.optimization_step == 3


def test_deciles_average_to_the_loss_of_their_images(photo_folder, tmp_path):
    _, steps = run(config(max_train_steps=3), photo_folder, tmp_path)
    for step in steps:
        seen = [value for value in step.decile_losses if not math.isnan(value)]
        assert len(step.decile_losses) == 10
        assert 1 <= len(seen) <= 4
        assert min(seen) <= step.loss <= max(seen)


def test_training_goes_on_from_a_model_folder(photo_folder, tmp_path, tiny_folder):
    trainer = Trainer(config(), photo_folder, tmp_path, init=str(tiny_folder))
    expected = load_model(tiny_folder).model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in trainer.model.state_dict().items())


def test_the_library_trains_without_messages(photo_folder, tmp_path, tiny_folder, caplog):
    logging.getLogger("diffusers").addHandler(caplog.handler)
    try:
        folder = train(config(max_train_steps=1), photo_folder, tmp_path / "run", init=tiny_folder)
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert folder == tmp_path / "run" / "model" and not caplog.records
    with pytest.raises(ConfigError, match="init is a path, not 5"):
        train(config(), photo_folder, tmp_path / "other", init=5)
    assert not (tmp_path / "other").exists()


def test_a_narrow_model_has_one_head_of_attention(photo_folder, tmp_path):
    wide = config().model.model_copy(update={"attention_head_dim": 32})
    trainer, steps = run(config(max_train_steps=1, model=wide.model_dump()), photo_folder, tmp_path)
    assert len(steps) == 1
    assert trainer.model.unet.mid_block.attentions[0].heads == 1


def test_a_model_has_its_card_and_settings_as_soon_as_it_is_there(
    photo_folder, tmp_path, monkeypatch
):
    """The process is stopped right after the folder has got its name."""
    trainer, rename = Trainer(config(), photo_folder, tmp_path), os.replace

    def stop(source, target):
        rename(source, target)
        if Path(target).name == "model":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.save()
    assert (tmp_path / "model/README.md").read_text("utf-8").startswith("---\n")
    assert read_config(tmp_path / "model/config.yaml") == trainer.config


@pytest.mark.parametrize("task", [pytest.param("none", marks=pytest.mark.slow), "colorize"])
def test_a_model_of_patches_learns_and_makes_pictures_of_the_whole_size(
    photo_folder, tmp_path, task
):
    patches = config().model.model_copy(update={"sample_size": 16, "patch_size": 2})
    settings = config(task=task, max_train_steps=40, model=patches.model_dump())
    untrained = Trainer(settings, photo_folder, tmp_path)
    trainer, _ = run(settings, photo_folder, tmp_path)
    assert error_of(trainer) < 0.9 * error_of(untrained)
    assert trainer.model.unet.config.sample_size == 8
    pipeline = Pipeline.from_pretrained(trainer.save(), engine="torch")
    assert pipeline.loaded.sample_size == 16 and pipeline.cell == 2
    photo = None if task == "none" else read_photo(photo_folder / "00.png")
    frames = list(pipeline.frames(photo, seed=0, config=SamplingConfig(steps=2, size=32)))
    assert len(frames) == 3
    assert frames[0].size == ((16, 16) if photo is None else photo.size)
    init = str(tmp_path / "model")
    again = Trainer(config(task=task), photo_folder, tmp_path, init=init)  # it asks for none
    assert again.model.patch_size == again.config.model.patch_size == 2
    assert again.config.model.sample_size == 8 and again.model.unet.config.sample_size == 4
    small = patches.model_copy(update={"sample_size": 6, "patch_size": 1})
    with pytest.raises(ConfigError, match="shape of the weights.*sample_size 6 is not a multiple"):
        data = config().data.model_copy(update={"size": 36})
        odd = config(task=task, model=small.model_dump(), data=data.model_dump())
        Trainer(odd, photo_folder, tmp_path, init=init)


def test_the_frozen_backbone_stays_as_it_was_with_cached_features(photo_folder, tmp_path):
    small = config().model.model_copy(update={"backbone_variant": "lite2", "neck_channels": 8})
    with_cache = config().data.model_copy(update={"size": 64, "cache_features": True})
    cached = config(max_train_steps=2).model_copy(update={"model": small, "data": with_cache})
    trainer = Trainer(cached, photo_folder, tmp_path)
    before = [p.clone() for p in trainer.model.encoder.backbone.parameters()]
    filled = list(trainer.fill_cache())
    assert (filled[-1].done, filled[-1].total) == (12, 12)
    list(trainer.steps())
    after = trainer.model.encoder.backbone.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(
        "backbone" in name for name, p in trainer.model.named_parameters() if p.grad is not None
    )


def test_the_sample_grid_shows_gray_sample_and_truth(photo_folder, tmp_path):
    trainer, _ = run(config(max_train_steps=1), photo_folder, tmp_path)
    grid = trainer.sample_grid(photos=3, steps=2)
    assert isinstance(grid, Image.Image)
    assert grid.size == (3 * 34 + 2, 3 * 34 + 2)
    assert grid.tobytes() == trainer.sample_grid(photos=3, steps=2).tobytes()


def test_the_perceptual_distance_is_that_of_the_backbones_maps():
    backbone = load_pretrained("lite0").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x_0, found = 0.4 * torch.randn(2, 2, 2, 8, 8, generator=generator)
    condition = torch.rand(2, 1, 64, 64, generator=generator) - 0.5
    distance = perceptual_distance(backbone, found, x_0, condition)

    def look(chroma):
        """The maps of the picture that scikit-image makes of L*, a and b."""
        wide = F.interpolate(50 * chroma, (128, 128), mode="bilinear")
        light = F.interpolate(50 * (condition + 1), (128, 128), mode="area")
        lab = torch.cat([light, wide], 1).permute(0, 2, 3, 1).double().numpy()
        with warnings.catch_warnings():  # of colours outside sRGB
            warnings.simplefilter("ignore")
            return backbone(torch.from_numpy(lab2rgb(lab)).float().permute(0, 3, 1, 2))

    ours, theirs = look(found), look(x_0)
    expected = sum(
        (ours[s] - theirs[s]).square().sum((1, 2, 3)) / theirs[s].square().sum((1, 2, 3))
        for s in (4, 8, 16, 32)
    )
    torch.testing.assert_close(distance, expected / 4, rtol=2e-3, atol=0)
    assert perceptual_distance(backbone, x_0, x_0, condition).max() == 0
    moved = found.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        perceptual_distance(backbone, moved, x_0, condition).sum(), moved
    )
    nearer = found - 0.3 * gradient / gradient.abs().max()
    assert (perceptual_distance(backbone, nearer, x_0, condition) < distance).all()


def test_the_perceptual_term_is_added_in_its_share_of_the_run(photo_folder):
    shape = {"model": {**config().model.model_dump(), "backbone_variant": "lite0"}}
    shape |= {"data": {"size": 32}, "max_train_steps": 4}
    plain = Trainer(config(**shape), photo_folder, None)
    late = {"perceptual_weight": 0.3, "perceptual_share": 0.5}
    termed = Trainer(config(**shape, diffusion=late), photo_folder, None)
    batch = plain.first_batch(4)
    with torch.no_grad():
        without, before = plain.error(batch, 2)[0], termed.error(batch, 2)[0]
        assert torch.equal(without, before)  # at the run's beginning
        termed.step = 2
        added = termed.error(batch, 2)[0] - without
    assert (added > 0).all()
    assert len(list(termed.steps())) == 2
    frozen = zip(termed.model.encoder.backbone.parameters(),
                 load_pretrained("lite0").parameters(), strict=True)  # fmt: skip
    assert all(torch.equal(ours, its) for ours, its in frozen)
    with pytest.raises(ConfigError, match="perceptual_weight compares photos"):
        find_task("sketch").check(config(**shape, diffusion=late))


def test_two_runs_of_one_program_may_have_different_precisions(photo_folder):
    """condiff.train may be called again in a notebook."""
    for precision in ("no", "bf16", "no"):
        trainer = Trainer(config(max_train_steps=1, mixed_precision=precision), photo_folder, None)
        assert trainer.accelerator.mixed_precision == precision


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path, monkeypatch):
    """As torchrun starts them on a machine without a GPU: each would train the whole run."""
    from condiff.training.accelerator import build_accelerator

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TrainingError, match="2 processes were started, and each would train alone"):
        build_accelerator(TrainConfig(max_train_steps=1), tmp_path)
