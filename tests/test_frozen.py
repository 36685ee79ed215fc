"""Results that a change of the code's structure must not change: SHA-256 of pixels and of weights.

Everything goes through the command line, with every setting given, so that neither a moved module
nor a new default touches it. `CONDIFF_FROZEN=write python -m pytest -m slow tests/test_frozen.py`
writes tests/frozen.json anew. Other processors round differently: a hash that differs is accepted
where a summary (8 by 8 mean values) agrees, unless CONDIFF_FROZEN is `exact`.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from condiff.cli import main

ROOT = Path(__file__).parent.parent
STORE = Path(__file__).with_name("frozen.json")
MODE = os.environ.get("CONDIFF_FROZEN", "")
SAMPLING = ["--steps", "4", "--scheduler", "ddim", "--variety", "0", "-m", "colorize"]
SAMPLING += ["--saturation", "1", "--temperature", "0", "--device", "cpu"]
COLORIZE = ["colorize", "--seed", "1", *SAMPLING, "--threads", "1"]
RENDER = ["render", str(ROOT / "examples/sketch.png"), "--seed", "1", "--scheduler", "ddim"]
RENDER += ["--guidance-scale", "2", "--variety", "1", "--device", "cpu", "--threads", "1"]
RENDER += ["--engine", "onnx", "-m", "sketch", "--flat", "0"]
# Rounding moves a mean over a 64th of a picture by 0.05 levels of 8 bits (onnx beside torch), and
# statistics of weights by 1e-5; a learning rate of 2 % more moves these by 1e-4.
TOLERANCE = 0.25
WEIGHT_TOLERANCE = 5e-5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    """The example photo as it is, and 320 pixels wide as PNG of 8 and of 16 bits."""
    folder = tmp_path_factory.mktemp("grey")
    photo = Image.open(ROOT / "examples/grey.jpg").convert("L")
    photo = photo.resize((320, round(320 * photo.height / photo.width)), Image.Resampling.BOX)
    photo.save(folder / "grey.png")
    deep = np.asarray(photo).astype(np.uint16) * 257
    cv2.imwrite(str(folder / "deep.png"), deep)
    shutil.copy(ROOT / "examples/grey.jpg", folder / "photo.jpg")
    return folder


def check(name: str, values: np.ndarray, summary: np.ndarray, tolerance: float) -> None:
    """Compare with what is stored under that name, or store it."""
    found = {
        "sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest(),
        "summary": [round(float(value), 5) for value in summary.ravel()],
    }
    stored = json.loads(STORE.read_text("utf-8")) if STORE.exists() else {}
    if MODE == "write":
        STORE.write_text(json.dumps(stored | {name: found}, sort_keys=True) + "\n", "utf-8")
        return
    if found["sha256"] == stored[name]["sha256"]:
        return
    assert MODE != "exact", f"{name} has other values"
    assert np.allclose(found["summary"], stored[name]["summary"], rtol=0, atol=tolerance)


def check_picture(name: str, path: Path) -> None:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    white = np.iinfo(pixels.dtype).max
    small = cv2.resize(
        pixels.astype(np.float32) * (255 / white), (8, 8), None, 0, 0, cv2.INTER_AREA
    )
    check(name, pixels, small, TOLERANCE)


COLORIZED = {
    "the photo as it is": ("photo.jpg", ["--guidance-scale", "2", "--engine", "onnx"]),
    "onnx": ("grey.png", ["--guidance-scale", "2", "--engine", "onnx"]),
    "torch": ("grey.png", ["--guidance-scale", "2", "--engine", "torch"]),
    "guidance off": ("grey.png", ["--guidance-scale", "1", "--engine", "onnx"]),
    "hints": (
        "grey.png",
        ["--guidance-scale", "2", "--engine", "onnx", "--hint", "0.3,0.3,#3c5ac8"]
        + ["--hint", "0.7,0.6,#c83c3c"],
    ),
    "16 bits": ("deep.png", ["--guidance-scale", "2", "--engine", "onnx"]),
}


@pytest.mark.parametrize("name", COLORIZED)
def test_colorized(name, grey, tmp_path):
    source, options = COLORIZED[name]
    target = tmp_path / "out.png"
    assert main([*COLORIZE, str(grey / source), "-o", str(target), *options]) == 0
    check_picture(f"colorize, {name}", target)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("upscale", ["lines", "upscale", "none"])
def test_rendered(size, upscale, tmp_path):
    target = tmp_path / "out.png"
    options = ["--steps", "6", "--size", str(size), "--upscale", upscale]
    assert main([*RENDER, "-o", str(target), *options]) == 0
    check_picture(f"render, {size}, {upscale}", target)


@pytest.mark.parametrize("size", ["default", "172"])
@pytest.mark.parametrize("upscale", ["lines", "upscale", "none"])
def test_rendered_in_ten_steps(size, upscale, tmp_path):
    target = tmp_path / "out.png"
    options = ["--steps", "10", "--upscale", upscale]
    options += [] if size == "default" else ["--size", size]
    assert main([*RENDER, "-o", str(target), *options]) == 0
    check_picture(f"render, 10 steps, {size}, {upscale}", target)


def test_a_batch(grey, tmp_path):
    photos = tmp_path / "in"
    photos.mkdir()
    photo = Image.open(grey / "grey.png")
    for number in range(5):
        photo.crop((20 * number, 10, 20 * number + 160, 130)).save(photos / f"{number}.png")
    options = ["--guidance-scale", "1.5", "--engine", "onnx", "--seed", "3", "--workers", "1"]
    assert main(["batch", str(photos), str(tmp_path / "out"), *SAMPLING, *options]) == 0
    for path in sorted((tmp_path / "out").glob("*.png")):
        check_picture(f"batch, {path.stem}", path)
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_trained_weights(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    y, x = np.mgrid[0:48, 0:48] / 48
    for number in range(6):
        waves = [np.sin((number + 2) * x + c) * np.cos(4 * y - c) for c in range(3)]
        pixels = (128 + 90 * np.stack(waves, 2)).round().astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    settings = {
        "model.sample_size": 8,
        "model.backbone_variant": "null",
        "model.block_out_channels": "[8, 16]",
        "model.norm_num_groups": 4,
        "model.attention_head_dim": 8,
        "data.size": 32,
        "data.min_crop": 0.7,
        "data.flip": 0.5,
        "data.degrade": 0.5,
        "data.hint_prob": 0.5,
        "diffusion.timestep_shift": 1.0,
        "diffusion.loss_weighting": "none",
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 5,
        "optimizer.ema_decay": 0.9,
        "train_batch_size": 4,
        "mixed_precision": "no",
        "seed": 5,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run = ["train", "--task", "colorize", "--data", str(photos), "-o", str(tmp_path / "run")]
    assert main([*run, "--max-steps", "20", *sets]) == 0
    newest = max((tmp_path / "run/checkpoints").glob("step-*"), key=lambda path: path.name)
    weights = load_file(newest / "model.safetensors")
    flat = np.concatenate([weights[key].astype(np.float32).ravel() for key in sorted(weights)])
    summary = np.array(
        [[float(weights[k].mean()), float(weights[k].std())] for k in sorted(weights)]
    )
    check("trained weights", flat, summary, WEIGHT_TOLERANCE)
