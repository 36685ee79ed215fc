"""One model, several engines: the same numbers and pictures; torch is loaded only on request."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from condiff import Hint, Pipeline
from condiff.backends.graphs import open_openvino
from condiff.backends.onnx_export import compare_engines, read_offsets, write_graphs
from condiff.backends.table import ENGINES, list_engines, may_have_gpu
from condiff.cli import main
from condiff.color.edits import ColorEdits
from condiff.color.lab import rgb_to_lab
from condiff.config import DiffusionConfig, ModelConfig, SamplingConfig
from condiff.errors import ConfigError, ModelError
from condiff.evaluation.metrics import ciede2000
from condiff.models.denoiser import build_model
from condiff.models.info import EMBEDDED, INDEX, read_model_info
from condiff.models.loading import add_looks, save_model
from condiff.tasks import find_task

from .conftest import make_photo

ROOT = Path(__file__).parents[1]
GRAPHS = [name for name in list_engines() if ENGINES[name].open_graph]


def save_tiny(folder, task, *, dtype=torch.float16, sample_size=16, **changes):
    """A folder with random weights; its condition is twice the size that the fold implies."""
    torch.manual_seed(0)
    config = ModelConfig(**{
        "sample_size": sample_size, "backbone_variant": None, "block_out_channels": (8, 16),
        "norm_num_groups": 4, "attention_head_dim": 8, "fold": 2,
    } | changes)  # fmt: skip
    model = build_model(config, find_task(task)).eval()
    with torch.no_grad():  # no two tensors alike: of those the exporter keeps one
        for parameter in model.trainable():
            parameter += 0.1 * torch.randn_like(parameter)
    save_model(
        folder, model, task=find_task(task), diffusion=DiffusionConfig(), dtype=dtype,
        condition_size=sample_size * 4,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models of three tasks with their graphs."""
    root = tmp_path_factory.mktemp("models")
    for task in ("colorize", "sketch", "none"):
        write_graphs(save_tiny(root / task, task))
    write_graphs(save_tiny(root / "patches", "colorize", patch_size=2))
    return root


def pipelines(folder):
    """Torch first."""
    return [
        Pipeline.from_pretrained(folder, device="cpu", engine=name) for name in ("torch", *GRAPHS)
    ]


@pytest.mark.parametrize("task", ["colorize", "sketch", "none", "patches"])
def test_graphs_give_torchs_numbers_at_sizes_they_were_not_made_at(folders, task):
    found = compare_engines(folders / task)
    assert {d.engine for d in found} == set(GRAPHS) and len({d.size for d in found}) == 2
    assert max(max(d.encoder, d.unet) for d in found) < 1e-5


def test_an_export_gives_a_folder_its_looks_and_keeps_those_that_it_has(tmp_path):
    folder = save_tiny(tmp_path / "model", "colorize")
    index = json.loads((folder / INDEX).read_text("utf-8"))
    written = index.pop("looks")
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    write_graphs(folder)
    assert json.loads((folder / INDEX).read_text("utf-8")) == index | {"looks": written}
    own = index | {"looks": {"quiet": {"guidance_scale": 1.1, "variety": 0.2}}}
    (folder / INDEX).write_text(json.dumps(own), "utf-8")
    add_looks(folder)  # the export's last act
    assert json.loads((folder / INDEX).read_text("utf-8")) == own


@pytest.mark.parametrize("model", ["colorize", "patches"])
def test_hints_arrive_in_every_engine(folders, model):
    reference, *others = pipelines(folders / model)
    photo = make_photo(70, 50)
    hints = [Hint(0.5, 0.5, "#c04040")]
    given = reference(photo, seed=3, edits=ColorEdits(hints=hints))[0]
    assert given.tobytes() != reference(photo, seed=3)[0].tobytes()
    for other in others:
        assert difference(other(photo, seed=3, edits=ColorEdits(hints=hints))[0], given) < 1


def test_guidance_and_lines_arrive_in_every_engine(folders):
    reference, *others = pipelines(folders / "sketch")
    drawing = Image.new("L", (90, 60), "white")
    ImageDraw.Draw(drawing).ellipse((20, 10, 70, 50), outline="black", width=2)
    guided = reference(drawing, seed=1, steps=3, guidance_scale=3.0)[0]
    assert guided.tobytes() != reference(drawing, seed=1, steps=3)[0].tobytes()
    for other in others:
        mine = other(drawing, seed=1, steps=3, guidance_scale=3.0)[0]
        assert mine.size == guided.size and difference(mine, guided) < 1


