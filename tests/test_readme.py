"""Documents stay correct: every command line in them parses, every picture exists."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer

from condiff.cli import app, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console|sh)\n(.*?)```", page.read_text("utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"\||&&|;", line.split("  #")[0]):
                    words = shlex.split(part.removeprefix("$ "), comments=True)
                    if "condiff" in words[:5] and words[:1] != ["pip"]:
                        yield page.name, words[words.index("condiff") + 1 :]


SHOWN = list(commands())


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[" ".join([p, *w]) for p, w in SHOWN])
def test_every_command_shown_parses(page, words):
    words = words[: words.index(">")] if ">" in words else words
    if words[0].startswith("-"):
        assert main(words) == 0
    else:
        command = typer.main.get_command(app)
        while hasattr(command, "get_command"):  # figure is a group: its commands are one deeper
            name, *words = words
            command = command.get_command(None, name)
        command.make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_that_is_shown_imports_what_there_is(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("condiff"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_picture_and_link_is_there(page):
    text = page.read_text("utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} shows {target}"


@pytest.mark.slow
def test_a_wheel_holds_the_whole_package_with_its_weights(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("condiff-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        there = {name: packed.getinfo(name).file_size for name in packed.namelist()}
    files = [path for path in (ROOT / "condiff").rglob("*") if path.is_file()]
    wanted = {
        path.relative_to(ROOT).as_posix(): path.stat().st_size
        for path in files
        if "__pycache__" not in path.parts
    }
    assert wanted.items() <= there.items()
    assert any(name.endswith("colorize/unet/model.onnx") for name in wanted)
