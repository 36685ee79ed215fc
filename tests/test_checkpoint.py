"""Model folders: stock diffusers parts that work without condiff."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch.testing import assert_close

from condiff.config import DiffusionConfig
from condiff.diffusion.diffusers_schedulers import build_scheduler
from condiff.errors import ModelError
from condiff.models.info import EMBEDDED, INDEX, find_model
from condiff.models.loading import load_model, save_model, whole_folder
from condiff.tasks import find_task


def test_saved_and_loaded_the_model_is_the_same(tiny_model, tiny_folder):
    loaded = load_model(tiny_folder)
    x_t, t = torch.randn(1, 2, 8, 8), torch.tensor([7])
    condition = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert_close(loaded.model(x_t, t, condition), tiny_model(x_t, t, condition))
    assert loaded.task.name == "colorize"
    assert loaded.diffusion == DiffusionConfig()


@pytest.mark.slow
def test_diffusers_alone_opens_it_and_gives_the_same_numbers(tiny_model, tiny_folder, tmp_path):
    joined = torch.randn(1, tiny_model.unet.config.in_channels, 8, 8)
    torch.save(joined, tmp_path / "x.pt")
    program = f"""
import sys, torch
from diffusers import DDPMScheduler, UNet2DModel
unet = UNet2DModel.from_pretrained({str(tiny_folder)!r}, subfolder="unet")
scheduler = DDPMScheduler.from_pretrained({str(tiny_folder)!r}, subfolder="scheduler")
x = torch.load({str(tmp_path / "x.pt")!r}, weights_only=True)
with torch.no_grad():
    torch.save((unet(x, 3).sample, scheduler.alphas_cumprod), {str(tmp_path / "y.pt")!r})
assert "condiff" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=300)
    sample, alphas_bar = torch.load(tmp_path / "y.pt", weights_only=True)
    with torch.no_grad():
        assert_close(sample, tiny_model.unet(joined, 3).sample)
    assert_close(alphas_bar, build_scheduler("ddpm", DiffusionConfig()).alphas_cumprod)


def test_a_folder_tells_no_path_of_the_machine_that_made_it(tiny_folder, tmp_path):
    model = load_model(tiny_folder).model  # diffusers notes where it came from
    task, diffusion = find_task("colorize"), DiffusionConfig()
    save_model(tmp_path / "m", model, task=task, diffusion=diffusion, dtype=torch.float16)
    for folder in [tmp_path / "m", EMBEDDED]:
        for file in folder.rglob("config.json"):
            assert "_name_or_path" not in json.loads(file.read_text()), file


def test_half_precision_halves_the_files_and_leaves_the_model_alone(tiny_model, tmp_path):
    before = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    task = find_task("colorize")
    save_model(
        tmp_path / "m", tiny_model, task=task, diffusion=DiffusionConfig(), dtype=torch.float16
    )
    stored = load_file(tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16}
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.state_dict().items())
    loaded = load_model(tmp_path / "m").model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_half_precision_is_written_without_a_warning(tiny_model, tmp_path, caplog):
    settings = {"task": find_task("colorize"), "diffusion": DiffusionConfig()}
    diffusers_logging.add_handler(caplog.handler)
    try:
        save_model(tmp_path / "half", tiny_model, dtype=torch.float16, **settings)
    finally:
        diffusers_logging.remove_handler(caplog.handler)
    assert not caplog.records


def test_saving_again_replaces_the_folder_whole(tiny_model, tmp_path):
    folder = tmp_path / "m"
    for _ in range(2):
        save_model(
            folder, tiny_model, task=find_task("colorize"), diffusion=DiffusionConfig(),
            dtype=torch.float32,
        )  # fmt: skip
        (folder / "stale").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(OSError), whole_folder(tmp_path / "m") as part:  # noqa: PT012
        (part / "large").write_bytes(b"1")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_weights_are_readable_by_others(tiny_folder):
    umask = os.umask(0)
    os.umask(umask)
    for path in tiny_folder.rglob("*.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044


@pytest.mark.parametrize(
    "diffusion",
    [
        DiffusionConfig(beta_schedule="sigmoid", loss_weighting="p2"),
        DiffusionConfig(schedule_shift=0.3, offset_noise=0.1, cond_drop_prob=0.1),
    ],
    ids=["sigmoid", "shifted"],
)
def test_the_noise_process_survives_and_diffusers_alone_reads_it(tiny_model, tmp_path, diffusion):
    folder = tmp_path / "m"
    save_model(
        folder, tiny_model, task=find_task("colorize"), diffusion=diffusion, dtype=torch.float16
    )
    loaded = load_model(folder).diffusion
    assert loaded == diffusion
    stock = DDPMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod
    for config in (loaded, diffusion):
        assert torch.equal(build_scheduler("ddpm", config).alphas_cumprod, stock)


def test_a_folder_that_says_nothing_of_the_objective_has_its_schedulers(tiny_folder, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / INDEX).read_text("utf-8"))
    del index["diffusion"]
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    assert load_model(folder).diffusion == DiffusionConfig()


def test_no_model_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"no model nothing.*colorize"):
        find_model("nothing")
    with pytest.raises(ModelError, match="not a model folder"):
        find_model(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"task": "colorize"}), "utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"task": "cook"}), "utf-8")
    with pytest.raises(ModelError, match="no task 'cook'"):
        load_model(tmp_path)


def test_embedded_models_are_small_safetensors_with_cards():
    folders = [path.parent for path in EMBEDDED.glob(f"*/{INDEX}")]
    assert folders
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {p.suffix for p in files} <= {
            ".safetensors", ".json", ".yaml", ".md", ".jsonl", ".onnx",
        }  # fmt: skip
        assert sum(p.stat().st_size for p in files) <= 44e6
        assert (folder / "README.md").stat().st_size > 1000
        unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        assert sum(v.numel() for v in unet.values()) <= 20e6
        assert {v.dtype for v in unet.values()} == {torch.float16}
