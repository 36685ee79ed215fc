"""The configuration: each error is one sentence."""

from pathlib import Path

import pytest

from condiff.config import (
    Look,
    SamplingConfig,
    TrainConfig,
    known_keys,
    list_idle,
    read_config,
    to_yaml,
)
from condiff.errors import ConfigError
from condiff.tasks import find_task

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configs_are_valid_and_survive_yaml(path, tmp_path):
    config = read_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config), "utf-8")
    assert read_config(copy) == config


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("max_train_steps: 3\noptimizer: {learning_rate: 0.1}\n", "utf-8")
    config = read_config(str(path), ["optimizer.learning_rate=1e-3", "data.max_photos=5"])
    assert config.optimizer.learning_rate == 1e-3
    assert config.data.max_photos == 5
    assert config.max_train_steps == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_train_steps: 3\noptimizer: {learning_rat: 1}",
            "did you mean optimizer.learning_rate",
        ),
        ("max_train_steps: 3\noptimiser: {learning_rate: 1}", "did you mean optimizer[?]"),
        ("max_train_steps: -3", "max_train_steps: .*greater than 0.*-3"),
        ("seed: 1", "give --max-steps or --max-minutes"),
        ("max_train_steps: 3\nmodel: {sample_size: 20}", "not a multiple of 8.*take 16"),
        (
            "max_train_steps: 3\nmodel: {sample_size: 24, patch_size: 2}",
            "patches of 2² .*take 16",
        ),
        ("max_train_steps: 3\nmodel: {norm_num_groups: 32}", "does not divide.* 48; take 48"),
        ("max_train_steps: 3\nmodel: {feature_strides: [7]}", "feature_strides"),
        ("max_train_steps: 3\nmodel: {feature_strides: []}", "feature_strides.*at least 1"),
        ("max_train_steps: 3\ndata: {size: 3}", "data.size 3 is less than model.fold 4"),
        ("max_train_steps: 3\nseed: 9223372036854775808", "seed: .*less than 9223372036854775808"),
        ("max_train_steps: 3\ndiffusion: {num_train_timesteps: 1}", "num_train_timesteps: .*2"),
        ("max_train_steps: 3\ndiffusion: {prediction_type: epsilon}", "does not go with"),
        (
            "max_train_steps: 3\nsampling: {steps: 9}\ndiffusion: {num_train_timesteps: 8}",
            "8 or less",
        ),
        (
            "max_train_steps: 3\ndata: {size: 64}\ndata: {flip: 0}",
            "has data a second time in line 3",
        ),
        (
            "max_train_steps: 3\ndata: {flip: 1, size: 64, flip: 0}",
            "has flip a second time in line 2",
        ),
        ("max_train_steps: 3\nmodel: {text_channels: 6}", "not a multiple of 4.*take 8"),
        (
            "max_train_steps: 3\ndiffusion: {beta_start: 0.1}",
            "beta_start 0.1 is more than beta_end",
        ),
        ("- a list", "not a mapping"),
        ("{", "not valid YAML"),
    ],
)
def test_a_fault_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("override", ["nonsense", "=3", "seed.deeper=3"])
def test_a_wrong_override_is_told(override):
    with pytest.raises(ConfigError):
        read_config(None, ["max_train_steps=1", "seed=1", override])


def test_a_plain_no_of_yaml_is_a_precision():
    """YAML reads an unquoted no as false."""
    assert read_config(None, ["max_train_steps=1", "mixed_precision=no"]).mixed_precision == "no"


@pytest.mark.parametrize(
    ("idle", "with_effect"),
    [
        ("diffusion.beta_end=0.012", "diffusion.beta_schedule=linear"),
        ("diffusion.min_snr_gamma=1", "diffusion.loss_weighting=min_snr"),
        ("diffusion.p2_k=2", "diffusion.loss_weighting=p2"),
        ("diffusion.perceptual_share=0.1", "diffusion.perceptual_weight=0.2"),
        ("optimizer.backbone_stride=32", "optimizer.backbone_rate=0.1"),
        ("data.shuffle_buffer=9", "data.streaming=true"),
        ("data.recolor=0.5", "data.color_words=0.5"),
    ],
)
def test_settings_without_an_effect_are_told(idle, with_effect):
    key = idle.partition("=")[0]
    (sentence,) = list_idle(read_config(None, ["max_train_steps=1", idle]))
    assert sentence.startswith(f"{key} has no effect without ")
    assert with_effect.partition("=")[0] in sentence
    assert not list_idle(read_config(None, ["max_train_steps=1", idle, with_effect]))


def test_shipped_configs_take_any_photos():
    assert not [path.name for path in CONFIGS if read_config(path).data.files]


