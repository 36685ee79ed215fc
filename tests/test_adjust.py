"""Saturation and temperature, exact in L*."""

import numpy as np
import pytest
from skimage import data

from condiff.color.edits import ColorEdits, build_adjustment, white_gains
from condiff.color.lab import join_chroma, lightness, rgb_to_lab
from condiff.errors import ConfigError


def joined(pixels, **edits):
    chroma = rgb_to_lab(pixels)[::8, ::8, 1:]
    return join_chroma(pixels, np.ascontiguousarray(chroma), adjust=build_adjustment(**edits))


@pytest.mark.parametrize("edits", [
    {"saturation": 0.0}, {"saturation": 2.5}, {"temperature": 60}, {"temperature": -100},
    {"saturation": 1.5, "temperature": 200},
])  # fmt: skip
def test_lightness_stays(edits):
    pixels = np.ascontiguousarray(data.astronaut()[:256, :256])
    error = np.abs(lightness(joined(pixels, **edits)) - lightness(pixels))
    assert error.max() <= 0.5
    deep = pixels.astype(np.uint16) * 257
    assert np.abs(lightness(joined(deep, **edits)) - lightness(deep)).max() <= 0.05


def test_nothing_asked_is_nothing_done():
    assert build_adjustment() is None
    lab = np.random.default_rng(0).uniform(0, 60, (4, 5, 3)).astype(np.float32)
    still = build_adjustment(saturation=1.0000001, temperature=0)
    assert np.allclose(still(lab), lab, atol=1e-3)


def test_saturation_multiplies_chroma():
    lab = np.array([[[50, 20, -10], [30, 0, 0]]], np.float32)
    assert np.allclose(build_adjustment(saturation=0.5)(lab)[0, 0], (50, 10, -5), atol=1e-4)
    gray = joined(np.ascontiguousarray(data.coffee()[:64, :64]), saturation=0.0)
    assert np.ptp(gray.astype(int), axis=2).max() <= 1


def planck_white(kelvin):
    """X/Y and Z/Y by Planck's law, under the CIE 1931 observer as in Wyman et al. 2013."""
    nm = np.arange(360, 831.0)
    power = nm**-5 / np.expm1(1.438777e7 / (nm * kelvin))

    def lobe(center, below, above):
        return np.exp(-0.5 * ((nm - center) * np.where(nm < center, below, above)) ** 2)

    x = 0.362 * lobe(442, 0.0624, 0.0374) + 1.056 * lobe(599.8, 0.0264, 0.0323)
    x -= 0.065 * lobe(501.1, 0.0490, 0.0382)
    y = 0.821 * lobe(568.8, 0.0213, 0.0247) + 0.286 * lobe(530.9, 0.0613, 0.0322)
    z = 1.217 * lobe(437, 0.0845, 0.0278) + 0.681 * lobe(459, 0.0385, 0.0725)
    X, Y, Z = ((power * curve).sum() for curve in (x, y, z))
    return np.array([X / Y, Z / Y])


@pytest.mark.parametrize("mired", [-100, -50, 30, 96, 97, 150, 200])
def test_temperature_follows_plancks_law(mired):
    daylight = 1e6 / 6504
    truth = planck_white(1e6 / (daylight + mired)) / planck_white(6504)
    assert np.allclose(np.array(white_gains(mired)) ** 3, truth, rtol=0.03)


def test_warmer_is_yellower_and_cooler_bluer():
    grey = np.array([[[60, 0, 0]]], np.float32)
    warm, cool = (build_adjustment(temperature=t)(grey)[0, 0] for t in (50, -50))
    assert warm[2] > 5 > -5 > cool[2]


def test_what_is_out_of_range_is_refused():
    for wrong in ({"saturation": -1}, {"saturation": 9}, {"temperature": 6500}):
        with pytest.raises(ConfigError):
            ColorEdits(**wrong)
    with pytest.raises(ConfigError, match="mired"):
        ColorEdits(temperature=float("nan"))
