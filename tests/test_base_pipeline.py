"""Folders of models on a base: diffusers opens them without condiff, with the same results."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from skimage.color import rgb2lab

from condiff import Pipeline
from condiff.cli import main
from condiff.color.lab import lightness
from condiff.config import DiffusionConfig, SamplingConfig
from condiff.diffusion.parameterization import guidance_branches, guide_along
from condiff.diffusion.sampler import sample_initial_noise
from condiff.errors import ConfigError, UsageError
from condiff.models.base import read_base
from condiff.models.denoiser import widen
from condiff.models.info import read_model_info
from condiff.models.latent import scheduler_of
from condiff.pipelines.cascade import Cascade
from condiff.training.trainer import Trainer
from tests.conftest import make_photo
from tests.test_base import settings, train


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Grey pictures and their colours, with captions, in a parquet file."""
    rows = []
    for index in range(4):
        picture = make_photo(64, 64, seed=index)
        files = [as_png(image) for image in (picture, picture.convert("L"))]
        rows.append({"image": files[0], "conditioning_image": files[1], "text": "a red house"})
    folder = tmp_path_factory.mktemp("pairs")
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder


def as_png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def paired(base, rank=None, **changes):
    """The configuration of a short run on pairs, in which the picture matters."""
    return settings(
        base, task="restyle", max_train_steps=8, data={"conditions": "prepared"},
        optimizer={"learning_rate": 3e-3, "warmup_steps": 1, "ema_decay": 0.5},
        base={"name": str(base), "lora_rank": rank}, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_base, captioned_folder, pairs, tmp_path_factory):
    """folder(task) is the model folder of a short run."""
    made = {}

    def of(task):
        if task not in made:
            output = tmp_path_factory.mktemp("runs") / task
            if task == "restyle":
                trainer = train(paired(tiny_base), pairs, output)
            else:
                trainer = train(settings(tiny_base, task=task), captioned_folder, output)
            made[task] = trainer.save(half=False)
        return made[task]

    return of


