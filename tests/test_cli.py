"""The command line: exit codes, streams, files."""

import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import condiff
from condiff.cli import COMMANDS, app, main
from condiff.config import LOOKS
from condiff.models.loading import load_model
from condiff.pipelines.pipeline import Pipeline

from .conftest import make_photo

QUICK = ["--steps", "1", "--size", "32", "--device", "cpu"]


@pytest.fixture
def run(tiny_folder, capsys):
    """Run a command with the tiny model; (exit code, stdout, stderr)."""

    def call(*arguments):
        arguments = [str(a) for a in arguments]
        if arguments[0] == "colorize":
            arguments += ["-m", str(tiny_folder), *QUICK]
        code = main(arguments)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def grey(tmp_path):
    path = tmp_path / "grey.jpg"
    make_photo(50, 40).convert("L").save(path)
    return path


def test_colorize_writes_beside_the_photo_and_prints_where(run, grey):
    code, out, err = run("colorize", grey, "--seed", 7)
    target = grey.with_name("grey.color.jpg")
    assert (code, out) == (0, f"{target}\n")
    assert "seed 7" in err
    with Image.open(target) as image:
        assert (image.size, image.mode, image.format) == ((50, 40), "RGB", "JPEG")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_name_that_stdout_cannot_print_costs_no_photo(
    encoding, grey, tiny_folder, monkeypatch, capsys
):
    names = ["\U0001f600.jpg", "bad\udcff.jpg", "\xe9.jpg"]
    paths = [grey.with_name(name) for name in names]
    for path in paths:
        shutil.copy(grey, path)
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding))
    code = main(["colorize", *map(str, paths), "-m", str(tiny_folder), *QUICK])
    sys.stdout.flush()
    assert code == 0 and all(path.with_suffix(".color.jpg").exists() for path in paths)
    printed = stream.getvalue().splitlines()
    assert len(printed) == 3 and printed[1].endswith(b"bad\xff.color.jpg")
    if encoding == "utf-8":
        assert printed[0].endswith("\U0001f600.color.jpg".encode())
    else:
        assert printed[0].endswith(rb"\U0001f600.color.jpg")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["", "a/b"])
def test_a_suffix_is_part_of_a_name(run, grey, suffix):
    code, out, err = run("colorize", grey, "--suffix", suffix)
    assert (code, out) == (2, "") and "--suffix" in err


def test_a_second_time_names_force_and_changes_nothing(run, grey):
    run("colorize", grey)
    target = grey.with_name("grey.color.jpg")
    before = target.read_bytes()
    code, out, err = run("colorize", grey)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert err.count("\n") == 1
    assert target.read_bytes() == before
    target.chmod(0o600)
    assert run("colorize", grey, "--force")[0] == 0
    assert target.stat().st_mode & 0o777 == 0o600  # a private photo stays private


@pytest.mark.slow
def test_pipes(tiny_folder, grey):
    command = [sys.executable, "-m", "condiff", "colorize", "-", "-o", "-", "-m", str(tiny_folder)]
    done = subprocess.run(
        [*command, *QUICK], input=grey.read_bytes(), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.size, image.format) == ((50, 40), "PNG")


