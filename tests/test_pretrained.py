"""Start from a pretrained U-Net: step 0 is the pretrained model, exactly."""

import os
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from condiff.config import DiffusionConfig, ModelConfig, TrainConfig
from condiff.errors import ConfigError, ModelError
from condiff.models.denoiser import build_model
from condiff.models.initialization import adopt_shape, load_init
from condiff.models.loading import load_model, save_model
from condiff.tasks import find_task, task_of

TINY = ModelConfig(
    sample_size=16,
    backbone_variant=None,
    fold=1,
    block_out_channels=(8, 16),
    norm_num_groups=4,
    attention_head_dim=8,
)


@pytest.fixture(scope="module")
def unet():
    """A typical foreign U-Net: attention, two layers per block, another size."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


@pytest.fixture(scope="module", params=["a pipeline", "a U-Net alone"])
def folder(request, unet, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained")
    if request.param == "a pipeline":
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(path)
    else:
        unet.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("task", ["sketch", "edge", "none"])
def test_step_0_is_the_pretrained_model_whatever_the_condition(folder, unet, task):
    model = load_init(folder, TINY, find_task(task)).eval()
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        expected = unet(x_t, t).sample
        for _ in range(2):
            condition = torch.randn(2, find_task(task).condition_channels, 16, 16)
            torch.testing.assert_close(model(x_t, t, condition), expected)


def test_the_new_channels_learn(folder):
    model = load_init(folder, TINY, find_task("sketch"))
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    model(x_t, t, torch.randn(2, 1, 16, 16)).square().mean().backward()
    assert model.unet.conv_in.weight.grad[:, 3:].abs().sum() > 0


def test_a_foreign_unet_takes_words(folder):
    config = TrainConfig(
        task="sketch", max_train_steps=1, model=TINY.model_copy(update={"text_channels": 8})
    )
    model = load_init(folder, config.model, task_of(config))
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    tokens = model.tokenize(["a red house", ""])
    model(x_t, t, torch.randn(2, 1, 16, 16), tokens=tokens).square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.text_encoder.parameters())


def test_a_folder_of_another_task_gives_its_unet_and_of_the_same_all(tmp_path):
    torch.manual_seed(0)
    none = find_task("none")
    source = build_model(TINY, none).eval()
    diffusion = DiffusionConfig()
    save_model(tmp_path / "m", source, task=none, diffusion=diffusion, dtype=torch.float32)
    x_t, t = torch.randn(1, 3, 16, 16), torch.tensor([5])
    sketch = load_init(str(tmp_path / "m"), TINY, find_task("sketch")).eval()
    same = load_init(str(tmp_path / "m"), TINY, none).eval()
    with torch.no_grad():
        expected = source(x_t, t, torch.zeros(1, 0, 16, 16))
        torch.testing.assert_close(sketch(x_t, t, torch.randn(1, 1, 16, 16)), expected)
        torch.testing.assert_close(same(x_t, t, torch.zeros(1, 0, 16, 16)), expected)
    assert load_model(tmp_path / "m").task.name == "none"


def test_what_does_not_fit_is_told(folder, tmp_path):
    with pytest.raises(ModelError, match="in_channels 3, but x_0 of the task colorize has 2"):
        load_init(folder, TINY, find_task("colorize"))
    patched = TINY.model_copy(update={"patch_size": 2})
    with pytest.raises(ModelError, match="3, but x_0 .* sketch has 12 channels in patches of 2²"):
        load_init(folder, patched, find_task("sketch"))
    odd = TINY.model_copy(update={"sample_size": 18})
    settings = TrainConfig(task="sketch", max_train_steps=1, model=odd)
    with pytest.raises(ConfigError, match="18 is not a multiple of 4.*take 16"):
        adopt_shape(settings, load_init(folder, odd, find_task("sketch")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="Cannot start from"):
        load_init(str(tmp_path / "empty"), TINY, find_task("sketch"))


def test_a_hub_id_that_is_not_to_be_had_is_one_sentence():
    """The tests run offline: the Hub's client reports that its cache is empty."""
    with pytest.raises(ModelError, match="Cannot start from anton-l/ddpm.*Hub") as raised:
        load_init("anton-l/ddpm-butterflies-128", TINY, find_task("none"))
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="Cannot start from no such/name"):
        load_init("no such/name", TINY, find_task("none"))


