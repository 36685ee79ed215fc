"""The pipeline on whole photos."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from skimage import data

from condiff import Pipeline
from condiff.backends.table import find_device
from condiff.backends.torch_backend import TorchBackend
from condiff.color.edits import ColorEdits
from condiff.color.lab import lightness, rgb_to_lab
from condiff.conditions.drawing_cleanup import Drawing
from condiff.config import LOOKS, DiffusionConfig, ModelConfig, SamplingConfig, SchedulerName
from condiff.diffusion.sampler import sample_initial_noise
from condiff.errors import ConfigError, ImageError, ModelError, UsageError
from condiff.models.denoiser import build_model
from condiff.models.info import ModelInfo, read_model_info, read_sizes
from condiff.resize import MAX_ASPECT, pad_to_stride, shrink_to
from condiff.tasks import find_task

from .conftest import make_photo


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    return Pipeline.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def small_windows(pipeline):
    """The same, as if trained at 64: its windows are 64 pixels of the condition, or 16 cells."""
    return Pipeline(replace(pipeline.loaded, condition_size=64), pipeline.backend)


CONFIG = SamplingConfig(steps=2, size=32)


def sample_once(pipeline, condition, *, seed, scale):
    """x_0 (h,w,C) after one step, clipped to ±1."""
    config = SamplingConfig(steps=1, guidance_scale=scale)
    *_, x_0 = pipeline.sample(pipeline.encode_condition(condition), config=config, seed=seed)
    return pipeline.backend.to_numpy(x_0)[0].transpose(1, 2, 0).clip(-1, 1)


def colored(pipeline, image, **changes):
    return pipeline(image, **{"steps": 2, "seed": 3, "size": 32} | changes)


@pytest.mark.parametrize("size", [(60, 44), (1, 1), (3, 200), (257, 31), (40, 400)])
def test_size_and_lightness_are_the_photos_own(pipeline, size):
    photo = make_photo(*size)
    (result,) = colored(pipeline, photo)
    assert result.size == size
    assert result.mode == "RGB"
    error = np.abs(lightness(np.asarray(result)) - lightness(np.asarray(photo))).max()
    assert error <= 0.5


def test_the_same_seed_is_the_same_picture_whatever_is_drawn_beside_it(pipeline, photo):
    first, second = colored(pipeline, photo, samples=2)
    (alone,) = colored(pipeline, photo, seed=4)
    assert second.tobytes() == alone.tobytes()
    assert first.tobytes() != second.tobytes()
    assert (first.info["seed"], second.info["seed"]) == (3, 4)


def test_frames_go_from_noise_to_the_result(pipeline, photo):
    first, *_, last = pipeline.frames(photo, seed=3, config=CONFIG.override({"steps": 3}))
    (result,) = colored(pipeline, photo, steps=3)
    assert last.tobytes() == result.tobytes()
    assert first.size == photo.size
    chroma = rgb_to_lab(np.asarray(first))[..., 1:].std()
    assert chroma > 20  # noise of standard deviation 50, cut off where sRGB ends
    with pytest.raises(ConfigError, match="takes a photo"):
        next(pipeline.frames(None, seed=3))


def test_without_a_seed_a_new_one_is_drawn_and_told(pipeline, photo):
    (result,) = colored(pipeline, photo, seed=None)
    (again,) = colored(pipeline, photo, seed=result.info["seed"])
    assert result.tobytes() == again.tobytes()


@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
def test_every_scheduler_samples(pipeline, photo, scheduler):
    (result,) = colored(pipeline, photo, scheduler=scheduler, steps=3)
    assert result.size == photo.size


def test_more_steps_than_timesteps_are_refused(pipeline, photo):
    eight = DiffusionConfig(num_train_timesteps=8)
    coarse = Pipeline(replace(pipeline.loaded, diffusion=eight), pipeline.backend)
    with pytest.raises(UsageError, match="has 8 timesteps: --steps is at most 8, not 9"):
        colored(coarse, photo, steps=9)
    assert len(colored(coarse, photo, steps=8)) == 1


def test_gray_and_colour_of_the_same_lightness_end_alike(pipeline):
    gray = make_photo(64, 64).convert("L")
    (from_gray,) = colored(pipeline, gray)
    (from_rgb,) = colored(pipeline, gray.convert("RGB"))
    assert from_gray.tobytes() == from_rgb.tobytes()


def test_alpha_is_kept(pipeline, photo):
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    (result,) = colored(pipeline, photo)
    assert result.mode == "RGBA"
    assert result.getchannel("A").tobytes() == photo.getchannel("A").tobytes()


def test_colours_of_the_model_arrive_where_they_belong(pipeline):
    """Red chroma gives red everywhere, half-red chroma gives red in its half."""
    from condiff.color.lab import join_chroma, rgb_to_lab

    gray = np.full((50, 80, 3), 128, np.uint8)
    chroma = np.zeros((8, 16, 2), np.float32)
    chroma[:, 8:] = (40, 20)
    lab = rgb_to_lab(join_chroma(gray, chroma))
    assert np.abs(lab[:, :30, 1:]).max() < 2
    assert np.abs(lab[:, 55:, 1] - 40).max() < 2


def test_nothing_to_do_is_refused(pipeline, photo):
    for wrong in ({"steps": 0}, {"samples": 0}, {"size": 3}):
        with pytest.raises(ConfigError):
            colored(pipeline, photo, **wrong)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((4000, 3000), (256, 340)), ((100, 100), (256, 256)), ((10_000, 100), (8, 768))],
)
def test_the_aspect_is_kept_and_panoramas_bounded(size, expected):
    width, height = size
    small = shrink_to(np.zeros((height, width, 3), np.uint8))[..., 0]
    assert small.shape == expected
    assert max(small.shape) <= MAX_ASPECT * 256


@pytest.mark.parametrize(
    ("size", "seen", "windows"),
    [
        ((300, 100), (32, 96), 1),  # in one piece, as ever
        ((400, 100), (32, 128), 2),
        ((100, 2000), (640, 32), 8),
        ((6400, 100), (16, 1024), 19),  # beyond 32 to 1 it is shrunk
    ],
)
def test_long_strips_are_seen_at_the_models_size_in_windows_that_overlap(
    small_windows, size, seen, windows
):
    encoded = small_windows.encode(make_photo(*size), config=CONFIG)
    cell = small_windows.cell
    assert tuple(cell * side for side in encoded.inside) == seen
    assert len(encoded.conds) == len(encoded.windows.parts) == windows
    least = 64 if min(seen) < 32 else 96  # what it was trained at, or 3 to 1
    assert max(encoded.windows.height, encoded.windows.width) * cell == least


def test_one_end_of_a_strip_does_not_depend_on_the_other(small_windows):
    """Two steps spread information at most two windows far; one piece would mix all."""
    strip = np.asarray(make_photo(2000, 100)).copy()
    (before,) = colored(small_windows, Image.fromarray(strip))
    strip[:, 1500:] = strip[:, 1500:][:, ::-1]  # the levels of the whole stay
    (after,) = colored(small_windows, Image.fromarray(strip))
    assert np.array_equal(np.asarray(before)[:, :900], np.asarray(after)[:, :900])
    assert not np.array_equal(np.asarray(before)[:, 1400:], np.asarray(after)[:, 1400:])


def test_one_step_of_a_strip_is_the_mean_of_its_windows(small_windows):
    config = CONFIG.override({"steps": 1, "variety": 1, "guidance_scale": 2})
    encoded = small_windows.encode(make_photo(400, 100), config=config)
    noise, x_0 = small_windows.sample(encoded, config=config, seed=3)
    total, weights = np.zeros_like(noise), np.zeros_like(noise)
    for part, (cond, null_cond) in zip(encoded.windows.parts, encoded.conds, strict=True):
        # No signal is left at the last t: x_0 is minus the model output.
        given, free = (
            small_windows.backend.predict(noise[part], 999.0, c).numpy() for c in (cond, null_cond)
        )
        total[part] -= encoded.windows.weight * (free + 2 * (given - free))
        weights[part] += encoded.windows.weight
    assert np.allclose(x_0.numpy(), (total / weights).clip(-2.2, 2.2), atol=1e-4)


def test_padding_mirrors_and_reaches_the_stride():
    lightness = np.arange(36 * 5, dtype=np.float32).reshape(36, 5, 1)
    padded = pad_to_stride(lightness, 32)
    assert padded.shape == (64, 32, 1)
    assert np.array_equal(padded[:36, :5], lightness)
    assert np.array_equal(padded[36:, :5], lightness[::-1][:28])
    assert np.array_equal(padded[:36, 5:10], lightness[:, ::-1])


def test_devices_are_told():
    assert find_device("cpu") == "cpu"
    assert find_device("auto") in {"cpu", "cuda", "mps"}
    assert find_device("auto", engine="onnx") == "cpu"
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        find_device("tpu")


def rgb_pipeline(name, **changes):
    """A tiny pipeline of the task with random weights, x_t at 32²."""
    torch.manual_seed(0)
    config = ModelConfig(
        sample_size=32, backbone_variant=None, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=8, **changes,
    )  # fmt: skip
    task = find_task(name)
    model = build_model(config, task).eval()
    side = 32 * model.encoder.config.fold
    sizes = read_sizes(model.unet.config, model.encoder.config)
    folder = ModelInfo(
        path=Path(name), task=task, diffusion=DiffusionConfig(), condition_size=side, **sizes
    )
    return Pipeline(folder, TorchBackend(model))


@pytest.mark.parametrize("fold", [1, 2])
def test_a_drawing_becomes_a_picture_of_its_own_size(fold):
    pipeline = rgb_pipeline("sketch", fold=fold)
    drawing = Image.new("L", (90, 60), "white")
    ImageDraw.Draw(drawing).ellipse((20, 10, 70, 50), outline="black", width=2)
    first, second = pipeline(drawing, steps=2, seed=3, samples=2)
    (again,) = pipeline(drawing, steps=2, seed=4)
    assert first.size == drawing.size
    assert first.tobytes() != second.tobytes() == again.tobytes()


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_of_a_photos_patches_the_means_are_sampled(scheduler):
    """With a network that predicts v = 0, x_0 is x_t times a factor."""
    pipeline = rgb_pipeline("colorize", fold=4, patch_size=2)
    with torch.no_grad():
        for values in pipeline.backend.model.unet.conv_out.parameters():
            values.zero_()
    config = SamplingConfig(steps=3, scheduler=scheduler)
    encoded = pipeline.encode(make_photo(128, 96), config=config)
    for x_t in pipeline.sample(encoded, config=config, seed=5):
        corners = [x_t[..., y::2, x::2] for y in (0, 1) for x in (0, 1)]
        assert all(torch.equal(corner, corners[0]) for corner in corners)
        assert corners[0].std() > 1e-3


def test_of_a_drawings_patches_every_pixel_is_sampled():
    pipeline = rgb_pipeline("sketch", fold=4, patch_size=2)
    encoded = pipeline.encode(Image.new("L", (90, 60), "white"))
    x_T = next(pipeline.sample(encoded, seed=5))
    assert not torch.equal(x_T[..., ::2, ::2], x_T[..., 1::2, 1::2])


def test_guidance_of_one_is_off_and_more_follows_the_condition():
    pipeline = rgb_pipeline("sketch")
    condition = np.random.default_rng(0).uniform(-1, 1, (32, 32, 1)).astype(np.float32)

    # One step from pure noise: x_0 is minus the model output, so guidance is linear in it.
    plain, blind, double = (
        sample_once(pipeline, condition, seed=0, scale=scale) for scale in (1, 0, 2)
    )
    expected = (blind + 2 * (plain - blind)).clip(-1, 1)
    inside = (np.abs(plain) < 0.999) & (np.abs(blind) < 0.999)
    assert not np.allclose(plain, blind, atol=1e-3)
    assert inside.mean() > 0.5
    assert np.allclose(double[inside], expected[inside], atol=1e-4)


def test_both_branches_of_guidance_are_what_the_network_says_with_and_without_the_drawing():
    """1 is the conditional branch alone; 0 the unconditional, of training's `kept` at 0."""
    pipeline = rgb_pipeline("sketch", fold=2)
    condition = np.random.default_rng(0).uniform(-1, 1, (64, 64, 1)).astype(np.float32)
    noise = torch.from_numpy(sample_initial_noise(7, (1, 3, 32, 32)))
    given = torch.from_numpy(condition).permute(2, 0, 1)[None]
    for scale, kept in ((1.0, None), (0.0, torch.zeros(1, 1, 1, 1))):
        with torch.inference_mode():
            v = pipeline.backend.model(noise, torch.tensor([999.0]), given, kept=kept)
        x_0 = sample_once(pipeline, condition, seed=7, scale=scale)
        expected = -v[0].permute(1, 2, 0).numpy().clip(-1, 1)  # no signal is left at the last t
        assert np.allclose(x_0, expected, atol=1e-4)


