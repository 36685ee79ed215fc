"""Batches beyond one machine: folders behind URLs, and the bytes of a local run on Ray."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from condiff.batch.journal import Entry, compare_settings, open_remote_journal, read_entries
from condiff.batch.plan import Choice, plan
from condiff.batch.status import BatchStatus
from condiff.batch.storage import Folder, open_folder, write_blob
from condiff.cli import main
from condiff.errors import ConfigError

from .conftest import make_photo
from .test_batch import files_of, make_photos

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'condiff[ray]'")
QUICK = ["--steps", "1", "--size", "32", "--device", "cpu", "--seed", "3"]


@pytest.fixture
def memory():
    """A folder in fsspec's memory, with photos and what else lies about."""
    files = fsspec.filesystem("memory")
    for name in ("a.jpg", "b/c.png", "b/.hidden/d.jpg", "x/e.gif", "notes.txt"):
        files.pipe_file(f"/in/{name}", b"data")
    yield files
    files.rm("/", recursive=True)


def open_memory(name: str) -> Folder:
    folder = open_folder(f"memory://{name}")
    assert isinstance(folder, Folder)
    return folder


def test_a_url_is_told_from_a_path():
    assert open_folder("a/b") == Path("a/b")
    assert open_folder("/a/s3://b") == Path("/a/s3://b")
    assert open_folder("file:///a/b") == Path("/a/b")
    with pytest.raises(ConfigError, match="what is before"):
        open_folder("cook://a")


def test_a_folder_behind_a_url_is_planned_like_one_on_disk(memory):
    found = plan(open_memory("in"), open_memory("out"), choice=Choice(exclude=["x"]))
    assert {j.name: str(j.target) for j in found.jobs} == {
        "a.jpg": "memory://out/a.jpg",
        "b/c.png": "memory://out/b/c.png",
    }
    assert len(found.others) == 1
    with pytest.raises(ConfigError, match="itself"):
        plan(open_memory("in"), open_memory("in/"))
    with pytest.raises(ConfigError, match="lies in"):
        plan(open_memory("in"), open_memory("in/out"))
    with pytest.raises(ConfigError, match="nothing in memory://none"):
        plan(open_memory("none"), open_memory("out"))
    with pytest.raises(ConfigError, match=r"a\.jpg and a\.png"):
        memory.pipe_file("/in/a.png", b"data")
        plan(open_memory("in"), open_memory("out"), suffix=".png")


def test_a_name_that_leads_out_of_the_folder_is_a_fault(memory):
    folder = open_memory("in")
    folder.listing["b/../../out.jpg"] = folder.listing["a.jpg"]  # as an object's name may be
    found = plan(folder, open_memory("out"))
    assert [fault.name for fault in found.faults] == ["b/../../out.jpg"]
    assert "out.jpg" not in {job.name for job in found.jobs}


def test_the_journal_behind_a_url_goes_on_and_begins_anew(memory):
    settings = {"task": "tint", "seed": None}
    with open_remote_journal(open_memory("out"), settings, defaults={"seed": 7}) as journal:
        assert journal.settings["seed"] == 7
        found = plan(open_memory("in"), journal.out)
        job = found.jobs[0]
        status = job.source.stat()
        batch = BatchStatus(found, journal, seed=7, retry_failed=False)
        assert batch.look_up(job) is None
        part = journal.part_path(1, ".jpg")
        write_blob(journal.out / "a.jpg", b"colours", part=part)
        done = Entry("a.jpg", "done", "", 1, status.st_size, status.st_mtime_ns, "")
        journal.write(done)
        memory.pipe_file(part.path, b"half")  # as a killed worker leaves it
    assert read_entries(open_memory("out")) == {"a.jpg": done}
    with pytest.raises(ConfigError, match="7 there, 8 asked"):
        compare_settings(open_memory("out"), {"seed": 8})
    with open_remote_journal(open_memory("out"), settings) as journal:
        assert journal.settings["seed"] == 7
        assert not memory.exists(part.path)
        found = plan(open_memory("in"), journal.out)
        status = BatchStatus(found, journal, seed=7, retry_failed=False)
        result = status.look_up(found.jobs[0])
        assert result is not None and (result.outcome, result.reason) == ("skipped", "done before")
        journal.write(Entry("b/c.png", "failed", "no luck", 1, 0, 0, ""))
    assert set(read_entries(open_memory("out"))) == {"a.jpg", "b/c.png"}
    with open_remote_journal(open_memory("out"), {"seed": 8}, force=True) as journal:
        assert (journal.entries, journal.replace, journal.settings) == ({}, True, {"seed": 8})
    assert memory.cat_file("/out/a.jpg") == b"colours"


