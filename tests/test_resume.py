"""Exact resume: an interrupted run ends with the same weights as an uninterrupted one."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from condiff.config import OptimizerConfig, TrainConfig
from condiff.data.feature_cache import open_arrays
from condiff.data.shuffling import Order
from condiff.errors import ConfigError, DataError, TrainingError
from condiff.training import loop
from condiff.training.checkpoint import gather_checkpoint, restore_checkpoint
from condiff.training.ema import build_average
from condiff.training.optimizer import build_optimizer
from condiff.training.progress import Filled
from condiff.training.run_folder import find_checkpoints, lock_run
from condiff.training.trainer import Trainer

TINY = {
    "train_batch_size": 4, "max_train_steps": 12, "sample_steps": 6, "log_steps": 1,
    "model": {
        "sample_size": 8, "backbone_variant": None, "block_out_channels": [8, 16],
        "norm_num_groups": 4, "attention_head_dim": 8,
    },
    "data": {"size": 32},
    "optimizer": {"learning_rate": 5e-3, "warmup_steps": 2, "ema_decay": 0.9},
}  # fmt: skip


WITH_BACKBONE = {"backbone_variant": "lite0", "neck_channels": 4}


def tiny(**changes):
    return TrainConfig.model_validate(TINY | changes)


def weights(trainer):
    averaged = [p.clone() for p in trainer.ema.shadow_params]
    return [p.detach().clone() for p in trainer.model.trainable()] + averaged


def train(config, photos, output, *, until=None):
    """Train, from the newest checkpoint if there is one; a checkpoint at the end."""
    trainer = Trainer(config, photos, output)
    list(trainer.fill_cache())
    for checkpoint in find_checkpoints(output):
        trainer.resume(checkpoint)
        break
    for step in trainer.steps():
        trainer.observe(step.loss)
        if step.step == until:
            break
    trainer.save_checkpoint()
    return trainer


@pytest.fixture(autouse=True)
def _forget_the_precision_of_other_tests():
    """accelerate keeps the first Accelerator's precision for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"mixed_precision": "bf16"},
        {"data": {"size": 32, "cache": "ram"}},
        {"task": "none", "model": TINY["model"] | {"fold": 1}},
        {"task": "edge", "diffusion": {"cond_drop_prob": 0.3},
         "model": TINY["model"] | {"sample_size": 32, "fold": 1}},
        {"model": TINY["model"] | {"sample_size": 8, "fold": 8, "patch_size": 2}},
    ],
    ids=["plain", "accumulated", "bf16", "ram", "none", "edge", "patches"],
)  # fmt: skip
def test_four_and_three_steps_are_seven_bit_for_bit(photo_folder, tmp_path, changes):
    """Seven steps of batches of four are more than two epochs of twelve photos."""
    config = tiny(max_train_steps=7, **changes)
    straight = train(config, photo_folder, tmp_path / "a")
    train(config, photo_folder, tmp_path / "b", until=4)
    resumed = train(config, photo_folder, tmp_path / "b")
    assert resumed.step == straight.step == 7
    pairs = zip(weights(straight), weights(resumed), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert resumed.smoothed_loss == straight.smoothed_loss


def test_a_loss_that_is_no_number_stops_the_run(photo_folder, tmp_path):
    trainer = Trainer(tiny(), photo_folder, tmp_path)
    with torch.no_grad():
        trainer.model.trainable()[0].fill_(float("nan"))
    step = next(iter(trainer.steps()))
    with pytest.raises(TrainingError, match="loss of step 1 is nan. There is no checkpoint;"):
        trainer.observe(step.loss)
    with pytest.raises(TrainingError, match="is nan"):
        trainer.save_checkpoint()
    assert not list(find_checkpoints(tmp_path))


def test_a_broken_photo_costs_no_steps(photo_folder, tmp_path):
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    order = [Order(12, seed=0).at(position)[1] for position in range(12)]
    late = photos / f"{order[9]:02}.png"  # of the third batch of four
    whole = late.read_bytes()
    late.write_bytes(whole[:100])
    trainer = loop.start(tiny(), photos, tmp_path / "run")
    with pytest.raises(DataError, match=r"cannot be trained on: .* The run is saved at step 2\.$"):
        list(loop.run(trainer))
    late.write_bytes(whole)
    resumed = loop.start(tiny(), photos, tmp_path / "run")
    assert resumed.step == 2
    straight = train(tiny(), photo_folder, tmp_path / "straight", until=3)
    next(iter(resumed.steps()))
    resumed.release()
    assert all(map(torch.equal, weights(resumed), weights(straight)))


def test_a_cache_that_processes_do_not_share_is_refused(photo_folder, tmp_path):
    """This process computes its half; the other half would be on another machine's disk."""
    config = tiny(data={"size": 32, "cache_features": True}, model=TINY["model"] | WITH_BACKBONE)
    trainer = Trainer(config, photo_folder, tmp_path)
    trainer.accelerator.state.num_processes = 2
    with pytest.raises(TrainingError, match="cache lacks the photos of other processes: .* -o"):
        list(trainer.fill_cache())


def test_settings_that_do_not_go_together_are_refused_before_the_model_is_built(
    photo_folder, tmp_path
):
    config = tiny(optimizer={"backbone_rate": 0.1})
    with pytest.raises(ConfigError, match="backbone"):
        loop.train(config, photo_folder, tmp_path)


def test_a_folder_that_has_grown_is_refused(photo_folder, tmp_path):
    """With another number of photos their order changes: resuming would not be exact."""
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    train(tiny(), photos, tmp_path / "run", until=2)
    shutil.copy(photos / "00.png", photos / "12.png")
    trainer = Trainer(tiny(), photos, tmp_path / "run")
    with pytest.raises(ConfigError, match="begun with photos = 12, not 13"):
        trainer.resume(next(find_checkpoints(tmp_path / "run")))


def test_the_images_of_a_step_may_be_divided_differently(photo_folder, tmp_path):
    whole = train(tiny(), photo_folder, tmp_path, until=2)
    newest = next(find_checkpoints(tmp_path))
    halves = Trainer(
        tiny(train_batch_size=2, gradient_accumulation_steps=2), photo_folder, tmp_path
    )
    halves.resume(newest)
    [batch], parts = islice(whole.batches(), 1), list(islice(halves.batches(), 2))
    assert torch.equal(batch["x_0"], torch.cat([part["x_0"] for part in parts]))
    assert next(iter(halves.steps())).step == 3
    half = Trainer(tiny(train_batch_size=2), photo_folder, tmp_path)
    with pytest.raises(ConfigError, match="begun with images per step = 4, not 2"):
        half.resume(newest)


@pytest.fixture(scope="module")
def shards(photo_folder, tmp_path_factory):
    """Four shards of three photos."""
    folder = tmp_path_factory.mktemp("shards")
    photos = [path.read_bytes() for path in sorted(photo_folder.iterdir())]
    for shard in range(4):
        table = pa.table({"image": photos[3 * shard : 3 * shard + 3]})
        pq.write_table(table, folder / f"train-{shard:05}.parquet")
    return folder


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_stream_goes_on_to_the_same_weights(shards, tmp_path, workers):
    """Six steps of two batches of four are four epochs of these photos."""
    data = {"size": 32, "streaming": True, "shuffle_buffer": 4, "num_workers": workers}
    config = tiny(data=data, gradient_accumulation_steps=2, max_train_steps=6)
    straight = train(config, shards, tmp_path / "a")
    train(config, shards, tmp_path / "b", until=4)
    pairs = zip(weights(straight), weights(train(config, shards, tmp_path / "b")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_stream_that_is_divided_differently_is_refused(shards, tmp_path):
    """Its order depends on the size of the batches."""
    data = {"size": 32, "streaming": True, "shuffle_buffer": 4, "num_workers": 0}
    train(tiny(data=data), shards, tmp_path, until=2)
    halves = tiny(data=data, train_batch_size=2, gradient_accumulation_steps=2)
    with pytest.raises(ConfigError, match="begun with train_batch_size = 4, not 2"):
        Trainer(halves, shards, tmp_path).resume(next(find_checkpoints(tmp_path)))


def test_a_disk_without_room_for_the_features_is_told_before_the_work(photo_folder, tmp_path):
    """A limit on the size of files simulates a full disk, on which writing a sparse file kills."""
    data = {"size": 64, "cache_features": True}
    model = TINY["model"] | {"backbone_variant": "lite2", "neck_channels": 8}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(DataError, match="Cannot keep 0.3 MB in .*File too large"):
            Trainer(tiny(data=data, model=model), photo_folder, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_place_that_takes_no_features_is_not_called_full(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Cannot keep features in .*Choose another folder"):
        open_arrays(tmp_path / "file" / "cache", {"done": ((3,), np.bool_)}, key="")


def test_cached_features_go_on_to_the_same_weights(photo_folder, tmp_path):
    data = {"size": 64, "cache_features": True, "num_workers": 2}
    model = TINY["model"] | {"backbone_variant": "lite2", "neck_channels": 8}
    config = tiny(data=data, model=model, max_train_steps=6)
    straight = train(config, photo_folder, tmp_path / "a")
    train(config, photo_folder, tmp_path / "b", until=3)
    resumed = train(config, photo_folder, tmp_path / "b")
    assert resumed.step == straight.step == 6
    pairs = zip(weights(straight), weights(resumed), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_that_is_stopped_while_features_are_cached_begins_again(photo_folder, tmp_path):
    """No checkpoint is written before the first step: AdamW has no moments yet."""
    model = TINY["model"] | {"backbone_variant": "lite0", "neck_channels": 8}
    config = tiny(data={"size": 32, "cache_features": True}, model=model, max_train_steps=3)
    stopped = loop.start(config, photo_folder, tmp_path)
    for event in loop.run(stopped):
        assert isinstance(event, Filled)
        stopped.stop_signal = signal.SIGTERM
    assert event.done < event.total, "the whole cache was filled after the signal"
    assert not list(find_checkpoints(tmp_path))
    again = loop.start(config, photo_folder, tmp_path)
    done = [event.done for event in loop.run(again) if isinstance(event, Filled)]
    assert done[0] == event.done and again.step == 3


def test_a_parameter_that_never_had_a_gradient_is_resumed_without_moments(tmp_path):
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "idle": torch.nn.Linear(2, 2)})
    optimizer = build_optimizer(OptimizerConfig(), model.parameters())
    ema = build_average(SimpleNamespace(trainable=lambda: [*model.parameters()]), 0.9)
    model["used"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    files = gather_checkpoint(model, optimizer, ema)
    fresh = build_optimizer(OptimizerConfig(), model.parameters())
    restore_checkpoint(model, fresh, ema, files.__getitem__)
    assert {len(fresh.state[p]) for p in model["used"].parameters()} == {3}
    assert not any(p in fresh.state for p in model["idle"].parameters())


def command(photos, output, config_file, *more):
    run = [sys.executable, "-m", "condiff", "train", "--data", str(photos), "-o", str(output)]
    return [*run, "--config", str(config_file), *more]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    longer = TINY | {"max_train_steps": 40, "sample_steps": 10}
    path.write_text(json.dumps(longer), "utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def straight(photo_folder, config_file, tmp_path_factory):
    """The folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("straight")
    line = command(photo_folder, output, config_file)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def final_weights(output):
    newest = next(find_checkpoints(output))
    assert newest.step == 40
    return load_file(newest.folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_goes_on_to_the_same_weights(
    straight, photo_folder, tmp_path, config_file, number
):
    stopped = tmp_path / "stopped"
    line = command(photo_folder, stopped, config_file)
    with subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(list(find_checkpoints(stopped))) >= 2, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    assert process.returncode == codes[number], err
    (stopped / "checkpoints" / "step-000099").mkdir()  # half a checkpoint left behind
    again = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "step-000099 is damaged" in again.stderr
    assert "resumed at step" in again.stderr
    expected, got = final_weights(straight), final_weights(stopped)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    logs = [(out / "metrics.jsonl").read_text().splitlines() for out in (straight, stopped)]
    losses = [[(row["step"], row["loss"]) for row in map(json.loads, log)] for log in logs]
    assert losses[0] == losses[1]
    models = [out / "model" / "unet" / "diffusion_pytorch_model.safetensors"
              for out in (straight, stopped)]  # fmt: skip
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_twice_the_batch(photo_folder, tmp_path, config_file):
    one, two = tmp_path / "one", tmp_path / "two"
    done = subprocess.run(
        command(photo_folder, one, config_file, "--batch-size", "8", "--max-steps", "6"),
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--standalone", *command(photo_folder, two, config_file)[1:]]
    done = subprocess.run(
        [*launch, "--batch-size", "4", "--max-steps", "6"],
        env=environment() | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (one, two)
    ]
    assert len(rows[0]) == len(rows[1]) == 6  # one writer
    for first, second in zip(*rows, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    assert "2 x cpu" in done.stderr


@pytest.mark.slow
def test_a_broken_photo_of_another_process_costs_no_steps(photo_folder, tmp_path, config_file):
    photos, out = shutil.copytree(photo_folder, tmp_path / "photos"), tmp_path / "run"
    of_the_second = Order(12, seed=0).at(2 * 4 + 2)[1]  # in the third batch of two times two
    (photos / f"{of_the_second:02}.png").write_bytes(b"no photo")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--standalone", *command(photos, out, config_file)[1:]]
    done = subprocess.run(
        [*launch, "--batch-size", "2"], env=environment() | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "The run is saved at step 2." in done.stderr
    assert next(find_checkpoints(out, resume=True)).step == 2


@pytest.mark.slow
def test_one_process_resumes_what_two_began(photo_folder, tmp_path, config_file):
    """Ctrl-C reaches torchrun and its processes, which torchrun then ends with SIGTERM."""
    one, two = tmp_path / "one", tmp_path / "two"
    steps = ("--max-steps", "100")  # long enough to be stopped on a busy machine
    whole = [*command(photo_folder, one, config_file, *steps), "--batch-size", "8"]
    done = subprocess.run(whole, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--standalone", *command(photo_folder, two, config_file, *steps)[1:]]
    with subprocess.Popen(
        launch, env=environment() | {"ACCELERATE_USE_CPU": "true"},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        wait_for(lambda: read_losses(two), process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    stopped = len(read_losses(two))
    assert next(find_checkpoints(two)).step == stopped < 100
    again = [*command(photo_folder, two, config_file, *steps), "--batch-size", "8"]
    done = subprocess.run(again, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {stopped}" in done.stderr
    assert read_losses(two) == pytest.approx(read_losses(one), rel=1e-3)


@pytest.mark.slow
def test_a_refusal_of_the_main_process_ends_the_others_in_a_sentence(
    photo_folder, tmp_path, config_file
):
    (tmp_path / "empty").mkdir()
    with lock_run(tmp_path / "taken"):
        for data, out, sentence in (
            (tmp_path / "empty", tmp_path / "new", "No photos in"),
            (photo_folder, tmp_path / "taken", "Another process trains in"),
        ):
            launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
            launch += ["--standalone", *command(data, out, config_file)[1:]]
            done = subprocess.run(
                launch, env=environment() | {"ACCELERATE_USE_CPU": "true"},
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 1
            assert sentence in done.stderr
            assert "RuntimeError" not in done.stderr  # of a connection that was closed


def read_losses(output):
    log = output / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["loss"] for line in lines]
