"""`condiff batch`: a torture folder, exit codes, streams, kills, the same bytes as `colorize`."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from condiff.batch import plan
from condiff.batch.worker import build_transform
from condiff.cli import main
from condiff.cli.process import on_one_line
from condiff.config import LOOKS, SamplingConfig
from condiff.errors import ImageError
from condiff.photos.photo import Photo
from condiff.pipelines import pipeline
from condiff.pipelines.colorizing import ColorizeSettings

from .conftest import make_photo
from .test_batch import files_of, make_photos
from .test_scans import PHOTOS, as_negative
from .torture import make_torture

QUICK = ["--steps", "1", "--size", "32", "--device", "cpu"]


@pytest.fixture
def run(tiny_folder, capsys):
    """`condiff batch` with the tiny model; (exit code, stdout, stderr)."""

    def call(*arguments, command="batch"):
        flags = ["-m", str(tiny_folder), *QUICK]
        code = main([command, *map(str, arguments), *flags])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def photos(tmp_path):
    """Three photos, one of them a folder down."""
    folder = tmp_path / "in"
    for n, name in enumerate(("a.jpg", "b.png", "sub/c.webp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_photo(50, 40, seed=n).save(folder / name)
    return folder


def read_json(out: str) -> tuple[dict[str, dict], dict]:
    """The lines of `--json` by source, and the last."""
    *lines, last = [json.loads(line) for line in out.splitlines()]
    return {line["source"]: line for line in lines}, last


def test_a_torture_folder_loses_nothing_and_says_why(run, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    reasons = make_torture(source)
    code, stdout, stderr = run(source, out, "--seed", 1, "--json")
    lines, last = read_json(stdout)
    failed = {name: line["reason"] for name, line in lines.items() if line["outcome"] == "failed"}
    assert set(failed) == set(reasons)
    assert {n: r for n, r in failed.items() if reasons[n] not in r} == {}
    assert code == 1
    for name, reason in failed.items():
        assert f"{on_one_line(name)}: {on_one_line(reason)}\n" in stderr
    wanted = {
        p.relative_to(source).as_posix()
        for p in source.rglob("*")
        if (p.is_file() or p.is_symlink()) and ".hidden" not in str(p) and p.name != "notes.txt"
    } | set(reasons)
    assert set(lines) == wanted
    done = {n: line["target"] for n, line in lines.items() if line["outcome"] == "done"}
    assert last == {"done": len(done), "skipped": 0, "failed": len(failed), "seed": 1}
    assert {str(out / name) for name in files_of(out)} == set(done.values())
    for name, target in done.items():
        with Image.open(source / name) as photo, Image.open(target) as result:
            turned = name.startswith("turned") and name[7] in "5678"
            assert result.size == (photo.size[::-1] if turned else photo.size), name
            result.load()
    before = files_of(out)
    code, stdout, _ = run(source, out)  # without a seed: the previous one
    assert code == 1
    assert stdout == f"0 done, {len(done)} skipped, {len(failed)} failed\n"
    assert files_of(out) == before


def test_colorize_with_the_seed_printed_gives_the_same_bytes(run, photos, tmp_path):
    code, stdout, _ = run(photos, tmp_path / "out", "--seed", 3, "--json")
    assert code == 0
    lines, _ = read_json(stdout)
    assert len({line["seed"] for line in lines.values()}) == 3
    for name, line in lines.items():
        one = tmp_path / Path(name).name
        arguments = [photos / name, "-o", one, "--seed", line["seed"]]
        assert run(*arguments, command="colorize")[0] == 0
        assert one.read_bytes() == Path(line["target"]).read_bytes()


def test_a_folder_of_masks_has_one_a_photo_and_a_new_one_makes_anew(run, photos, tmp_path):
    out, masks = tmp_path / "out", tmp_path / "masks"
    half = Image.new("L", (50, 40))
    half.paste(255, (25, 0, 50, 40))
    (masks / "sub").mkdir(parents=True)
    half.save(masks / "sub" / "c.png")
    half.save(masks / "nobody.png")
    how = [photos, out, "--mask", masks, "--json"]
    code, stdout, stderr = run(*how, "--seed", 3)
    assert code == 0 and "nobody.png of the masks belongs to no photo" in stderr
    for name, line in read_json(stdout)[0].items():
        one = tmp_path / Path(name).name
        given = ["--mask", masks / "sub" / "c.png"] if name == "sub/c.webp" else []
        arguments = [photos / name, "-o", one, "--seed", line["seed"], *given]
        assert run(*arguments, command="colorize")[0] == 0
        assert one.read_bytes() == Path(line["target"]).read_bytes()
    assert read_json(run(*how)[1])[1]["skipped"] == 3
    half.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(masks / "sub" / "c.png")
    assert read_json(run(*how)[1])[1] == {"done": 1, "skipped": 2, "failed": 0, "seed": 3}
    assert run(photos / "a.jpg", "--mask", masks, command="colorize")[0] == 2


def test_a_mask_may_be_as_large_as_its_photo(run, photos, tmp_path, monkeypatch):
    """But no larger, if it has more pixels than photos usually may have."""
    monkeypatch.setattr("condiff.batch.worker.MAX_PIXELS", 100)
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (50, 40), 255).save(masks / "a.png")
    Image.new("L", (100, 80), 255).save(masks / "b.png")
    code, stdout, _ = run(photos, tmp_path / "out", "--mask", masks, "--json")
    lines, total = read_json(stdout)
    assert code == 1 and (total["done"], total["failed"]) == (2, 1)
    assert "limit" in lines["b.png"]["reason"]


def test_what_a_batch_reads_is_never_written_over(run, photos, tmp_path):
    """Hints and masks that lie in OUT, a result as a reference, a photo that is a link to OUT."""
    out, kept = tmp_path / "out", tmp_path / "out" / "b.png"
    out.mkdir()
    strokes = Image.new("RGBA", (50, 40), (200, 0, 0, 255))
    strokes.save(kept)
    before = kept.read_bytes()
    command = (photos, out, "--format", "png", "--force")
    for flags in (["--hints", out], ["--mask", out], ["--reference", kept], ["--mask", kept]):
        code, said, err = run(*command, *flags)
        assert (code, said) == (2, "") and "b.png" in err and "give another" in err
    (photos / "b.png").unlink()
    (photos / "b.png").symlink_to(kept)
    code, said, err = run(*command)
    assert (code, said, "would be replaced by a result" in err) == (2, "", True)
    assert [path.name for path in out.iterdir()] == ["b.png"] and kept.read_bytes() == before


def test_links_to_photos_in_place_of_results_are_kept_or_replaced_themselves(run, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    before = (photos / "a.jpg").read_bytes(), (photos / "b.png").read_bytes()
    os.link(photos / "a.jpg", out / "a.jpg")
    (out / "b.png").symlink_to(photos / "b.png")
    assert run(photos, out)[1] == "1 done, 2 skipped, 0 failed\n"
    assert (out / "a.jpg").read_bytes() == before[0] and (out / "b.png").is_symlink()
    assert run(photos, out, "--force")[1] == "3 done, 0 skipped, 0 failed\n"
    assert ((photos / "a.jpg").read_bytes(), (photos / "b.png").read_bytes()) == before
    assert not (out / "b.png").is_symlink()


def test_a_batch_tells_of_a_negative(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(as_negative(PHOTOS["cat"])).save(folder / "film.png")
    code, _, stderr = run(folder, tmp_path / "out", "-v")
    assert code == 0 and "film.png: it looks like a colour negative; --invert" in stderr
    assert "negative" not in run(folder, tmp_path / "turned", "--invert")[2]


def test_edits_and_hints_give_the_bytes_of_colorize_and_new_hints_make_anew(run, photos, tmp_path):
    out, hints = tmp_path / "out", tmp_path / "hints"
    strokes = Image.new("RGBA", (50, 40))
    strokes.paste((200, 40, 30, 255), (10, 10, 20, 20))
    (hints / "sub").mkdir(parents=True)
    strokes.save(hints / "sub" / "c.png")
    strokes.save(hints / "nobody.png")
    edits = ["--saturation", 1.3, "--temperature", 20]
    how = [photos, out, "--hints", hints, *edits, "--json"]
    code, stdout, stderr = run(*how, "--seed", 3)
    assert (code, "nobody.png" in stderr) == (0, True)
    for name, line in read_json(stdout)[0].items():
        one = tmp_path / Path(name).name
        given = ["--hints", hints / "sub" / "c.png"] if name == "sub/c.webp" else []
        arguments = [photos / name, "-o", one, "--seed", line["seed"], *edits, *given]
        assert run(*arguments, command="colorize")[0] == 0
        assert one.read_bytes() == Path(line["target"]).read_bytes()
    assert read_json(run(*how)[1])[1] == {"done": 0, "skipped": 3, "failed": 0, "seed": 3}
    before = files_of(out)
    strokes.paste((30, 200, 30, 255), (30, 10, 40, 20))
    strokes.save(hints / "sub" / "c.png")
    strokes.save(hints / "a.png")
    assert read_json(run(*how)[1])[1] == {"done": 2, "skipped": 1, "failed": 0, "seed": 3}
    after = files_of(out)
    assert {name for name in after if after[name] != before[name]} == {"a.jpg", "sub/c.webp"}
    (hints / "a.png").write_text("no picture")
    lines, last = read_json(run(*how)[1])
    assert (last["failed"], str(hints / "a.png") in lines["a.jpg"]["reason"]) == (1, True)
    assert read_json(run(*how)[1])[1]["failed"] == 1  # not skipped because of an earlier result
    assert read_json(run(*how, "--retry-failed")[1])[1]["failed"] == 1
    (hints / "a.png").unlink()
    assert read_json(run(*how)[1])[1]["failed"] == 0
    assert files_of(out)["a.jpg"] == before["a.jpg"]
    assert run(photos, out, "--saturation", 2)[0] == 2  # begun with another
    assert run(photos, out, "--hints", tmp_path / "none")[0] == 2


def test_guidance_and_variety_give_the_bytes_of_colorize(run, photos, tmp_path):
    sampling = ["--guidance-scale", 3, "--variety", 0.5]
    code, stdout, _ = run(photos, tmp_path / "out", "--seed", 3, *sampling, "--json")
    assert code == 0
    plain = tmp_path / "plain"
    assert run(photos, plain, "--seed", 3)[0] == 0
    for name, line in read_json(stdout)[0].items():
        one = tmp_path / Path(name).name
        arguments = [photos / name, "-o", one, "--seed", line["seed"], *sampling]
        assert run(*arguments, command="colorize")[0] == 0
        assert one.read_bytes() == Path(line["target"]).read_bytes()
        assert one.read_bytes() != (plain / name).read_bytes()


def test_a_batch_keeps_its_look_by_value(run, photos, tmp_path):
    out, quiet = tmp_path / "out", LOOKS["quiet"]
    look = ["--look", "quiet", "--variety", 0.5, "--saturation", 0.9]
    code, stdout, _ = run(photos, out, "--seed", 3, *look, "--json", "--shard", "1/2")
    assert code == 0
    kept = json.loads((out / ".condiff" / "settings.json").read_text())["settings"]
    assert (kept["guidance_scale"], kept["variety"]) == (quiet.guidance_scale, 0.5)
    assert kept["saturation"] == 0.9
    found = read_json(stdout)[0] | read_json(run(photos, out, "--json")[1])[0]  # no look: as begun
    assert len(found) == 3
    for name, line in found.items():
        one = tmp_path / Path(name).name
        arguments = [photos / name, "-o", one, "--seed", line["seed"], *look]
        assert run(*arguments, command="colorize")[0] == 0
        assert one.read_bytes() == Path(line["target"]).read_bytes()
    code, _, stderr = run(photos, out, "--look", "vivid")
    assert code == 2 and "begun with other settings" in stderr
    assert run(photos, tmp_path / "new", "--look", "loud")[0] == 2
    assert not (tmp_path / "new").exists()


def test_a_batch_goes_on_with_the_settings_that_it_was_begun_with(run, photos, tmp_path):
    asked = ["--guidance-scale", 3, "--variety", 0.5, "--quality", 40]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(photos, whole, "--seed", 3, *asked)[0] == 0
    assert run(photos, parts, "--seed", 3, *asked, "--shard", "1/3")[0] == 0
    kept = json.loads((parts / ".condiff" / "settings.json").read_text())["settings"]
    assert (kept["guidance_scale"], kept["variety"], kept["quality"]) == (3, 0.5, 40)
    assert run(photos, parts)[0] == 0  # goes on without naming them
    assert files_of(parts) == files_of(whole)
    for other in (["--guidance-scale", 2], ["--variety", 1], ["--quality", 90]):
        code, _, stderr = run(photos, parts, *other)
        assert (code, "other settings" in stderr) == (2, True)
    plain = tmp_path / "plain"
    assert run(photos, plain, "--seed", 3)[0] == 0
    kept = json.loads((plain / ".condiff" / "settings.json").read_text())["settings"]
    assert (kept["guidance_scale"], kept["variety"], kept["size"]) == (1, 1, 32)
    assert "quality: none there, 40 asked" in run(photos, plain, "--quality", 40)[2]


def test_the_bytes_of_any_worker_count_and_split(run, tmp_path):
    photos = make_photos(tmp_path / "in", 6)
    one, many, split = (tmp_path / name for name in ("one", "many", "split"))
    assert run(photos, one, "--seed", 3, "--workers", 1)[0] == 0
    assert run(photos, many, "--seed", 3, "--workers", 3)[0] == 0
    for shard in ("2/2", "1/2"):
        assert run(photos, split, "--seed", 3, "--shard", shard)[0] == 0
    assert files_of(one) == files_of(many) == files_of(split)
    assert len(files_of(one)) == 6


def test_the_last_line_counts_and_a_dry_run_does_nothing(run, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "bad.jpg").write_text("no photo")
    code, stdout, _ = run(photos, out, "--dry-run")
    assert code == 0
    assert stdout.splitlines()[-1] == "4 to do, 0 skipped, 0 failed"
    assert f"to do: sub/c.webp -> {out}/sub/c.webp" in stdout
    assert not out.exists()
    code, stdout, stderr = run(photos, out, "--exclude", "b.*")
    assert (code, stdout) == (1, "2 done, 0 skipped, 1 failed\n")
    assert "bad.jpg: it is not a photo in a known format" in stderr
    assert run(photos, out, "-n")[1].splitlines()[-1] == "1 to do, 2 skipped, 1 failed"
    assert run(photos, out, "-q")[:2] == (1, "1 done, 2 skipped, 1 failed\n")
    make_photo(40, 40).save(photos / "bad.jpg")
    code, stdout, stderr = run(photos, out, "-q")
    assert (code, stdout, stderr) == (0, "1 done, 3 skipped, 0 failed\n", "")


def test_fail_fast_stops_and_retry_failed_tries_again(run, tmp_path):
    photos = make_photos(tmp_path / "in", 12)
    (photos / "a.jpg").write_text("no photo")
    out = tmp_path / "out"
    code, stdout, _ = run(photos, out, "--fail-fast", "--workers", 1)
    assert (code, stdout) == (1, "0 done, 0 skipped, 1 failed\n")
    assert len(files_of(out)) < 4  # running work was finished
    assert run(photos, out)[0] == 1
    code, stdout, _ = run(photos, out, "--retry-failed")
    assert (code, stdout) == (1, "0 done, 12 skipped, 1 failed\n")


def test_a_page_of_files_with_several_can_be_asked_for_later(run, tmp_path):
    photos, out = make_photos(tmp_path / "in", 2), tmp_path / "out"
    first, second = (make_photo(40, 30, seed=n) for n in (7, 8))
    first.save(photos / "two.tif", save_all=True, append_images=[second])
    second.save(tmp_path / "second.tif")
    code, stdout, stderr = run(photos, out, "--seed", 3)
    assert (code, stdout) == (1, "2 done, 0 skipped, 1 failed\n")
    assert "two.tif: it has 2 pages or frames" in stderr and "--page 2" in stderr
    code, stdout, _ = run(photos, out, "--page", 2, "--retry-failed", "--json")
    lines, last = read_json(stdout)
    assert (code, last["done"], last["skipped"]) == (0, 1, 2)
    seed = lines["two.tif"]["seed"]
    one = tmp_path / "one.tif"
    assert run(tmp_path / "second.tif", "-o", one, "--seed", seed, command="colorize")[0] == 0
    with Image.open(one) as expected, Image.open(out / "two.tif") as result:
        assert result.tobytes() == expected.tobytes()


def test_wrong_usage_and_refusals(run, photos, tmp_path):
    out = tmp_path / "out"
    for flags in (
        ["--shard", "3/2"],
        ["--shard", "x"],
        ["--format", "docx"],
        ["--workers", 0],
        ["--engine", "x"],
    ):
        assert run(photos, out, *flags)[0] == 2
    for refused, expected in (
        ([photos, photos], 2),
        ([photos, photos / "out"], 2),
        ([tmp_path / "none", out], 1),
    ):
        code, stdout, stderr = run(*refused)
        assert (code, stdout, stderr.count("\n")) == (expected, "", 1)
    assert not out.exists()
    assert run(photos, out, "--seed", 1)[0] == 0
    code, _, stderr = run(photos, out, "--seed", 2)
    assert code == 2
    assert "seed: 1 there, 2 asked" in stderr
    before = files_of(out)
    assert run(photos, out, "--seed", 2, "--force")[0] == 0
    assert all(before[name] != data for name, data in files_of(out).items())


def test_a_grey_result_is_a_failure_but_a_blank_page_is_none(tiny_folder):
    tiny = pipeline.Pipeline.from_pretrained(tiny_folder, device="cpu")
    tiny.backend.model.unet.conv_out.weight.data.zero_()
    tiny.backend.model.unet.conv_out.bias.data.zero_()
    sampling = SamplingConfig(steps=1, size=32)
    machine = {"model": "tiny", "device": "cpu", "engine": "torch"}
    grey = build_transform(tiny, ColorizeSettings(sampling=sampling, provenance=False, **machine))
    # v = 0 at zero terminal SNR is x_0 = 0: no colour at all
    with pytest.raises(ImageError, match="no colour"):
        grey(Photo.from_image(make_photo(40, 40)), 1, None)
    page = Photo.from_image(Image.new("RGB", (40, 40), "white"))
    assert (grey(page, 1, None).pixels == page.pixels).all()


@contextmanager
def little_memory(room: int):
    """Limit the address space to the present size plus these bytes."""
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_too_little_memory_is_one_sentence_and_costs_only_that_photo(run, tmp_path):
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    make_photo(50, 40).save(photos / "a.png")
    Image.new("L", (9000, 9000), 90).save(photos / "b.png")  # 243 MB once decoded
    run(photos / "a.png", "-o", tmp_path / "warm.png", command="colorize")  # what is loaded, is
    with little_memory(200 * 2**20):
        code, _, stderr = run(photos / "b.png", "-o", tmp_path / "b.png", command="colorize")
        assert (code, stderr) == (
            1, "condiff: There is not enough memory: close other programs, or scale the picture"
            " down.\n",
        )  # fmt: skip
        code, stdout, stderr = run(photos, out, "--workers", 2)
    assert (code, stdout) == (1, "1 done, 0 skipped, 1 failed\n")
    assert "b.png: not enough memory even alone" in stderr
    assert set(files_of(out)) == {"a.png"}


def start(photos: Path, out: Path, model: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "condiff", "batch", str(photos), str(out), "--json"]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in a background job of a shell
    try:
        return subprocess.Popen(
            [*command, "--seed", "3", "-m", str(model), *QUICK],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_its_code_and_nothing_half(number, code, tiny_folder, tmp_path):
    photos = make_photos(tmp_path / "in", 60)
    out = tmp_path / "out"
    with start(photos, out, tiny_folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "the same command resumes the batch" in stderr
    assert "Traceback" not in stderr
    assert 1 <= len(files_of(out)) < 60
    assert main(["batch", str(photos), str(out), "-q", "-m", str(tiny_folder), *QUICK]) == 0
    assert len(files_of(out)) == 60


@pytest.mark.slow
def test_killed_20_times_on_200_photos_gives_the_bytes_of_an_undisturbed_run(
    run, tiny_folder, tmp_path, capsys
):
    photos = make_photos(tmp_path / "in", 200)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    hits = []
    for number in range(20):
        with start(photos, killed, tiny_folder) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line).get("outcome") == "done":
                    break  # this run is at work
            time.sleep(random.Random(number).uniform(0, 0.15))
            process.kill()
        left = list((killed / ".condiff" / "parts").iterdir())
        hits.append((process.returncode, len(list(killed.rglob("*.png"))) - len(left), len(left)))
    with capsys.disabled():
        print("(exit code, results, parts left) after each kill:", hits)
    assert [code for code, *_ in hits].count(-signal.SIGKILL) >= 10
    assert run(photos, killed, "--seed", 3)[0] == 0
    assert run(photos, whole, "--seed", 3)[0] == 0
    assert files_of(killed) == files_of(whole)
    assert len(files_of(whole)) == 200


@pytest.mark.slow
def test_two_commands_at_once_share_the_work(run, tiny_folder, tmp_path, capsys):
    photos = make_photos(tmp_path / "in", 200)
    both, whole = tmp_path / "both", tmp_path / "whole"
    processes = [start(photos, both, tiny_folder) for _ in range(2)]
    printed = [read_json(process.communicate(timeout=300)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    with capsys.disabled():
        print("the last lines of both:", [last for _, last in printed])
    done = [n for lines, _ in printed for n, line in lines.items() if line["outcome"] == "done"]
    assert run(photos, whole, "--seed", 3)[0] == 0
    assert sorted(done) == sorted(files_of(whole))
    assert files_of(both) == files_of(whole)


def test_what_is_left_out_is_counted_by_suffix_or_named(run, photos, tmp_path):
    for name in ("notes.txt", "more.TXT", "b.xmp", "README", ".hidden.jpg", "sub/x.jpg"):
        (photos / name).write_text("no photo")
    code, _, err = run(photos, tmp_path / "out", "--exclude", "x.*")
    counts = "2 .txt, 1 without suffix, 1 .xmp, 1 hidden, 1 excluded"
    assert (code, f"left out: {counts} (-v: each)\n" in err) == (0, True), err
    err = run(photos, tmp_path / "other", "--exclude", "x.*", "-v")[2]
    assert "notes.txt: left out, not a photo by its suffix\n" in err
    assert "sub/x.jpg: left out, excluded\n" in err


def test_files_that_need_a_missing_package_are_counted_by_kind(run, photos, tmp_path, monkeypatch):
    found = [row for row in plan.DECODERS if row[0] != "JPEG XL"]
    absent = [("JPEG XL", "no_such_package", "jxl", {".jxl"})]
    monkeypatch.setattr(plan, "DECODERS", (*found, *absent))
    for name in ("x.jxl", "y.JXL"):
        (photos / name).write_bytes(b"\xff\x0a codestream")
    make_photo(50, 40).save(photos / "misnamed.jxl", "PNG")
    code, out, err = run(photos, tmp_path / "out")
    assert (code, out) == (1, "4 done, 0 skipped, 2 failed\n")
    assert "2 JPEG XL failed: no-such-package, which reads JPEG XL, is not installed: pip" in err
    code, out, err = run(photos, tmp_path / "out", "-v", "--json")
    assert {name for name in ("x.jxl: ", "y.JXL: ") if name in err} == {"x.jxl: ", "y.JXL: "}
    assert "is not installed: pip" in read_json(out)[0]["x.jxl"]["reason"]
    assert "x.jxl" not in (tmp_path / "out/.condiff/journal.jsonl").read_text()


def test_results_keep_the_date_of_their_photos_and_are_not_coloured_again(run, photos, tmp_path):
    for number, suffix in enumerate(("tif", "avif", "jpg"), start=5):
        make_photo(40, 30, seed=number).save(photos / f"{number}.{suffix}")
    for photo in photos.rglob("*.*"):
        os.utime(photo, (1_000_000_000, 1_000_000_000))
    assert run(photos, tmp_path / "out")[0] == 0
    results = files_of(tmp_path / "out")
    assert len(results) == 6
    assert {(tmp_path / "out" / name).stat().st_mtime for name in results} == {1_000_000_000}
    again = tmp_path / "again"
    assert run(tmp_path / "out", again, "-n")[1].endswith("0 to do, 6 skipped, 0 failed\n")
    for _ in range(2):
        code, out, err = run(tmp_path / "out", again)
        assert (code, out) == (0, "0 done, 6 skipped, 0 failed\n")
        assert not files_of(again)
    assert "6 skipped: its colours were made by condiff (-v: each)" in err
    assert "sub/c.webp: skipped, its colours were made" in run(tmp_path / "out", again, "-v")[2]
    assert run(photos, tmp_path / "now", "--touch")[0] == 0
    assert all((tmp_path / "now" / name).stat().st_mtime > 1.5e9 for name in results)


def test_names_of_255_bytes_keep_their_stem_or_get_a_hash(run, tmp_path):
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    names = ["x" * 251 + ".jpg", "ü" * 125 + "x.jpg", "ü" * 125 + "y.jpg", "x" * 251 + ".gif"]
    for name in names:
        make_photo(40, 30).save(photos / name)
    assert run(photos, out)[0] == 0
    assert set(files_of(out)) == {*names[:3], "x" * 251 + ".png"}
    assert run(photos, tmp_path / "webp", "--format", "webp")[0] == 0
    made = list(files_of(tmp_path / "webp"))
    assert len(made) == 4
    assert all(len(os.fsencode(name)) <= 255 and name.endswith(".webp") for name in made)


def test_strict_makes_a_photo_that_is_cut_short_a_failure(run, photos, tmp_path):
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-2])
    code, out, err = run(photos, tmp_path / "out", "--strict")
    assert code == 1 and out == "2 done, 0 skipped, 1 failed\n"
    assert "a.jpg: its file lacks the last bytes" in err
    code, out, _ = run(photos, tmp_path / "out", "--retry-failed")
    assert code == 0 and out == "1 done, 2 skipped, 0 failed\n"


def test_what_was_not_read_or_written_is_counted_named_and_noted(run, photos, tmp_path):
    for name in ("a.jpg", "d.jpg"):
        make_photo(50, 40).save(photos / name, dpi=(300, 300))
        (photos / name).write_bytes((photos / name).read_bytes()[:-2])
    says = "its file lacks the last bytes; no pixel is missing"
    code, out, err = run(photos, tmp_path / "out")
    assert (code, out) == (0, "4 done, 0 skipped, 0 failed\n") and f"{says} (2)" in err
    lines = (tmp_path / "out/.condiff/journal.jsonl").read_text("utf-8").splitlines()
    noted = {line["name"]: line["warnings"] for line in map(json.loads, lines)}
    assert noted == {"a.jpg": [says], "d.jpg": [says], "b.png": [], "sub/c.webp": []}
    assert run(photos, tmp_path / "out")[1] == "0 done, 4 skipped, 0 failed\n"
    code, out, err = run(photos, tmp_path / "each", "-v", "--format", "webp", "--json")
    assert f"a.jpg: {says}\n" in err and "d.jpg: this format has no place for resolution" in err
    assert read_json(out)[0]["a.jpg"]["warnings"] == [
        says, "this format has no place for resolution",
    ]  # fmt: skip
    assert says not in run(photos, tmp_path / "quiet", "-q")[2]


def test_a_folder_without_photos_begins_no_batch(run, tmp_path):
    (tmp_path / "in").mkdir()
    code, out, err = run(tmp_path / "in", tmp_path / "out", "--seed", 1)
    assert (code, out) == (0, "0 done, 0 skipped, 0 failed\n")
    assert "There are no photos to colour" in err
    assert not (tmp_path / "out").exists()
    make_photo(40, 30).save(tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", tmp_path / "out", "--seed", 2)[0] == 0  # no seed was settled


def test_photos_of_all_suffixes_are_done(run, tmp_path):
    (tmp_path / "in").mkdir()
    names = ("a.mpo", "b.pcx", "c.ico", "d.dib")
    for name in names:
        make_photo(48, 48).save(tmp_path / "in" / name)
    code, out, err = run(tmp_path / "in", tmp_path / "out")
    assert (code, out) == (0, "4 done, 0 skipped, 0 failed\n"), err
    there = {path.name for path in (tmp_path / "out").iterdir()} - {".condiff"}
    assert there == {Path(name).stem + ".png" for name in names}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 kB, where this may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_a_batch_that_then_goes_on(run, small_disk, tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(4):
        noise = random.Random(n).randbytes(160 * 160)
        Image.frombytes("L", (160, 160), noise).save(tmp_path / "in" / f"{n}.png")
    code, out, err = run(tmp_path / "in", small_disk / "out", "--workers", 1, "--json")
    assert code == 1
    assert f"condiff: There is no room left in {small_disk / 'out'}: " in err
    assert "failed" not in out
    subprocess.run(["mount", "-o", "remount,size=5m", str(small_disk)], check=True)
    assert read_json(run(tmp_path / "in", small_disk / "out", "--json")[1])[1]["failed"] == 0
    assert len(list((small_disk / "out").glob("*.png"))) == 4
