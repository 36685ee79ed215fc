"""FID, KID and LPIPS: networks with random weights compared with explicit formulas."""

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from condiff.errors import DataError, ModelError
from condiff.evaluation.baselines import GREY
from condiff.evaluation.colorization import TRUTH, evaluate, format_table
from condiff.evaluation.feature_extractors import (
    INCEPTION_FILE,
    LAYERS,
    LPIPS_FILE,
    SCALE,
    SHIFT,
    Inception,
    Lpips,
    Mixed,
    load_metric_networks,
    resize_as_tensorflow_1,
)
from condiff.evaluation.metrics import frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def cat():
    return np.ascontiguousarray(skimage.data.chelsea()[60:124, 100:180])


@pytest.fixture(scope="module")
def lpips():
    torch.manual_seed(0)
    network = Lpips().eval()
    for name, parameter in network.named_parameters():
        if name.startswith("lin"):
            parameter.data.uniform_(0, 1)  # the authors' heads are never negative
    return network


@pytest.fixture(scope="module")
def inception():
    torch.manual_seed(0)
    network = Inception()
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return network.eval()


def test_kernel_distance_is_its_double_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)) + 0.5

    def mean_kernel(pairs):
        return np.mean([(np.dot(one, other) / 3 + 1) ** 3 for one, other in pairs])

    expected = (
        mean_kernel([(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        + mean_kernel([(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
        - 2 * mean_kernel([(a, b) for a in x for b in y])
    )
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased_and_frechet_is_not():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))) for _ in range(400)]
    distances = [kernel_distance(x, y) for x, y in pairs]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / np.sqrt(len(distances))
    assert np.mean([frechet_distance(x, y) for x, y in pairs]) > 1


def test_inception_has_the_published_parameters(inception):
    # torchvision publishes 27,161,264, of them 3,326,696 in the auxiliary and 2,049,000 in the last
    # classifier.
    assert sum(p.numel() for p in inception.parameters()) == 27_161_264 - 3_326_696 - 2_049_000
    names = inception.state_dict()
    assert names["Mixed_6b.branch7x7dbl_4.conv.weight"].shape == (128, 128, 7, 1)
    assert names["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert names["Mixed_7a.branch3x3_2.bn.running_var"].shape == (320,)


def test_inceptions_maps_shrink_as_published(inception):
    sizes = {}
    for name, part in inception.named_children():
        part.register_forward_hook(lambda _, __, y, name=name: sizes.update({name: y.shape[1:]}))
    inception(torch.zeros(1, 3, 299, 299))
    # Table 1 of Szegedy et al. (2016), sizes of what goes into the blocks.
    assert sizes["Conv2d_1a_3x3"] == (32, 149, 149)
    assert sizes["Conv2d_2b_3x3"] == (64, 147, 147)
    assert sizes["Conv2d_4a_3x3"] == (192, 71, 71)
    assert sizes["Mixed_5d"] == (288, 35, 35)
    assert sizes["Mixed_6e"] == (768, 17, 17)
    assert sizes["Mixed_7a"] == (1280, 8, 8)
    assert sizes["Mixed_7c"] == (2048, 8, 8)


@pytest.mark.parametrize("pool", ["average", "maximum", "halve"])
def test_a_mixed_block_is_its_formula(pool):
    torch.manual_seed(0)
    fork = (("left", 3, (1, 3)), ("right", 3, (3, 1)))
    chains = [(("one", 2, 1),), (("first", 4, 3), fork)] if pool != "halve" else [(("one", 2, 3),)]
    block = Mixed(5, chains, pool=pool, pooled=0 if pool == "halve" else 6).eval()
    x = torch.randn(2, 5, 7, 7)

    def conv(part, x, **how):
        # A fresh batch norm is a division by sqrt(1 + eps).
        return F.relu(F.conv2d(x, part.conv.weight, **how) / 1.001**0.5)

    if pool == "halve":
        expected = [conv(block.one, x, stride=2), x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))]
    else:
        first = conv(block.first, x, padding=1)
        sides = [conv(block.left, first, padding=(0, 1)), conv(block.right, first, padding=(1, 0))]
        if pool == "maximum":
            padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
            pooled = padded.unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5))
        else:  # what lies outside is not counted
            windows, inside = (
                F.pad(t, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).sum((4, 5))
                for t in (x, torch.ones_like(x))
            )
            pooled = windows / inside
        expected = [conv(block.one, x), *sides, conv(block.branch_pool, pooled)]
    torch.testing.assert_close(block(x), torch.cat(expected, 1))


def test_the_resize_reads_pixel_i_at_i_times_the_scale():
    ramp = torch.arange(10.0).view(1, 1, 1, 10).expand(1, 2, 6, 10)
    resized = resize_as_tensorflow_1(ramp, 4)
    # Columns at 0, 2.5, 5, 7.5: no half pixel is added, nothing is averaged.
    assert resized[0, 1, 2].tolist() == [0, 2.5, 5, 7.5]
    wide = resize_as_tensorflow_1(ramp, 20)[0, 0, 0]
    assert wide[1] == 0.5 and wide[-1] == wide[-2] == 9  # the last column has no neighbour
    same = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(resize_as_tensorflow_1(same, 8), same)


