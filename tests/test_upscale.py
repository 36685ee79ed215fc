"""The task upscale and the second stage of `render`: windows, a tiny model, sizes, tones."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from condiff import Pipeline
from condiff.conditions.drawing_cleanup import Drawing
from condiff.config import SamplingConfig, parse_config, read_config
from condiff.data.loading import build_dataset, load_batches
from condiff.data.upscale_pairs import MARGIN, make_small, sample_window
from condiff.diffusion.tiles import plan_tiles
from condiff.errors import ConfigError
from condiff.models.loading import load_model
from condiff.pipelines.cascade import ENLARGING, Upscaler, enlarged_size, resample
from condiff.resize import bring_up
from condiff.tasks import find_task
from condiff.training.run_folder import begin, find_start
from condiff.training.trainer import Trainer

from .conftest import make_photo

TASK = find_task("upscale")
CONFIGS = Path(__file__).parents[1] / "configs"
SETTINGS = {
    "task": "upscale",
    "max_train_steps": 4,
    "train_batch_size": 3,
    "model": {
        "sample_size": 16, "fold": 1, "backbone_variant": None, "block_out_channels": [8, 16],
        "norm_num_groups": 4, "attention_head_dim": 8,
    },
    "data": {"size": 40, "min_crop": 0.8, "rotate": 5},
}  # fmt: skip


def settings(**data):
    return parse_config({**SETTINGS, "data": SETTINGS["data"] | data}, origin="here")


def dataset(config, source):
    return build_dataset(
        config, TASK, source, cache_dir=None, feature_channels={}, device=torch.device("cpu")
    )


def batches(config, source, count=2, start=0):
    found = load_batches(dataset(config, source), batch_size=3, start=start)
    return [next(found) for _ in range(count)]


def same(first, second):
    return all(
        torch.equal(a[key], b[key])
        for a, b in zip(first, second, strict=True)
        for key in ("x_0", "condition")
    )


def ramp(side):
    """A picture with the column in red and the row in green."""
    y, x = np.mgrid[0:side, 0:side]
    return np.stack([x, y, 0 * x], axis=2).astype(np.uint8)


@pytest.mark.parametrize("length", [16, 17, 40, 48, 100])
def test_a_window_lies_in_its_view_and_what_is_seen_about_it(length):
    rng = np.random.default_rng(0)
    view = ramp(length)
    places = set()
    for _ in range(50):
        window = sample_window(length, 16, rng)
        seen = window.cut(view)
        assert seen.shape == (min(length, 16 + 2 * MARGIN),) * 2 + (3,)
        inside = window.inside(seen)
        assert inside.shape == (16, 16, 3)
        left, top = inside[0, 0, :2]
        assert np.array_equal(inside, view[top : top + 16, left : left + 16])
        places.add((left, top))
    assert len(places) > 1 or length == 16


def test_the_small_picture_lies_where_the_large_one_does():
    pixels = 4 * ramp(60)
    for seed in range(6):
        small = make_small(pixels, np.random.default_rng(seed), degrade=0)
        assert small.shape == pixels.shape
        inner = np.abs(small - pixels)[8:-8, 8:-8]
        assert inner.max() < 1.5  # a ramp is its own shrunk picture, where nothing is shifted


def test_a_degraded_small_picture_keeps_its_tone():
    gray = np.full((48, 48, 3), 100, np.uint8)
    noised = [make_small(gray, np.random.default_rng(seed), degrade=1) for seed in range(8)]
    assert max(n.std() for n in noised) > 2
    assert all(abs(n.mean() - 100) < 4 for n in noised)
    assert np.allclose(make_small(gray, np.random.default_rng(0), degrade=0), 100)


def test_the_condition_is_the_small_picture_and_the_lines_of_x_0(tmp_path):
    """A disc on paper: shrunk, it is near x_0, and its line is at its edge."""
    y, x = np.mgrid[0:40, 0:40] - 19.5
    disc = np.where(np.hypot(x, y) < 9, 40, 220).astype(np.uint8)
    Image.fromarray(np.repeat(disc[..., None], 3, axis=2)).save(tmp_path / "disc.png")
    config = settings(degrade=0.0, rotate=0, min_crop=1, size=40)
    found, near, far = 0, [], []
    for batch in batches(config, tmp_path, count=20):
        assert batch["x_0"].shape == (3, 3, 16, 16)
        assert batch["condition"].shape == (3, 4, 16, 16)
        for x_0, condition in zip(batch["x_0"], batch["condition"], strict=True):
            assert (x_0 - condition[:3]).abs().mean() < 0.25
            gray = x_0.mean(0).numpy()
            gradient = np.hypot(*np.gradient(gray))
            ink = condition[3].numpy()
            if gradient.max() > 0.3 and ink.std() > 0.2:
                found += 1
                near.append(ink[gradient > 0.3].mean())
                far.append(ink[gradient < 0.01].mean())
    assert found > 10
    assert np.mean(near) > np.mean(far) + 0.3


def test_batches_are_a_function_of_seed_and_number(photo_folder):
    first = batches(settings(), photo_folder, count=3)
    assert same(first, batches(settings(), photo_folder, count=3))
    assert same(first[2:], batches(settings(), photo_folder, count=1, start=2))
    assert same(first, batches(settings(num_workers=1), photo_folder, count=3))
    assert not same(first[:1], first[1:2])


def parquet(folder, count=5, **columns):
    def encoded(image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": ""}

    photos = [make_photo(48, 40, seed) for seed in range(count)]
    rows = {"image": [encoded(photo) for photo in photos]}
    rows |= {name: [encoded(draw(photo)) for photo in photos] for name, draw in columns.items()}
    pq.write_table(pa.table(rows), folder / "photos.parquet")
    return folder


def test_folders_memory_parquet_and_streams(photo_folder, tmp_path):
    in_memory = batches(settings(cache="ram", min_crop=1, rotate=0), photo_folder)
    assert same(in_memory, batches(settings(min_crop=1, rotate=0), photo_folder))
    shards = parquet(tmp_path)
    for config in (settings(), settings(streaming=True)):
        (batch,) = batches(config, shards, count=1)
        assert batch["condition"].shape == (3, 4, 16, 16)


def test_prepared_drawings_are_cut_like_the_photo(tmp_path):
    """The drawing is the photo's grey: it is similar to the window, though augmented."""
    parquet(tmp_path, conditioning_canny=lambda photo: photo.convert("L"))
    config = settings(conditions="prepared", degrade=0.0)
    alike = {"own": [], "another": []}
    for batch in batches(config, tmp_path, count=8):
        for shift, found in enumerate(alike.values()):
            for x_0, condition in zip(
                batch["x_0"], batch["condition"].roll(shift, dims=0), strict=True
            ):
                pair = torch.stack([x_0.mean(0).flatten(), condition[3].flatten()])
                found.append(abs(torch.corrcoef(pair)[0, 1].item()))
    assert np.median(alike["own"]) > 0.6
    assert np.median(alike["own"]) > np.median(alike["another"]) + 0.15


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": {"fold": 2, "backbone_variant": None}}, "model.fold"),
        ({"model": {"fold": 1}}, "backbone_variant"),
        ({"model": {"fold": 1, "backbone_variant": None, "patch_size": 2}}, "model.patch_size"),
        (SETTINGS | {"data": {"size": 12}}, "no smaller"),
    ],
)
def test_settings_that_do_not_fit_are_told(changed, message):
    with pytest.raises(ConfigError, match=message):
        TASK.check(
            parse_config({"task": "upscale", "max_train_steps": 1, **changed}, origin="here")
        )