def stock(folder, **process):
    """diffusers' own pipeline, with condiff's spacing of the timesteps."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    given = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **given, **process)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def grey(width, height):
    return make_photo(width, height).convert("L").convert("RGB")


def test_diffusers_opens_the_folder_by_its_own_class(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder("restyle"))
    assert type(pipeline).__name__ == "StableDiffusionInstructPix2PixPipeline"
    pipeline.set_progress_bar_config(disable=True)
    (made,) = pipeline("a red house", image=grey(64, 48), num_inference_steps=2).images
    assert made.size == (64, 48)
    assert pipeline.scheduler.config.timestep_spacing == "leading"  # as the base has it


@pytest.mark.parametrize(
    ("words", "scales"),
    [
        (("a red house", ""), (5.0, 1.5)),
        (("a red house", "a blue tree"), (3.0, 3.0)),
        (("a red house", "green"), (2.0, 1.0)),
    ],
)
def test_three_branches_are_those_of_diffusers(folder, words, scales):
    """Equal to 1e-4 in the latents, of a picture that needs no padding."""
    picture, noise = grey(64, 48), sample_initial_noise(7, (1, 4, 6, 8))
    theirs = stock(folder("restyle"))(
        words[0], image=picture, negative_prompt=words[1], num_inference_steps=5,
        guidance_scale=scales[0], image_guidance_scale=scales[1],
        latents=torch.from_numpy(noise), output_type="latent",
    ).images  # fmt: skip
    pipeline = Pipeline.from_pretrained(folder("restyle"), device="cpu")
    config = SamplingConfig(
        steps=5, prompt=words[0], negative_prompt=words[1], size=48,
        guidance_scale=scales[0], image_guidance_scale=scales[1],
    )  # fmt: skip
    encoded = pipeline.encode(picture, config=config)
    *_, ours = pipeline.sample(encoded, config=config, seed=7)
    assert float(theirs.abs().max()) > 1
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4)


def test_guidance_by_the_picture_alone_needs_two_branches(folder):
    pipeline = Pipeline.from_pretrained(folder("restyle"), device="cpu")
    calls = []
    predict = pipeline.backend.predict
    pipeline.backend.predict = lambda x_t, t, cond: calls.append(cond) or predict(x_t, t, cond)
    picture = grey(64, 48)
    results = {}
    for scale in (1.0, 3.0):
        calls.clear()
        config = SamplingConfig(steps=2, size=48, guidance_scale=7.0, image_guidance_scale=scale)
        *_, results[scale] = pipeline.sample(
            pipeline.encode(picture, config=config), config=config, seed=1
        )
        assert len(calls) == (2 if scale == 1 else 4)  # without a prompt the scale 7 has no effect
    assert not torch.allclose(results[1.0], results[3.0], atol=1e-3)


def test_branches_that_cancel_are_left_out():
    assert guidance_branches(()) == [0]
    assert guidance_branches((1.0,)) == [0]
    assert guidance_branches((2.0,)) == [0, 1]
    assert guidance_branches((1.0, 1.0)) == [0]
    assert guidance_branches((7.0, 1.0)) == [0, 1]
    assert guidance_branches((3.0, 3.0)) == [0, 2]
    assert guidance_branches((1.0, 1.5)) == [0, 1, 2]
    rng = np.random.default_rng(0)
    e = rng.normal(size=(3, 5))
    for scales in [(7.0, 1.5), (3.0, 3.0), (2.0, 1.0), (1.0, 2.0), (0.0, 1.5)]:
        full = e[2] + scales[0] * (e[0] - e[1]) + scales[1] * (e[1] - e[2])
        outputs = {number: e[number] for number in guidance_branches(scales)}
        np.testing.assert_allclose(guide_along(outputs, scales), full, atol=1e-12)


def test_sizes_are_padded_not_floored(folder):
    """61x45 pixels become 6x8 cells of 8, and the result has the requested size."""
    pipeline = Pipeline.from_pretrained(folder("restyle"), device="cpu")
    config = SamplingConfig(steps=1, size=45)
    encoded = pipeline.encode(grey(61, 45), config=config)
    assert (encoded.size, encoded.inside) == ((6, 8), (6, 8))
    odd = pipeline.encode(grey(72, 40), config=SamplingConfig(steps=1, size=40))
    assert (odd.inside, odd.size) == ((5, 9), (6, 10))  # padded to the U-Net's stride
    (made,) = pipeline(grey(72, 40), seed=1, steps=1, size=40)
    assert made.size == (72, 40)


def test_a_colorizer_keeps_lightness_and_takes_chroma_alone(folder, photo):
    pipeline = Pipeline.from_pretrained(folder("colorize"), device="cpu")
    gray = photo.convert("L").convert("RGB")
    one, two = (pipeline(gray, seed=1, steps=2, prompt=text)[0] for text in ("a red house", ""))
    assert one.size == photo.size
    L = lightness(np.asarray(gray))
    assert np.abs(lightness(np.asarray(one)) - L).max() <= 0.5
    assert np.ptp(np.asarray(one).astype(int), axis=2).max() > 5  # it has colours
    assert one.tobytes() != two.tobytes()  # and the words matter
    (quiet,) = pipeline(gray, seed=1, steps=2, prompt="a red house", look="quiet")
    spread = [np.ptp(np.asarray(image).astype(int), axis=2).mean() for image in (quiet, one)]
    assert spread[0] < spread[1]


def test_cells_of_a_colorizer_are_the_chroma_of_the_decoded_picture(folder):
    pipeline = Pipeline.from_pretrained(folder("colorize"), device="cpu")
    gray = make_photo(64, 48).convert("L").convert("RGB")
    config = SamplingConfig(steps=2, size=48)
    encoded = pipeline.encode(gray, config=config)
    *_, x_0 = pipeline.sample(encoded, config=config, seed=1)
    cells = pipeline.to_cells(x_0, encoded) * pipeline.loaded.task.space.scale
    picture = pipeline.backend.decode(x_0)[0].permute(1, 2, 0).numpy().clip(-1, 1)
    lab = rgb2lab((picture + 1) / 2)
    assert cells.shape == (48, 64, 2) and np.abs(lab[..., 1:]).max() > 5
    np.testing.assert_allclose(cells, lab[..., 1:], atol=0.5)


def test_a_long_strip_is_coloured_in_windows(folder):
    pipeline = Pipeline.from_pretrained(folder("colorize"), device="cpu")
    strip = make_photo(400, 64).convert("L").convert("RGB")
    config = SamplingConfig(steps=1, size=32, prompt="a red house", image_guidance_scale=2)
    encoded = pipeline.encode(strip, config=config)
    assert len(encoded.conds) > 1
    (made,) = pipeline.run(strip, config=config, seed=1)
    assert made.size == strip.size
    assert np.ptp(np.asarray(made).astype(int), axis=2).max() > 3


@pytest.mark.parametrize("setting", ["vividness", "coherence"])
def test_a_model_on_a_base_refuses_settings_of_colours(folder, tmp_path, capsys, setting):
    make_photo(40, 30).save(tmp_path / "photo.png")
    args = ["colorize", str(tmp_path / "photo.png"), "-m", str(folder("colorize"))]
    assert main([*args, f"--{setting}", "0.5"]) == 2
    assert f"leave --{setting} out" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_long_prompt_is_cut_off_with_a_warning(folder, caplog):
    pipeline = Pipeline.from_pretrained(folder("restyle"), device="cpu")
    config = SamplingConfig(steps=1, size=48, prompt="a red house " * 10)
    pipeline.encode(grey(64, 48), config=config)
    assert "the end of the prompt is cut off: 16 of 32 tokens" in caplog.text


def test_a_drawing_gets_a_picture_of_its_own_size(folder, tmp_path, capsys):
    drawing = Image.new("L", (100, 76), "white")
    drawing.paste(0, (20, 20, 70, 23))
    drawing.save(tmp_path / "drawing.png")
    command = ["render", str(tmp_path / "drawing.png"), "-m", str(folder("sketch")), "--seed", "1"]
    command += ["--steps", "2", "--prompt", "a red house", "--device", "cpu"]
    assert main(command) == 0
    with Image.open(tmp_path / "drawing.render.png") as made:
        assert made.size == (100, 76)
        assert "a red house" in made.info["XML:com.adobe.xmp"]
    assert main([*command, "-o", str(tmp_path / "plain.png"), "--upscale", "none"]) == 0
    with Image.open(tmp_path / "plain.png") as made:
        assert min(made.size) == 64  # the side at which it was trained
    cascade = Cascade.from_pretrained(folder("sketch"), upscale="none", device="cpu")
    assert (cascade.native_side, cascade.lines_side) == (64, 64)


@pytest.mark.parametrize(
    "flags",
    [["--prompt", "a car"], ["--negative-prompt", "x"], ["--image-guidance-scale", "2"]],
    ids=lambda flags: flags[0],
)
def test_a_model_without_words_refuses_them(sketch_folder, tiny_folder, tmp_path, capsys, flags):
    (tmp_path / "in").mkdir()
    grey(60, 44).save(tmp_path / "in" / "a.png")
    where = str(tmp_path / "in" / "a.png")
    assert main(["render", where, "-m", str(sketch_folder), *flags]) == 2
    assert main(["colorize", where, "-m", str(tiny_folder), *flags]) == 2
    batch = ["batch", str(tmp_path / "in"), str(tmp_path / "out"), "-m", str(tiny_folder), *flags]
    assert main(batch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(f"takes no words: leave {flags[0]} out" in line for line in lines)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="takes no words"):
        Pipeline.from_pretrained(tiny_folder)(grey(60, 44), prompt="a car")


def test_a_batch_notes_its_prompt_and_resumes_only_with_it(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    make_photo(60, 44).save(tmp_path / "in" / "a.png")
    command = ["batch", str(tmp_path / "in"), str(tmp_path / "out"), "-m", str(folder("colorize"))]
    command += ["--steps", "1", "--device", "cpu", "--workers", "1"]
    assert main([*command, "--prompt", "a red house"]) == 0
    with Image.open(tmp_path / "out" / "a.png") as made:
        assert "a red house" in made.info["XML:com.adobe.xmp"]
    assert main([*command, "--prompt", "a blue tree"]) == 2
    assert "was begun with other settings" in capsys.readouterr().err


def test_low_rank_updates_reload_as_the_run_had_them(tiny_base, pairs, tmp_path):
    """Both ways: added to the U-Net, and as diffusers' file on the widened base."""
    trainer = train(paired(tiny_base, rank=4), pairs, tmp_path)
    saved = trainer.save(half=False)
    trainer.ema.copy_to(trainer.model.trainable())
    x_t, t, words = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 16, 32)
    picture = torch.randn(2, 4, 8, 8)
    joined = torch.cat([x_t, picture], dim=1)

    def run(unet, joined):
        with torch.no_grad():
            return unet.eval()(joined, t, encoder_hidden_states=words).sample

    expected = run(trainer.model.unet, joined)
    merged = UNet2DConditionModel.from_pretrained(saved, subfolder="unet")
    torch.testing.assert_close(run(merged, joined), expected, atol=1e-5, rtol=1e-4)
    pipeline = DiffusionPipeline.from_pretrained(tiny_base)
    widen(pipeline.unet, in_channels=8)
    before = run(pipeline.unet, joined)
    pipeline.load_lora_weights(saved / "lora", weight_name="pytorch_lora_weights.safetensors")
    after = run(pipeline.unet, joined)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, after, atol=1e-3)
    unseen = run(pipeline.unet, torch.cat([x_t, torch.zeros_like(picture)], dim=1))
    assert not torch.allclose(unseen, after, atol=1e-4)  # the picture is not ignored


