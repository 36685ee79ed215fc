"""A base with a tiny autoencoder, as TAESD: trained, saved, and run also by diffusers."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, DiffusionPipeline
from PIL import Image
from skimage.color import rgb2lab

from condiff import Pipeline
from condiff.cli import main
from condiff.config import SamplingConfig
from condiff.diffusion.sampler import sample_initial_noise
from condiff.errors import ModelError
from condiff.models.base import read_base
from condiff.models.latent import FrozenParts
from condiff.training.memory import count_frozen, describe_frozen
from tests.conftest import _load_example, make_photo
from tests.test_base import settings, train


@pytest.fixture(scope="module")
def taesd_base(tmp_path_factory):
    """A folder like Stable Diffusion with a tiny autoencoder and random weights."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("bases") / "taesd"
    _load_example("tiny_base").make_base(folder, autoencoder="AutoencoderTiny")
    return folder


@pytest.fixture(scope="module")
def trained(taesd_base, captioned_folder, tmp_path_factory):
    """The trainer of a short run, and the model folder that it wrote."""
    output = tmp_path_factory.mktemp("runs") / "color"
    trainer = train(settings(taesd_base, task="colorize"), captioned_folder, output)
    return trainer, trainer.save(half=False)


def test_its_sizes_are_read_from_its_blocks(taesd_base, tmp_path):
    base = read_base(str(taesd_base))
    assert (base.autoencoder, base.factor) == ("AutoencoderTiny", 8)
    copy = shutil.copytree(taesd_base, tmp_path / "base")
    file = copy / "vae" / "config.json"
    values = json.loads(file.read_text())
    del values["block_out_channels"]  # not written by older releases of diffusers
    file.write_text(json.dumps(values))
    assert read_base(str(copy)).factor == 8


def test_its_latents_have_no_deviation_and_are_diffusers_own(taesd_base):
    vae = AutoencoderTiny.from_pretrained(taesd_base, subfolder="vae").eval()
    parts, pictures = FrozenParts(taesd_base), torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(pictures).latents
        mean, deviation = parts.moments(pictures).chunk(2, dim=1)
        assert torch.equal(mean, expected)  # the scaling factor is 1
        assert not deviation.any()
        assert torch.equal(parts.condition(pictures), expected)
        assert torch.equal(parts.decode(mean), vae.decode(expected).sample)


def test_a_run_s_targets_are_the_latents_themselves(trained):
    cache = trained[0].dataset
    row = cache[0, 0]
    assert row["x_0"].shape == (8, 8, 8)
    assert row["x_0"][:4].any()
    assert not row["x_0"][4:].any()


def test_the_folder_is_a_stock_one_that_makes_the_same_latents(trained):
    pipeline = DiffusionPipeline.from_pretrained(trained[1])
    assert type(pipeline).__name__ == "StableDiffusionInstructPix2PixPipeline"
    assert isinstance(pipeline.vae, AutoencoderTiny)
    pipeline.set_progress_bar_config(disable=True)
    grey = make_photo(64, 48).convert("L").convert("RGB")
    (made,) = pipeline("a red house", image=grey, num_inference_steps=2).images
    assert made.size == (64, 48)

    spacing = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **spacing)
    noise = sample_initial_noise(7, (1, 4, 6, 8))
    theirs = pipeline(
        "a red house", image=grey, num_inference_steps=4, guidance_scale=5.0,
        image_guidance_scale=1.5, latents=torch.from_numpy(noise), output_type="latent",
    ).images  # fmt: skip
    own = Pipeline.from_pretrained(trained[1], device="cpu")
    config = SamplingConfig(
        steps=4, prompt="a red house", size=48, guidance_scale=5.0, image_guidance_scale=1.5
    )
    encoded = own.encode(grey, config=config)
    *_, ours = own.sample(encoded, config=config, seed=7)
    assert np.abs(np.asarray(ours) - theirs.numpy()).max() < 1e-4


def test_a_photo_keeps_its_lightness(trained, tmp_path):
    make_photo(72, 56).convert("L").save(tmp_path / "photo.png")
    command = ["colorize", str(tmp_path / "photo.png"), "-m", str(trained[1]), "--seed", "1"]
    assert main([*command, "--steps", "2", "--prompt", "a red house"]) == 0
    made = Image.open(tmp_path / "photo.color.png")
    before = Image.open(tmp_path / "photo.png").convert("RGB")
    off = rgb2lab(np.asarray(made)) - rgb2lab(np.asarray(before))
    assert np.abs(off[..., 0]).max() < 0.5


def test_a_trained_model_is_a_base_again_and_names_its_vae(trained):
    again = read_base(str(trained[1]))
    assert again.autoencoder == "AutoencoderTiny"
    assert again.unet["in_channels"] == 8


def test_a_folder_whose_index_names_another_vae_is_refused(taesd_base, tiny_base, tmp_path):
    copy = shutil.copytree(tiny_base, tmp_path / "base")
    shutil.rmtree(copy / "vae")
    shutil.copytree(taesd_base / "vae", copy / "vae")
    with pytest.raises(ModelError, match="AutoencoderKL in model_index.json, but Autoencoder"):
        read_base(str(copy))


@pytest.mark.parametrize("kind", ["AutoencoderTiny", "AutoencoderKL"])
def test_what_frozen_parts_take_is_that_of_their_weights(taesd_base, tiny_base, kind):
    base = read_base(str(taesd_base if kind == "AutoencoderTiny" else tiny_base))
    parts = FrozenParts(base.path)
    parts.load()
    held = (parts.vae, parts._texts[1])
    assert type(parts.vae).__name__ == kind
    sizes = [sum(p.numel() * p.element_size() for p in part.parameters()) for part in held]
    assert list(count_frozen(base)) == sizes


def test_what_frozen_parts_take_is_said_with_when_they_are_in_memory(taesd_base):
    base = read_base(str(taesd_base))
    for cached, when in ((True, "until latents are cached"), (False, "in each step, on top")):
        line = describe_frozen(base, settings(taesd_base, data={"cache_features": cached}))
        assert "AutoencoderTiny" in line and line.endswith(when)


@pytest.mark.slow
def test_a_dry_run_says_what_frozen_parts_take(taesd_base, captioned_folder, tmp_path, capsys):
    command = ["train", "--base", str(taesd_base), "--task", "sketch", "--max-steps", "9", "-n"]
    command += ["--data", str(captioned_folder), "-o", str(tmp_path / "run")]
    assert main(command) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "weights of the" in each]
    assert "AutoencoderTiny" in line and "until latents are cached" in line
