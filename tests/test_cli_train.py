"""`condiff train`: refused settings, cost, and files written."""

import json
import os
import resource
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from condiff.cli import main
from condiff.errors import ModelError
from condiff.models.hub import push_to_hub
from condiff.models.info import read_model_info
from condiff.models.loading import load_model
from condiff.training.run_folder import find_checkpoints, write_checkpoint

TINY = {
    "train_batch_size": 4, "max_train_steps": 4, "sample_steps": 4, "log_steps": 1,
    "model": {
        "sample_size": 16, "backbone_variant": None, "fold": 1, "block_out_channels": [8, 16],
        "norm_num_groups": 4, "attention_head_dim": 8,
    },
    "data": {"size": 16},
}  # fmt: skip


@pytest.fixture
def run(photo_folder, tmp_path, capsys):
    """Train a tiny model in `tmp_path/run`; (exit code, stdout, stderr)."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY), "utf-8")

    def call(*more, task="none"):
        line = ["train", "--task", task, "--config", str(tmp_path / "tiny.yaml")]
        line += ["--data", str(photo_folder), "-o", str(tmp_path / "run"), *map(str, more)]
        code = main(line)
        return code, *capsys.readouterr()

    return call


def test_an_unconditional_model_is_trained_and_its_reverse_process_filmed(run, tmp_path, capsys):
    code, out, err = run()
    model = tmp_path / "run" / "model"
    assert (code, out) == (0, f"{model}\n"), err
    assert load_model(model).task.name == "none"
    assert "12 photos" in (model / "README.md").read_text("utf-8")
    assert (tmp_path / "run" / "curves.png").is_file()
    film = tmp_path / "film.gif"
    line = ["figure", "reverse", "-m", str(model), "-o", str(film), "--steps", "3", "--seed", "1"]
    assert main(line) == 0, capsys.readouterr().err
    with Image.open(film) as image:
        assert image.n_frames == 4


def test_the_same_command_again_finds_the_run_done(run, tmp_path):
    run()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    weights = tmp_path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    trained = weights.read_bytes()
    code, _, err = run()
    assert code == 0
    assert "resumed at step" in err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert weights.read_bytes() == trained


def test_a_finished_run_takes_new_settings_of_sampling(run, tmp_path):
    run()
    model = tmp_path / "run" / "model"
    weights = (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    code, _, err = run("--set", "sampling.steps=3", "--set", "sampling.guidance_scale=1.5")
    assert code == 0, err
    sampling = read_model_info(model).sampling
    assert (sampling.steps, sampling.guidance_scale) == (3, 1.5)
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights


def test_the_last_step_is_logged_whatever_the_interval(run, tmp_path):
    assert run("--set", "log_steps=3", "--set", "sample_steps=9")[0] == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4]


def test_a_tracker_gets_what_the_metrics_hold(run, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    code, _, err = run("--set", "tracker=tensorboard")
    assert code == 0, err
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*")}
    log = events.EventAccumulator(str(folder)).Reload()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = [(event.step, event.value) for event in log.Scalars("loss")]
    assert found == [(m["step"], pytest.approx(m["loss"])) for m in map(json.loads, lines)]


@pytest.mark.slow
def test_more_steps_extend_a_run_and_force_starts_over(run, tmp_path):
    run()
    assert run("--max-steps", 6)[0] == 0
    log = tmp_path / "run" / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    code, _, err = run("--seed", 3)
    assert code == 2
    assert "begun with seed = 0, not 3" in err
    assert run("--seed", 3, "--force", "--max-steps", 2)[0] == 0
    assert len(log.read_text().splitlines()) == 2


def test_the_profile_tells_where_time_goes_and_leaves_no_run(run, tmp_path):
    code, out, _ = run("--profile")
    assert code == 0
    for message in ("12 photos", "images/s", "forward", "backward", "% of"):
        assert message in out
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_hub_that_cannot_be_reached_is_told_before_training(run, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for token in ("", "hf_none"):  # without a login; and offline, or with one that the Hub refuses
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        code, _, err = run("--push-to-hub", "somebody/model")
        assert (code, err.count("\n")) == (1, 1) and "hf upload somebody/model" in err
        assert not (tmp_path / "run").exists()
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="The model is in .*hf upload somebody/model"):
        push_to_hub(tmp_path / "model", "somebody/model")


def test_the_name_of_a_repository_is_checked_and_shown(run):
    code, _, err = run("--push-to-hub", "no name at all", "--force")
    assert (code, err.count("\n")) == (1, 1)
    code, out, _ = run("--push-to-hub", "somebody/model", "-n")
    assert (code, out.splitlines()[-1]) == (0, "# would be pushed to somebody/model")


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_is_whole(run, tmp_path):
    """A limit on the size of files simulates a full disk: the system refuses further writes."""
    assert run("--max-steps", 2)[0] == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code, _, err = run("--max-steps", 4, "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, err.count("\n")) == (1, 1)
    assert "Cannot write the checkpoint" in err
    assert [c.step for c in find_checkpoints(tmp_path / "run")] == [2]
    assert load_model(tmp_path / "run" / "model").task.name == "none"
    assert run("--max-steps", 4)[0] == 0


def test_what_cannot_be_written_beside_a_checkpoint_is_one_sentence(run, tmp_path):
    assert run("--max-steps", 2)[0] == 0
    (tmp_path / "run" / "curves.png").unlink()
    (tmp_path / "run" / "curves.png").mkdir()
    code, _, err = run("--max-steps", 4, "--quiet")
    assert (code, err.count("\n")) == (1, 1)
    assert "Cannot write into" in err
    assert next(find_checkpoints(tmp_path / "run")).step == 4


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(run, tmp_path):
    assert run("--max-steps", 2)[0] == 0
    (checkpoint,) = find_checkpoints(tmp_path / "run")
    weights = checkpoint.read("model")
    weights["unet.conv_in.weight"].fill_(1e38)
    tensors = {name: checkpoint.read(name) for name in ("ema", "optimizer")} | {"model": weights}
    write_checkpoint(tmp_path / "run", checkpoint.state, tensors)
    code, _, err = run("--max-steps", 4, "--quiet")
    assert (code, err.count("\n")) == (1, 1)
    assert "The loss of step 3 is nan" in err
    assert f"The last good checkpoint is {checkpoint.folder}" in err


def test_a_setting_without_an_effect_is_reported(run, caplog):
    assert run("--set", "diffusion.beta_end=0.012", "-n")[0] == 0
    assert "diffusion.beta_end has no effect without another diffusion.beta" in caplog.text


def test_settings_that_do_not_fit_are_one_sentence(run, tmp_path):
    for wrong, message in (
        (("--set", "tracker=wandb"), "pip install wandb"),
        (("--set", "data.conditions=prepared"), "prepared"),
        (("--set", "diffusion.prediction_type=epsilon"), "rescale_betas_zero_snr"),
        (("--set", "model.sample_sise=3"), "did you mean model.sample_size"),
        (("--set", "data.size=["), "--set data.size: '[' is not valid YAML"),
        (("--init", "nowhere/at-all"), "Cannot start from nowhere/at-all"),
    ):
        code, _, err = run(*wrong)
        assert code == (1 if "--init" in wrong else 2), wrong  # the Hub may not be reached
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_an_edge_model_starts_from_an_unconditional_one(run, tmp_path):
    assert run()[0] == 0
    (tmp_path / "run").rename(tmp_path / "none")
    code, _, err = run("--init", tmp_path / "none" / "model", task="edge")
    assert code == 0, err
    card = (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    assert f"the weights of {tmp_path / 'none' / 'model'}" in card


@pytest.mark.slow
def test_a_torchvision_of_another_build_is_told_in_a_sentence(photo_folder, tmp_path):
    """Like PyPI's torchvision beside a CPU torch: it fails when diffusers imports it."""
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(metadata)
    arguments = ["train", "--max-steps", "1", "--data", str(photo_folder), "-o", "run", "-n"]
    done = subprocess.run(
        [sys.executable, "-m", "condiff", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("condiff: The installed torchvision"), done.stderr
    assert done.stderr.count("\n") == 1