def test_photos_on_the_device_are_refused(photo_folder):
    with pytest.raises(ConfigError, match=r"data\.cache"):
        dataset(settings(cache="device"), photo_folder)


@pytest.mark.parametrize("name", ["upscale", "upscale-cpu"])
def test_the_configurations_are_of_the_task(name):
    config = read_config(CONFIGS / f"{name}.yaml")
    assert (config.task, TASK.condition_size(config)) == ("upscale", 64)


@pytest.fixture(scope="module")
def trained(photo_folder, tmp_path_factory):
    """A run of four steps and its model."""
    output = tmp_path_factory.mktemp("run")
    trainer = Trainer(settings(), photo_folder, output)
    list(trainer.steps())
    trainer.save_checkpoint()
    folder = trainer.save(half=False)
    assert trainer.sample_grid(photos=2, steps=2).size[0] >= 2 * 16
    trainer.close()
    return folder


def test_a_run_goes_on_where_it_stopped(trained, photo_folder, tmp_path):
    config = settings()
    first = Trainer(config, photo_folder, tmp_path)
    begin(tmp_path, config, None)
    for step in first.steps():
        if step.step == 2:
            break
    first.save_checkpoint()
    first.close()
    second = Trainer(config, photo_folder, tmp_path)
    second.resume(find_start(tmp_path, config, data=str(photo_folder), init=None))
    list(second.steps())
    folder = second.save(half=False)
    second.close()
    name = "unet/diffusion_pytorch_model.safetensors"
    one, two = load_file(trained / name), load_file(folder / name)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_model_is_a_convolution_and_says_what_it_is(trained):
    loaded = load_model(trained)
    assert loaded.task.enlarges
    assert loaded.condition_size == 16
    assert not [name for name in loaded.model.unet.state_dict() if "attention" in name]
    assert "--upscale FOLDER" in (trained / "README.md").read_text("utf-8")
    with pytest.raises(ConfigError, match="enlarges pictures"):
        Pipeline.from_pretrained(trained, device="cpu")(make_photo(20, 20))


