"""Imports point down: a part imports only parts of lower levels (docs/notes/architecture.md)."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import condiff
from condiff.cli import COMMANDS

PACKAGE = Path(condiff.__file__).parent
LEVELS = [
    {"platforms", "telemetry"},
    {"_version", "arrays", "errors", "resize", "threads"},
    {"checks", "config", "files", "openvino_core", "words"},
    {"photos"},
    {"color", "conditions", "diffusion"},
    {"inputs", "spaces"},
    {"tasks"},
    {"sources"},
    {"data", "figures", "models", "prep"},
    {"backends", "training"},
    {"pipelines"},
    {"batch", "evaluation", "video"},
    {"web"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """The condiff modules that a file imports, inside functions too: names without `condiff.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "condiff":
            module = (node.module or "").removeprefix("condiff").removeprefix(".")
            inside = {f"{module}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= inside & MODULES.keys() or {module or "__init__"}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            found |= {n.removeprefix("condiff.") for n in names if n.startswith("condiff.")}
    return found


def part_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_lower_parts_or_their_own(module):
    used = {part_of(name) for name in imports_of(MODULES[module])} - {part_of(module)}
    assert all(RANK[part] < RANK[part_of(module)] for part in used), sorted(used)


def test_no_modules_import_each_other():
    TopologicalSorter({name: imports_of(path) for name, path in MODULES.items()}).prepare()


def test_commands_parse_call_and_report_in_80_lines():
    for name in COMMANDS:
        tree = ast.parse((PACKAGE / "cli" / f"{name}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{name}: {node.name}"