@pytest.mark.slow
def test_a_hub_id_in_the_cache_is_opened_like_a_folder(unet, tmp_path):
    """The Hub's cache as `hf_hub_download` leaves it, filled from a local folder."""
    snapshot = tmp_path / "models--somebody--butterflies" / "snapshots" / ("0" * 40)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    program = (
        "from condiff.models.initialization import load_init\n"
        "from condiff.config import ModelConfig\n"
        "from condiff.tasks import find_task\n"
        "config = ModelConfig(sample_size=16, backbone_variant=None, fold=1)\n"
        "model = load_init('somebody/butterflies', config, find_task('none'))\n"
        "print(model.unet.config.out_channels)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


@pytest.mark.parametrize("words", [None, 8])
def test_a_backbone_is_added_where_it_is_named_and_changes_nothing_at_first(tmp_path, words):
    torch.manual_seed(0)
    shape = TINY.model_copy(update={"text_channels": words, "fold": 2, "patch_size": 2})
    task = find_task("sketch").with_text() if words else find_task("sketch")
    source = build_model(shape, task).eval()
    folder = tmp_path / "m"
    save_model(folder, source, task=task, diffusion=DiffusionConfig(), dtype=torch.float32)

    asked = ModelConfig(backbone_variant="lite0", neck_channels=4, feature_strides=(8, 16))
    model = load_init(str(folder), asked, task).eval()
    assert model.backbone is not None and model.encoder.config["is_ink"]
    inputs = {"hints": torch.randn(2, 4, 32, 32)}
    if words:
        inputs |= {"tokens": model.tokenize(["red", ""])}
    x_t, t, ink = (
        torch.randn(2, 3, 32, 32),
        torch.tensor([5, 800]),
        torch.rand(2, 1, 32, 32) * 2 - 1,
    )
    with torch.no_grad():
        expected = source(x_t, t, ink, **inputs)
        torch.testing.assert_close(model(x_t, t, ink, **inputs), expected)

    settings = adopt_shape(TrainConfig(task="sketch", max_train_steps=1, model=asked), model)
    assert settings.model.backbone_variant == "lite0"
    assert settings.model.neck_channels == 4
    assert load_init(str(folder), ModelConfig(), task).backbone is None  # not named: as it was


def test_a_feature_decoder_is_added_where_it_is_named_and_kept_in_the_folder(tmp_path):
    torch.manual_seed(0)
    task = find_task("colorize")
    shape = TINY.model_copy(update={"backbone_variant": "lite0", "neck_channels": 4})
    source = build_model(shape, task).eval()
    save = {"task": task, "diffusion": DiffusionConfig(), "dtype": torch.float32}
    save_model(tmp_path / "m", source, **save)

    asked = ModelConfig(decoder_channels=16)
    model = load_init(str(tmp_path / "m"), asked, task).eval()
    inputs = (
        torch.randn(1, 2, 32, 32),
        torch.tensor([800]),
        torch.rand(1, 1, 32, 32) * 2 - 1,
    )
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), source(*inputs))
        model.encoder.decoder.last.weight.normal_()
        settings = adopt_shape(TrainConfig(task="colorize", max_train_steps=1), model)
        assert settings.model.decoder_channels == 16
        save_model(tmp_path / "n", model, **save)
        again = load_init(str(tmp_path / "n"), ModelConfig(), task).eval()
        torch.testing.assert_close(again(*inputs), model(*inputs))


@pytest.mark.parametrize("name", ["colorize", "none"])
def test_patches_are_added_where_they_are_named_and_paint_as_the_single_pixels_did(tmp_path, name):
    torch.manual_seed(0)
    task = find_task(name)
    source = build_model(TINY, task).eval()
    save = {"task": task, "diffusion": DiffusionConfig(), "dtype": torch.float32}
    save_model(tmp_path / "m", source, **save)
    asked = ModelConfig(patch_size=2, sample_size=32)
    model = load_init(str(tmp_path / "m"), asked, task).eval()

    fine = torch.randn(1, task.space.channels, 32, 32)
    condition = torch.rand(1, task.condition_channels, 16, 16) * 2 - 1
    hints = torch.randn(1, task.hint_channels, 32, 32) if task.hint_channels else None
    shrink = torch.nn.functional.avg_pool2d
    coarse_hints = None if hints is None else shrink(hints, 2)
    with torch.no_grad():
        t = torch.tensor([999])
        expected = source(2 * shrink(fine, 2), t, condition, hints=coarse_hints)
        found = model(fine, t, condition, hints=hints)
        torch.testing.assert_close(found, expected.repeat_interleave(2, 2).repeat_interleave(2, 3))

        config = TrainConfig(task=name, max_train_steps=1, model=asked)
        settings = adopt_shape(config, model)
        assert (settings.model.patch_size, settings.model.sample_size) == (2, 32)
        save_model(tmp_path / "n", model, **save)
        again = load_init(str(tmp_path / "n"), ModelConfig(), task).eval()
        torch.testing.assert_close(again(fine, t, condition, hints=hints), found)


def test_what_null_cond_lacks_is_changed_where_it_is_named(tmp_path):
    task = find_task("colorize")
    shape = TINY.model_copy(
        update={"backbone_variant": "lite0", "neck_channels": 4, "decoder_channels": 16}
    )
    save = {"task": task, "diffusion": DiffusionConfig(), "dtype": torch.float32}
    save_model(tmp_path / "m", build_model(shape, task), **save)
    model = load_init(str(tmp_path / "m"), ModelConfig(), task)
    assert model.encoder.null_lacks == "features"
    asked = ModelConfig(decoder_channels=16, null_lacks="decoder")
    model = load_init(str(tmp_path / "m"), asked, task)
    assert model.encoder.null_lacks == "decoder"
    save_model(tmp_path / "n", model, **save)
    again = load_init(str(tmp_path / "n"), ModelConfig(), task)
    settings = adopt_shape(TrainConfig(task="colorize", max_train_steps=1), again)
    assert again.encoder.null_lacks == settings.model.null_lacks == "decoder"
    with pytest.raises(ConfigError, match="null_lacks: decoder needs a feature decoder"):
        ModelConfig(null_lacks="decoder")


def test_a_decoder_takes_two_strides_or_more():
    with pytest.raises(ConfigError, match="decoder_channels needs two or more feature_strides"):
        ModelConfig(decoder_channels=16, feature_strides=(16,))
    with pytest.raises(ConfigError, match="decoder_channels needs a backbone"):
        ModelConfig(decoder_channels=16, backbone_variant=None)


def test_the_backbone_sees_ink_as_black_lines_on_white():
    torch.manual_seed(0)
    model = build_model(
        TINY.model_copy(update={"backbone_variant": "lite0"}), find_task("sketch")
    ).eval()
    paper = torch.full((1, 1, 32, 32), -1.0)
    white = model.backbone(torch.ones(1, 3, 32, 32))
    for stride, expected in model.encoder.features(paper).items():
        torch.testing.assert_close(expected, white[stride], atol=1e-3, rtol=1e-3)
