"""Shared by all tests: one thread, and small real models, photos and data."""

import gc
import os
import shutil
import subprocess

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two threads beside another busy process are many times slower than one. Commands inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

gc.disable()  # during imports, which create no garbage


def pytest_collection_finish():
    """Exclude all loaded objects from garbage collection: they are permanent."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each process an equal share of neighbouring tests, so that few fixtures are repeated."""
    gc.enable()  # in the controller, which collects no tests
    if config.getvalue("dist") != "load":  # not the default of -n
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session")
def tiny_model():
    """A colorizer of a few thousand random parameters: no backbone, a U-Net of two levels."""
    import torch

    from condiff.config import ModelConfig
    from condiff.models.denoiser import build_model
    from condiff.tasks import find_task

    torch.manual_seed(0)
    config = ModelConfig(
        sample_size=16,
        backbone_variant=None,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    return build_model(config, find_task("colorize")).eval()


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tmp_path_factory):
    """The tiny model as a model folder, in single precision."""
    import torch

    from condiff.config import DiffusionConfig
    from condiff.models.loading import save_model
    from condiff.tasks import find_task

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        folder,
        tiny_model,
        task=find_task("colorize"),
        diffusion=DiffusionConfig(),
        dtype=torch.float32,
    )
    return folder


def make_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colourful picture with an edge in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    phase = rng.uniform(0, 6, size=(3, 1, 1))
    waves = np.sin(5 * x + phase) * np.cos(4 * y + phase[::-1])
    edge = np.where(x + y > 0.7, 40, -20)
    return Image.fromarray(
        (120 + 80 * waves + edge).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    )


def error_in_fork(work) -> str:
    """The CondiffError that work() raises in a fork, which has the libraries loaded; "" if none."""
    from condiff.errors import CondiffError

    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        said = "another error"
        try:
            work()
            said = ""
        except CondiffError as error:
            said = str(error)
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as file:
        return file.read()


@pytest.fixture
def photo():
    """A 60x44 colour photo."""
    return make_photo(60, 44)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """Twelve small photos as files."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(12):
        make_photo(48, 40, seed=index).save(folder / f"{index:02}.png")
    return folder


def save_tiny(folder: Path, name: str, fold: int = 1) -> Path:
    """A model folder of a task with random parameters, x_t at 32², conditions at 32² times fold."""
    import torch

    from condiff.config import DiffusionConfig, ModelConfig
    from condiff.models.denoiser import build_model
    from condiff.models.loading import save_model
    from condiff.tasks import find_task

    torch.manual_seed(0)
    config = ModelConfig(
        sample_size=32,
        fold=fold,
        backbone_variant=None,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    task = find_task(name)
    model = build_model(config, task).eval()
    settings = {"task": task, "diffusion": DiffusionConfig(), "dtype": torch.float32}
    save_model(folder / name, model, condition_size=32 * fold, **settings)
    return folder / name


@pytest.fixture(scope="session")
def sketch_folder(tmp_path_factory):
    """A tiny model of drawings."""
    return save_tiny(tmp_path_factory.mktemp("models"), "sketch")


@pytest.fixture(scope="session")
def none_folder(tmp_path_factory):
    """A tiny model without condition."""
    return save_tiny(tmp_path_factory.mktemp("models"), "none")


@pytest.fixture(scope="session")
def upscale_folder(tmp_path_factory):
    """A tiny model that enlarges."""
    return save_tiny(tmp_path_factory.mktemp("models"), "upscale")


def _load_example(name: str):
    from importlib.util import module_from_spec, spec_from_file_location

    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A folder with the architecture of Stable Diffusion and 1 M random weights."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    _load_example("tiny_base").make_base(folder)
    return folder


@pytest.fixture(scope="session")
def captioned_folder(tmp_path_factory):
    """Eight small photos, six of them with captions in metadata.jsonl."""
    import json

    folder = tmp_path_factory.mktemp("captioned")
    captions = ["a red house", "a blue tree", "", "a red house"] * 2
    rows = []
    for index, text in enumerate(captions):
        make_photo(80, 70, seed=index).save(folder / f"{index:02}.png")
        rows.append(json.dumps({"file_name": f"{index:02}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def run_exiftool():
    """run_exiftool(argument, …): the output of exiftool, in one process, as its start is slow.

    None if it is not installed. With -q it does not print "{ready}".
    """
    if shutil.which("exiftool") is None:
        yield None
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    command = ["exiftool", "-stay_open", "True", "-@", "-"]
    with subprocess.Popen(command, **pipes) as process:

        def call(*arguments):
            lines = [*map(str, arguments), "-echo3", "status ${status}", "-execute"]
            process.stdin.write("\n".join(lines) + "\n")
            process.stdin.flush()
            printed = []
            while (line := process.stdout.readline()) != "{ready}\n":
                assert line, "exiftool ended"
                printed.append(line)
            assert printed.pop() == "status 0\n", printed
            return "".join(printed)

        yield call
        process.communicate("-stay_open\nFalse\n")


@pytest.fixture
def run_video(tiny_folder, capsys):
    """run_video(film, target, …): the exit code of a quick `condiff video`, and its outputs."""
    from condiff.cli import main
    from tests.films import QUICK

    def call(*arguments):
        code = main(["video", "-m", str(tiny_folder), *QUICK, *map(str, arguments)])
        return code, *capsys.readouterr()

    return call
