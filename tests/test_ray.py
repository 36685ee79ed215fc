"""Batches on Ray: the same bytes, reasons and journal as a local run; workers that die."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from condiff.batch.journal import read_entries
from condiff.batch.storage import open_storage
from condiff.cli import main

from .conftest import make_photo
from .test_batch import files_of, make_photos

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install -e '.[ray]'")
QUICK = ["--steps", "1", "--size", "32", "--device", "cpu", "--seed", "3"]
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


def test_what_needs_ray_says_so(tmp_path):
    make_photo(20, 20).save(tmp_path / "a.png")
    photos, out = str(tmp_path), str(tmp_path / "out")
    assert main(["batch", photos, out, "--address", "auto"]) == 2
    assert main(["batch", photos, out, "--engine", "steam"]) == 2
    assert not Path(out).exists()


def batch_on_ray(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """`condiff batch --engine ray` on two workers; Ray's processes end with it."""
    command = [sys.executable, "-m", "condiff", "batch", *map(str, arguments)]
    return subprocess.run(
        [*command, *QUICK, "--engine", "ray", "--workers", "2", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=300,
    )


@pytest.fixture
def photos(tmp_path):
    """Six that work and two that do not, one of them with hints."""
    folder = make_photos(tmp_path / "in", 5)
    make_photo(50, 40).save(folder / "$HOME *?[a]#.jpg", quality=80)
    (folder / "bad.jpg").write_text("no photo")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    hints = tmp_path / "hints" / "box 1" / "1" / "001.png"
    hints.parent.mkdir(parents=True)
    with Image.open(folder / "box 1/1/001.png") as photo:
        dab = make_photo(20, 20).convert("RGBA").resize(photo.size)
    dab.putalpha(0)
    dab.paste((200, 30, 30, 255), (4, 4, 9, 9))
    dab.save(hints)
    return folder


def read_json(text: str) -> list[dict]:
    """The lines of `--json` in one order, without the place of the result."""
    lines = [json.loads(line) for line in text.splitlines()]
    bare = [{k: v for k, v in line.items() if k != "target"} for line in lines]
    return sorted(bare, key=lambda line: line.get("source", ""))


@needs_ray
@pytest.mark.slow
def test_on_ray_the_bytes_reasons_and_journal_are_those_of_a_local_run(
    photos, tiny_folder, tmp_path, capsys
):
    here, there = tmp_path / "here", tmp_path / "there"
    how = ["-m", tiny_folder, "--hints", tmp_path / "hints"]
    local = ["batch", photos, here, *how, *QUICK, "--json"]
    assert main([str(argument) for argument in local]) == 1
    expected = read_json(capsys.readouterr().out)
    done = batch_on_ray(photos, there, *how)
    assert done.returncode == 1, done.stderr
    assert read_json(done.stdout) == expected
    assert "Traceback" not in done.stderr
    assert files_of(there) == files_of(here)
    assert len(files_of(there)) == 6
    assert read_entries(open_storage(there)) == read_entries(open_storage(here))
    again = batch_on_ray(photos, there, *how)  # nothing to do: no Ray is started
    assert json.loads(again.stdout.splitlines()[-1]) == {
        "done": 0, "skipped": 6, "failed": 2, "seed": 3
    }  # fmt: skip


@needs_ray
@pytest.mark.slow
def test_on_ray_folders_behind_urls_give_the_same_bytes(photos, tiny_folder, tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    how = ["-m", tiny_folder, "--hints", tmp_path / "hints"]
    (photos / "gone.jpg").unlink()  # broken links are in no listing
    assert main([str(a) for a in ["batch", photos, here, *how, *QUICK, "--json"]]) == 1
    expected = read_json(capsys.readouterr().out)
    # local:// is fsspec's way to the disk, taken as any store; memory:// ends with its process
    urls = f"local://{photos}", f"local://{there}"
    done = batch_on_ray(*urls, *how)
    assert done.returncode == 1, done.stderr
    assert read_json(done.stdout) == expected
    assert files_of_store(there) == files_of(here)
    again = batch_on_ray(*urls, *how)
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == 6
    (there / "box 0" / "0" / "000.png").unlink()
    retried = batch_on_ray(*urls, *how, "--retry-failed")
    assert json.loads(retried.stdout.splitlines()[-1])["done"] == 1
    assert files_of_store(there) == files_of(here)


def files_of_store(folder: Path) -> dict[str, bytes]:
    assert not list((folder / ".condiff" / "parts").iterdir())
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".condiff" not in p.parts
    }


# A worker that ends at two of five photos: at one always, at the other while it is not alone.
DYING = """
import os, sys, time
from pathlib import Path
from condiff.batch import ray
from condiff.batch.journal import open_journal
from condiff.batch.plan import plan
from condiff.batch.storage import open_storage
from condiff.pipelines.colorizing import ColorizeSettings
from condiff.config import SamplingConfig
from condiff.threads import count_threads

TRIES = sys.argv[4]

class Dying(ray.Worker):
    def make(self, order):
        assert count_threads() == 1, "each of several workers uses all cores"
        tries = Path(TRIES, order.job.name.replace("/", "-"))
        with open(tries, "a") as file:
            file.write("x")
        if order.job.name.endswith("1.png"):
            os._exit(1)
        if order.job.name.endswith("2.png") and len(tries.read_text()) <= 2:
            os._exit(1)
        return super().make(order)

ray.Worker = Dying
source, out = open_storage(sys.argv[1]), open_storage(sys.argv[2])
settings = ColorizeSettings(
    model="tiny", device="cpu", engine="torch", sampling=SamplingConfig(steps=1, size=32)
)
with open_journal(out, {"seed": 3}) as journal:
    for result in ray.run_on_ray(
        plan(source, out), journal, settings, Path(sys.argv[3]), seed=3, workers=2, address=None
    ):
        print(result.outcome, result.job.name, result.reason, flush=True)
"""


@needs_ray
@pytest.mark.slow
def test_a_photo_that_ends_its_worker_is_tried_alone_and_costs_only_itself(tiny_folder, tmp_path):
    photos, out, tries = make_photos(tmp_path / "in", 5), tmp_path / "out", tmp_path / "tries"
    tries.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(photos), str(out), str(tiny_folder), str(tries)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()  # Ray remarks on dead workers there, too
    lines = sorted(line for line in printed if line.startswith(("done", "failed")))
    assert [line.split()[0] for line in lines] == ["done"] * 4 + ["failed"]
    assert "001.png its worker ended" in lines[-1]
    assert {path.name[-7:]: len(path.read_text()) for path in tries.iterdir()} == {
        "000.png": 1, "001.png": 4, "002.png": 3, "003.png": 1, "004.png": 1
    }  # fmt: skip
    assert len(files_of(out)) == 4
