"""Training on a Stable Diffusion base: step 0 equals the base, and caches on disk are exact."""

import json
import shutil
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel

from condiff.cli import main
from condiff.config import BaseConfig, OptimizerConfig, parse_config
from condiff.data.loading import collate
from condiff.diffusion.loss import drop_words_and_picture
from condiff.errors import ConfigError, DataError, ModelError
from condiff.models.base import read_base
from condiff.models.base_settings import with_base
from condiff.models.latent import FrozenParts, build_on_base
from condiff.tasks import find_task
from condiff.training.memory import Choice, count_memory, keeping, storage_of
from condiff.training.optimizer import build_optimizer
from condiff.training.run_folder import find_checkpoints
from condiff.training.trainer import Trainer


def settings(folder, **changes):
    """The configuration of a short run on a base."""
    values = {
        "task": "sketch", "train_batch_size": 2, "max_train_steps": 4, "sample_steps": 2,
        "log_steps": 1,
        "base": {"name": str(folder)},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1, "ema_decay": 0.9},
    }  # fmt: skip
    return parse_config(with_base(values | changes, origin="the test"), origin="the test")


def train(config, photos, output, *, until=None):
    """Train, from the newest checkpoint if there is one; a checkpoint at the end."""
    trainer = Trainer(config, photos, output)
    list(trainer.fill_cache())
    for checkpoint in find_checkpoints(output):
        trainer.resume(checkpoint)
        break
    for step in trainer.steps():
        trainer.observe(step.loss)
        if step.step == until:
            break
    trainer.save_checkpoint()
    return trainer


def weights(trainer):
    averaged = [p.clone() for p in trainer.ema.shadow_params]
    return [p.detach().clone() for p in trainer.model.trainable()] + averaged


@pytest.fixture(autouse=True)
def _forget_the_precision_of_other_tests():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("rank", [None, 4])
def test_step_0_is_the_base_whatever_the_picture(tiny_base, rank):
    model = build_on_base(
        BaseConfig(name=str(tiny_base), lora_rank=rank), find_task("sketch").on_base()
    )  # as it is trained; for sampling, channels are laid out last, which rounds differently
    unet = UNet2DConditionModel.from_pretrained(tiny_base, subfolder="unet")
    x_t, t, words = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 16, 32)
    with torch.no_grad():
        expected = unet(x_t, t, encoder_hidden_states=words).sample
        for scale in (1, 30):
            output = model(x_t, t, scale * torch.randn(2, 4, 8, 8), words=words)
            assert torch.equal(output, expected)


def test_a_picture_and_words_that_are_left_out_are_zeros_and_the_empty_text(tiny_base):
    model = build_on_base(BaseConfig(name=str(tiny_base)), find_task("depth").on_base()).eval()
    torch.nn.init.normal_(model.unet.conv_in.weight, std=0.1)
    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    picture, words = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 32)
    empty = FrozenParts(tiny_base).words([""])
    kept, words_kept = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        found = model(
            x_t, t, picture, words=words, kept=kept.view(-1, 1, 1, 1),
            words_kept=words_kept.view(-1, 1, 1),
        )  # fmt: skip
        bare = torch.stack([picture[0], torch.zeros(4, 8, 8)])
        expected = model(x_t, t, bare, words=torch.cat([empty, words[1:]]))
        assert torch.equal(found, expected)
        assert not torch.allclose(found, model(x_t, t, picture, words=words), atol=1e-4)


def test_words_picture_and_both_are_left_out_at_5_percent_each():
    generator = torch.Generator().manual_seed(0)
    picture, words = drop_words_and_picture(40_000, prob=0.05, generator=generator, device="cpu")
    picture, words = picture.flatten() > 0, words.flatten() > 0
    shares = [(picture & ~words), (~picture & words), (~picture & ~words)]
    assert [float(s.float().mean()) for s in shares] == pytest.approx([0.05] * 3, abs=0.004)