def test_the_card_and_the_folder_have_the_licence_of_the_base(tiny_base, pairs, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n", "utf-8")
    (base / "LICENSE").write_text("RAIL", "utf-8")
    saved = train(paired(base, rank=2), pairs, tmp_path / "run", until=1).save()
    card = (saved / "README.md").read_text("utf-8")
    assert "license: creativeml-openrail-m" in card
    assert "| trained part | low-rank updates of rank 2 |" in card
    assert "StableDiffusionInstructPix2PixPipeline" in card
    assert (saved / "LICENSE").read_text("utf-8") == "RAIL"
    assert read_model_info(saved).base["licence"] == "creativeml-openrail-m"


def test_a_model_is_a_base_again(folder, pairs, tmp_path):
    trainer = Trainer(paired(folder("restyle")), pairs, tmp_path)
    trained = UNet2DConditionModel.from_pretrained(folder("restyle"), subfolder="unet")
    assert torch.equal(trainer.model.unet.conv_in.weight, trained.conv_in.weight)


def test_zero_terminal_snr_is_written_where_it_was_asked_for(tiny_base):
    base = read_base(str(tiny_base))
    kept, _ = scheduler_of(base, DiffusionConfig(**base.process()))
    assert kept == "DDIMScheduler"
    process = base.process() | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    kind, made = scheduler_of(base, DiffusionConfig(**process))
    alphas_bar = DDIMScheduler.from_config(made).alphas_cumprod
    assert float(alphas_bar[-1]) == pytest.approx(0, abs=1e-6)
    assert (kind, made["timestep_spacing"]) == ("DDIMScheduler", "trailing")
    with pytest.raises(ConfigError, match="does not go with prediction_type epsilon"):
        settings(tiny_base, diffusion={"rescale_betas_zero_snr": True})


def test_other_doors_name_the_right_one(folder, tmp_path, capsys):
    model = str(folder("restyle"))
    info = read_model_info(model)
    assert (info.task.name, info.cell, info.drawn_cell, info.stride) == ("restyle", 8, 1, 16)
    with pytest.raises(ConfigError, match="which torch alone runs"):
        Pipeline.from_pretrained(model, device="cpu", engine="onnx")
    assert main(["export", model]) == 1
    assert "on a Stable Diffusion base" in capsys.readouterr().err
    assert main(["info", model, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["task"] == "restyle" and record["takes"] == "a picture, words"
