"""Folders behind URLs: listed, planned, resumed and coloured like folders on a disk."""

import json
import pickle

import fsspec
import pytest

from condiff.batch.journal import Entry, compare_settings, open_journal, part_name, read_entries
from condiff.batch.plan import Choice, plan
from condiff.batch.status import BatchStatus
from condiff.batch.storage import Item, Remote, open_storage
from condiff.cli import main
from condiff.errors import ConfigError, StorageError

from .conftest import make_photo
from .test_batch import files_of, make_photos

QUICK = ["--steps", "1", "--size", "32", "--device", "cpu", "--seed", "3"]


@pytest.fixture
def memory():
    """A folder in fsspec's memory, with photos and other files."""
    files = fsspec.filesystem("memory")
    for name in ("a.jpg", "b/c.png", "b/.hidden/d.jpg", "x/e.gif", "notes.txt"):
        files.pipe_file(f"/in/{name}", b"data")
    yield files
    files.rm("/", recursive=True)


def test_a_url_is_told_from_a_path():
    for text, path in {"a/b": "a/b", "/a/s3://b": "/a/s3:/b", "file:///a/b": "/a/b"}.items():
        storage = open_storage(text)
        assert not isinstance(storage, Remote)
        assert str(storage) == path
    with pytest.raises(ConfigError, match="what is before"):
        open_storage("cook://a")


@pytest.mark.parametrize("url", ["memory://folder", "{path}"])
def test_a_disk_and_a_url_behave_alike(url, tmp_path, memory):
    storage = open_storage(url.format(path=tmp_path))
    with storage.publish("a/b.txt", part="parts/x") as path:
        if not isinstance(storage, Remote):
            path.parent.mkdir()
        path.write_bytes(b"content")
    with pytest.raises(ZeroDivisionError), storage.publish("a/c.txt", part="parts/x") as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    for opened in (
        storage,
        open_storage(url.format(path=tmp_path)),
        pickle.loads(pickle.dumps(storage)),
    ):
        assert opened.is_folder()
        assert opened.exists("a/b.txt") and not opened.exists("a/c.txt") and not opened.exists("a")
        assert opened.read("a/b.txt") == b"content"
        assert opened.stat("a/b.txt").size == 7
        assert opened.list_names("a") == ["a/b.txt"]
        assert opened.list_names("parts") == opened.list_names("none") == []
        assert [*opened.walk(skip=lambda name: False, avoid=open_storage("/none"))] == [
            Item("a/b.txt")
        ]
        with opened.as_file("a/b.txt") as path:
            assert path.read_bytes() == b"content"
        with pytest.raises(FileNotFoundError):
            opened.stat("a/c.txt")
        with pytest.raises(FileNotFoundError):
            opened.read("a/c.txt")
    storage.remove(["a/b.txt", "a/c.txt"])
    assert not storage.exists("a/b.txt")
    assert not open_storage(url.format(path=tmp_path)).exists("a/b.txt")


def test_a_folder_behind_a_url_is_planned_like_one_on_disk(memory):
    source, out = open_storage("memory://in"), open_storage("memory://out")
    found = plan(source, out, choice=Choice(exclude=["x"]))
    assert {j.name: out.locate(j.target) for j in found.jobs} == {
        "a.jpg": "memory://out/a.jpg",
        "b/c.png": "memory://out/b/c.png",
    }
    assert [left.name for left in found.left_out] == ["b/.hidden/d.jpg", "notes.txt", "x/e.gif"]
    with pytest.raises(ConfigError, match="itself"):
        plan(source, open_storage("memory://in/"))
    with pytest.raises(ConfigError, match="is inside"):
        plan(source, open_storage("memory://in/out"))
    with pytest.raises(StorageError, match="no folder memory://none"):
        plan(open_storage("memory://none"), out)
    memory.pipe_file("/in/a.png", b"data")
    with pytest.raises(ConfigError, match=r"a\.jpg and a\.png"):
        plan(open_storage("memory://in"), out, suffix=".png")


