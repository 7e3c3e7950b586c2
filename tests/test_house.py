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
ROOMS = ["units", "experiment", "checkpoint", "data", "speech", "phy", "autoencoder", "csi", "split", "tolerance", "baseband", "cli"]


def room(name: str) -> int:
    "How far down the house a dotted module lies."
    first = name.split(".")[1]
    return ROOMS.index("cli" if first.endswith("cli") else "data" if first.startswith("data") else first)


def imported(path) -> set[str]:
    "mimo_jax modules that a module imports, relative ones resolved."
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            names |= {f"{module}.{a.name}" if module in ("mimo_jax", "mimo_jax.phy", "mimo_jax.autoencoder") else module for a in node.names}
    return {n for n in names if n.startswith("mimo_jax.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_run_towards_earlier_rooms(path):
    here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert all(room(name) <= here for name in imported(path)), f"{path.name} imports a later chapter"


def test_no_circles():
    graph = {".".join(p.relative_to(ROOT).with_suffix("").parts): imported(p) for p in MODULES}
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


def cells(path, kind):
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


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