def test_an_unconditional_model_takes_nothing_and_frames_begin_with_noise():
    pipeline = rgb_pipeline("none")
    frames = list(pipeline.frames(seed=0, config=SamplingConfig(steps=3)))
    (result,) = pipeline(steps=3, seed=0)
    assert len(frames) == 4
    assert frames[-1].tobytes() == result.tobytes()
    noise = np.asarray(frames[0], np.float32) / 127.5 - 1
    assert 0.5 < noise.std() < 0.9  # a standard normal clipped to ±1 has 0.72
    with pytest.raises(ConfigError, match="unconditional"):
        pipeline(make_photo(32, 32), steps=1)


def test_a_model_of_drawings_or_photos_asks_for_one(pipeline):
    with pytest.raises(ConfigError, match="takes a drawing"):
        rgb_pipeline("edge")(steps=1)
    with pytest.raises(ConfigError, match="takes a photo"):
        pipeline(steps=1)


def test_a_drawing_is_cleaned_a_photo_refused_and_a_cleaned_drawing_taken():
    pipeline = rgb_pipeline("sketch", fold=1)
    white = Image.new("L", (64, 64), "white")
    ImageDraw.Draw(white).line((8, 8, 50, 56), fill="black", width=2)
    _, condition = pipeline.prepare(white, size=None)
    _, negative = pipeline.prepare(ImageOps.invert(white), size=None)
    _, cleaned = pipeline.prepare(Drawing(255 - np.asarray(white)), size=None)
    assert condition.shape == (32, 32, 1)
    assert (condition.min(), condition.max()) == (-1, 1)
    assert np.array_equal(condition, negative) and np.array_equal(condition, cleaned)
    with pytest.raises(ImageError, match="looks like a photo"):
        pipeline(Image.fromarray(data.astronaut()), steps=1)