def test_a_name_that_leads_out_of_the_folder_is_a_fault(memory):
    folder = open_storage("memory://in")
    assert isinstance(folder, Remote)
    folder.listing["b/../../out.jpg"] = folder.listing["a.jpg"]  # as an object's name may be
    found = plan(folder, open_storage("memory://out"))
    assert [fault.name for fault in found.faults] == ["b/../../out.jpg"]
    assert "out.jpg" not in {job.name for job in found.jobs}


def test_the_journal_behind_a_url_goes_on_and_begins_anew(memory):
    settings = {"task": "tint", "seed": None}

    def open_both():
        return open_storage("memory://in"), open_storage("memory://out")

    source, out = open_both()
    with open_journal(out, settings, defaults={"seed": 7}) as journal:
        assert journal.settings["seed"] == 7
        found = plan(source, out)
        status = source.stat("a.jpg")
        batch = BatchStatus(found, journal, seed=7, retry_failed=False)
        assert batch.look_up(found.jobs[0]) is None
        with out.publish("a.jpg", part=part_name(1, ".jpg")) as path:
            path.write_bytes(b"colours")
        done = Entry("a.jpg", "done", "", 1, status.size, status.version, "")
        journal.write(done)
        memory.pipe_file(f"/out/{part_name(1, '.jpg')}", b"half")  # as a killed worker leaves it
    source, out = open_both()
    assert read_entries(out) == {"a.jpg": done}
    with pytest.raises(ConfigError, match="7 there, 8 asked"):
        compare_settings(out, {"seed": 8})
    with open_journal(out, settings) as journal:
        assert journal.settings["seed"] == 7
        assert not memory.exists(f"/out/{part_name(1, '.jpg')}")
        found = plan(source, out)
        batch = BatchStatus(found, journal, seed=7, retry_failed=False)
        result = batch.look_up(found.jobs[0])
        assert result is not None and (result.outcome, result.reason) == ("skipped", "done before")
        journal.write(Entry("b/c.png", "failed", "no luck", 1, 0, 0, ""))
    assert set(read_entries(open_storage("memory://out"))) == {"a.jpg", "b/c.png"}
    with open_journal(open_storage("memory://out"), {"seed": 8}, force=True) as journal:
        assert (journal.entries, journal.replace, journal.settings) == ({}, True, {"seed": 8})
    assert memory.cat_file("/out/a.jpg") == b"colours"


def test_a_batch_between_urls_has_the_bytes_of_one_between_folders(
    memory, tiny_folder, tmp_path, capsys
):
    photos = make_photos(tmp_path / "in", 4)
    make_photo(50, 40).save(photos / "$HOME *?[a]#.jpg", quality=80)
    (photos / "bad.jpg").write_text("no photo")
    memory.put(str(photos), "/photos", recursive=True)

    def batch(source: object, out: object, *flags: str) -> list[dict]:
        command = ["batch", str(source), str(out), "-m", str(tiny_folder), *QUICK, "--json", *flags]
        main(command)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return sorted(
            ({k: v for k, v in line.items() if k != "target"} for line in lines),
            key=lambda line: line.get("source", ""),
        )

    expected = batch(photos, tmp_path / "here")
    assert batch("memory://photos", "memory://there") == expected
    assert expected[0] == {"done": 5, "skipped": 0, "failed": 1, "seed": 3}

    def results() -> dict[str, bytes]:
        assert not memory.find("/there/.condiff/parts")
        names = (name.removeprefix("/there/") for name in memory.find("/there"))
        return {n: memory.cat_file(f"/there/{n}") for n in names if not n.startswith(".condiff")}

    assert results() == files_of(tmp_path / "here")
    assert batch("memory://photos", "memory://there")[0]["skipped"] == 5
    memory.rm("/there/box 0/0/000.png")
    again = batch("memory://photos", "memory://there", "--retry-failed")
    assert again[0] == {"done": 1, "skipped": 4, "failed": 1, "seed": 3}
    assert results() == files_of(tmp_path / "here")
    batch("memory://photos", tmp_path / "down")
    assert files_of(tmp_path / "down") == files_of(tmp_path / "here")
