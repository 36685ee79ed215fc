"""Imports point down: a part uses only parts of lower levels (docs/architecture.md)."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import condiff

PACKAGE = Path(condiff.__file__).parent
LEVELS = [
    {"errors"},
    {"config", "images"},
    {"colors", "conditions", "diffusion", "sampling", "tasks", "tiles"},
    {"data", "figures", "networks", "prep"},
    {"pipeline", "training"},
    {"batches", "upscale"},
    {"cascade"},
    {"evaluation"},
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
            found |= inside & MODULES.keys() or {module} - {""}
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


def test_no_module_outgrows_one_idea():
    long = {
        p.name: n for p in MODULES.values() if (n := len(p.read_text("utf-8").splitlines())) > 350
    }
    assert not long


def test_the_table_in_the_docs_is_this_one():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    for rank, parts in enumerate(LEVELS[:-1]):
        for part in parts:
            inside = [
                f"`{path.stem}`"
                for path in sorted((PACKAGE / part).glob("*.py"))
                if path.stem != "__init__"
            ]
            name = f"{part}/" if inside else part
            assert f"| {rank} | `{name}` | {', '.join(inside)} |" in text
