"""FSDP: two CPU processes with half of the weights each give the result of one process."""

import json
import multiprocessing
import os
import socket
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from condiff.cli import main
from condiff.config import TrainConfig
from condiff.errors import TrainingError
from condiff.pipelines.pipeline import Pipeline
from condiff.training.accelerator import build_accelerator, local_part
from condiff.training.ema import averaged
from condiff.training.run_folder import find_checkpoints
from condiff.training.trainer import Trainer

TINY = {
    "train_batch_size": 4, "max_train_steps": 8, "sample_steps": 4, "log_steps": 1,
    "model": {
        "sample_size": 8, "backbone_variant": "lite2", "neck_channels": 8,
        "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8,
    },
    "data": {"size": 32},
    "optimizer": {
        "learning_rate": 5e-3, "warmup_steps": 2, "ema_decay": 0.9, "max_grad_norm": 0.1,
    },
}  # fmt: skip
FSDP = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
BY_BLOCK = {
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResnetBlock2D",
}


@pytest.fixture(autouse=True)
def _forget_the_processes_of_other_tests():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(json.dumps(TINY), "utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def processes():
    """Processes in which slow imports are done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_sharding", "matplotlib.figure"])
    return context


def start_pair(processes, work, *arguments, **environment):
    """Two processes as a launcher starts them; `work` takes the arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pair = []
    for rank in ("0", "1"):
        variables = FSDP | common | {"RANK": rank, "LOCAL_RANK": rank} | environment
        pair.append(processes.Process(target=run_one, args=(variables, work, arguments)))
        pair[-1].start()
    return pair


def run_one(variables, work, arguments):
    os.environ |= variables | {"CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    raise SystemExit(work(*arguments))


def run_pair(processes, work, *arguments, **environment):
    pair = start_pair(processes, work, *arguments, **environment)
    for process in pair:
        process.join(timeout=120)
    assert [process.exitcode for process in pair] == [0, 0]


def line(photos, output, config_file, *more):
    words = ["train", "--data", str(photos), "-o", str(output), "--config", str(config_file), "-q"]
    return [*words, *more]


def losses(output):
    rows = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


@pytest.fixture(scope="module")
def straight(processes, photo_folder, config_file, tmp_path_factory):
    """The folder of an uninterrupted sharded run."""
    output = tmp_path_factory.mktemp("straight")
    run_pair(processes, main, line(photo_folder, output, config_file))
    return output


def alone(photos, output, config_file, *more):
    """The same by one process with twice the batch."""
    assert main(line(photos, output, config_file, "--batch-size", "8", *more)) == 0


def assert_alike(one, two):
    """Compare curves and weights of two runs, up to the order of additions."""
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    for name in ("model", "ema"):
        first, second = (
            load_file(next(find_checkpoints(run)).folder / f"{name}.safetensors")
            for run in (one, two)
        )
        assert first.keys() == second.keys()
        torch.testing.assert_close(first, second, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_shares_do_what_one_process_does_with_twice_the_batch(
    straight, photo_folder, tmp_path, config_file
):
    alone(photo_folder, tmp_path, config_file)
    assert len(losses(straight)) == 8  # one writer
    assert_alike(tmp_path, straight)


@pytest.mark.slow
def test_a_text_encoder_is_shared_too(processes, captioned_folder, tmp_path, config_file):
    changes = ("task=sketch", "model.text_channels=8", "max_train_steps=4", "sample_steps=9")
    more = [word for change in changes for word in ("--set", change)]
    alone(captioned_folder, tmp_path / "one", config_file, *more)
    run_pair(processes, main, line(captioned_folder, tmp_path / "two", config_file, *more))
    assert_alike(tmp_path / "one", tmp_path / "two")
    assert Pipeline.from_pretrained(tmp_path / "two" / "model").loaded.task.takes_text


@pytest.mark.slow
def test_a_backbone_that_is_trained_is_shared_too(processes, photo_folder, tmp_path, config_file):
    changes = ("optimizer.backbone_rate=0.1", "max_train_steps=4", "sample_steps=9")
    more = [word for change in changes for word in ("--set", change)]
    alone(photo_folder, tmp_path / "one", config_file, *more)
    run_pair(processes, main, line(photo_folder, tmp_path / "two", config_file, *more))
    assert_alike(tmp_path / "one", tmp_path / "two")
    saved = load_file(next(find_checkpoints(tmp_path / "two")).folder / "model.safetensors")
    assert "encoder.backbone.blocks.20.project.weight" in saved


@pytest.mark.slow
def test_so_do_blocks_in_shares_and_accumulated_batches(
    processes, photo_folder, tmp_path, config_file
):
    changes = ("gradient_accumulation_steps=2", "max_train_steps=4", "sample_steps=9")
    more = [word for change in changes for word in ("--set", change)]
    alone(photo_folder, tmp_path / "one", config_file, *more)
    words = line(photo_folder, tmp_path / "two", config_file, *more)
    run_pair(processes, main, words, **BY_BLOCK)
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_killed_shares_go_on_to_the_same_weights(
    straight, processes, photo_folder, tmp_path, config_file
):
    words = line(photo_folder, tmp_path, config_file)
    pair = start_pair(processes, main, words)
    end = time.monotonic() + 120
    while not list(find_checkpoints(tmp_path)):
        assert all(process.is_alive() for process in pair)
        assert time.monotonic() < end
        time.sleep(0.005)
    for process in pair:
        process.kill()
        process.join()
    assert next(find_checkpoints(tmp_path)).step == 4
    run_pair(processes, main, words)
    assert losses(tmp_path) == losses(straight)
    for path in sorted(straight.rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / path.relative_to(straight)).read_bytes()


@pytest.mark.slow
def test_the_model_of_shares_is_a_model_like_any_other(straight, photo):
    (result,) = Pipeline.from_pretrained(straight / "model")(photo, steps=2, seed=0)
    assert result.size == photo.size
    assert (straight / "samples" / "final.png").exists()
    newest = next(find_checkpoints(straight))
    unet = load_file(straight / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    average = newest.read("ema")
    for name, weight in unet.items():
        assert torch.equal(weight, average[f"unet.{name}"].half()), name


@pytest.mark.slow
def test_a_process_without_shares_goes_on_from_a_checkpoint_of_shares(
    straight, photo_folder, config_file
):
    """Saved files do not depend on how they were computed."""
    both = {"train_batch_size": 2 * TINY["train_batch_size"]}
    trainer = Trainer(TrainConfig.model_validate(TINY | both), photo_folder, None)
    checkpoint = next(find_checkpoints(straight))
    trainer.resume(checkpoint)
    parameters = dict(trainer.model.named_parameters())
    expected = checkpoint.read("model")
    assert all(torch.equal(parameters[name], value) for name, value in expected.items())
    assert trainer.step == 8


def weigh(photos, output):
    """Train a step, and report this process's number of values of each kind of tensor."""
    trainer = Trainer(TrainConfig.model_validate(TINY), photos, None)
    next(iter(trainer.steps()))
    with averaged(trainer.ema, trainer.model, keep=True) as model:
        assert model is not None
    parameters = trainer.model.trainable()
    counts = {
        "all": sum(p.numel() for p in parameters),
        "weights": sum(local_part(p).numel() for p in parameters),
        "averages": sum(p.numel() for p in trainer.ema.shadow_params),
        "moments": sum(
            local_part(trainer.optimizer.state[p]["exp_avg"]).numel() for p in parameters
        ),
    }
    (output / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(counts))
    trainer.close()


@pytest.mark.slow
def test_a_process_holds_its_share_of_everything(processes, photo_folder, tmp_path):
    run_pair(processes, weigh, photo_folder, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for kind in ("weights", "averages", "moments"):
        assert first[kind] + second[kind] == first["all"]
        assert first[kind] == pytest.approx(second[kind], rel=0.02)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "set gradient_checkpointing: true"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "set it to false"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "not train with DeepSpeed: choose FSDP"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "not train with Megatron-LM: choose FSDP"),
    ],
)
def test_what_nobody_has_tried_is_refused(monkeypatch, tmp_path, variables, message):
    for name, value in (FSDP | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=message):
        build_accelerator(TrainConfig.model_validate(TINY), tmp_path)


def test_one_process_has_nothing_to_share(monkeypatch, photo_folder):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(TrainConfig.model_validate(TINY), photo_folder, None)
    assert all(local_part(p) is p for p in trainer.model.trainable())