def test_projected_guidance_arrives_in_every_engine_and_needs_guidance(folders):
    reference, *others = pipelines(folders / "colorize")
    photo, how = make_photo(70, 50), {"seed": 1, "steps": 3}
    plain = reference(photo, guidance_scale=3.0, **how)[0]
    projected = reference(photo, guidance_scale=3.0, guidance_eta=0.2, **how)[0]
    assert projected.tobytes() != plain.tobytes()
    for other in others:
        mine = other(photo, guidance_scale=3.0, guidance_eta=0.2, **how)[0]
        assert difference(mine, projected) < 1
    for scale in (0.0, 1.0):  # there is one output only, which nothing is added to
        alone, same = (
            reference(photo, guidance_scale=scale, guidance_eta=e, **how) for e in (1, 0)
        )
        assert alone[0].tobytes() == same[0].tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_for_several_conditions_are_those_of_each_alone(folders, threads):
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        for pipeline in pipelines(folders / "colorize"):
            backend = pipeline.backend
            encoded = pipeline.encode(make_photo(70, 50), config=SamplingConfig(guidance_scale=2))
            conds = [*encoded.conds[0], encoded.conds[0][0]]
            noise = np.random.default_rng(0).standard_normal((1, 2, *encoded.size))
            x_t = backend.to_device(noise.astype(np.float32))
            alone = [backend.predict(x_t, 600.0, cond) for cond in conds]
            together = backend.predict_each(x_t, 600.0, conds)
            for mine, its in zip(together, alone, strict=True):
                assert np.array_equal(backend.to_numpy(mine), backend.to_numpy(its))
            assert not np.array_equal(*map(backend.to_numpy, together[:2]))
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddpm", "lcm", "heun"])
def test_other_schedulers_sample_alike_in_every_engine(folders, scheduler):
    reference, *others = pipelines(folders / "none")
    expected = reference(seed=2, steps=4, scheduler=scheduler)[0]
    for other in others:
        assert difference(other(seed=2, steps=4, scheduler=scheduler)[0], expected) < 1


@pytest.mark.parametrize("name", ["torch", *GRAPHS])
def test_the_same_seed_is_the_same_bytes_alone_and_beside_others(folders, name):
    photo = make_photo(64, 48)
    one, two = (
        Pipeline.from_pretrained(folders / "colorize", device="cpu", engine=name) for _ in range(2)
    )
    first, second = one(photo, seed=8, samples=2)
    assert first.tobytes() == two(photo, seed=8)[0].tobytes()
    assert second.tobytes() == two(photo, seed=9)[0].tobytes()


@pytest.mark.parametrize("name", ["torch", *GRAPHS])
def test_the_null_condition_is_encoded_only_for_guidance_and_cond_is_the_same(folders, name):
    drawing = Image.new("L", (64, 64), "white")
    ImageDraw.Draw(drawing).ellipse((20, 10, 50, 50), outline="black", width=2)
    pipeline = Pipeline.from_pretrained(folders / "sketch", device="cpu", engine=name)
    off, on = (SamplingConfig(steps=1, guidance_scale=scale) for scale in (1.0, 2.0))
    plain, guided = (pipeline.encode(drawing, config=config) for config in (off, on))
    assert plain.conds[0][1] is None and guided.conds[0][1] is not None
    to_numpy = pipeline.backend.to_numpy
    np.testing.assert_array_equal(to_numpy(plain.conds[0][0]), to_numpy(guided.conds[0][0]))
    with pytest.raises(ConfigError, match="encoded without guidance"):
        list(pipeline.sample(plain, config=on, seed=0))
    kind = torch.Tensor if name == "torch" else np.ndarray
    assert all(isinstance(x_t, kind) for x_t in pipeline.sample(guided, config=on, seed=0))


