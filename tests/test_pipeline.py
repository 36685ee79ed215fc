"""Whole photos in, whole photos out."""

import numpy as np
import pytest
import torch
from PIL import Image

from condiff import Pipeline
from condiff.color import lightness, rgb_to_lab
from condiff.diffusion import SCHEDULERS
from condiff.errors import ConfigError
from condiff.pipeline import MAX_ASPECT, find_device, pad_to_stride, small_lightness

from .conftest import make_photo


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    return Pipeline.from_pretrained(tiny_folder, device="cpu")


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
    first, *_, last = pipeline.frames(photo, steps=3, seed=3, size=32)
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


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_samples(pipeline, photo, scheduler):
    (result,) = colored(pipeline, photo, scheduler=scheduler, steps=3)
    assert result.size == photo.size


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
    """An all-red chroma comes out red everywhere, a half-red one in its half."""
    from condiff.color import join_chroma, rgb_to_lab

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
    small = small_lightness(np.zeros((height, width, 3), np.uint8))
    assert small.shape == expected
    assert max(small.shape) <= MAX_ASPECT * 256


def test_padding_mirrors_and_reaches_the_stride():
    lightness = np.arange(36 * 5, dtype=np.float32).reshape(36, 5)
    padded = pad_to_stride(lightness, 32)
    assert padded.shape == (64, 32)
    assert np.array_equal(padded[:36, :5], lightness)
    assert np.array_equal(padded[36:, :5], lightness[::-1][:28])
    assert np.array_equal(padded[:36, 5:10], lightness[:, ::-1])


def test_devices_are_told():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        find_device("tpu")
