"""Batch: every photo once and complete, with the same bytes after any interruption."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condiff.batch import local as batch
from condiff.batch import plan as planning
from condiff.batch.colorize import BatchOptions, colorize_folder
from condiff.batch.journal import Journal, compare_settings, open_journal, read_entries
from condiff.batch.local import run
from condiff.batch.plan import Choice, Plan, file_seed
from condiff.batch.status import Result, list_states
from condiff.batch.storage import open_storage
from condiff.errors import ConfigError, ImageError, StorageError
from condiff.photos.reading import read_photo

from . import tint as program
from .tint import SETTINGS, tint


def make_photos(folder: Path, count: int) -> Path:
    """Photos of 16 to 32 pixels a side in a tree of a few levels."""
    for n in range(count):
        rng = np.random.default_rng(n)
        pixels = rng.integers(0, 256, (*rng.integers(16, 33, 2), 3), np.uint8)
        path = folder / f"box {n % 3}" / f"{n % 5}" / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), 40)


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """The files of an uninterrupted run."""
    out = tmp_path_factory.mktemp("undisturbed")
    results = go(photos, out)
    assert {r.outcome for r in results} == {"done"}
    return files_of(out)


def plan(source: Path, out: Path, **how) -> Plan:
    """The plan of folders on the disk."""
    return planning.plan(open_storage(source), open_storage(out), **how)


def go(source: Path, out: Path, *, force=False, settings=SETTINGS, transform=None, **how):
    """A whole run in this process."""
    chosen = {key: how.pop(key) for key in ("choice", "suffix") if key in how}
    with open_journal(open_storage(out), settings, force=force) as journal:
        todo = plan(source, out, **chosen)
        return list(run(todo, journal, transform or tint, seed=settings["seed"], **how))


def files_of(out: Path) -> dict[str, bytes]:
    """The results, without partial files beside them."""
    assert not list((out / ".condiff" / "parts").iterdir())
    names = {p.name for p in (out / ".condiff").iterdir()}
    assert names <= {"parts", "lock", "settings.json", "journal.jsonl"}
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and ".condiff" not in p.parts
    }


def outcomes(results: list[Result]) -> dict[str, str]:
    return {result.job.name: result.outcome for result in results}


def test_the_tree_is_mirrored_and_each_result_is_its_photos(photos, undisturbed):
    names = {p.relative_to(photos).as_posix() for p in photos.rglob("*.png")}
    assert set(undisturbed) == names
    for name in names:
        seed = int(hashlib.sha256(f"5:{name}".encode()).hexdigest()[:8], 16) // 2
        assert file_seed(5, name) == seed
        expected = tint(read_photo(photos / name), seed).to_image()
        with Image.open(BytesIO(undisturbed[name])) as image:
            assert np.array_equal(image, expected)


@pytest.mark.parametrize("workers", [2, 5])
def test_any_worker_count_gives_the_same_bytes(workers, photos, undisturbed, tmp_path):
    go(photos, tmp_path, workers=workers)
    assert files_of(tmp_path) == undisturbed


def test_shards_in_any_order_give_the_same_bytes(photos, undisturbed, tmp_path):
    seen: list[str] = []
    for index in (3, 1, 2):
        results = go(photos, tmp_path, choice=Choice(shard=(index, 3)))
        assert {r.outcome for r in results} == {"done"}
        assert 3 < len(results) < 30
        seen += outcomes(results)
    assert sorted(seen) == sorted(undisturbed)
    assert files_of(tmp_path) == undisturbed


def test_a_second_run_does_nothing_and_a_deleted_result_is_made_again(photos, tmp_path):
    go(photos, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    assert {r.outcome for r in go(photos, tmp_path)} == {"skipped"}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")} == before
    victim = next(iter(before))
    content = victim.read_bytes()
    victim.unlink()
    counted = list(outcomes(go(photos, tmp_path)).values())
    assert counted.count("done") == 1
    assert victim.read_bytes() == content


def test_what_was_there_is_left_alone_unless_forced(photos, undisturbed, tmp_path):
    theirs = tmp_path / "box 0" / "0" / "000.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    assert outcomes(go(photos, tmp_path))["box 0/0/000.png"] == "skipped"
    assert theirs.read_bytes() == b"mine"
    go(photos, tmp_path, force=True)
    assert files_of(tmp_path) == undisturbed


def test_a_forced_run_that_was_stopped_goes_on_replacing(photos, undisturbed, tmp_path):
    other = {**SETTINGS, "seed": 6}
    go(photos, tmp_path, settings=other)
    with open_journal(open_storage(tmp_path), SETTINGS, force=True) as journal:
        results = run(plan(photos, tmp_path), journal, tint, seed=5)
        for _ in range(5):
            next(results)
        results.close()
    counted = list(outcomes(go(photos, tmp_path)).values())
    assert 5 <= counted.count("skipped") < 10
    assert files_of(tmp_path) == undisturbed


def test_other_settings_are_refused_by_name(photos, tmp_path):
    go(photos, tmp_path)
    with pytest.raises(ConfigError, match=r"\(seed: 5 there, 6 asked\)"):
        go(photos, tmp_path, settings={**SETTINGS, "seed": 6})
    with open_journal(
        open_storage(tmp_path), {**SETTINGS, "seed": None}, defaults={"seed": 9}
    ) as journal:
        assert journal.settings == SETTINGS


def test_a_photo_that_changed_is_named_and_its_result_kept(tmp_path):
    photos = make_photos(tmp_path / "in", 4)
    out = tmp_path / "out"
    go(photos, out)
    before = files_of(out)
    touched, changed = sorted(photos.rglob("*.png"))[:2]
    os.utime(touched, (1, 1))
    Image.new("RGB", (20, 20), "red").save(changed)
    results = {photos / r.job.name: r for r in go(photos, out)}
    assert results[touched].outcome == "skipped"
    assert (results[changed].outcome, "--force" in results[changed].reason) == ("failed", True)
    assert files_of(out) == before


def test_failures_stay_until_retried_or_mended(tmp_path):
    photos = make_photos(tmp_path / "in", 4)
    out = tmp_path / "out"
    (photos / "cut.png").write_bytes(b"\x89PNG no more")

    def refuses_one(image, seed, hints):
        if seed == file_seed(5, "box 0/0/000.png"):
            raise ImageError("no luck today")
        return tint(image, seed)

    first = {r.job.name: r for r in go(photos, out, transform=refuses_one)}
    assert first["box 0/0/000.png"].reason == "no luck today"
    assert str(tmp_path) not in first["cut.png"].reason
    again = {r.job.name: r for r in go(photos, out)}
    assert [again[n].outcome for n in ("cut.png", "box 0/0/000.png")] == ["failed", "failed"]
    assert again["cut.png"].reason == first["cut.png"].reason
    retried = outcomes(go(photos, out, retry_failed=True))
    assert (retried["cut.png"], retried["box 0/0/000.png"]) == ("failed", "done")
    Image.new("RGB", (20, 20), "red").save(photos / "cut.png")
    assert outcomes(go(photos, out))["cut.png"] == "done"


def test_without_memory_a_photo_is_tried_again_alone(photos, undisturbed, tmp_path):
    running, most = [], []

    def greedy(image, seed, hints):
        running.append(seed)
        time.sleep(0.002)
        try:
            most.append(len(running))
            if len(running) > 1:
                raise MemoryError
            return tint(image, seed)
        finally:
            running.remove(seed)

    assert {r.outcome for r in go(photos, tmp_path, transform=greedy, workers=3)} == {"done"}
    assert max(most) > 1
    assert files_of(tmp_path) == undisturbed

    def never(image, seed, hints):
        raise MemoryError

    results = go(photos, tmp_path / "none", transform=never, workers=2)
    assert {(r.outcome, "memory" in r.reason) for r in results} == {("failed", True)}


def test_large_photos_take_turns_and_small_ones_go_beside_each_other():
    budget = batch._Budget(100)
    lock, inside, most = threading.Lock(), [], []

    def work(pixels):
        with budget.spend(pixels):
            with lock:
                inside.append(pixels)
                most.append(list(inside))
            time.sleep(0.01)
            with lock:
                inside.remove(pixels)

    threads = [threading.Thread(target=work, args=(n,)) for n in (40, 300, 40, 40, 70, 300, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(sum(together) <= 100 or together == [300] for together in most)
    assert max(map(len, most)) > 1


def test_two_spellings_of_one_name_are_two_photos(tmp_path):
    for n, name in enumerate(("\u00fc.png", "u\u0308.png")):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (n, 0, 0)).save(tmp_path / "in" / name)
    results = go(tmp_path / "in", tmp_path / "out", workers=2)
    assert [r.outcome for r in results] == ["done"] * 2
    assert results[0].seed == results[1].seed  # a Mac's spelling changes no colours
    assert len(set(files_of(tmp_path / "out").values())) == 2


def test_pictures_for_photos_are_found_however_their_names_are_spelled(tmp_path):
    """A suffix in capitals, letters as macOS spells them, a link to a folder; a JPEG is named."""
    for name in ("a.jpg", "ü.jpg", "linked/b.jpg", "c.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    hints = tmp_path / "hints"
    names = ("a.PNG", "u\u0308.png", "real/b.png", "c.jpg", "notes.txt")
    for name in names:
        (hints / name).parent.mkdir(parents=True, exist_ok=True)
        (hints / name).touch()
    (hints / "linked").symlink_to(hints / "real")
    found = plan(tmp_path / "in", tmp_path / "out", hints=hints)
    used = {job.name: job.hints and job.hints.relative_to(hints).as_posix() for job in found.jobs}
    expected = {"a.jpg": names[0], "ü.jpg": names[1], "linked/b.jpg": "linked/b.png"}
    assert used == expected | {"c.jpg": None}
    assert found.unused_hints == ("c.jpg", "real/b.png")


def test_include_exclude_and_hidden(tmp_path):
    for name in ("a.jpg", "b.png", "raw/c.jpg", "raw/d.png", ".e.jpg", ".f/g.jpg", "n.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def names(**choice):
        found = plan(tmp_path / "in", tmp_path / "out", choice=Choice(**choice))
        return [job.name for job in found.jobs]

    assert names() == ["a.jpg", "b.png", "raw/c.jpg", "raw/d.png"]
    assert names(include=["*.jpg"]) == ["a.jpg", "raw/c.jpg"]
    assert names(include=["raw/*"], exclude=["d.*"]) == ["raw/c.jpg"]
    assert names(exclude=["raw"]) == ["a.jpg", "b.png"]
    left_out = plan(
        tmp_path / "in", tmp_path / "out", choice=Choice(exclude=["raw", "b*"])
    ).left_out
    assert {left.name: left.reason for left in left_out} == {
        ".e.jpg": "hidden",
        ".f/": "hidden",
        "b.png": "excluded",
        "n.txt": "not a photo by its suffix",
        "raw/": "excluded",
    }
    assert not (tmp_path / "out").exists()


def test_formats_that_are_only_read_become_png(tmp_path):
    for name in ("a.GIF", "b.psd", "c.JPG", "d.tar.pgm"):
        (tmp_path / name).touch()
    targets = [job.target for job in plan(tmp_path, Path("/nowhere")).jobs]
    assert targets == ["a.png", "b.png", "c.JPG", "d.tar.png"]
    targets = [job.target for job in plan(tmp_path, Path("/nowhere"), suffix=".webp").jobs]
    assert targets == ["a.webp", "b.webp", "c.webp", "d.tar.webp"]


def test_what_is_refused_is_one_sentence_with_the_names(tmp_path):
    photos = tmp_path / "in"
    (photos / "sub").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "sub/b.jpg"):
        (photos / name).touch()
    out, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(photos)

    def refusal(source, target, **how):
        with pytest.raises((ConfigError, StorageError)) as caught:
            plan(source, target, **how)
        return str(caught.value)

    assert "itself" in refusal(photos, photos)
    assert "itself" in refusal(photos, link)
    assert "is inside" in refusal(photos, photos / "out")
    assert "is inside" in refusal(photos, link / "sub" / "out")
    assert "is inside" in refusal(photos / "sub", photos)
    assert "no folder" in refusal(tmp_path / "none", out)
    assert "is a file" in refusal(photos, photos / "a.jpg")
    assert "a.jpg is a file: colour it by `condiff colorize`" in refusal(photos / "a.jpg", out)
    both = refusal(photos, out, suffix=".png")
    assert "a.jpg and a.png" in both
    assert "--exclude" in both
    out.mkdir()
    (out / "sub").symlink_to(tmp_path)
    assert "outside" in refusal(photos, out)
    (out / "sub").unlink()
    (photos / "to out").symlink_to(out)
    assert "to out" in refusal(photos, out)


def test_links_are_followed_but_not_in_circles(tmp_path):
    photos, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    photos.mkdir()
    make_photos(elsewhere, 2)
    (photos / "there").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(photos)
    (photos / "x.jpg").symlink_to("x.jpg")
    found = plan(photos, tmp_path / "out")
    assert [job.name for job in found.jobs] == ["there/box 0/0/000.png", "there/box 1/1/001.png"]
    assert [fault.name for fault in found.faults] == ["there/back", "x.jpg"]
    assert all("loop" in fault.reason for fault in found.faults)


def test_a_thousand_levels_are_walked(tmp_path):
    here, depth = os.getcwd(), 1010  # more than Python has frames
    (tmp_path / "in").mkdir()
    try:
        os.chdir(tmp_path / "in")
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("x.png").touch()
        found = plan(tmp_path / "in", tmp_path / "out")
        assert [job.name.count("/") for job in found.jobs] == [depth]
        os.remove("x.png")
        for _ in range(depth):  # pytest's own cleaning recurses
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)


def test_a_disk_that_takes_no_more_is_a_reason(photos, tmp_path):
    (tmp_path / "box 0").write_text("a file where a folder should be")
    results = go(photos, tmp_path)
    failed = {r.job.name.split("/")[0] for r in results if r.outcome == "failed"}
    assert failed == {"box 0"}
    assert all(str(tmp_path) in r.reason for r in results if r.outcome == "failed")
    assert {r.outcome for r in go(photos, tmp_path)} == {"skipped", "failed"}


def test_a_photo_that_went_away_or_may_not_be_read_is_one_sentence(tmp_path):
    photos = make_photos(tmp_path / "in", 3)
    found = plan(photos, tmp_path / "out")
    (photos / found.jobs[0].name).unlink()
    with open_journal(open_storage(tmp_path / "out"), SETTINGS) as journal:
        first, *others = run(found, journal, tint, seed=5)
    assert first.reason == "there is no such file; check the path"
    assert [r.outcome for r in others] == ["done", "done"]


def test_closing_early_ends_what_is_in_work_and_leaves_nothing_half(photos, undisturbed, tmp_path):
    with open_journal(open_storage(tmp_path), SETTINGS) as journal:
        results = run(plan(photos, tmp_path), journal, tint, seed=5, workers=3)
        next(results)
        results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]
    some = files_of(tmp_path)
    assert 1 <= len(some) < len(undisturbed)
    assert len(read_entries(open_storage(tmp_path))) == len(some)
    assert all(undisturbed[name] == data for name, data in some.items())


def test_a_line_cut_short_is_no_harm(photos, undisturbed, tmp_path):
    go(photos, tmp_path, choice=Choice(include=["box 0/*"]))
    journal = tmp_path / ".condiff" / "journal.jsonl"
    with open(journal, "a") as file:
        file.write('{"name": "cut in the mid')
    assert {r.outcome for r in go(photos, tmp_path)} == {"done", "skipped"}
    assert files_of(tmp_path) == undisturbed
    assert len(read_entries(open_storage(tmp_path))) == len(undisturbed)
    known = list_states(plan(photos, tmp_path), read_entries(open_storage(tmp_path)))
    assert [*known] == [("skipped", "done before")] * 40


@pytest.mark.parametrize(
    "line", ["1", "null", '["a"]', '{"a": 1}', '{"name": "000.png", "new": 1}']
)
def test_a_line_that_is_no_entry_is_no_harm(line, tmp_path):
    photos = make_photos(tmp_path / "in", 1)
    go(photos, tmp_path / "out")
    with open(tmp_path / "out" / ".condiff" / "journal.jsonl", "a") as file:
        file.write(f"{line}\n")
    assert [r.reason for r in go(photos, tmp_path / "out")] == ["done before"]


def start(photos: Path, out: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, program.__file__, str(photos), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_at_random(photos: Path, out: Path, *, kills: int) -> int:
    """kill -9 runs at random moments after their first result; returns how many were running."""
    hits = 0
    for number in range(kills):
        process = start(photos, out)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(number).uniform(0, 0.04))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        hits += process.wait() == -signal.SIGKILL
    return hits


def test_killed_at_random_moments_and_run_again_gives_the_same_bytes(photos, undisturbed, tmp_path):
    assert kill_at_random(photos, tmp_path, kills=3) >= 1
    go(photos, tmp_path)
    assert files_of(tmp_path) == undisturbed


def test_two_processes_on_one_folder_share_the_work(photos, undisturbed, tmp_path):
    both = [start(photos, tmp_path) for _ in range(2)]
    lines = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert files_of(tmp_path) == undisturbed
    done = [line for printed in lines for line in printed if line.startswith("done")]
    assert sorted(done) == [f"done {name}" for name in sorted(undisturbed)]
    assert [len(printed) for printed in lines] == [40, 40]
    journal = (tmp_path / ".condiff" / "journal.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in journal) == sorted(undisturbed)


def test_a_process_runs_one_batch_at_a_time_in_a_folder(photos, tmp_path, tiny_folder):
    options = BatchOptions(model=tiny_folder, seed=1, overrides={"steps": 1, "size": 32})
    results = colorize_folder(photos, tmp_path, options)
    next(results)
    with pytest.raises(StorageError, match="already at work in"):  # its locks would not hold
        list(colorize_folder(photos, tmp_path, options))
    results.close()
    rest = [result.outcome for result in colorize_folder(photos, tmp_path, options)]
    assert {"done", "skipped"} == set(rest) and len(rest) == 40


def test_no_second_run_can_begin_anew_while_one_is_at_work(photos, tmp_path):
    program = (
        "import sys; from condiff.batch.journal import open_journal, part_name\n"
        "from condiff.batch.storage import open_storage\nout = open_storage(sys.argv[1])\n"
        f"with open_journal(out, {SETTINGS}): print('here', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StorageError, match="Another run"):
            go(photos, tmp_path, force=True)
        other.communicate("\n")
    go(photos, tmp_path, force=True)


def test_parts_of_living_runs_are_left_and_those_of_dead_ones_go(tmp_path):
    program = (
        "import sys; from condiff.batch.journal import open_journal, part_name\n"
        "from condiff.batch.storage import open_storage\nout = open_storage(sys.argv[1])\n"
        f"with open_journal(out, {SETTINGS}) as journal:\n"
        "    journal.claim(77); out.path_of(part_name(77, '.png')).touch()\n"
        "    out.path_of(part_name(99, '.png')).touch(); print('here', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with open_journal(open_storage(tmp_path), SETTINGS) as journal:
            assert isinstance(journal, Journal)
            assert not journal.claim(77)
            assert [p.name for p in (tmp_path / ".condiff/parts").iterdir()] == [f"{77:016x}.png"]
        other.kill()
    with open_journal(open_storage(tmp_path), SETTINGS):
        assert not list((tmp_path / ".condiff" / "parts").iterdir())


def test_what_a_format_cannot_hold_fails_before_the_model_runs(tmp_path):
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    Image.new("L", (16_384, 2), 128).save(photos / "strip.png")
    Image.new("LA", (40, 30), (99, 50)).save(photos / "clear.png")
    seen = []

    def transform(photo, seed, hints):
        seen.append(photo.size)
        return photo

    found = planning.plan(open_storage(photos), open_storage(out), suffix=".webp")
    with open_journal(open_storage(out), {"task": "copy"}) as journal:
        results = {r.job.name: r for r in run(found, journal, transform, seed=1)}
    assert results["strip.png"].reason.endswith("16,384 by 2; use .png or .tif")
    assert str(tmp_path / "out" / "strip.webp") in results["strip.png"].reason
    assert (16_384, 2) not in seen and (40, 30) in seen


@pytest.mark.parametrize(
    "content", ["", "[]", '{"settings": {}}', '{"settings": 1, "replace": false}']
)
def test_damaged_settings_of_a_batch_are_a_sentence(tmp_path, content):
    out = open_storage(tmp_path)
    with open_journal(out, {"seed": 1}):
        pass
    (tmp_path / ".condiff" / "settings.json").write_text(content, "utf-8")
    with pytest.raises(StorageError, match=r"settings\.json is damaged: .*--force"):
        compare_settings(out, {})
    with open_journal(out, {"seed": 2}, force=True) as journal:
        assert journal.settings == {"seed": 2}


def test_a_file_in_the_place_of_a_batchs_folder_is_a_sentence(tmp_path):
    (tmp_path / ".condiff").touch()
    with pytest.raises(StorageError, match=r"settings\.json: Not a directory; give another"):
        compare_settings(open_storage(tmp_path), {})