def test_standard_input_needs_an_output(run):
    code, _, err = run("colorize", "-")
    assert code == 2
    assert "-o" in err


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", b"not a photo"), ("text.jpg", b"not a photo"), ("empty.jpg", b"")],
)
def test_what_is_no_photo_is_one_sentence(run, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = run("colorize", path)
    assert (code, out) == (1, "")
    assert name in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_truncated_photo_is_refused_and_nothing_written(run, grey):
    grey.write_bytes(grey.read_bytes()[: grey.stat().st_size * 2 // 3])
    code, _, err = run("colorize", grey)
    assert code == 1
    assert "grey.jpg" in err
    assert list(grey.parent.iterdir()) == [grey]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("command", ["colorize", "batch"])
def test_a_model_that_does_not_colour_photos_is_refused_by_name(
    command, dry, grey, sketch_folder, tmp_path, capsys
):
    given = grey if command == "colorize" else grey.parent
    where = ["-o"] if command == "colorize" else []
    target = str(tmp_path.parent / "result.png")
    assert main([command, str(given), *where, target, "-m", str(sketch_folder), *dry]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("condiff: The model sketch ") and not said.out
    assert "does not colour photos: give one of the task colorize" in said.err
    assert not os.path.exists(target)


def test_what_is_missing_is_one_sentence(run, tmp_path, grey):
    assert run("colorize", tmp_path / "none.jpg")[0] == 1
    code, _, err = run("colorize", grey, "-o", tmp_path / "x.xyz")
    assert code == 2
    assert ".xyz" in err
    assert list(tmp_path.iterdir()) == [grey]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--hint", "0.5,0.5,nocolour"],
        ["--background", "nocolour"],
        ["--look", "loud"],
        ["--device", "tpu"],
        ["--engine", "abacus"],
        ["-m", "nothing"],
        ["-o", "x.xyz"],
        ["--gif", "x.avi"],
        ["--prompt", "a red house"],
        ["--pick", "best"],
        ["--samples", "20000"],
        ["--palette", "nocolour"],
    ],
)
def test_a_wrong_value_exits_2_at_once_and_leaves_nothing(
    wrong, tiny_folder, grey, capsys, monkeypatch, tmp_path
):
    """Also with several photos, each of which could fail separately; and with -n."""
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.jpg"
    other.write_bytes(grey.read_bytes())
    for sources in ([grey], [grey, other]):
        for more in ([], ["-n"]):
            command = ["colorize", *map(str, sources), "-m", str(tiny_folder), *wrong, *more]
            code, (out, err) = main(command), capsys.readouterr()
            assert (code, out) == (2, ""), err
            assert "Traceback" not in err and not err.startswith("condiff: other.jpg")
    assert sorted(tmp_path.iterdir()) == [grey, other]


@pytest.mark.parametrize("command", ["colorize", "render", "batch", "info"])
def test_json_is_one_object_a_line(command, run, grey, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(grey.read_bytes())
    arguments = {
        "colorize": [grey, "--samples", 2, "-n"],
        "render": [grey, "--as-is", "--samples", 2, "-n"],
        "batch": [tmp_path / "in", tmp_path / "out", "-n"],
        "info": [],
    }[command]
    code, out, err = run(command, *arguments, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(isinstance(row, dict) for row in rows) and rows
    if command == "batch":
        assert rows[0]["outcome"] == "to do"
        assert rows[-1] == {"to do": 1, "skipped": 0, "failed": 0}
    elif command == "info":
        assert "cpu" in rows[0]["devices"] and "colorize" in rows[0]["models"]
    else:
        assert len(rows) == 3 and {row["source"] for row in rows} == {str(grey)}


@pytest.mark.parametrize(
    "words",
    [["batch", "", "OUT"], ["batch", "IN", ""], ["colorize", ""], ["colorize", "a.jpg", "-o", ""],
     ["render", "a.png", "--output="], ["train", "--data", "", "-o", "run"]],
)  # fmt: skip
def test_an_empty_argument_is_not_the_present_folder(words, capsys, tmp_path, monkeypatch):
    """As in `condiff batch "$IN" out` when IN is not set."""
    (tmp_path / "here").mkdir()
    make_photo(20, 20).save(tmp_path / "here" / "a.jpg")
    monkeypatch.chdir(tmp_path / "here")
    assert main([{"OUT": str(tmp_path / "out"), "IN": "."}.get(word, word) for word in words]) == 2
    assert "is empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "a.jpg"]


def test_wrong_usage_exits_2(run, grey):
    assert run("colorize")[0] == 2
    assert run("colorize", grey, "--no-such-flag")[0] == 2
    assert run("colorize", grey, "a.png", "-o", "b.png")[0] == 2
    assert run("no-such-command")[0] == 2


def test_several_samples_are_numbered_and_reproducible(run, grey):
    code, out, _ = run("colorize", grey, "--samples", 2, "--seed", 5, "--json")
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [t["seed"] for t in records] == [5, 6]
    assert [Path(t["target"]).name for t in records] == ["grey.color.1.jpg", "grey.color.2.jpg"]
    run("colorize", grey, "-o", grey.with_name("six.jpg"), "--seed", 6)
    second = Path(records[1]["target"]).read_bytes()
    assert second == grey.with_name("six.jpg").read_bytes()


def test_dry_run_says_and_writes_nothing(run, grey):
    code, out, _ = run("colorize", grey, "-n")
    assert (code, out) == (0, f"{grey.with_name('grey.color.jpg')}\n")
    assert list(grey.parent.iterdir()) == [grey]


def test_quiet_leaves_the_path_alone(run, grey):
    _, out, err = run("colorize", grey, "-q")
    assert out
    assert err == ""


def test_alpha_survives_the_command(run, tmp_path):
    photo = make_photo(30, 20)
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "a.png")
    assert run("colorize", tmp_path / "a.png")[0] == 0
    with Image.open(tmp_path / "a.color.png") as image:
        assert np.array_equal(image.getchannel("A"), photo.getchannel("A"))


@pytest.mark.parametrize("command", ["colorize", "condition --kind canny", "figure forward"])
def test_the_photo_itself_is_never_written_over(run, grey, command):
    before = grey.read_bytes()
    code, out, err = run(*command.split(), grey, "-o", grey, "--force")
    assert (code, out) == (2, "")
    assert "is the photo itself: give another output." in " ".join(err.split())
    assert grey.read_bytes() == before


def test_a_photo_is_not_written_over_by_the_result_of_another(run, grey):
    """The result of grey.jpg is grey.color.jpg, which is also an input here."""
    other = grey.with_name("grey.color.jpg")
    make_photo(30, 20, seed=5).save(other)
    before = other.read_bytes()
    code, out, err = run("colorize", grey, other, "--force")
    assert (code, out) == (2, "")
    assert "grey.color.jpg is one of the photos, and a result would replace it" in " ".join(
        err.split()
    )
    assert other.read_bytes() == before


def test_train_writes_a_model_that_colorizes(run, photo_folder, grey, tmp_path):
    output = tmp_path / "run"
    smoke = Path(__file__).parents[1] / "configs" / "smoke.yaml"
    quick = ["--set", "model.backbone_variant=null", "--set", "data.size=32", "--max-steps", "4"]
    quick += ["--set", "model.fold=2", "--set", "log_steps=1"]
    command = ["train", "--task", "colorize", "--config", smoke, "--data", photo_folder]
    sample = ["--set", "sample_steps=2", "--set", "train_batch_size=4"]
    code, out, err = run(*command, "-o", output, *quick, *sample)
    assert (code, out) == (0, f"{output / 'model'}\n"), err
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    names = {p.name for p in (output / "samples").iterdir()}
    assert names == {"step-000002.png", "step-000004.png", "final.png"}
    assert load_model(output / "model").task.name == "colorize"
    code = main(["colorize", str(grey), "-m", str(output / "model"), *QUICK])
    assert code == 0
    code, _, err = run(*command, "-o", output, *quick)
    assert code == 2
    assert "begun with images per step = 4, not 16" in err
    assert "--force" in err


def test_train_dry_run_prints_the_configuration_and_the_cost(run, photo_folder, tmp_path):
    tiny = ["--set", "model.backbone_variant=null", "--set", "model.block_out_channels=[16,32]"]
    command = ["train", "--data", photo_folder, "-o", tmp_path / "r", "--max-steps", 3, *tiny]
    code, out, _ = run(*command, "-n")
    assert code == 0
    assert "max_train_steps: 3" in out
    assert "12 photos" in out
    assert "GFLOP an image" in out
    assert not (tmp_path / "r").exists()


def test_train_without_data_or_with_a_wrong_key_is_one_sentence(run, tmp_path):
    there = ["-o", tmp_path / "r", "--max-steps", 3]
    code, _, err = run("train", "--data", tmp_path / "none", *there)
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run("train", "--data", tmp_path, *there, "--set", "optimizer.learning_rat=1")
    assert code == 2
    assert "did you mean optimizer.learning_rate" in err


def test_info_of_machine_and_model(run, tiny_folder):
    code, out, _ = run("info")
    assert code == 0
    assert condiff.__version__ in out
    code, out, _ = run("info", tiny_folder, "--json")
    record = json.loads(out)
    assert (record["task"], record["predicts"]) == ("colorize", "v_prediction")
    assert record["looks"]["vivid"] == LOOKS["vivid"].model_dump()
    assert record["looks"]["natural"] == {
        "guidance_scale": 1, "guidance_eta": 1, "variety": 1, "saturation": 1
    }  # fmt: skip
    natural = "natural (guidance_scale 1, guidance_eta 1, variety 1, saturation 1);"
    assert natural in run("info", tiny_folder)[1]
    assert run("info", "nothing")[0] == 2


@pytest.mark.parametrize("left", [0, 500, -1])
def test_info_of_weights_that_are_cut_short_is_one_sentence(run, tiny_folder, tmp_path, left):
    shutil.copytree(tiny_folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    code, out, err = run("info", tmp_path / "cut")
    assert (code, out) == (1, "")
    told = f"The weights {weights} are damaged or cut short: copy the model folder again."
    assert err == f"condiff: {told}\n"


def test_help_imports_nothing_heavy():
    program = (
        "import sys, condiff.cli; condiff.cli.main(['--help']);"
        "heavy = {'torch', 'diffusers', 'numpy', 'cv2', 'PIL', 'rich', 'yaml', 'pydantic'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "colorize" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_each_command_says(name):
    command = typer.main.get_command(app).get_command(None, name)
    assert command.help.partition("\n")[0] == COMMANDS[name]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"condiff {condiff.__version__}\n"


def test_a_reader_that_leaves_early_is_no_traceback(grey):
    command = f"{sys.executable} -m condiff colorize {grey} -o - {' '.join(QUICK)}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | true"], capture_output=True, text=True, env=os.environ
    )
    assert "standard output: Broken pipe" in done.stderr and "Traceback" not in done.stderr


def test_eval_of_folders_and_of_a_model(run, tmp_path, tiny_folder):
    for index in range(2):
        photo = make_photo(40, 32, seed=index)
        (tmp_path / "truth").mkdir(exist_ok=True)
        (tmp_path / "result").mkdir(exist_ok=True)
        photo.save(tmp_path / "truth" / f"{index}.png")
        photo.convert("L").save(tmp_path / "result" / f"{index}.color.png")
    code, out, _ = run("eval", tmp_path / "result", tmp_path / "truth", "--json")
    assert code == 0
    rows = {row["method"]: row for row in map(json.loads, out.splitlines())}
    assert rows["truth"]["psnr"] == 60
    assert rows[str(tmp_path / "result")]["colorfulness"] < 1
    page = tmp_path / "page.html"
    page.write_text("an older page", "utf-8")
    model = ["--model", tiny_folder, "--data", tmp_path / "truth", "--limit", 1, "--html", page]
    for target, message in [(page, "already exists"), (page / "a.html", "is not a folder")]:
        code, out, err = run("eval", *model[:-1], target, *QUICK)  # before the work
        assert code == 1 and not out and message in err
    code, out, _ = run("eval", *model, *QUICK, "--force")
    assert code == 0
    assert "grey passthrough" in out and "chroma / truth's" not in out
    assert page.read_text("utf-8").count("data:image") == 3
    folders = ["eval", tmp_path / "result", tmp_path / "truth"]
    code, out, _ = run(*folders, "--groups")
    assert code == 0 and "chroma / truth's" in out and "PSNR" in out
    code, out, err = run(*folders, "--metric-weights", tmp_path / "truth")
    assert code == 1 and not out and "neither inception.safetensors" in err
    assert run("eval", tmp_path / "result")[0] == 2
    assert run("eval", tmp_path / "none", tmp_path / "truth")[0] == 1


def test_a_folder_points_to_batch(run, tmp_path):
    code, out, err = run("colorize", tmp_path)
    assert code == 2 and not out and f"condiff batch {tmp_path}" in err


@pytest.mark.parametrize("words", (["render"], ["condition", "--kind", "gray"]))
def test_the_present_folder_is_refused_as_any_folder_is(words, run):
    code, out, err = run(*words, ".")
    assert code == 1 and not out and "it is a folder" in err


@pytest.mark.parametrize("flags", (["-v"], ["--verbose"], ["-qv"], ["-vf"]))
def test_verbose_prints_the_traceback_alone_or_with_other_flags(flags, run):
    code, _, err = run("colorize", "missing.jpg", *flags)
    assert code == 1 and "Traceback" in err
    assert "Traceback" not in run("colorize", "missing.jpg", "-qf")[2]


def test_several_photos_are_coloured_each_beside_itself(run, tmp_path):
    names = ["a.jpg", "b.png", "c.jpg"]
    for number, name in enumerate(names):
        make_photo(40, 30, seed=number).convert("L").save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    code, out, _ = run("colorize", *(tmp_path / name for name in names), "--force")
    targets = [tmp_path / name for name in ("a.color.jpg", "b.color.png", "c.color.jpg")]
    assert code == 0 and out.split() == [str(target) for target in targets]
    assert all(target.is_file() for target in targets)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_new_folder_for_results_is_made(run, grey, tmp_path):
    other = tmp_path / "other.jpg"
    other.write_bytes(grey.read_bytes())
    new = tmp_path / "a" / "new"
    made = f"{new}/grey.color.jpg\n{new}/other.color.jpg\n"
    assert run("colorize", grey, other, "-o", new, "-n")[:2] == (0, made)
    assert not new.parent.exists()
    assert run("colorize", grey, other, "-o", new)[:2] == (0, made)
    assert len(list(new.iterdir())) == 2


@pytest.mark.parametrize(
    ("output", "exit_code", "told"),
    [
        ("x.jpg", 2, "x.jpg looks like a file, but several photos need a folder"),
        ("grey.jpg", 2, "grey.jpg is not a folder, which several photos need"),
        ("grey.jpg/new", 1, "grey.jpg is not a folder"),
    ],
)
def test_a_file_is_not_taken_for_a_new_folder(output, exit_code, told, run, grey, tmp_path):
    other = tmp_path / "other.jpg"
    other.write_bytes(grey.read_bytes())
    code, out, err = run("colorize", grey, other, "-o", tmp_path / output)
    assert (code, out) == (exit_code, "") and told in " ".join(err.split())
    assert sorted(tmp_path.iterdir()) == [grey, other]


def test_results_among_the_photos_are_left_out(run, tmp_path):
    """As with *.jpg, a second time."""
    photos = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, photo in enumerate(photos):
        make_photo(40, 30, seed=number).save(photo)
    assert run("colorize", photos[0], "--seed", 1)[0] == 0
    result = tmp_path / "a.color.png"
    before = result.read_bytes()
    code, out, err = run("colorize", photos[0], result, photos[1])
    assert code == 1 and not out and result.read_bytes() == before
    assert f"{result}: left out, its colours were made by condiff" in err
    assert "--force to replace it, or `condiff batch`, which skips" in " ".join(err.split())
    code, out, _ = run("colorize", photos[0], result, photos[1], "--seed", 1, "--force")
    assert code == 0 and out.split() == [str(result), str(tmp_path / "b.color.png")]
    assert result.read_bytes() == before
    make_photo(40, 30, seed=3).save(result)  # somebody else's photo of that name is kept
    assert run("colorize", photos[0], result, "--force")[0] == 2
    code, out, _ = run("colorize", result, "-o", tmp_path / "c.png")  # alone it is a photo
    assert code == 0 and out == f"{tmp_path / 'c.png'}\n"


def test_one_photo_that_fails_does_not_stop_the_others(run, tmp_path):
    make_photo(40, 30).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    code, out, err = run("colorize", tmp_path / "bad.jpg", tmp_path / "good.png")
    assert code == 1 and out.split() == [str(tmp_path / "good.color.png")]
    assert "bad.jpg" in err and "1 of 2 photos failed" in err


def test_two_photos_never_share_a_result(run, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make_photo(40, 30).save(tmp_path / folder / "a.png")
    photos = [tmp_path / "x" / "a.png", tmp_path / "y" / "a.png"]
    code, out, err = run("colorize", *photos, "-o", tmp_path)
    assert code == 2 and not out
    assert f"{photos[0]} and {photos[1]} would both become" in " ".join(err.split())
    assert not (tmp_path / "a.color.png").exists()


def test_a_result_keeps_the_date_of_its_photo(run, tmp_path):
    photo = tmp_path / "a.png"
    make_photo(40, 30).save(photo)
    os.utime(photo, (1_000_000_000, 1_000_000_000))
    assert run("colorize", photo, "--suffix", "farbe")[0] == 0
    assert (tmp_path / "a.farbe.png").stat().st_mtime == 1_000_000_000
    assert run("colorize", photo, "--touch")[0] == 0
    assert (tmp_path / "a.color.png").stat().st_mtime > 1_500_000_000


@pytest.mark.parametrize("flags", (["--scheduler", "bogus"], ["--steps", "0"], ["--variety", "2"]))
def test_a_wrong_setting_is_a_usage_error_before_anything_is_done(flags, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    make_photo(40, 30).save(tmp_path / "in" / "a.png")
    for command in (["colorize", "missing.jpg"], ["batch", "in", "out"], ["render", "missing.png"]):
        words = [command[0], *(str(tmp_path / name) for name in command[1:])]
        assert main([*words, *flags]) == 2
        out, err = capsys.readouterr()
        assert not out and flags[0] in err and "Value error" not in err
    assert not (tmp_path / "out").exists()


def test_strict_refuses_a_photo_that_is_cut_short(run, grey):
    grey.write_bytes(grey.read_bytes()[:-2])
    code, out, err = run("colorize", grey, "--strict")
    assert (code, out) == (1, "") and "lacks the last bytes" in err and "without --strict" in err
    code, out, err = run("colorize", grey)
    assert code == 0 and f"{grey}: its file lacks the last bytes; no pixel is missing\n" in err


@pytest.mark.parametrize(("suffix", "side"), [("avif", 32_769), ("webp", 16_384), ("jpg", 65_501)])
def test_what_an_encoder_does_not_take_is_refused_before_the_model_is_loaded(
    suffix, side, capsys, tmp_path
):
    Image.new("L", (side, 2), 128).save(tmp_path / "strip.png")
    command = ["colorize", str(tmp_path / "strip.png"), "-o", str(tmp_path / f"a.{suffix}")]
    for flags in (["-n"], ["-m", str(no_network(tmp_path / "model"))]):
        assert main([*command, *flags]) == 1
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        assert f"{side:,} by 2" in err and "use .png or .tif" in err


def test_transparency_is_refused_before_the_model_is_loaded(capsys, tmp_path):
    Image.new("LA", (40, 30), (99, 50)).save(tmp_path / "a.png")
    command = ["colorize", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.jpg")]
    assert main([*command, "-m", str(no_network(tmp_path / "model"))]) == 1
    assert "JPEG has no transparency" in capsys.readouterr().err


def no_network(folder: Path) -> Path:
    """The embedded model's folder without weights: it can be named, but not loaded."""
    there = Path(condiff.__file__).parent / "weights" / "colorize"
    shutil.copytree(there, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    return folder


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a line of bash in which `condiff` is this package."""
    program = f'condiff() {{ "{sys.executable}" -m condiff "$@"; }}; {line}'
    home = str(Path(condiff.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": home}
    return subprocess.run(
        ["bash", "-c", program], capture_output=True, cwd=folder, env=environment, timeout=300
    )


def test_streams_that_are_closed_cost_nothing(grey):
    """Without stderr, print would use stdout, and messages would end up in the picture."""
    drawn = shell("condiff condition grey.jpg -k canny -o - 2>&-", grey.parent)
    assert (drawn.returncode, drawn.stdout[-8:-4]) == (0, b"IEND")
    closed = shell("condiff condition grey.jpg -k canny -o - >&-", grey.parent)
    assert (closed.returncode, closed.stderr.count(b"\n")) == (1, 1)
    assert b"standard output: it is closed" in closed.stderr
    assert shell("condiff condition grey.jpg -k canny >&- 2>&- <&-", grey.parent).returncode == 0
    with Image.open(grey.parent / "grey.canny.png") as image:
        image.load()


def test_a_path_that_stdout_does_not_take_is_told(grey):
    full = shell("condiff condition grey.jpg -k canny > /dev/full", grey.parent)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith(b"condiff: cannot write ")
    assert b"No space left on device" in full.stderr


def test_sigterm_ends_a_command_as_ctrl_c_does(grey):
    line = [sys.executable, "-m", "condiff", "condition", "-", "-k", "canny", "-o", "out.png"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(Path(condiff.__file__).parents[1])}
    with subprocess.Popen(line, **pipes, cwd=grey.parent, env=environment) as process:
        process.stdin.write(b"x" * 1_000_000)  # more than a pipe holds: it is read by now
        process.stdin.flush()
        process.terminate()
        assert process.wait(60) == 143
        assert process.stderr.read() == b"condiff: ended by SIGTERM.\n"
    assert [path.name for path in grey.parent.iterdir()] == ["grey.jpg"]


@pytest.mark.parametrize(
    "command", [["colorize"], ["condition", "-k", "canny"], ["eval", "-m", "x"]]
)
def test_names_that_no_file_can_have_are_one_sentence(command, capsys):
    assert main([command[0], "x" * 300 + ".png", *command[1:]]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith(("condiff: ", "Usage: ")) and "Traceback" not in err


@pytest.mark.parametrize(
    "command", ["colorize", "render", "condition -k canny", "figure forward", "figure reverse"]
)
def test_a_photo_in_a_folder_that_is_missing_is_not_said_to_be_written(command, capsys, tmp_path):
    source = tmp_path / "typo" / "a.jpg"
    assert main([*command.split(), str(source)]) == 1
    told = f"condiff: cannot read {source}: there is no such file; check the path\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("colorize", "grey.color.jpg"),
        ("render --as-is", "grey.render.png"),
        ("condition -k canny", "grey.canny.png"),
        ("figure forward", "grey.forward.png"),
        ("figure reverse", "grey.reverse.gif"),
    ],
)
@pytest.mark.parametrize("output", ["new/", "a/new/{name}"])
def test_every_command_makes_the_folder_of_its_output(command, name, output, run, grey, tmp_path):
    target = tmp_path / output.format(name=name)
    target = target / name if output.endswith("/") else target
    given = f"{tmp_path}/{output.format(name=name)}"
    small = ["--steps", 2] if command.startswith(("colorize", "render", "figure r")) else []
    code, out, _ = run(*command.split(), grey, *small, "-o", given)
    assert (code, out) == (0, f"{target}\n") and target.is_file()


def test_a_file_whose_name_begins_with_a_dash(run, grey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey.rename(tmp_path / "-photo.jpg")
    code, out, err = run("colorize", "-photo.jpg")
    assert (code, out) == (2, "") and "write ./-photo.jpg" in err
    assert run("colorize", "./-photo.jpg")[:2] == (0, "-photo.color.jpg\n")


def test_a_photo_that_is_named_twice_is_coloured_once(run, grey):
    target = grey.with_name("grey.color.jpg")
    assert run("colorize", grey, grey)[:2] == (0, f"{target}\n")


@pytest.mark.parametrize("command", ["colorize --samples 2", "render --as-is --samples 2"])
def test_the_longest_names_get_numbers_and_a_sheet(command, run, grey, tmp_path):
    name = "ä" * 125 + ".jpg"  # 254 bytes
    (tmp_path / name).write_bytes(grey.read_bytes())
    code, out, _ = run(*command.split(), tmp_path / name, "--steps", 1)
    assert code == 0 and len(out.splitlines()) == 2
    made = [path.name for path in tmp_path.iterdir() if path not in (grey, tmp_path / name)]
    assert len(made) == 3 and all(len(name.encode()) <= 255 for name in made)


def test_a_quality_that_a_format_has_not_is_told(run, grey, tmp_path):
    target = tmp_path / "a.png"
    _, out, err = run("colorize", grey, "-o", target, "--quality", 50)
    assert out == f"{target}\n" and f"{target}: --quality has no effect on PNG" in err


def test_a_film_is_not_taken_for_a_photo(run, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(300))
    err = " ".join(run("colorize", tmp_path / "film.mp4")[2].split())
    assert "it is a video (MP4); `condiff video` colours films" in err


def test_a_present_folder_that_was_removed_is_one_sentence(grey):
    line = "mkdir gone; cd gone; rmdir ../gone; condiff colorize ../grey.jpg"
    done = shell(line, grey.parent)
    told = b"condiff: The current folder was removed: change to another one.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", told)


def test_a_palette_may_be_longer_than_a_name(run, grey):
    colors = ",".join(f"#{n:02x}50a0" for n in range(40))
    assert len(colors) > 255
    assert run("colorize", grey, "--palette", colors)[0] == 0


def test_control_characters_of_a_name_do_not_reach_the_terminal(capsys):
    assert main(["colorize", "no\nfile\x1b[31m.png"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("condiff: cannot read no\\nfile\\x1b[31m.png: ") and err.count("\n") == 1


def test_control_characters_of_a_name_reach_no_message(run, tmp_path):
    photos = [tmp_path / "white\n\x1b[31m.png", tmp_path / "no\x1b[31m.png"]
    Image.new("L", (50, 40), "white").save(photos[0])
    photos[1].write_text("hello")
    code, _, err = run("colorize", *photos)
    assert code == 1 and "\x1b" not in err
    assert "white\\n\\x1b[31m.png: no colour" in err and "no\\x1b[31m.png: it is not" in err
    code, _, err = run("colorize", photos[0], "-o", photos[0], "--force")
    assert code == 2 and "\x1b" not in err and "is the photo itself" in " ".join(err.split())


def test_a_plain_locale_prints_what_it_can(tmp_path):
    plain = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 condiff colorize --help"
    done = shell(plain, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_each_sample_is_written_as_soon_as_it_is_made(run, grey, monkeypatch):
    whole = Pipeline.run

    def stopped(self, *given, **how):
        yield from itertools.islice(whole(self, *given, **how), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "run", stopped)
    code, out, _ = run("colorize", grey, "--samples", 5)
    assert code == 130
    assert out.split() == [str(grey.with_name(f"grey.color.{n}.jpg")) for n in (1, 2)]
    assert all(map(os.path.exists, out.split()))


def test_messages_name_the_photo_where_there_are_several(run, grey):
    other = grey.with_name("white.png")
    Image.new("L", (50, 40), "white").save(other)
    code, _, err = run("colorize", grey, other, "--hint", "0.5,0.5,blue")
    assert code == 0
    assert f"{grey}: 50x40, seed" in err and f"{other}: 50x40, seed" in err
    assert f"{other}: no colour" in err
    assert f"{other}: 100% of the hints' area" in err


def test_results_are_written_before_what_goes_with_them(run, grey):
    """A limit on the size of files simulates a full disk when the sheet is written."""
    flags = ("--samples", 2, "--seed", 1)
    assert run("colorize", grey, *flags)[0] == 0
    results = [grey.with_name(f"grey.color.{n}.jpg") for n in (1, 2)]
    sheet = grey.with_name("grey.color.sheet.jpg")
    made, size = [path.read_bytes() for path in results], sheet.stat().st_size
    assert size > max(map(len, made)) + 100
    for path in (*results, sheet):
        path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 50, hard))
    try:
        code, out, err = run("colorize", grey, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out.splitlines()) == (1, list(map(str, results))), err
    assert "cannot write" in err and not sheet.exists()
    assert [path.read_bytes() for path in results] == made
