"""A run's folder: complete checkpoints, damaged ones skipped, changed settings refused."""

import json
import math
import os
import resource

import pytest
import torch

from condiff.config import TrainConfig
from condiff.errors import CheckpointError, ConfigError, TrainingError
from condiff.training.run_folder import (
    Checkpoint,
    begin,
    check_output,
    find_checkpoints,
    find_start,
    lock_run,
    prune_checkpoints,
    write_checkpoint,
)

from .conftest import error_in_fork


def config(**changes):
    return TrainConfig.model_validate({"max_train_steps": 4} | changes)


def write(output, step, *, loss=1.0, data="photos", value=0.0):
    state = {"step": step, "smoothed_loss": loss, "data": data}
    return write_checkpoint(output, state, {"model": {"w": torch.full((3,), value)}})


def test_a_checkpoint_is_read_back(tmp_path):
    write(tmp_path, 7, value=0.5)
    (checkpoint,) = find_checkpoints(tmp_path)
    assert checkpoint.step == 7
    assert checkpoint.read("model")["w"].tolist() == [0.5, 0.5, 0.5]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000007"]


@pytest.mark.parametrize("damage", ["cut", "no state", "torn state", "part", "other name"])
def test_half_written_checkpoints_are_passed_over(tmp_path, damage):
    write(tmp_path, 5)
    broken = write(tmp_path, 9)
    if damage == "cut":
        os.truncate(broken / "model.safetensors", 10)
    elif damage == "no state":
        (broken / "state.json").unlink()
    elif damage == "torn state":
        (broken / "state.json").write_text('{"step": 9, "si', "utf-8")
    elif damage == "part":
        broken.rename(broken.with_name(".step-000009.part"))
    else:
        broken.rename(broken.with_name("step-000009_half"))
    assert [c.step for c in find_checkpoints(tmp_path)] == [5]


@pytest.mark.parametrize("damage", ["a byte", "a list", "no step"])
def test_a_checkpoint_that_is_not_as_it_was_written_is_not_resumed_from(tmp_path, caplog, damage):
    begin(tmp_path, config(), None)
    write(tmp_path, 5)
    broken = write(tmp_path, 9)
    if damage == "a byte":
        data = bytearray((broken / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (broken / "model.safetensors").write_bytes(data)
    elif damage == "a list":
        (broken / "state.json").write_text("[]", "utf-8")
    else:
        (broken / "state.json").write_text('{"sizes": {}}', "utf-8")
    assert find_start(tmp_path, config(), data="photos").step == 5
    assert "step-000009 is damaged and skipped" in caplog.text


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_one_before(tmp_path):
    write(tmp_path, 5, value=1.0)
    write(tmp_path, 5, value=2.0)
    (checkpoint,) = find_checkpoints(tmp_path, resume=True)
    assert checkpoint.read("model")["w"].tolist() == [2.0] * 3
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]


def test_one_process_trains_in_a_folder(tmp_path):
    lock = lock_run(tmp_path)
    error = error_in_fork(lambda: lock_run(tmp_path))
    assert error.startswith(f"Another process trains in {tmp_path}: ")
    lock.close()
    assert error_in_fork(lambda: lock_run(tmp_path)) == ""


def test_the_newest_and_the_best_are_kept(tmp_path, caplog):
    for step, loss in ((1, 3.0), (2, 0.5), (3, 2.0), (4, 1.0), (5, 1.5)):
        write(tmp_path, step, loss=loss)
    (tmp_path / "checkpoints" / "step-000006").mkdir()
    prune_checkpoints(tmp_path, keep=2)
    assert not caplog.records  # a damaged one is reported once, when the run begins
    assert [c.step for c in find_checkpoints(tmp_path)] == [5, 4, 2]


def test_a_checkpoint_without_a_loss_yet_is_not_taken_for_the_best(tmp_path):
    for step, loss in ((1, 0.5), (2, 2.0), (3, 1.0), (4, float("nan"))):
        write(tmp_path, step, loss=loss)
    prune_checkpoints(tmp_path, keep=2)
    assert [c.step for c in find_checkpoints(tmp_path)] == [4, 3, 1]


def test_a_folder_of_photos_may_be_called_by_another_name(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "run", config(), None)
    write(tmp_path / "run", 2, data="photos")
    for name in ("photos/", "./photos", str(tmp_path / "photos")):
        assert find_start(tmp_path / "run", config(), data=name).step == 2


def test_other_first_weights_are_refused(tmp_path):
    begin(tmp_path, config(), None)
    state = {"step": 2, "smoothed_loss": 1.0, "data": "photos", "init": "one"}
    write_checkpoint(tmp_path, state, {"model": {"w": torch.zeros(3)}})
    assert find_start(tmp_path, config(), data="photos", init="one").step == 2
    with pytest.raises(ConfigError, match="begun with --init = one, not None"):
        find_start(tmp_path, config(), data="photos")


def test_a_run_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder", "utf-8")
    with pytest.raises(TrainingError, match="Cannot write into .*file: Not a directory"):
        begin(tmp_path / "file", config(), None)


@pytest.mark.parametrize("name", ["samples", "model", "checkpoints", "config.yaml"])
def test_a_folder_that_holds_other_peoples_files_is_no_runs_folder(tmp_path, name):
    """A new run removes the files of an earlier one, so the folder must contain no others."""
    if name == "config.yaml":
        (tmp_path / name).write_text("task: colorize\nmax_train_steps: 3\n", "utf-8")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"contains {name}, but was not made by"):
        check_output(tmp_path, data="photos")
    begin(tmp_path / "run", config(), None)
    check_output(tmp_path / "run", data="photos")
    (tmp_path / "run" / "model_index.json").touch()  # the model folder of a run, mistaken for it
    with pytest.raises(ConfigError, match="was not made by"):
        check_output(tmp_path / "run", data="photos")
    check_output(tmp_path / "new", data="photos")