def test_a_run_takes_its_sizes_and_its_noise_process_from_the_base(tiny_base):
    config = settings(tiny_base)
    assert (config.data.size, config.model.sample_size, config.model.fold) == (64, 8, 8)
    diffusion = config.diffusion
    assert (diffusion.prediction_type, diffusion.beta_schedule) == ("epsilon", "scaled_linear")
    assert (diffusion.beta_start, diffusion.beta_end) == (0.00085, 0.012)
    assert not diffusion.rescale_betas_zero_snr
    assert diffusion.cond_drop_prob == 0.05
    smaller = settings(tiny_base, data={"size": 32}, diffusion={"cond_drop_prob": 0.1})
    assert (smaller.model.sample_size, smaller.diffusion.cond_drop_prob) == (4, 0.1)


def test_another_noise_process_than_the_base_s_is_refused(tiny_base, captioned_folder, tmp_path):
    config = settings(tiny_base, diffusion={"beta_schedule": "linear"})
    with pytest.raises(ConfigError, match="beta_schedule is linear, but the base .* scaled_linear"):
        Trainer(config, captioned_folder, tmp_path)


@pytest.mark.parametrize("task", ["sketch", "colorize"])
def test_what_is_cached_is_what_the_frozen_parts_give(tiny_base, captioned_folder, tmp_path, task):
    config = settings(tiny_base, task=task, data={"degrade": 0.0})
    trainer = Trainer(config, captioned_folder, tmp_path)
    list(trainer.fill_cache())
    cache, parts = trainer.dataset, trainer.parts
    assert parts.frozen._vae is None and parts.frozen._texts is None  # not in memory in training
    assert len(cache.texts) == 3
    for row in (0, 1, 2):
        kept = collate([cache[0, row]])
        made = parts.encode_batch(collate([cache.views[0, row]]))
        for key in ("x_0", "condition", "words"):
            assert torch.equal(kept[key], made[key])
    again = Trainer(config, captioned_folder, tmp_path)
    *_, last = again.fill_cache()
    assert (last.done, last.total) == (11, 11)
    assert again.parts.frozen._vae is None  # nothing was missing


def test_training_on_latents_made_on_the_fly_sees_another_view_in_each_epoch(
    tiny_base, captioned_folder, tmp_path
):
    config = settings(tiny_base, data={"cache_features": False})
    trainer = Trainer(config, captioned_folder, tmp_path)
    batches = trainer.batches()
    first, *_, later = (next(batches) for _ in range(5))
    assert first["x_0"].shape == (2, 8, 8, 8) and first["words"].shape == (2, 16, 32)
    assert not torch.equal(first["x_0"], later["x_0"])
    assert not (tmp_path / "cache").exists()


