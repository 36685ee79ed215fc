"""What differs on Windows and macOS, with the system's calls as they behave there."""

import errno
import fcntl
import io
import os
import sys
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from PIL import Image

from condiff import files, platforms
from condiff.backends.graphs import open_onnx
from condiff.backends.torch_backend import TorchBackend
from condiff.batch.colorize import choose_workers, count_cores
from condiff.batch.plan import Choice
from condiff.cli import main, outputs
from condiff.cli.process import flush
from condiff.errors import DependencyError, install_command
from condiff.files import publish, rename, sync
from condiff.prep.dataset import plan, run
from condiff.prep.prepare import PrepConfig
from condiff.sources.folders import local_parts, open_source
from condiff.training.checkpoint import gather_checkpoint, restore_checkpoint
from condiff.training.run_folder import lock_run
from condiff.web import sessions

from .conftest import make_photo

QUICK = ["--steps", "1", "--size", "32", "--device", "cpu"]


@pytest.fixture
def windows_files(monkeypatch):
    """Windows' rules: only files open for writing are synced, renaming replaces nothing."""
    os_fsync, os_rename = os.fsync, os.rename

    def fsync(number):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os_fsync(number)

    def rename(source, target):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists")
        os_rename(source, target)

    def link(source, target):
        raise OSError(errno.EINVAL, "Incorrect function")  # of a USB stick

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(files, "WINDOWS", True)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(2):
        make_photo(50, 40, seed=n).save(folder / f"{n}.jpg")
    return folder


def test_photos_batches_and_shards_are_written_by_windows_rules(
    windows_files, tiny_folder, photos, tmp_path, capsys
):
    flags = ["-m", str(tiny_folder), *QUICK]
    out, photo = tmp_path / "out", str(photos / "0.jpg")
    assert main(["batch", str(photos), str(out), *flags]) == 0
    assert {"0.jpg", "1.jpg"} <= {path.name for path in out.iterdir()}
    assert main(["colorize", photo, *flags]) == 0
    assert main(["colorize", photo, *flags]) == 1
    assert "already exists" in capsys.readouterr().err
    assert main(["colorize", photo, "--force", *flags]) == 0
    shards = tmp_path / "shards"
    recipe = ["--kind", "none", "--workers", "1", "--min-side", "32"]
    assert main(["prep", str(photos), str(shards), *recipe]) == 0
    assert list(shards.glob("*.parquet"))


def test_a_file_that_another_program_has_open_is_waited_for(monkeypatch, tmp_path):
    os_replace, refused = os.replace, []

    def replace(source, target):
        if len(refused) < 2:
            refused.append(source)
            raise PermissionError(errno.EACCES, "Access is denied")
        os_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    with pytest.raises(PermissionError):  # elsewhere it does not help to wait
        rename(source, target)
    monkeypatch.setattr(files, "WINDOWS", True)
    rename(source, target)
    assert target.read_text() == "new" and len(refused) == 2


def test_a_target_that_may_only_be_read_is_replaced_and_leaves_no_part(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "WINDOWS", True)
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(0o444)
    with publish(target, force=True) as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == [target] and target.stat().st_mode & 0o200


def test_sync_needs_a_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")