def test_features_do_not_depend_on_the_batch(inception, cat):
    other = np.ascontiguousarray(255 - cat[:, :40])
    together = inception.features([cat, other])
    assert together.shape == (2, 2048)
    np.testing.assert_allclose(inception.features([other])[0], together[1], rtol=1e-3, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_lpips_is_its_formula(lpips, cat):
    """Zhang et al. (2018), equation 1, one position after the other."""
    other = np.ascontiguousarray(cat[:, ::-1])
    weights = {name: tensor.double() for name, tensor in lpips.state_dict().items()}
    shift, scale = (torch.tensor(c, dtype=torch.float64) for c in (SHIFT, SCALE))
    x, y = (
        ((torch.tensor(p).double() / 255 * 2 - 1 - shift) / scale).permute(2, 0, 1)
        for p in (cat, other)
    )
    expected = 0.0
    for i, (name, _, _, _, stride, padding) in enumerate(LAYERS):
        if name in (3, 6):
            x, y = (m.unfold(1, 3, 2).unfold(2, 3, 2).amax((3, 4)) for m in (x, y))
        kernel, bias = weights[f"features.{name}.weight"], weights[f"features.{name}.bias"]
        x, y = (F.conv2d(m[None], kernel, bias, stride, padding)[0].clamp(min=0) for m in (x, y))
        head = weights[f"lin{i}.model.1.weight"].flatten().numpy()
        positions = zip(x.flatten(1).T.numpy(), y.flatten(1).T.numpy(), strict=True)
        one = [head @ (a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2 for a, b in positions]
        expected += np.mean(one)
    assert expected > 0.01
    assert lpips.distance(cat, other) == pytest.approx(expected, rel=1e-4)
    assert lpips.distance(cat, cat) == 0


def test_lpips_refuses_a_photo_too_small_for_it(lpips):
    enough = np.zeros((31, 40, 3), np.uint8)
    assert lpips.distance(enough, enough) == 0
    with pytest.raises(DataError, match="40x30"):
        lpips.distance(enough[:30], enough[:30])


def test_the_networks_give_their_rows(cat, lpips):
    truths = [cat, np.ascontiguousarray(cat[::-1]), 255 - cat]

    def means(photos):
        return np.stack([p.mean((0, 1)) for p in photos])

    def looks(photos):
        return means(photos), means(photos)

    rows = {
        row.method: row
        for row in evaluate({}, truths, extractor=looks, inception=means, lpips=lpips.distance)
    }
    # The same features in both places give the same Fréchet distance.
    assert rows[GREY].fid == rows[GREY].frechet
    assert rows[TRUTH].lpips == 0 < rows[GREY].lpips
    assert rows[TRUTH].kid < rows[GREY].kid
    table = format_table(list(rows.values()))
    assert all(label in table for label in ("| FID ↓", "| KID ↓", "| LPIPS (AlexNet) ↓"))
    without = evaluate({}, truths, extractor=looks)
    assert "FID" not in format_table(without) and "LPIPS" not in format_table(without)


def test_weights_come_from_the_files_that_are_there(tmp_path, lpips, cat):
    classifier = {"classifier.1.weight": torch.zeros(2, 2)}  # AlexNet's own, not taken
    save_file(lpips.state_dict() | classifier, tmp_path / LPIPS_FILE)
    found = load_metric_networks(tmp_path)
    assert found.inception is None
    assert found.lpips.distance(cat, 255 - cat) == lpips.distance(cat, 255 - cat)


def test_weights_of_inception_are_read(tmp_path, inception):
    weights = {k: v for k, v in inception.state_dict().items() if "num_batches" not in k}
    save_file(weights, tmp_path / INCEPTION_FILE)
    found = load_metric_networks(tmp_path).inception
    assert not found.training
    read = found.state_dict()
    assert all(torch.equal(read[name], values) for name, values in weights.items())


def test_weights_that_cannot_be_used_are_a_sentence(tmp_path, lpips):
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        load_metric_networks(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="neither inception.safetensors nor lpips-alex"):
        load_metric_networks(tmp_path)
    torch.save(lpips.state_dict(), tmp_path / "alex.pth")
    with pytest.raises(ModelError, match="alex.pth is a pickle.*convert_weights.py"):
        load_metric_networks(tmp_path)
    (tmp_path / "alex.pth").rename(tmp_path / LPIPS_FILE)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_metric_networks(tmp_path)
    weights = lpips.state_dict()
    save_file({k: v for k, v in weights.items() if k[:4] != "lin0"}, tmp_path / LPIPS_FILE)
    with pytest.raises(ModelError, match="lin0.model.1.weight is missing, not"):
        load_metric_networks(tmp_path)
    weights["features.3.bias"] = torch.zeros(7)
    save_file(weights, tmp_path / LPIPS_FILE)
    with pytest.raises(ModelError, match=r"features.3.bias is \(7,\), not \(192,\)"):
        load_metric_networks(tmp_path)
