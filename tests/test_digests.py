"""What an edit of the package makes stale, tried on a copy of its sources."""

import importlib
import shutil
from pathlib import Path

import pytest

import mimo_jax
from mimo_jax.digests import Package, point_digest

CHAPTERS = ("autoencoder", "csi")


@pytest.fixture(scope="module")
def points():
    "Every point of both chapters at the laptop preset."
    found = {}
    for chapter in CHAPTERS:
        experiment = importlib.import_module(f"mimo_jax.{chapter}.experiment").experiment
        made = experiment.points(experiment.configuration("laptop"), 0)
        found |= {f"{chapter}: {name}": point for name, point in made.items()}
    return found


@pytest.fixture
def copy(tmp_path):
    "A copy of the package's sources."
    source = Path(mimo_jax.__file__).parent
    return Path(shutil.copytree(source, tmp_path / "mimo_jax",
                                ignore=shutil.ignore_patterns("__pycache__")))


def digests(folder: Path, points) -> dict[str, str]:
    package = Package(folder)
    return {name: point_digest(point, package) for name, point in points.items()}


def stale_after(folder: Path, points, module: str, old: str, new: str) -> set[str]:
    "Names of the points whose digest an edit changes."
    before, path = digests(folder, points), folder / module
    text = path.read_text("utf8")
    assert text.count(old) >= 1, f"{module} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))
    after = digests(folder, points)
    path.write_text(text)
    return {name for name in points if before[name] != after[name]}


@pytest.mark.parametrize("module, old, new", [
    ("csi/pruning.py", "def prune(", "# a comment\ndef prune("),
    ("csi/pruning.py", "def prune(", "def beside():\n    return 1\n\n\ndef prune("),
    ("training.py", '"The optimizer as it is."', '"The very same optimizer."'),
    ("data/sets.py", "SETS = {", "SETS = {} | {"),
    ("cli/main.py", "def main(", "def main_of_all("),
    ("ledger.py", "rounding = 1e-9", "rounding = 1e-6"),
])
def test_comments_neighbors_docstrings_and_other_parts_make_nothing_stale(
        copy, points, module, old, new):
    generated = {name: p for name, p in points.items() if "outdoor" not in name}
    assert not stale_after(copy, generated, module, old, new)


def test_a_constant_two_calls_away(copy, points):
    module, old = "propagation/paths.py", "SPEED_OF_LIGHT = 3"
    found = stale_after(copy, points, module, old, "SPEED_OF_LIGHT = 4")
    assert "csi: indoor/1/4" in found and not any(n.startswith("autoencoder") for n in found)


def test_a_helper_two_calls_away(copy, points):
    found = stale_after(copy, points, "phy/detection.py", "def lmmse(", "def lmmse(extra=None, *, ")
    assert "autoencoder: interference/mmse" in found
    assert "autoencoder: awgn/bae/0" not in found and not any(n.startswith("csi") for n in found)


def test_a_base_class(copy, points):
    old = "class Training:"
    found = stale_after(copy, points, "training.py", old, f"{old}\n    new = 1")
    trained = {n for n in points if n.startswith("csi: indoor") or n.endswith("bae/0")}
    assert trained and trained <= found and "autoencoder: memory/table2" not in found


def test_another_chapter(copy, points):
    found = stale_after(copy, points, "csi/csinet.py", "class CsiNet(", "class CsiNet(object, ")
    assert found and all(name.startswith("csi") for name in found)


def test_names_of_local_variables_reach_nothing(copy, points):
    "A variable `points` in a helper is not the list of points."
    found = stale_after(copy, points, "autoencoder/experiment.py", "def points(", "def points(x, ")
    assert not found
