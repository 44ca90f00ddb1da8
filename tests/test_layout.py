"""The layout: imports run one way, front doors are short, and help needs no torch."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from xml.etree import ElementTree

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FRONT_DOORS = ("air", "icvae", "abc", "acai", "ae")
ROOMS = (
    ("pyro_models",),
    ("guides",),
    ("train.errors", "train.processes", "train.progress"),
    ("train.data",),
    ("train.settings",),
    ("train.losses", "train.tables", "train.arguments", "train.planes"),
    ("train.plots", "train.plots_scenes", "train.plots_tables"),
    ("train.estimators",),
    ("train.fitting", "train.objective", "train.sizing", "train.windows", "train.backgrounds"),
    ("train.engine",),
    ("train.cli",),
    ("train.metrics",),
    ("train.explorer",),
    ("train.verdict", "train.verbs"),
    ("train.method", "train.sized", "train.invariant", "train.tabular"),
    ("train.studies",),
    tuple(f"train.{name}" for name in FRONT_DOORS),
    ("train.methods",),
    ("train.trained",),
    (
        "train.quantising",
        "train.compare",
        "train.explore",
        "train.export",
        "train.figures",
        "train.bench",
    ),
    ("train.transformers", "train.table_transformer", "train.pretrained"),
)
"""Rooms from the lowest to the highest: a room imports from its own row and from those below."""


def modules() -> dict[str, Path]:
    """The modules of the library by name."""
    files = [
        file for room in ("pyro_models", "guides", "train") for file in ROOT.glob(f"{room}/**/*.py")
    ]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imports(name: str, file: Path, known: set[str]) -> set[str]:
    """The modules that a module imports anywhere, for types and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    # Of a package's own __init__ and its modules the latter.
    return {target for target in found if target in known and target != name}


def room(name: str) -> int:
    """The row of a module's room."""
    for row, names in enumerate(ROOMS):
        if any(name == each or name.startswith(f"{each}.") for each in names):
            return row
    raise AssertionError(f"{name} is in no room")


MODULES = modules()
GRAPH = {name: imports(name, file, set(MODULES)) for name, file in MODULES.items()}


LATE = ("matplotlib", "pandas", "scipy", "sklearn", "sympy", "torch._dynamo", "torch._inductor")
"""What no run needs before its first step, and takes up to seconds to import."""


def imported(file: Path) -> set[str]:
    """What a module imports when it is imported: not for types, and not inside functions."""
    found = set()
    pending: list[ast.AST] = list(ast.parse(file.read_text()).body)
    for node in pending:
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("train.engine.loop", "train.engine.runs", "train.engine.threads", "train.verdict"),
        *("train.method", "train.data.scenes", "train.data.datasets", "train.estimators"),
        *("train.metrics.counting", "train.metrics.coding", "train.metrics.embedding"),
        "train.metrics.autoencoding",
    ],
)
def test_what_delays_the_first_step_is_imported_later(name):
    """The mutation: a watch imports at its top what draws or measures at the end."""
    seen, pending = {name}, [name]
    for each in pending:
        found = imported(MODULES[each])
        late = {target for target in found if any(f"{target}.".startswith(f"{x}.") for x in LATE)}
        assert not late, f"{each} imports {late}"
        new = (found & set(MODULES)) - seen
        seen |= new
        pending += new


def test_imports_run_in_no_circle():
    packages = {name for name in GRAPH if MODULES[name].name == "__init__.py"}
    # A package's __init__ counts where it has imports of its own.
    TopologicalSorter(
        {
            name: {t for t in targets if t not in packages or GRAPH[t]}
            for name, targets in GRAPH.items()
        }
    ).prepare()


@pytest.mark.parametrize("name", sorted(set(GRAPH) - {"train", "train.__main__"}))
def test_imports_run_one_way(name):
    above = {target for target in GRAPH[name] - {"train"} if room(target) > room(name)}
    assert not above


def drawn() -> dict[str, int]:
    """The columns of the packages and modules in the drawing of docs/design.md."""
    texts = ElementTree.parse(ROOT / "docs" / "design.svg").iter("{http://www.w3.org/2000/svg}text")
    return {text.text: int(text.get("data-column")) for text in texts if text.get("data-column")}


def test_the_drawing_has_every_package():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = metadata["tool"]["setuptools"]["packages"]
    outer = {name for name in packages if name.count(".") < 2} - {"train"}
    assert outer <= set(drawn())
    assert set(drawn()) <= set(modules())


def test_imports_run_as_they_are_drawn():
    columns = drawn()
    inside = {
        name: columns[each]
        for each in columns
        for name in GRAPH
        if name == each or name.startswith(f"{each}.")
    }
    edges = [(a, b) for a in inside for b in GRAPH[a] if b in inside]
    assert edges
    assert [(a, b) for a, b in edges if inside[a] < inside[b]] == []


@pytest.mark.parametrize("name", FRONT_DOORS)
def test_front_doors_are_short(name):
    assert len((ROOT / "train" / f"{name}.py").read_text().splitlines()) <= 100
