"""Warnings are errors (pyproject.toml); reference vectors of independent implementations."""
import os
import pathlib

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
VECTORS = pathlib.Path(__file__).resolve().parent / "vectors"  # small slices, in every clone


def vectors(name: str) -> dict[str, np.ndarray]:
    """Vectors of an independent implementation, by the names of its arrays.

    Small ones are in tests/vectors; a folder named by MIMO_JAX_REFERENCE may hold more of them.
    """
    larger = pathlib.Path(os.environ.get("MIMO_JAX_REFERENCE", VECTORS)) / f"{name}.npz"
    return dict(np.load(larger if larger.exists() else VECTORS / f"{name}.npz"))


@pytest.fixture(scope="module", autouse=True)
def programs():
    "Compiled programs go with their module: those of all modules are more than a process may map."
    yield
    jax.clear_caches()