@pytest.fixture(scope="module")
def upscaler(trained):
    return Upscaler.from_pretrained(trained)


@pytest.fixture
def drawing():
    ink = np.zeros((50, 80), np.uint8)
    ink[20:23] = 255
    return Drawing(ink)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((16, 16), 32, (32, 32)),
        ((24, 16), 37, (56, 37)),
        ((16, 11), 21, (31, 21)),
        ((6, 8), 60, (60, 80)),  # by more than four: in two stages
    ],
)
def test_any_size_and_aspect(upscaler, drawing, size, side, expected):
    picture = make_photo(*size)
    result = upscaler(picture, drawing, size=side, seed=0, config=SamplingConfig(steps=1))
    assert result.size == expected == enlarged_size(size, side) == resample(picture, side).size


def test_a_result_is_a_function_of_its_arguments(upscaler, drawing):
    def enlarge(**changed):
        given = {"size": 40, "seed": 1} | changed
        return upscaler(make_photo(24, 16), drawing, **given).tobytes()

    assert enlarge() == enlarge()
    assert enlarge() != enlarge(seed=2)
    assert enlarge() != enlarge(tile=8)
    blank = Drawing(np.zeros_like(drawing.ink))
    assert enlarge() != upscaler(make_photo(24, 16), blank, size=40, seed=1).tobytes()
    default, others = enlarge(), [{"steps": 3}, {"scheduler": "dpmsolver++"}, {"scheduler": "heun"}]
    assert enlarge(config=SamplingConfig(steps=2)) == default
    assert len({default, *(enlarge(config=ENLARGING.override(o)) for o in others)}) == 4


def test_a_picture_of_one_tile_is_as_without_tiles(upscaler, drawing):
    small, ink = np.asarray(make_photo(16, 12)), np.zeros((24, 32), np.uint8)
    one, whole = (upscaler.enlarge(small, ink, seed=3, tile=t) for t in (32, 4096))
    assert np.array_equal(one, whole)


def test_tiles_of_a_real_network_meet_without_a_seam(upscaler):
    """A checkerboard in tiles of 32: the change has no jumps at their borders."""
    y, x = np.mgrid[0:24, 0:48] // 4
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    ink = np.zeros((72, 144), np.uint8)
    three = SamplingConfig(steps=3)
    whole, tiled = (
        upscaler.enlarge(board, ink, seed=0, config=three, tile=t).astype(float) for t in (1024, 32)
    )
    jumps = np.abs(np.diff(tiled - whole, axis=1)).mean(axis=(0, 2))
    columns = plan_tiles(72, 144, side=32, overlap=8).columns
    borders = sorted({c - 1 for c in columns[1:]} | {c + 31 for c in columns[:-1]})
    beside = [np.mean([jumps[c + d] for d in (-3, -2, 2, 3)]) for c in borders]
    assert len(borders) > 6
    assert np.mean(jumps[borders]) <= 1.1 * np.mean(beside)


def test_the_tone_is_the_small_pictures(upscaler, drawing):
    """Even with a barely trained model, the result is smooth and, when shrunk, near the input."""
    picture = make_photo(48, 32)

    def off(**changed):
        given = {"size": 96, "seed": 0} | changed
        result = upscaler(picture, drawing, **given).resize(picture.size, Image.Resampling.BOX)
        wide = (
            result.resize((12, 8), Image.Resampling.BOX),
            picture.resize((12, 8), Image.Resampling.BOX),
        )
        first, second = (np.asarray(image, float) for image in wide)
        return np.abs(first - second).mean()

    assert off() < 0.5 * off(keep_tone=False)


def test_a_smaller_size_leaves_the_picture(upscaler, drawing):
    picture = make_photo(24, 16)
    assert upscaler(picture, drawing, size=12, seed=0).tobytes() == picture.tobytes()
    assert resample(picture, 12).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    "wrong", [{"picture": "a.png"}, {"drawing": make_photo(9, 9)}, {"size": "a"}, {"size": 0},
              {"seed": 1.5}, {"config": {}}],
)  # fmt: skip
def test_wrong_arguments_of_an_upscaler_are_one_sentence(upscaler, drawing, wrong):
    given = {"picture": make_photo(24, 16), "drawing": drawing, "size": 32, "seed": 0}
    with pytest.raises(ConfigError):
        upscaler(**given | wrong)


def test_models_of_other_tasks_do_not_enlarge(tiny_folder):
    with pytest.raises(ConfigError, match="does not enlarge"):
        Upscaler.from_pretrained(tiny_folder)


def test_bringing_up_keeps_flat_colours():
    flat = np.full((5, 7, 3), 90, np.uint8)
    assert np.allclose(bring_up(flat, width=23, height=11), 90)