def test_what_needs_ray_says_so(tiny_folder, tmp_path, capsys):
    make_photos(tmp_path / "in", 1)
    photos, out = str(tmp_path / "in"), str(tmp_path / "out")
    assert main(["batch", photos, "memory://out"]) == 1
    assert "give --engine ray" in capsys.readouterr().err
    assert main(["batch", photos, out, "--address", "auto"]) == 2
    assert main(["batch", photos, out, "--engine", "steam"]) == 2
    assert not Path(out).exists()


def batch_on_ray(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """`condiff batch --engine ray` on two workers; Ray's processes end with it."""
    command = [sys.executable, "-m", "condiff", "batch", *map(str, arguments)]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [*command, *QUICK, "--engine", "ray", "--workers", "2", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **quiet, "PYTHONPATH": str(Path(__file__).parents[1])},
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
    dab = make_photo(20, 20).convert("RGBA").resize(size_of(folder / "box 1/1/001.png"))
    dab.putalpha(0)
    dab.paste((200, 30, 30, 255), (4, 4, 9, 9))
    dab.save(hints)
    return folder


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def told_of(text: str) -> list[dict]:
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
    told = told_of(capsys.readouterr().out)
    done = batch_on_ray(photos, there, *how)
    assert done.returncode == 1, done.stderr
    assert told_of(done.stdout) == told
    assert "Traceback" not in done.stderr
    assert files_of(there) == files_of(here)
    assert len(files_of(there)) == 6
    assert read_entries(there) == read_entries(here)
    again = batch_on_ray(photos, there, *how)  # nothing to do: no Ray is started
    assert json.loads(again.stdout.splitlines()[-1]) == {
        "done": 0, "skipped": 6, "failed": 2, "seed": 3
    }  # fmt: skip


@needs_ray
@pytest.mark.slow
def test_on_ray_folders_behind_urls_give_the_same_bytes(photos, tiny_folder, tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    how = ["-m", tiny_folder, "--hints", tmp_path / "hints"]
    (photos / "gone.jpg").unlink()  # what leads nowhere is in no listing
    assert main([str(a) for a in ["batch", photos, here, *how, *QUICK, "--json"]]) == 1
    told = told_of(capsys.readouterr().out)
    # local:// is fsspec's way to the disk, taken as any store; memory:// ends with its process
    urls = f"local://{photos}", f"local://{there}"
    done = batch_on_ray(*urls, *how)
    assert done.returncode == 1, done.stderr
    assert told_of(done.stdout) == told
    results = {n: b for n, b in files_of_store(there).items() if not n.startswith(".")}
    assert results == files_of(here)
    again = batch_on_ray(*urls, *how)
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == 6
    (there / "box 0" / "0" / "000.png").unlink()
    retried = batch_on_ray(*urls, *how, "--retry-failed")
    assert json.loads(retried.stdout.splitlines()[-1])["done"] == 1
    assert {n: b for n, b in files_of_store(there).items() if not n.startswith(".")} == results


def files_of_store(folder: Path) -> dict[str, bytes]:
    assert not list((folder / ".condiff" / "parts").iterdir())
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