def test_globs_are_expanded_on_windows_alone(monkeypatch, tmp_path):
    for name in ("b.jpg", "a.jpg", "[c].jpg"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    names = ["*.jpg", "[c].jpg", "none*.png", "d.jpg"]
    assert list(platforms.expand_globs(names)) == names
    monkeypatch.setattr(platforms, "WINDOWS", True)
    found = ["[c].jpg", "a.jpg", "b.jpg"]
    assert list(platforms.expand_globs(names)) == [*found, "[c].jpg", "none*.png", "d.jpg"]


def test_names_that_differ_only_in_case_or_unicode_are_one_file_on_a_mac(monkeypatch):
    paths = [Path("out/Ö.jpg"), Path("out/o\u0308.jpg")]
    outputs.check_distinct(paths)
    monkeypatch.setattr(platforms, "APPLE", True)
    with pytest.raises(Exception, match="written twice"):
        outputs.check_distinct(paths)


def test_a_caption_belongs_to_its_photo_however_a_mac_writes_the_name(monkeypatch, tmp_path):
    make_photo(20, 20).save(tmp_path / "o\u0308.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "\u00f6.png", "text": "a lake"}\n')

    def captions():
        return [part.text for part in local_parts(tmp_path)]

    assert captions() == [""]
    monkeypatch.setattr(platforms, "APPLE", True)
    assert captions() == ["a lake"]


def test_globs_of_a_batch_may_have_backslashes_on_windows(monkeypatch, tmp_path):
    from condiff.batch import plan

    assert not plan._matches("scans/a.jpg", Choice(include=("scans\\*.jpg",)).include)
    monkeypatch.setattr(os, "sep", "\\")
    assert plan._matches("scans/a.jpg", ("scans\\*.jpg",))


def test_a_library_that_the_system_cannot_load_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match="ONNX Runtime cannot be loaded"):
        open_onnx(tmp_path / "model.onnx", 1)


def test_apples_gpu_is_used_by_one_thread():
    assert choose_workers(8, "mps") == choose_workers(None, "mps:0") == 1
    assert choose_workers(8, "cpu") == 8 and choose_workers(None, "cuda") == count_cores()


@pytest.mark.parametrize(
    "error",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.",
        "MPS backend out of memory (MPS allocated: 17.93 GB)",
    ],
)
def test_a_lack_of_memory_is_recognised_by_the_words_of_each_system(error):
    backend = TorchBackend(None)
    with pytest.raises(MemoryError), backend._at_work():
        raise RuntimeError(error)
    with pytest.raises(RuntimeError, match="shape"), backend._at_work():
        raise RuntimeError("wrong shape")


def test_a_reader_that_has_ended_is_no_error_by_any_of_its_names(monkeypatch, capsys):
    class Pipe(io.StringIO):
        def flush(self):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(sys, "stdout", Pipe())
    assert flush() == 1 and "Invalid argument" in capsys.readouterr().err
    monkeypatch.setattr("condiff.cli.process.WINDOWS", True)
    monkeypatch.setattr(sys, "stdout", Pipe())
    assert flush() == 1 and capsys.readouterr().err == ""


def test_packages_are_quoted_as_the_shell_of_windows_does(monkeypatch):
    assert "'" in install_command("heif")
    monkeypatch.setattr("condiff.errors.WINDOWS", True)
    assert "'" not in install_command("heif") and install_command("heif").endswith('[heif]"')


def test_restored_state_does_not_keep_the_checkpoint_open(tmp_path):
    """Windows does not remove a folder of which a file is mapped into memory."""
    model = torch.nn.Linear(2, 2)
    optimizer, ema = torch.optim.AdamW(model.parameters()), EMAModel(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = {
        file: {name: value.clone() for name, value in values.items()}
        for file, values in gather_checkpoint(model, optimizer, ema).items()
    }
    restore_checkpoint(model, optimizer, ema, saved.__getitem__)
    stored = {value.data_ptr() for file in saved.values() for value in file.values()}
    kept = [*model.parameters(), *ema.shadow_params]
    kept += [value for state in optimizer.state.values() for value in state.values()]
    assert len(kept) == 4 + 6 and not stored & {value.data_ptr() for value in kept}


def test_the_folder_of_a_killed_server_is_deleted_without_file_locks(monkeypatch, tmp_path):
    """Windows deletes no file that is open, in this process or another one."""
    monkeypatch.setattr(sessions, "fcntl", None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    is_open: set[Path] = set()
    path_unlink = Path.unlink

    def unlink(path, missing_ok=False):
        if path in is_open:
            raise PermissionError(errno.EACCES, "Access is denied")
        path_unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    running = sessions.Sessions()
    is_open.add(running.root / sessions.LOCK)
    killed = sessions.Sessions()
    killed._held.close()  # as the system does
    sessions.remove_left()
    assert running.root.is_dir() and not killed.root.exists()
    is_open.clear()
    running.close()
    assert not list(tmp_path.iterdir())


def test_files_that_desktops_leave_do_not_make_a_folder_used(photos, tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    (out / ".DS_Store").write_bytes(b"finder")
    recipe = ["--kind", "none", "--workers", "1", "--min-side", "32"]
    assert main(["prep", str(photos), str(out), *recipe]) == 0
    (tmp_path / "used").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "used" / "a.png")
    assert main(["prep", str(photos), str(tmp_path / "used"), *recipe]) == 1


def test_disks_without_locks_are_written_to(monkeypatch, photo_folder, tmp_path):
    """As some network disks: the user must ensure that there is one run at a time."""

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock_run(tmp_path / "run").close()
    decided = list(run(plan(open_source(photo_folder), tmp_path / "out", PrepConfig(min_side=8))))
    assert len(decided) == 12