@pytest.mark.parametrize(("scale", "runs"), [(1.0, 1), (2.0, 2)])
def test_a_photo_is_encoded_once_whatever_the_number_of_samples(folders, scale, runs):
    pipeline = Pipeline.from_pretrained(folders / "colorize", device="cpu", engine="torch")
    encoded, predicted = [], []
    model = pipeline.backend.model
    model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    model.unet.register_forward_hook(lambda *_: predicted.append(1))
    pipeline(make_photo(40, 30), seed=1, samples=3, steps=2, guidance_scale=scale)
    assert len(encoded) == runs and len(predicted) == runs * 3 * 2


def test_graphs_hold_no_weights_and_point_into_the_files(folders):
    import onnx

    for part in ("unet", "encoder"):
        path = folders / "sketch" / part / "model.onnx"
        assert path.stat().st_size < 300_000
    weights = folders / "sketch" / "unet" / "diffusion_pytorch_model.safetensors"
    graph = onnx.load(folders / "sketch" / "unet" / "model.onnx").graph
    read = {t.name.removeprefix("unet.").removesuffix(".half"): t for t in graph.initializer}
    stored = load_file(weights)
    assert {name for name, *_ in read_offsets(weights)} == stored.keys() <= read.keys()
    for name, values in stored.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(read[name]), values)


@pytest.mark.parametrize(
    "decoder_channels, null_lacks", [(None, "features"), (16, "features"), (16, "decoder")]
)
def test_single_precision_folders_and_backbones_are_exported(
    tmp_path, decoder_channels, null_lacks
):
    write_graphs(
        save_tiny(
            tmp_path / "m", "colorize", dtype=torch.float32, sample_size=8, fold=4,
            backbone_variant="lite0", feature_strides=(8, 16, 32), neck_channels=8,
            decoder_channels=decoder_channels, null_lacks=null_lacks,
        )
    )  # fmt: skip
    assert max(d.encoder for d in compare_engines(tmp_path / "m", ["onnx"])) < 1e-4


