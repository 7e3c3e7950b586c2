"""The repository keeps its order: imports run one way, exports are in step, pages and lines keep
their limits."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from conftest import ROOT

PAGES = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(
    p for p in (ROOT / "mimo_jax").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")
)
SCRIPTS = sorted(p for folder in ("tests", "tests/fuzz", "book", "bench")
                 for p in (ROOT / folder).glob("*.py"))
FOLDERS = sorted({p.parent.name for p in PAGES if p.parent != ROOT / "nbs"})
# package -> its place in the order of imports
PACKAGES = {folder.partition("_")[2]: number for number, folder in enumerate(FOLDERS)}

LONGEST_LINE = 100  # characters; the book's column holds 108
LONGEST_CELL = 30  # lines
FEWEST_WORDS = 200  # of prose on a page
LARGEST_PAGE = 400_000  # bytes
# What every experiment and every command group has; any other public name means one thing.
SHARED_NAMES = {"points", "answers", "Sizes", "Run", "OfficialRun", "PRESETS", "experiment", "app"}
# Beginnings of words in British spelling; the project writes American.
BRITISH = re.compile(
    r"quantis|normalis|optimis|minimis|maximis|polaris|initialis|serialis|linearis|regularis"
    r"|equalis|synchronis|visualis|summaris|vectoris|marginalis|recognis|organis|generalis"
    r"|specialis|factoris|analys(?:e|ed|ing)\b|centre|metre(?!s?_per)|fibre|neighbour|colour"
    r"|behaviour|favour|honour|grey|modell|labell|travell|signall|catalogue|artefact|defence"
    r"|licence\b|programme\b",
    re.I,
)


def cells(path, kind):
    notebook = json.loads(path.read_text())
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def place(name: str) -> int:
    """How far down the list of folders a dotted module stands; core modules stand at the package's
    top level."""
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
        for module in re.findall(
            r"^#\| default_exp (\S+)", "\n".join(cells(page, "code")), flags=re.M
        ):
            package, _, name = module.rpartition(".")
            folder = page.parent.name.partition("_")[2]
            assert (package or "core") == folder and not re.search(
                r"\d\d_", name
            ), f"{page}: {module}"


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
        exported = (tmp_path / path.relative_to(ROOT)).read_text()
        assert exported == path.read_text(), f"{path.name} is out of step: run make pages"


def test_importing_costs_no_jax():
    code = "import sys, mimo_jax; sys.exit('jax' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k != "MIMO_JAX_CHECK_SHAPES"}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_pages_are_pages(path):
    prose = cells(path, "markdown")
    assert re.match(r"# .+\n\n> .+", prose[0]) or path.name == "index.ipynb"
    words = sum(len(text.split()) for text in prose)
    assert words >= FEWEST_WORDS, f"{words} words: a page is worth reading without its code"
    assert path.stat().st_size < LARGEST_PAGE


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_cells_and_lines_are_short(path):
    code = cells(path, "code")
    wide = [line for text in code for line in text.splitlines() if len(line) > LONGEST_LINE]
    assert not wide, f"over {LONGEST_LINE} characters: " + "\n".join(wide)
    long = [text[:60] for text in code if len(text.splitlines()) > LONGEST_CELL]
    assert not long, f"cells over {LONGEST_CELL} lines, which begin: " + "\n".join(long)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_lines_of_scripts_are_short(path):
    lines = enumerate(path.read_text("utf8").splitlines(), 1)
    wide = [f"{path.name}:{number}" for number, line in lines if len(line) > LONGEST_LINE]
    assert not wide, f"over {LONGEST_LINE} characters: {wide}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_says_what_one_needs_and_will_be_able_to_do(path):
    opening = "\n".join(cells(path, "markdown")[:3])
    assert path.name == "index.ipynb" or "You need" in opening
    assert path.name == "index.ipynb" or re.search(r"\byou (can|will be able to)\b", opening, re.I)


def test_a_public_name_means_one_thing():
    places = defaultdict(list)
    for path in MODULES:
        listed = re.search(r"^__all__ = \[.*?\]", path.read_text("utf8"), re.M | re.S)
        for name in ast.literal_eval(listed[0].removeprefix("__all__ = ")) if listed else []:
            places[name].append(dotted(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not (unshared := {n: f for n, f in twice.items() if n not in SHARED_NAMES}), unshared


SPELLED = [
    *PAGES,
    *SCRIPTS,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")),
]


@pytest.mark.parametrize("path", SPELLED, ids=lambda p: p.stem)
def test_spelling_is_american(path):
    text = path.read_text("utf8")
    if path.suffix == ".ipynb":
        text = "\n".join(cells(path, "markdown") + cells(path, "code"))
    if path == Path(__file__):
        return  # it holds the list
    found = sorted({word for word in re.findall(r"\w+", text) if BRITISH.search(word)})
    assert not found, f"British spelling: {found}"


def test_the_spelling_check_finds_what_it_should():
    assert all(
        BRITISH.search(word) for word in ("quantised", "Neighbours", "grey", "modelling", "analyse")
    )
    assert not any(
        BRITISH.search(word) for word in ("quantized", "parameter", "analysis", "programmer")
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_pages_carry_outputs_but_no_traces_of_a_machine(path):
    notebook = json.loads(path.read_text())
    assert all(
        c.get("execution_count") is None and set(c["metadata"]) <= {"tags"}
        for c in notebook["cells"]
    )
    outputs = json.dumps([c.get("outputs", []) for c in notebook["cells"]])
    assert "/root/" not in outputs and "/home/" not in outputs and "Traceback" not in outputs
