"""Views made on the device, compared with views of the same photos made on the CPU."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from condiff.color.lab import lab_to_rgb_batch, rgb_to_lab, rgb_to_lab_batch
from condiff.data.device_cache import CHANCES, _blur
from condiff.errors import ConfigError, DataError

from .conftest import make_photo
from .test_data import build, equal, joined, take

STILL = {"min_crop": 1.0, "flip": 0.0, "degrade": 0.0}


@pytest.fixture
def squares(tmp_path):
    """Six photos, square ones and others."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (width, height) in enumerate(
        [(64, 64), (64, 64), (80, 64), (64, 90), (200, 64), (9, 7)]
    ):
        make_photo(width, height, seed=i).save(folder / f"{i}.png")
    return folder


def on_device(source, tmp_path, **data):
    return build(source, tmp_path, **{"cache": "device", "size": 64, **data})


def test_lab_is_that_of_the_colour_module():
    levels = np.array([0, 1, 5, 10, 11, 12, 30, 77, 128, 200, 254, 255], np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 12, 3)
    truth = rgb_to_lab(rgb)
    found = rgb_to_lab_batch(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    assert np.abs(found.numpy() - truth).max() < 0.02


def test_lab_comes_back_as_the_same_rgb_and_with_gradients():
    levels = np.array([0, 1, 5, 10, 11, 12, 30, 77, 128, 200, 254, 255], np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 12, 3)
    lab = torch.from_numpy(rgb2lab(rgb)).float().permute(2, 0, 1)[None].requires_grad_()
    found = lab_to_rgb_batch(lab)
    assert (255 * found[0].detach().permute(1, 2, 0) - torch.from_numpy(rgb)).abs().max() < 0.2
    (gradient,) = torch.autograd.grad(found.sum(), lab)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_blur_is_that_of_opencv():
    import cv2

    planes = np.random.default_rng(0).random((3, 40, 40), np.float32)
    sigmas = [0.4, 1.1, 1.8]
    found = _blur(torch.from_numpy(planes), torch.tensor(sigmas)).numpy()
    for plane, blurred, sigma in zip(planes, found, sigmas, strict=True):
        assert np.abs(cv2.GaussianBlur(plane, (0, 0), sigma) - blurred).max() < 2e-3


@pytest.mark.parametrize("task", ["colorize", "none"])
def test_unvaried_views_are_those_of_the_cpu(squares, tmp_path, task):
    """Square photos at their own size: the same pixels, the same Lab."""
    still = {"task": task, "size": 64, "max_photos": None, **STILL}
    if task == "none":
        still["size"] = 8  # that of x_0, so that the smallest crop is the photo made small
    device = build(squares, tmp_path, cache="device", **still)
    cpu = build(squares, tmp_path, **still)
    names = dict.fromkeys(CHANCES, torch.full((2,), 0.5))
    found = device.make_views(torch.tensor([0, 1]), names)
    truth = {key: torch.stack([cpu[0, i][key] for i in (0, 1)]) for key in ("x_0", "condition")}
    assert found["condition"].shape == truth["condition"].shape
    assert torch.allclose(found["condition"], truth["condition"], atol=1e-3)
    assert (found["x_0"] - truth["x_0"]).abs().max() < 0.02  # the CPU rounds small RGB to 8 bits


def test_workers_processes_and_resume_change_nothing(squares, tmp_path):
    dataset = on_device(squares, tmp_path, rotate=10)
    truth = take(dataset, 5, batch_size=4)
    assert all(map(equal, truth[3:], take(dataset, 2, batch_size=4, start=3)))
    assert all(map(equal, truth, take(on_device(squares, tmp_path, rotate=10), 5, batch_size=4)))
    halves = [take(dataset, 5, batch_size=2, process=r, num_processes=2) for r in (0, 1)]
    for whole, pair in zip(truth, zip(*halves, strict=True), strict=True):
        together = joined(pair)
        assert all(torch.allclose(whole[k], together[k], atol=1e-5) for k in together)
    assert not equal(truth[0], take(on_device(squares, tmp_path, seed=6), 1, batch_size=4)[0])


@pytest.mark.parametrize("min_crop", [0.2, 0.7])
def test_views_stay_in_range_and_show_no_empty_corners(tmp_path, min_crop):
    from PIL import Image

    (tmp_path / "bright").mkdir()
    Image.new("RGB", (70, 90), (250, 240, 230)).save(tmp_path / "bright" / "a.png")
    dataset = on_device(tmp_path / "bright", tmp_path, rotate=45, min_crop=min_crop, degrade=0.0)
    batch = take(dataset, 1, batch_size=16)[0]
    assert batch["condition"].shape == (16, 1, 64, 64)
    assert batch["x_0"].shape == (16, 2, 16, 16)
    assert batch["condition"].std() < 1e-3
    assert batch["condition"].min() > 0.8


def test_degraded_lightness_varies_and_stays_a_lightness(squares, tmp_path):
    dataset = on_device(squares, tmp_path, degrade=1.0, min_crop=1.0, flip=0.0)
    plain = on_device(squares, tmp_path, **STILL)
    worse, truth = (take(d, 8, batch_size=6) for d in (dataset, plain))
    changed = 0
    for bad, good in zip(worse, truth, strict=True):
        assert bad["condition"].abs().max() <= 1
        assert torch.equal(bad["x_0"], good["x_0"])  # chroma is never degraded
        changed += int(((bad["condition"] - good["condition"]).abs().amax((1, 2, 3)) > 0.01).sum())
    # 1 - 0.5 * 0.6 * 0.6 of 48 views: 39, give or take 3
    assert 28 <= changed <= 47


def test_each_epoch_shows_every_photo_in_another_view(squares, tmp_path):
    dataset = on_device(squares, tmp_path, degrade=0.0)
    first, second = take(dataset, 2, batch_size=6)
    assert not equal(first, second)
    assert dataset.describe().endswith(" MB of pixels on cpu")
    assert dataset.num_photos == 6


def test_what_the_device_cannot_do_is_said(squares, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="condition is drawn by the CPU; set data.cache to ram"):
        on_device(squares, tmp_path, task="sketch")
    monkeypatch.setattr("condiff.data.device_cache.free_memory", lambda: 1000)
    with pytest.raises(DataError, match=r"GB are free on cpu: set data\.cache to ram"):
        on_device(squares, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["colorize", "none"])
def test_a_gpu_makes_the_views_that_the_cpu_makes(squares, tmp_path, task):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    how = {"task": task, "rotate": 15, "size": 64, "cache": "device"}
    cpu = build(squares, tmp_path, **how)
    gpu = build(squares, tmp_path, device="cuda", **how)
    for one, other in zip(take(cpu, 4, batch_size=8), take(gpu, 4, batch_size=8), strict=True):
        assert other["x_0"].device.type == "cuda"
        for key in ("x_0", "condition"):
            assert (one[key] - other[key].cpu()).abs().max() < 1e-3
    assert all(map(equal, take(gpu, 4, batch_size=8), take(gpu, 4, batch_size=8)))
