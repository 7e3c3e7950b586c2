"""Warnings are errors (pyproject.toml); where reference vectors are on this machine, if any."""

import os
import pathlib

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = pathlib.Path(os.environ.get("MIMO_JAX_REFERENCE", ROOT.parent / "shared" / "reference"))


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Compiled programs go with the module that made them: those of all modules are more than one
    process may map."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def reference():
    "A function that loads one file of reference vectors, or skips the test with the reason."

    def load(name: str):
        if not (REFERENCE / name).exists():
            pytest.skip(
                f"no reference vectors at {REFERENCE / name}; set MIMO_JAX_REFERENCE to a folder "
                f"that has them"
            )
        return dict(np.load(REFERENCE / name))

    return load