@pytest.mark.parametrize("place", [".", "runs/one"])
def test_a_run_among_its_photos_would_train_on_its_own_samples(tmp_path, place):
    with pytest.raises(ConfigError, match="would become photos"):
        check_output(tmp_path / place, data=str(tmp_path))
    check_output(tmp_path / place, data=str(tmp_path / "photos"))


def test_a_run_goes_on_only_with_its_own_settings_and_data(tmp_path):
    begin(tmp_path, config(), None)
    write(tmp_path, 2)
    assert find_start(tmp_path, config(), data="photos").step == 2
    longer = config(max_train_steps=9, sample_steps=3)
    assert find_start(tmp_path, longer, data="photos").step == 2
    with pytest.raises(ConfigError, match=r"begun with optimizer\.learning_rate = 0\.0002, not 1"):
        find_start(tmp_path, config(optimizer={"learning_rate": 1}), data="photos")
    with pytest.raises(ConfigError, match="begun with --data = photos, not others"):
        find_start(tmp_path, config(), data="others")


def test_a_model_without_a_checkpoint_is_not_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="--force"):
        find_start(tmp_path, config(), data="photos")


def test_what_was_measured_after_the_checkpoint_is_forgotten(tmp_path):
    begin(tmp_path, config(), None)
    lines = [json.dumps({"step": n}) + "\n" for n in (1, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 5, "lo', "utf-8")
    write(tmp_path, 3)
    begin(tmp_path, config(), find_start(tmp_path, config(), data="photos"))
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == "".join(lines[:3])


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files simulates a full disk: the system refuses further writes."""
    write(tmp_path, 1)
    state = {"step": 2, "smoothed_loss": 1.0, "data": "photos"}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="Cannot write the checkpoint .*File too large"):
            write_checkpoint(tmp_path, state, {"model": {"w": torch.zeros(9999)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert CheckpointError.__mro__[1].__name__ == "TrainingError"


def test_a_full_disk_leaves_the_settings_of_a_run(tmp_path):
    """Without them the run could not be resumed: its folder would not be recognised."""
    begin(tmp_path, config(), None)
    before = (tmp_path / "config.yaml").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(TrainingError, match="File too large"):
            begin(tmp_path, config(max_train_steps=9), Checkpoint(tmp_path / "x", {"step": 1}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "config.yaml").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "samples"]


def test_the_best_checkpoint_is_the_one_before_a_loss_rises():
    """Losses like those of an illustrations run: a line per ten steps, and a lasting spike."""
    from condiff.training.progress import move_average

    smoothed, at = math.nan, {}
    for line in range(1, 281):
        loss = 0.25 if line > 190 else 0.05 + 0.5 * math.exp(-line / 20)
        smoothed = move_average(smoothed, loss)
        at[10 * line] = smoothed
    assert at[1500] == pytest.approx(0.05, abs=0.01)
    assert min((500, 1000, 1500, 2000, 2500), key=at.__getitem__) == 1500
