"""U and V for unchanged Y, motion, and steady colours, on arrays."""

import av
import cv2
import numpy as np
import pytest
from skimage import color

from condiff.video import motion
from condiff.video.motion import Track, estimate, guide_size
from condiff.video.steady import Key, Steady
from condiff.video.yuv import MATRICES, Coding, solve_chroma

from .films import draw_frames, to_rgb


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_pixel_has_the_wanted_chroma_at_the_luma_it_has(matrix):
    """Compared with R'G'B' by the standard's formulas, and scikit-image's Lab."""
    rng = np.random.default_rng(0)
    luma = rng.uniform(0.25, 0.75, (40, 50)).astype(np.float32)
    ab = rng.uniform(-22, 22, (40, 50, 2)).astype(np.float32)
    cb, cr = solve_chroma(luma, ab, Coding(matrix, full_range=False))
    kr, kb = MATRICES[matrix]
    rgb = to_rgb(luma, cb, cr, matrix)
    assert rgb.min() > -1e-5 and rgb.max() < 1 + 1e-5
    got = color.rgb2lab(rgb.clip(0, 1))[..., 1:]
    error = np.abs(got - ab).max(axis=2)
    assert np.quantile(error, 0.9) < 0.5  # the rest is outside sRGB
    inside = error < 0.5
    assert np.abs((rgb @ [kr, 1 - kr - kb, kb] - luma)[inside]).max() < 1e-5