def test_shipped_configs_have_no_settings_without_an_effect():
    assert not [sentence for path in CONFIGS for sentence in list_idle(read_config(path))]


def test_anchors_and_merged_mappings_of_yaml_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "max_train_steps: 3\nlooks:\n  pale: &pale {guidance_scale: 1, variety: 0}\n"
        "  grey: {<<: *pale, saturation: 0.1, variety: 1}\n", "utf-8"
    )  # fmt: skip
    looks = read_config(path).looks
    assert looks["grey"].guidance_scale == 1 and looks["grey"].variety == 1


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_config(tmp_path / "none.yaml")


def test_known_keys_are_all_fields():
    dumped = TrainConfig(max_train_steps=1).model_dump()
    sections = {name for name, value in dumped.items() if isinstance(value, dict)} - {"looks"}
    expected = set(dumped) - sections
    expected |= {f"{name}.{key}" for name in sections for key in dumped[name] if name != "files"}
    assert set(known_keys()) == expected


def test_looks_are_read_and_natural_is_the_sampling_section():
    look = ["max_train_steps=1", "looks={calm: {guidance_scale: 1.2, variety: 0}}"]
    assert read_config(None, look).looks == {"calm": Look(guidance_scale=1.2, variety=0)}
    with pytest.raises(ConfigError, match="natural is the section sampling"):
        read_config(None, ["max_train_steps=1", "looks={natural: {guidance_scale: 1, variety: 0}}"])


def test_features_are_dropped_where_there_are_any():
    dropped = ["max_train_steps=1", "diffusion.cond_drop_prob=0.1"]
    assert read_config(None, dropped).diffusion.cond_drop_prob == 0.1
    with pytest.raises(ConfigError, match="without a backbone"):
        find_task("colorize").check(read_config(None, [*dropped, "model.backbone_variant=null"]))


@pytest.mark.parametrize(
    ("task", "model", "size", "message"),
    [
        (
            "sketch",
            {"sample_size": 32},
            48,
            "48 is not a multiple of model.sample_size 32: take 64",
        ),
        ("none", {"sample_size": 64}, 32, "32 is not a multiple of model.sample_size 64: take 64"),
        ("sketch", {"sample_size": 8, "backbone_variant": "lite0"}, 72, "of 32, .*: take 64"),
        ("colorize", {"sample_size": 64, "fold": 2}, 64, "set model.fold to 1 or less"),
        ("sketch", {"sample_size": 64, "fold": 2}, 64, None),
        ("colorize", {"sample_size": 64, "fold": 2, "patch_size": 2}, 64, None),
    ],
)
def test_sizes_are_those_at_which_the_model_will_be_sampled(task, model, size, message):
    """A cell of x_t is a whole number of the condition's pixels; chroma is not enlarged."""
    levels = {"block_out_channels": [16, 32], "norm_num_groups": 8, "backbone_variant": None}
    values = {"max_train_steps": 1, "model": levels | model, "data": {"size": size}}
    config = TrainConfig.model_validate(values)
    if message is None:
        return find_task(task).check(config)
    with pytest.raises(ConfigError, match=message):
        find_task(task).check(config)


def test_words_picture_and_both_are_dropped_a_third_of_the_time_each_at_most():
    task = find_task("sketch").with_text()
    task.check(read_config(None, ["max_train_steps=1", "diffusion.cond_drop_prob=0.33"]))
    with pytest.raises(ConfigError, match="at most 1/3, not 0.5"):
        task.check(read_config(None, ["max_train_steps=1", "diffusion.cond_drop_prob=0.5"]))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "25 steps of ddim"),
        ({"steps": 1}, "1 step of ddim"),
        ({"guidance_eta": 0.4}, "25 steps of ddim"),
        ({"steps": 4, "guidance_scale": 2}, "4 steps of ddim, guidance 2"),
        ({"guidance_scale": 2, "guidance_eta": 0.4}, "25 steps of ddim, guidance 2 (eta 0.4)"),
    ],
)
def test_sampling_is_described_with_the_guidance_that_is_on(fields, text):
    assert SamplingConfig(**fields).describe() == text


@pytest.mark.parametrize("key", ["max_train_steps", "optimizer.learning_rate", "data.flip"])
def test_a_yes_of_yaml_is_no_number(key):
    with pytest.raises(ConfigError, match=f"{key.split('.')[-1]}.* must be a number, not true"):
        read_config(None, ["max_train_steps=1", f"{key}=yes"])
    with pytest.raises(ConfigError, match="steps: must be a number, not true"):
        SamplingConfig(steps=True)
    assert read_config(None, ["max_train_steps=1", "compile=true"]).compile