def test_captions_that_change_do_not_go_with_a_cache(tiny_base, captioned_folder, tmp_path):
    photos = shutil.copytree(captioned_folder, tmp_path / "photos")
    Trainer(settings(tiny_base), photos, tmp_path / "run")
    table = photos / "metadata.jsonl"
    table.write_text(table.read_text("utf-8").replace("red", "green"), "utf-8")
    with pytest.raises(DataError, match="made from other data, settings or weights"):
        Trainer(settings(tiny_base), photos, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="all", marks=pytest.mark.slow),
        pytest.param({"base": {"lora_rank": 2}, "mixed_precision": "bf16"}, id="lora-bf16"),
        pytest.param({"data": {"cache_features": False}}, id="uncached", marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, id="blocks", marks=pytest.mark.slow),
        pytest.param(
            {"optimizer": {"learning_rate": 1e-3, "eight_bit": True}},
            id="eight-bit",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_and_two_steps_are_four_bit_for_bit(tiny_base, captioned_folder, tmp_path, changes):
    if "base" in changes:
        changes = {"base": {"name": str(tiny_base), **changes["base"]}}
    if changes.get("optimizer"):
        pytest.importorskip("bitsandbytes")
    config = settings(tiny_base, **changes)
    straight = train(config, captioned_folder, tmp_path / "a")
    train(config, captioned_folder, tmp_path / "b", until=2)
    resumed = train(config, captioned_folder, tmp_path / "b")
    assert resumed.step == straight.step == 4
    pairs = zip(weights(straight), weights(resumed), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_gradient_checkpointing_and_accumulation_change_no_gradient(
    tiny_base, captioned_folder, tmp_path
):
    losses = []
    for changes in ({}, {"gradient_checkpointing": True}):
        trainer = Trainer(settings(tiny_base, **changes), captioned_folder, tmp_path)
        list(trainer.fill_cache())
        error, _ = trainer.error(trainer.first_batch(2), 0)
        error.mean().backward()
        losses.append([p.grad for p in trainer.model.trainable()])
    for plain, checkpointed in zip(*losses, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rank", [None, 2])
def test_memory_by_arithmetic_is_that_of_a_step(tiny_base, captioned_folder, tmp_path, rank):
    """Weights, gradients, moments and averages, byte for byte; and tensors kept for backward."""
    config = settings(tiny_base, base={"name": str(tiny_base), "lora_rank": rank})
    trainer = Trainer(config, captioned_folder, tmp_path)
    list(trainer.fill_cache())
    base, words = read_base(str(tiny_base)), trainer.parts.words
    assert base.words == words == (16, 32)
    counted = count_memory(base, Choice(rank), side=8, words=words)
    error, _ = trainer.error(trainer.first_batch(2), 0)
    error.mean().backward()
    held = [*trainer.model.parameters(), *trainer.ema.shadow_params]
    held += [p.grad for p in trainer.model.trainable()]
    trainer.optimizer.step()
    moments = [s[k] for s in trainer.optimizer.state.values() for k in s if k != "step"]
    assert counted.weights == sum(t.numel() * t.element_size() for t in held + moments)
    kept = {}
    unet = trainer.model.unet
    weights = {storage_of(p) for p in unet.parameters()}
    with keeping(kept):
        output = unet(  # keeps the tensors, and so their ids, alive
            torch.zeros(2, 8, 8, 8), torch.tensor([3, 4]),
            encoder_hidden_states=torch.zeros(2, *words),
        )  # fmt: skip
    real = sum(size for key, size in kept.items() if key not in weights)
    assert output.sample.shape == (2, 4, 8, 8)
    assert counted.total(2) - counted.weights == pytest.approx(real, rel=0.02)


def test_checkpoints_and_low_rank_updates_take_less_memory(tiny_base):
    base = read_base(str(tiny_base))

    def count(**choice):
        return count_memory(base, Choice(**choice), side=8, words=base.words)

    whole, blocks, lora, half = (
        count(), count(checkpointing=True), count(rank=2), count(rank=2, precision="bf16"),
    )  # fmt: skip
    assert blocks.activations < 0.6 * whole.activations
    assert lora.weights < 0.3 * whole.weights
    assert half.weights < 0.6 * lora.weights


@pytest.mark.slow
def test_n_prints_the_memory_of_each_choice_and_does_nothing(
    tiny_base, captioned_folder, tmp_path, capsys
):
    command = ["train", "--base", str(tiny_base), "--task", "sketch", "--lora", "4", "-n"]
    command += ["--data", str(captioned_folder), "-o", str(tmp_path / "run"), "--max-steps", "5"]
    assert main(command) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith(("# all of", "# --lora 4"))]
    assert len(rows) == 5 and all(row.count("iB") == 2 for row in rows)
    assert [row.count("<") for row in rows] == [0, 0, 0, 1, 0]
    assert "  lora_rank: 4\n" in out
    assert not (tmp_path / "run").exists()


def test_fp16_is_refused_on_a_processor(tiny_base, captioned_folder, tmp_path):
    config = settings(tiny_base, mixed_precision="fp16")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        Trainer(config, captioned_folder, tmp_path)


def test_moments_in_8_bits_need_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # as if it were not installed
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        build_optimizer(OptimizerConfig(eight_bit=True), [])


def test_flags_that_do_not_go_together_are_refused(tiny_base, captioned_folder, tmp_path, capsys):
    rest = ["--data", str(captioned_folder), "-o", str(tmp_path / "run"), "--max-steps", "2"]
    base = ["--base", str(tiny_base)]
    refused = {
        ("--lora", "4"): (2, "name it with --base"),
        (*base, "--init", "colorize"): (2, "--init and --base both name weights"),
        (*base, "--task", "none"): (2, "--base is for colorize"),
        (*base, "--set", "data.size=60"): (2, "data.size 60 is not a multiple of 16"),
        (*base, "--set", "data.cache=device"): (2, "device does not go with"),
        ("--base", "nowhere"): (2, "There is no base nowhere"),
        ("--init", str(tiny_base)): (2, "has a VAE: start from it with --base"),
    }
    for flags, (code, words) in refused.items():
        assert main(["train", *flags, *rest]) == code, flags
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_loss_falls(tiny_base, captioned_folder, tmp_path):
    def error_of(trainer):
        batch = trainer.first_batch(4)
        with torch.no_grad():
            return sum(float(trainer.error(batch, n)[0].mean()) for n in range(1000, 1010))

    config = settings(tiny_base, max_train_steps=20, train_batch_size=4)
    trainer = Trainer(config, captioned_folder, tmp_path)
    list(trainer.fill_cache())
    before = error_of(trainer)
    list(trainer.steps())
    assert error_of(trainer) < 0.85 * before


def write_base(folder, index):
    """The JSON files of a pipeline folder that is not a base."""
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


SD = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
TRANSFORMER = {key: value for key, value in SD.items() if key != "unet"}
OTHERS = {
    "Stable Diffusion XL": SD | {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    },
    "Flux": TRANSFORMER | {
        "_class_name": "FluxPipeline", "text_encoder_2": ["transformers", "T5EncoderModel"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
    },
    "StableDiffusion3": TRANSFORMER | {
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    },
    "has no VAE": {
        "_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    },
    "T5EncoderModel, not CLIPTextModel": SD | {"text_encoder": ["transformers", "T5EncoderModel"]},
}  # fmt: skip


@pytest.mark.parametrize("words", OTHERS)
def test_other_families_are_told_apart_by_name(tmp_path, words):
    folder = write_base(tmp_path / "base", OTHERS[words])
    with pytest.raises(ModelError, match=words) as error:
        read_base(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("unet", {"in_channels": 9}, "inpainting model: take the plain one"),
        ("unet", {"addition_embed_type": "text_time"}, "needs inputs besides text"),
        ("unet", {"cross_attention_dim": 48}, "attends to 48 channels of text.* gives 32"),
        ("vae", {"latent_channels": 16}, "has 16 latent channels, not 4"),
    ],
)
def test_other_shapes_are_refused(tiny_base, tmp_path, part, changes, words):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    file = base / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match=words):
        read_base(str(base))


def test_what_is_no_base_at_all_is_refused(tmp_path, tiny_folder):
    with pytest.raises(ModelError, match="start from it with --init"):
        read_base(str(tiny_folder))
    with pytest.raises(ModelError, match="There is no base nowhere"):
        read_base("nowhere")
    with pytest.raises(ModelError, match=r"There is no base a/b.*Hugging Face Hub"):
        read_base("a/b")
    file = tmp_path / "v1-5.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="single file"):
        read_base(str(file))
    with pytest.raises(ModelError, match="has no model_index.json"):
        read_base(str(tmp_path))


@pytest.mark.parametrize("task", ["none", "upscale"])
def test_tasks_without_a_picture_are_refused(task):
    with pytest.raises(ConfigError, match="--base is for colorize, sketch, edge, depth, restyle"):
        find_task(task).on_base()


@pytest.mark.parametrize(
    ("scheduler", "spacing", "sampler"),
    [
        ("LCMScheduler", "leading", "lcm"),
        ("TCDScheduler", "leading", "tcd"),
        ("EulerDiscreteScheduler", "trailing", "euler"),
        ("EulerDiscreteScheduler", "leading", None),
        ("PNDMScheduler", "leading", None),
    ],
)
def test_a_base_of_few_steps_is_sampled_in_few(tiny_base, tmp_path, scheduler, spacing, sampler):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    file = base / "scheduler" / "scheduler_config.json"
    changes = {"_class_name": scheduler, "timestep_spacing": spacing}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    sampling = settings(base).sampling
    if sampler is None:
        assert (sampling.steps, sampling.guidance_scale) == (25, 7.0)
    else:
        assert (sampling.steps, sampling.scheduler, sampling.guidance_scale) == (4, sampler, 1.0)
