"""Imports point down: a module uses only modules of lower levels (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

import condiff

PACKAGE = Path(condiff.__file__).parent
LEVELS = [
    {"errors"},
    {"formats", "ifd", "png", "profiles", "xmp"},
    {"metadata", "decoding", "tiff"},
    {"photo", "jpeg", "provenance"},
    {"encoding"},
    {"config", "images", "parquet", "backbone", "color", "extractors", "lines", "journal"}
    | {"hed", "annotators", "packed", "order", "columns", "drawing", "adjust", "spread"},
    {"items"},
    {"archives", "streamed"},
    {"conditions", "hints", "diffusion", "encoder", "mirror", "metrics", "pairs", "report", "tasks"}
    | {"sources", "shards", "hub", "answers"},
    {"model", "photos", "recipe", "batch", "line_metrics", "wishes"},
    {"prep", "checkpoint", "figures", "run", "card", "curves", "push", "progress", "snapshot"}
    | {"views", "ram"},
    {"features", "stream", "device"},
    {"data"},
    {"objective", "pretrained", "preview", "processes"},
    {"train", "pipeline", "evaluate"},
    {"profile", "transform", "evaluate_drawings"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Names of the condiff modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("condiff."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "condiff":
            found |= {alias.name for alias in node.names if alias.name in RANK}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("condiff.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_import_only_lower_levels(path):
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = imports_of(path) - {module}
    assert all(RANK[name] < RANK[module] for name in used), f"{module} imports {sorted(used)}"


def test_no_module_outgrows_one_idea():
    long = {p.name: n for p in MODULES if (n := len(p.read_text("utf-8").splitlines())) > 350}
    assert not long


def test_the_table_in_the_docs_is_this_one():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    for rank, names in enumerate(LEVELS[:-1]):
        listed = ", ".join(f"`{n}/`" if n == "cli" else f"`{n}`" for n in sorted(names))
        assert f"| {rank} | {listed} |" in text
