"""The condition encoder: lossless folding of the condition, one run of the backbone."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch.testing import assert_close

from condiff.backends.torch_backend import encode_both
from condiff.models.condition_encoder import (
    ConditionEncoder,
    from_patches,
    lightness_to_gray,
    to_patches,
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ConditionEncoder(backbone_variant="lite0", neck_channels=8).eval()


def test_gray_has_the_lightness_it_is_made_from():
    lightness = torch.linspace(0, 100, 301)
    gray = lightness_to_gray(lightness).numpy()
    back = rgb2lab(np.repeat(gray[:, None], 3, axis=1)[None])[0, :, 0]
    assert np.abs(back - lightness.numpy()).max() < 0.02


def test_the_fold_keeps_every_value_of_the_condition():
    encoder = ConditionEncoder(backbone_variant=None, hint_channels=0)
    condition = torch.rand(2, 1, 32, 48) * 2 - 1
    cond = encoder(condition)
    assert cond.shape == (2, encoder.out_channels, 8, 12)
    assert_close(torch.pixel_shuffle(cond, 4), condition)


def test_cond_is_fold_then_neck_then_hints(encoder):
    condition = torch.rand(1, 1, 64, 96) * 2 - 1
    hints = torch.rand(1, 3, 16, 24)
    cond = encoder(condition, hints=hints)
    assert cond.shape[1] == encoder.out_channels == 16 + 8 + 3
    assert_close(cond[:, -3:], hints)
    assert_close(encoder(condition)[:, -3:], torch.zeros(1, 3, 16, 24))


def test_cached_features_give_the_same_cond(encoder):
    condition = torch.rand(1, 1, 64, 64) * 2 - 1
    features = encoder.features(condition)
    assert {s: tuple(f.shape[1:]) for s, f in features.items()} == {
        s: (c, 64 // s, 64 // s) for s, c in encoder.feature_channels.items()
    }
    assert_close(encoder(condition, features=features), encoder(condition))


def test_a_smaller_size_shrinks_the_fold_only(encoder):
    condition = torch.rand(1, 1, 64, 64) * 2 - 1
    small = encoder(condition, size=(8, 8))
    assert small.shape[-2:] == (8, 8)
    halved = torch.nn.functional.avg_pool2d(condition, 2)
    assert_close(torch.pixel_shuffle(small[:, :16], 4), halved)


def test_a_patch_is_a_neighbourhood_of_pixels():
    x_t = torch.rand(2, 3, 8, 12)
    patches = to_patches(x_t, 2)
    assert patches.shape == (2, 12, 4, 6)
    assert_close(patches[:, :, 1, 2].reshape(2, 3, 2, 2), x_t[:, :, 2:4, 4:6])
    assert_close(from_patches(patches, 2), x_t)


def test_cond_has_a_pixel_for_each_patch_and_hints_lose_nothing_in_it():
    encoder = ConditionEncoder(backbone_variant=None, fold=4, patch_size=2)
    condition, hints = torch.rand(1, 1, 32, 48) * 2 - 1, torch.rand(1, 3, 16, 24)
    cond = encoder(condition, hints=hints, size=(16, 24))
    assert cond.shape == (1, encoder.out_channels, 8, 12)
    assert_close(torch.pixel_shuffle(cond[:, :16], 4), condition)
    assert_close(torch.pixel_shuffle(cond[:, 16:], 2), hints)
    assert encoder(condition, size=(16, 24)).shape == cond.shape


def make_decoding_encoder(channels: int = 16) -> ConditionEncoder:
    """An encoder whose decoder has a non-zero output, like a trained one."""
    torch.manual_seed(0)
    encoder = ConditionEncoder(
        backbone_variant="lite0", neck_channels=8, decoder_channels=channels
    ).eval()
    torch.nn.init.normal_(encoder.decoder.last.weight)
    return encoder


def test_a_new_decoder_changes_nothing_and_a_trained_one_the_necks_channels_alone(encoder):
    condition = torch.rand(2, 1, 64, 96) * 2 - 1
    plain = encoder(condition)
    decoding = ConditionEncoder(backbone_variant="lite0", neck_channels=8, decoder_channels=16)
    decoding.load_state_dict(encoder.state_dict(), strict=False)
    assert_close(decoding.eval()(condition), plain)
    torch.nn.init.normal_(decoding.decoder.last.weight)
    cond = decoding(condition)
    assert_close(cond[:, :16], plain[:, :16])
    assert_close(cond[:, 24:], plain[:, 24:])
    assert (cond[:, 16:24] - plain[:, 16:24]).abs().mean() > 0.1


@pytest.mark.parametrize("null_lacks", ["features", "decoder"])
def test_null_cond_lacks_the_features_or_the_decoder_alone(encoder, null_lacks):
    decoding = ConditionEncoder(
        backbone_variant="lite0", neck_channels=8, decoder_channels=16, null_lacks=null_lacks
    )
    decoding.load_state_dict(encoder.state_dict(), strict=False)
    torch.nn.init.normal_(decoding.eval().decoder.last.weight)
    condition, hints = torch.rand(2, 1, 64, 64) * 2 - 1, torch.rand(2, 3, 16, 16)
    kept = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    cond = decoding(condition, hints=hints, kept=kept)
    assert_close(cond[:1], decoding(condition[:1], hints=hints[:1]))
    weak = encoder(condition[1:], hints=hints[1:])
    if null_lacks == "features":
        features = {stride: 0 * maps for stride, maps in decoding.features(condition[1:]).items()}
        weak = decoding(condition[1:], features=features, hints=hints[1:])
    assert_close(cond[1:], weak)


def test_the_decoder_tells_each_cell_what_the_whole_image_shows():
    encoder = make_decoding_encoder()
    torch.nn.init.normal_(encoder.decoder.fine_blocks[0].conv2.weight, std=0.1)
    features = encoder.features(torch.rand(1, 1, 256, 256) * 2 - 1)
    changed = dict(features)
    changed[32] = features[32].clone()
    changed[32][..., -1, -1] += 100
    gap = (encoder.decoder(changed) - encoder.decoder(features)).abs().amax(dim=1)
    assert gap.shape == (1, 16, 16)
    assert (gap[0, 0, 0] > 1e-4).all()  # the corner farthest from what was changed


def test_a_decoders_gradient_reaches_all_of_it():
    encoder = make_decoding_encoder().train()
    for block in (*encoder.decoder.coarse_blocks, *encoder.decoder.fine_blocks):
        torch.nn.init.normal_(block.conv2.weight, std=0.1)
    encoder(torch.rand(1, 1, 64, 64) * 2 - 1).square().mean().backward()
    for name, weight in encoder.decoder.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name


def test_with_a_decoder_saved_and_loaded_it_encodes_the_same(tmp_path):
    encoder = make_decoding_encoder()
    encoder.save_pretrained(tmp_path)
    loaded = ConditionEncoder.from_pretrained(tmp_path).eval()
    condition = torch.rand(1, 1, 64, 64) * 2 - 1
    assert loaded.decoder is not None
    assert_close(loaded(condition), encoder(condition))


def test_saved_and_loaded_it_encodes_the_same(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    loaded = ConditionEncoder.from_pretrained(tmp_path).eval()
    condition = torch.rand(1, 1, 32, 32) * 2 - 1
    assert_close(loaded(condition), encoder(condition))


def test_what_guidance_leads_away_from_keeps_all_but_the_backbones_features(encoder):
    condition = torch.rand(2, 1, 64, 64) * 2 - 1
    hints = torch.rand(2, 3, 16, 16)
    cond = encoder(condition, hints=hints)
    kept = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    mixed = encoder(condition, hints=hints, kept=kept)
    assert_close(mixed[0], cond[0])
    assert_close(mixed[1, :16], cond[1, :16])
    assert_close(mixed[1, -3:], cond[1, -3:])
    silent = {s: torch.zeros_like(f) for s, f in encoder.features(condition).items()}
    assert_close(mixed[1], encoder(condition, features=silent, hints=hints)[1])
    assert not torch.allclose(mixed[1], cond[1])
    both = encode_both(encoder, condition, hints=hints, size=(16, 16))
    assert_close(both[0], cond)
    assert_close(both[1][1], mixed[1])


def test_without_a_backbone_the_condition_itself_is_left_out():
    encoder = ConditionEncoder(backbone_variant=None, hint_channels=0)
    condition = torch.rand(1, 1, 32, 32) * 2 - 1
    _, null_cond = encode_both(encoder, condition, hints=None, size=(8, 8))
    assert not null_cond.any()
