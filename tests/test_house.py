"""The house keeps its order: arrows run one way, exports are in step, importing is cheap, pages stay pages."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

PAGES = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in (ROOT / "mimo_jax").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))
def cells(path, kind):
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


FOLDERS = sorted({p.parent.name for p in PAGES if p.parent != ROOT / "nbs"})
PACKAGES = {folder.partition("_")[2]: number for number, folder in enumerate(FOLDERS)}  # package -> its place in the order of imports


def place(name: str) -> int:
    "How far down the list of folders a dotted module stands; core modules stand at the package's top level."
    return PACKAGES.get(name.split(".")[1], PACKAGES["core"])


def dotted(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path) -> set[str]:
    "mimo_jax modules that a module imports anywhere in its code, relative imports resolved."
    known, package, names = {dotted(p) for p in MODULES}, dotted(path).split(".")[:-1], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{module}.{a.name}" for a in node.names} | {module}
    return names & known


def test_each_folder_is_one_package_and_only_core_stands_at_the_top():
    found = {p.name for p in (ROOT / "mimo_jax").iterdir() if (p / "__init__.py").exists()}
    assert found == PACKAGES.keys() - {"core"}
    for page in PAGES:
        for module in re.findall(r"^#\| default_exp (\S+)", "\n".join(cells(page, "code")), flags=re.M):
            package, _, name = module.rpartition(".")
            assert (package or "core") == page.parent.name.partition("_")[2] and not re.search(r"\d\d_", name), f"{page} exports {module}"


def test_pages_are_numbered_without_gaps_or_doubles():
    for folder in FOLDERS:
        numbers = [int(p.name[:2]) for p in PAGES if p.parent.name == folder]
        assert numbers == list(range(1, len(numbers) + 1)), f"nbs/{folder}: {numbers}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_run_towards_earlier_folders(path):
    later = {name for name in imported(path) if place(name) > place(dotted(path))}
    assert not later, f"{dotted(path)} imports {later}, of a later folder"


def test_no_circles():
    graph = {dotted(p): imported(p) for p in MODULES}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle of imports: {' -> '.join([*path, name])}"
        if name not in done and name in graph:
            path.append(name)
            for other in graph[name]:
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


def test_package_is_what_the_notebooks_export(tmp_path):
    for name in ("nbs", "mimo_jax", "settings.ini", "README.md"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    subprocess.run([Path(sys.executable).parent / "nbdev_export"], cwd=tmp_path, check=True)
    for path in MODULES:
        assert (tmp_path / path.relative_to(ROOT)).read_text() == path.read_text(), f"{path.name} is out of step: run make pages"


def test_importing_costs_no_jax():
    code = "import sys, mimo_jax; sys.exit('jax' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k != "MIMO_JAX_CHECK_SHAPES"}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_pages_are_pages(path):
    prose, code = cells(path, "markdown"), cells(path, "code")
    assert re.match(r"# .+\n\n> .+", prose[0]) or path.name == "index.ipynb"
    assert sum(len(text.split()) for text in prose) >= 200, "a page is worth reading without its code"
    assert max(len(text.splitlines()) for text in code) <= 90, "no cell is a program: one class at most"
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_pages_carry_outputs_but_no_traces_of_a_machine(path):
    notebook = json.loads(path.read_text())
    assert all(c.get("execution_count") is None and set(c["metadata"]) <= {"tags"} for c in notebook["cells"])
    outputs = json.dumps([c.get("outputs", []) for c in notebook["cells"]])
    assert "/root/" not in outputs and "/home/" not in outputs and "Traceback" not in outputs
