"""mixed_precision auto: the fastest is chosen, and a resumed run keeps it, bit for bit."""

import itertools
import re

import pytest
import torch
from accelerate.state import AcceleratorState

from condiff.cli import main
from condiff.config import TrainConfig
from condiff.models.backbone import EfficientNetLite
from condiff.models.compiled_backbone import CompiledBackbone
from condiff.models.denoiser import build_model
from condiff.openvino_core import has_openvino
from condiff.tasks import find_task
from condiff.training import precision
from condiff.training.loop import start
from condiff.training.precision import Arithmetic, measure_arithmetic, read_cpu_flags
from condiff.training.profile import count_cost
from condiff.training.run_folder import begin
from condiff.training.trainer import Trainer

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")


@pytest.fixture(autouse=True)
def _forget_the_precision_of_other_tests():
    """accelerate keeps the first Accelerator's precision for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def config(**changes) -> TrainConfig:
    return TrainConfig.model_validate({
        "train_batch_size": 4, "max_train_steps": 6, "mixed_precision": "auto",
        "model": {
            "sample_size": 16, "backbone_variant": None, "block_out_channels": [8, 16],
            "norm_num_groups": 4, "attention_head_dim": 8, "fold": 1,
        },
        "data": {"size": 16},
    } | changes)  # fmt: skip


X86 = """processor : 0
model name : Some CPU
flags : fpu sse2 {} avx2
bugs : spectre_v1
"""
ARM = "processor : 0\nFeatures : fp asimd bf16 sve\n"


def test_the_processors_features_are_those_that_the_kernel_lists(tmp_path):
    path = tmp_path / "cpuinfo"
    for text, has in ((X86.format("amx_bf16"), True), (X86.format("avx512f"), False), (ARM, True)):
        path.write_text(text)
        flags = read_cpu_flags(path)
        assert bool(precision.BF16_FLAGS & flags) == has and "spectre_v1" not in flags
    assert read_cpu_flags(tmp_path / "none") == set()


@pytest.mark.parametrize("flags", [{"avx512_bf16", "avx2"}, {"avx2"}])
def test_the_fastest_candidate_is_taken_and_the_model_left_as_it_was(flags):
    run, task = config(), find_task("colorize")
    model = build_model(run.model, task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = measure_arithmetic(model, run, task, flags=flags)
    found = re.findall(r"([\d.e+]+) in (\w+, channels \w+)", chosen.why)
    rates = {how: float(rate) for rate, how in found}
    layouts = {"float32, channels first", "float32, channels last"}
    has_bf16 = "avx512_bf16" in flags
    assert set(rates) == layouts | ({"bfloat16, channels last"} if has_bf16 else set())
    assert rates[chosen.describe().partition(":")[0]] == max(rates.values()) > 0
    assert ("no instructions for bfloat16" in chosen.why) != has_bf16
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [("no", True), ("bf16", True)])
def test_a_resumed_run_keeps_its_choice_and_is_exact(kind, photo_folder, tmp_path):
    """Also where this machine would choose another: the choice comes from the checkpoint."""
    begun = Arithmetic(*kind, "measured on another machine").state()
    whole = Trainer(config(), photo_folder, tmp_path / "whole", arithmetic=begun)
    parts = Trainer(config(), photo_folder, tmp_path / "parts", arithmetic=begun)
    begin(tmp_path / "parts", parts.config, None)
    list(whole.steps())
    list(itertools.islice(parts.steps(), 3))
    parts.save_checkpoint()
    resumed = start(config(), photo_folder, tmp_path / "parts")
    assert (resumed.step, resumed.arithmetic.state()) == (3, begun)
    list(resumed.steps())
    pairs = zip(whole.model.trainable(), resumed.model.trainable(), strict=True)
    assert all(torch.equal(ours, its) for ours, its in pairs)
    channels = [p for p in resumed.model.trainable() if p.dim() == 4 and min(p.shape[1:3]) > 1]
    assert channels and all(p.is_contiguous(memory_format=torch.channels_last) for p in channels)
    resumed.close()


def config_with_backbone() -> TrainConfig:
    shape = config().model.model_dump()
    shape |= {"sample_size": 8, "fold": 4, "backbone_variant": "lite0", "neck_channels": 4}
    return config(model=shape, data={"size": 32}, max_train_steps=2)


@needs_openvino
def test_the_backbone_by_openvino_gives_the_backbones_maps():
    backbone = EfficientNetLite("lite0").eval()
    compiled = CompiledBackbone(backbone)
    for shape in ((3, 3, 64, 96), (1, 3, 32, 32)):
        x = torch.rand(shape)
        with torch.no_grad():
            expected = backbone(x)
        found = compiled(x)
        assert found.keys() == expected.keys()
        for stride, maps in expected.items():
            gap = (found[stride] - maps).abs().max()
            assert gap <= 1e-4 * maps.abs().max(), (stride, shape)


@needs_openvino
def test_the_backbone_is_compiled_in_mixed_precision():
    backbone, x = EfficientNetLite("lite0").eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = backbone(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = CompiledBackbone(backbone)(x)
    assert (found[32] - expected[32]).abs().max() <= 1e-4 * expected[32].abs().max()


@needs_openvino
def test_the_faster_library_runs_the_backbone():
    run, task = config_with_backbone(), find_task("colorize")
    model = build_model(run.model, task)
    chosen = measure_arithmetic(model, run, task, flags=set())
    found = re.search(r"of the backbone ([\d.e+]+) by torch and ([\d.e+]+) by openvino", chosen.why)
    rates = dict(zip(("torch", "openvino"), map(float, found.groups()), strict=True))
    assert rates[chosen.backbone] == max(rates.values())
    assert model.encoder.compiled_backbone is None  # as it was


@needs_openvino
def test_a_run_with_the_backbone_by_openvino_trains_nearly_the_same_and_resumes(
    photo_folder, tmp_path
):
    begun = Arithmetic("no", False, "measured", "openvino").state()
    plain = Trainer(config_with_backbone(), photo_folder, None, arithmetic=begun | {
        "backbone": "torch"
    })  # fmt: skip
    run = Trainer(config_with_backbone(), photo_folder, tmp_path / "run", arithmetic=begun)
    begin(tmp_path / "run", run.config, None)
    assert plain.model.encoder.compiled_backbone is None
    assert "backbone by openvino" in run.describe()
    batch = run.first_batch(4)
    torch.testing.assert_close(
        run.error(batch, 0)[0], plain.error(batch, 0)[0], rtol=1e-3, atol=1e-4
    )
    assert count_cost(run, cached_features=False) == count_cost(plain, cached_features=False)
    next(run.steps())
    run.save_checkpoint()
    run.close()
    resumed = start(config_with_backbone(), photo_folder, tmp_path / "run")
    assert resumed.model.encoder.compiled_backbone is not None
    resumed.close()


@needs_openvino
def test_a_model_that_moved_off_the_processor_keeps_its_backbone_in_torch():
    model = build_model(config_with_backbone().model, find_task("colorize"))
    begun = Arithmetic("no", False, "measured", "openvino")
    precision.prepare_model(model.to("meta"), begun)
    assert model.encoder.compiled_backbone is None
    model = build_model(config_with_backbone().model, find_task("colorize"))
    precision.prepare_model(model, begun)
    assert model.encoder.compiled_backbone is not None


def test_a_run_goes_on_by_torch_where_openvino_is_missing(photo_folder, monkeypatch, caplog):
    monkeypatch.setattr(precision, "has_openvino", lambda: False)
    begun = Arithmetic("no", False, "measured", "openvino").state()
    run = Trainer(config_with_backbone(), photo_folder, None, arithmetic=begun)
    assert run.model.encoder.compiled_backbone is None
    assert "openvino is not installed" in caplog.text


def test_a_run_without_auto_computes_as_before(photo_folder):
    run = Trainer(config(mixed_precision="no"), photo_folder, None)
    assert run.arithmetic == Arithmetic("no", channels_last=run.accelerator.device.type != "cpu")
    assert "float32" not in run.describe()


def test_the_profile_says_what_was_chosen_and_why(photo_folder, tmp_path, capsys):
    small = [f"--set=model.{k}={v}" for k, v in config().model.model_dump(mode="json").items()]
    small = [part.replace("None", "null") for part in small]
    run = ["train", "--data", str(photo_folder), "-o", str(tmp_path / "run"), "--max-steps", "2"]
    options = ["--set=mixed_precision=auto", "--set=data.size=16", "--batch-size", "2"]
    assert main([*run, *small, *options, "--profile"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"float\w+, channels \w+: the most images/s of [\d.]+ in float32", out)