@pytest.mark.parametrize("engine", GRAPHS)
def test_engines_report_nothing_to_their_makers(engine, tmp_path):
    """Those that do keep an identifier in the home folder from their first import on."""
    (tmp_path / "home").mkdir()
    make_photo(40, 30).convert("L").save(tmp_path / "grey.png")
    line = [sys.executable, "-m", "condiff", "colorize", "grey.png", "-q", "--engine", engine]
    unset = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run(
        line, cwd=tmp_path, check=True, timeout=120,
        env=environment | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (tmp_path / "grey.color.png").is_file() and not os.listdir(tmp_path / "home")


@pytest.mark.skipif("openvino" not in GRAPHS, reason="openvino is not installed")
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_openvino_leaves_the_choice_of_cores_to_the_system(folders):
    """Pinned, the threads of several processes would share their first cores."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("needs two cores")
    run = open_openvino(folders / "none" / "unet" / "model.onnx", 1)
    inputs = {"x_t": np.zeros((1, 3, 16, 16), np.float32), "t": np.zeros(1, np.float32)}
    thread, seen, done = threading.get_native_id(), set(), threading.Event()

    def watch():
        while not done.is_set():
            seen.add(frozenset(os.sched_getaffinity(thread)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(100):
        run(inputs, ["model_output"])
    done.set()
    watcher.join()
    assert seen == {frozenset(cores)}


@pytest.mark.slow
def test_the_embedded_model_paints_the_same_picture():
    """After four steps: a CIEDE2000 below 1 everywhere."""
    photo = make_photo(200, 140)
    reference, *others = pipelines("colorize")
    expected = reference(photo, seed=5)[0]
    for other in others:
        assert difference(other(photo, seed=5)[0], expected) < 1


def difference(first, second):
    """The largest CIEDE2000 of two pictures."""
    return ciede2000(rgb_to_lab(np.asarray(first)), rgb_to_lab(np.asarray(second))).max()


REFUSING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "onnx", "huggingface_hub"}:
            raise RuntimeError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
from condiff.cli import main
command = ["colorize", sys.argv[1], "--seed", "3"]
hinted = ["--hint", "0.5,0.5,#c04040", "--samples", "2", "--scheduler", "ddpm"]
sys.exit(main(command) or main([*command, *hinted]))
"""


@pytest.mark.skipif(may_have_gpu(), reason="with a GPU at hand torch is the default")
def test_colorize_imports_neither_torch_nor_diffusers(tmp_path):
    """Neither without hints nor with one and a scheduler that draws noise."""
    make_photo(80, 60).save(tmp_path / "photo.jpg")
    command = [sys.executable, "-c", REFUSING, str(tmp_path / "photo.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made = done.stdout.splitlines()
    assert len(made) == 3 and done.stderr.count("onnx on cpu") >= 2
    for path in made:
        written = Image.open(path)
        assert written.size == (80, 60)
        assert np.asarray(written).std(axis=2).max() > 3


@pytest.mark.skipif(may_have_gpu(), reason="with a GPU at hand torch is the default")
def test_auto_is_onnx_where_there_are_graphs(folders, tmp_path):
    assert Pipeline.from_pretrained(folders / "none").backend.name == "onnx"
    plain = save_tiny(tmp_path / "plain", "none")
    assert Pipeline.from_pretrained(plain).backend.name == "torch"


OPENING_TWICE = """
import gc, signal, subprocess, sys
from pathlib import Path

from condiff.backends.graphs import open_openvino

signal.signal(signal.SIGCHLD, lambda *_: None)
first, second = (open_openvino(Path(sys.argv[1]), 1) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
subprocess.run([sys.executable, "-c", ""], check=True)
"""


@pytest.mark.skipif("openvino" not in GRAPHS, reason="openvino is not installed")
def test_a_process_that_dropped_its_graphs_survives_signals(folders):
    graph = folders / "none" / "unet" / "model.onnx"
    command = [sys.executable, "-c", OPENING_TWICE, str(graph)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr  # -11 with a Core each


def test_what_is_missing_is_told(folders, tmp_path, monkeypatch):
    plain = save_tiny(tmp_path / "plain", "colorize")
    with pytest.raises(ModelError, match="no graphs for onnx.*condiff export"):
        Pipeline.from_pretrained(plain, engine="onnx")
    with pytest.raises(ConfigError, match="no engine 'tensorrt': choose from auto, torch, onnx"):
        Pipeline.from_pretrained(plain, engine="tensorrt")
    monkeypatch.setitem(
        ENGINES, "openvino", ENGINES["openvino"].__class__("no_such", "pip install X", print)
    )
    with pytest.raises(ConfigError, match="needs a package that is missing: pip install X"):
        Pipeline.from_pretrained(folders / "none", engine="openvino")
    assert "openvino" not in list_engines()
    broken = shutil.copytree(folders / "none", tmp_path / "broken")
    (broken / "unet" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be opened by onnx.*condiff export"):
        Pipeline.from_pretrained(broken, engine="onnx")


def test_export_writes_checks_and_tells(tmp_path, capsys):
    plain = save_tiny(tmp_path / "plain", "none")
    assert main(["export", str(plain), str(tmp_path / "new"), "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["target"] == str(tmp_path / "new")
    assert {d["engine"] for d in record["differences"]} == set(GRAPHS)
    assert "onnx against torch" in err
    assert (tmp_path / "new" / "unet" / "model.onnx").exists()
    assert not (plain / "unet" / "model.onnx").exists()
    assert main(["export", str(plain)]) == 0
    assert (plain / "unet" / "model.onnx").exists()


def test_export_refuses_what_it_cannot_use(folders, tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert "not a model folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["export", str(folders / "none"), str(tmp_path / "file" / "new")]) == 1
    assert "Cannot write graphs into" in capsys.readouterr().err
    assert main(["export", str(folders / "none"), str(tmp_path)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_weights_that_do_not_fit_the_graph_are_refused_by_the_check(folders, tmp_path):
    other = shutil.copytree(folders / "none", tmp_path / "other")
    path = other / "unet" / "diffusion_pytorch_model.safetensors"
    numbers = bytearray(path.read_bytes())
    spaces = b" " * 8  # a longer header: the same tensors eight bytes further on
    size = int.from_bytes(numbers[:8], "little")
    header, tensors = numbers[8 : 8 + size], numbers[8 + size :]
    path.write_bytes((size + 8).to_bytes(8, "little") + header + spaces + tensors)
    with pytest.raises(ModelError, match="differ from torch|cannot be opened"):
        compare_engines(other, ["onnx"])


def test_the_embedded_graphs_are_there():
    for folder in EMBEDDED.iterdir():
        found = compare_engines(read_model_info(folder).path, ["onnx"])
        assert max(d.unet for d in found) < 1e-4