def test_a_colorizer_takes_no_drawing(pipeline):
    with pytest.raises(ConfigError, match="takes a photo, not a drawing"):
        pipeline(Drawing(np.zeros((40, 40), np.uint8)), steps=1)


def test_a_model_folder_says_how_it_is_sampled_and_an_argument_overrules_it(tiny_folder, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    changed = index | {"sampling": {"guidance_scale": 3.0, "variety": 0.0}}
    (folder / "model_index.json").write_text(json.dumps(changed), "utf-8")
    asked, plain = (Pipeline.from_pretrained(f, device="cpu") for f in (folder, tiny_folder))
    photo = make_photo(40, 30)
    (by_folder,) = asked(photo, seed=5)
    (by_argument,) = plain(photo, seed=5, guidance_scale=3.0, variety=0.0)
    (unguided,) = asked(photo, seed=5, guidance_scale=1.0, variety=1.0)
    assert np.array_equal(by_folder, by_argument)
    assert np.array_equal(unguided, plain(photo, seed=5)[0])
    assert not np.array_equal(by_folder, unguided)


def test_a_look_is_its_row_of_the_models_table_and_arguments_go_before(tiny_folder, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    row = {"guidance_scale": 3.0, "guidance_eta": 0.5, "variety": 0.25, "saturation": 1.5}
    sampling = {"steps": 3, "guidance_scale": 2.0, "variety": 0.5}
    own = index | {"sampling": sampling, "looks": {"loud": row}}
    (folder / "model_index.json").write_text(json.dumps(own), "utf-8")
    pipeline, photo = Pipeline.from_pretrained(folder, device="cpu"), make_photo(40, 30)

    def result(**arguments) -> bytes:
        return pipeline(photo, seed=5, **arguments)[0].tobytes()

    more = ColorEdits(saturation=1.5)
    loud = {"guidance_scale": 3.0, "guidance_eta": 0.5, "variety": 0.25}
    assert result(look="loud") == result(**loud, edits=more)
    assert result(look="natural") == result() == result(guidance_scale=2.0, variety=0.5)
    calm = ColorEdits(saturation=1.0)
    assert result(look="loud", edits=calm) == result(**loud)
    assert result(look="loud", variety=1.0) == result(**loud | {"variety": 1.0}, edits=more)
    assert len({result(), result(look="loud"), result(look="loud", edits=calm)}) == 3
    with pytest.raises(ConfigError, match="no look vivid: choose from natural, loud"):
        pipeline(photo, look="vivid")
    own["looks"]["natural"] = row  # would contradict "sampling"
    (folder / "model_index.json").write_text(json.dumps(own), "utf-8")
    with pytest.raises(ModelError, match="natural"):
        Pipeline.from_pretrained(folder, device="cpu")


def test_a_folder_without_looks_has_the_built_in_ones_and_a_model_of_drawings_none(
    tiny_folder, tmp_path
):
    folder = tmp_path / "older"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    assert index.pop("looks") == {name: look.model_dump() for name, look in LOOKS.items()}
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    assert dict(read_model_info(folder).looks) == LOOKS
    sketch = read_model_info("sketch")
    assert sketch.looks == {}
    assert sketch.find_look("natural").guidance_scale == sketch.sampling.guidance_scale != 1
    with pytest.raises(ConfigError, match="not a colorizer"):
        read_model_info("sketch").find_look("vivid")


def test_the_model_of_a_run_is_named_by_its_run(tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "faces" / "model")
    for place, name in ((tiny_folder, "tiny"), (tmp_path / "faces" / "model", "faces/model")):
        monkeypatch.chdir(place)
        assert read_model_info(".").name == name  # it was empty
    info = read_model_info(tmp_path / "faces" / "model")
    assert (info.name, read_model_info(tiny_folder).name) == ("faces/model", "tiny")
    with pytest.raises(ConfigError, match="The model faces/model has no look"):
        info.find_look("no-such")