@pytest.mark.parametrize(("name", "matrix"), [("ITU709", 1), ("ITU601", 6)])
@pytest.mark.parametrize("full", [False, True])
def test_ffmpeg_decodes_the_wanted_chroma(name, matrix, full):
    coding = Coding(matrix, full_range=full)
    luma = np.full((16, 16), 0.5, np.float32)
    ab = np.empty((16, 16, 2), np.float32)
    ab[:, :8], ab[:, 8:] = (30, 20), (-25, -10)
    u, v = coding.chroma_levels(*solve_chroma(luma, ab, coding))
    frame = av.VideoFrame(16, 16, "yuv444p")
    y = np.full((16, 16), round(127.5 if full else 16 + 219 * 0.5), np.uint8)
    for plane, levels in zip(frame.planes, (y, u, v), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        rows[:16, :16] = levels
    source_range = "JPEG" if full else "MPEG"
    made = frame.reformat(format="rgb24", src_colorspace=name, src_color_range=source_range)
    got = color.rgb2lab(made.to_ndarray())[..., 1:]
    assert np.abs(got - ab).max() < 1.5  # levels are rounded twice


def test_colours_outside_srgb_lose_chroma_and_keep_their_hue():
    luma = np.linspace(0.05, 0.95, 64, dtype=np.float32).reshape(8, 8)
    ab = np.full((8, 8, 2), (60, 50), np.float32)
    cb, cr = solve_chroma(luma, ab, Coding(1, full_range=False))
    rgb = to_rgb(luma, cb, cr, 1)
    assert rgb.min() > -1e-4 and rgb.max() < 1 + 1e-4
    got = color.rgb2lab(rgb.clip(0, 1))[..., 1:]
    assert np.linalg.norm(got, axis=2).max() < 80
    angle = np.degrees(np.arctan2(got[..., 1], got[..., 0]) - np.arctan2(50, 60))
    assert np.abs(angle).max() < 8


def test_levels_of_deep_samples_are_scaled():
    coding = Coding(1, full_range=False, bits=10)
    assert coding.luma(np.array([64, 940], np.uint16)).tolist() == [0, 1]
    u, v = coding.chroma_levels(np.float32([0, 0.5]), np.float32([-0.5, 0]))
    assert u.tolist() == [512, 960] and v.tolist() == [64, 512] and u.dtype == np.uint16


def test_motion_is_that_of_the_texture_and_occlusions_are_found():
    before, after = draw_frames(2, 120, 90, step=3)
    back, ahead = estimate(before, after)
    inner = (slice(10, -10), slice(10, -10))
    assert np.abs(back.flow[inner] - (3, 0)).mean() < 0.3
    assert np.abs(ahead.flow[inner] + (3, 0)).mean() < 0.3
    assert back.held[inner].mean() > 0.95
    assert back.held[:, -2:].mean() < 0.2  # what came in at the right was not there before
    covered = after.copy()
    covered[30:60, 40:80] = np.random.default_rng(1).integers(0, 255, (30, 40))
    back, _ = estimate(before, covered)
    assert back.held[35:55, 45:75].mean() < 0.4


def test_a_path_over_many_frames_leads_to_the_same_place_in_the_key_frame():
    frames = list(draw_frames(9, 160, 96, step=2))
    path = Track.at(96, 160)
    for before, after in zip(frames, frames[1:], strict=False):
        path = path.extend(estimate(before, after)[0])
    ramp = motion.grid(96, 160)
    inner = (slice(12, -12), slice(12, -40))
    moved = path.carry(ramp)[inner] - ramp[inner]
    assert np.abs(moved - (16, 0)).mean() < 0.6
    assert path.held[:, -8:].mean() < 0.2 and path.held[inner].mean() > 0.85


class Plain:
    def __init__(self, guide):
        self.guide = guide


def steady(draws, **settings):
    """Chroma of a sampler that gives each key frame one colour of its own."""
    calls = []

    def sample(frame, strokes):
        calls.append(strokes)
        return np.full((*frame.guide.shape, 2), draws[len(calls) - 1], np.float32)

    return Steady(sample, **settings), calls


def test_frames_between_keys_go_from_one_colour_to_the_other():
    frames = [Plain(guide) for guide in draw_frames(9, 96, 64)]
    engine, calls = steady([10, 30, 30], every=4, own_share=0.5)
    result = list(engine.run(frames))
    middle = [item.chroma[32, 40, 0] for item in result]
    assert len(calls) == 3 and [item.frame for item in result] == frames
    assert [bool(item.key) for item in result] == [n % 4 == 0 for n in range(9)]
    assert np.allclose(middle, [10, 12.5, 15, 17.5, 20, 21.25, 22.5, 23.75, 25], atol=0.7)


def test_a_cut_starts_anew_and_a_single_frame_is_a_shot():
    first, second = draw_frames(4, 96, 64), draw_frames(3, 96, 64, seed=5)
    (flash,) = draw_frames(1, 96, 64, seed=9)
    frames = [Plain(guide) for guide in (*first, flash, *second)]
    engine, calls = steady([10, 10, 50, 90, 90], every=8)
    result = list(engine.run(frames))
    assert [float(item.chroma.mean()) for item in result] == pytest.approx(
        [10] * 4 + [50] + [90] * 3
    )
    assert len(calls) == 5
    assert [item.key.shot for item in result if item.key] == [1, 1, 2, 3, 3]


def test_work_goes_on_from_a_key_frame_with_the_same_values():
    frames = [Plain(guide) for guide in draw_frames(11, 96, 64)]
    draws = [10, 40, -20, 30]
    whole = list(steady(draws, every=4)[0].run(frames))
    key = whole[4].key
    assert isinstance(key, Key)
    rest = list(steady(draws[2:], every=4)[0].run(frames[4:], key))
    for a, b in zip(whole[4:], rest, strict=True):
        assert np.array_equal(a.chroma, b.chroma)


def test_strokes_follow_what_moves():
    frames = [Plain(guide) for guide in draw_frames(9, 120, 80, step=3)]
    strokes = np.zeros((80, 120, 4), np.uint8)
    cv2.circle(strokes, (70, 40), 6, (200, 60, 20, 255), -1)
    engine, calls = steady(
        [0, 50, 50], every=4, strokes=lambda _, shot: strokes if shot == 1 else None
    )
    result = list(engine.run(frames))
    assert result[4].chroma[40, 40] == pytest.approx([5, 5], abs=1)  # little of the model's own
    for n, drawn in enumerate(calls):
        y, x = np.nonzero(drawn[..., 3])
        assert abs(x.mean() - (70 - 12 * n)) < 2.5 and abs(y.mean() - 40) < 2.5
        assert (drawn[drawn[..., 3] > 0] == (200, 60, 20, 255)).all()


def test_guides_are_half_the_frame_and_bounded():
    assert guide_size(854, 480) == (427, 240)
    assert guide_size(3840, 2160) == (427, 240)
    assert guide_size(20, 20) == (16, 16)
