"""Detectors against vectors of an independent implementation."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import vectors
from mimo_jax.phy.constellation import demap_qam, qam
from mimo_jax.phy.detection import (
    lmmse, matched_filter, maximum_likelihood, maximum_likelihood_llr, whiten, zero_forcing,
)

REFERENCE = vectors("mimo_detection")
CASES = ["2x2_16qam", "4x2_16qam_col", "4x4_qpsk", "128x32_64qam"]
LINEAR = {"lmmse": lmmse, "zf": zero_forcing, "mf": matched_filter}
METHODS = [("exact", "app"), ("maxlog", "maxlog")]


def of(case):
    "The arrays of a case, in single precision."
    to32 = {"c": np.complex64, "f": np.float32}
    mine = {k.partition("__")[2]: v for k, v in REFERENCE.items() if k.startswith(f"{case}__")}
    return {k: jnp.asarray(v, to32.get(v.dtype.kind, v.dtype)) for k, v in mine.items()}


def cases(suffix):
    "Cases and linear detectors for which there is an array of a name that ends so."
    names = [(case, name) for case in CASES for name in LINEAR]
    return [pair for pair in names if f"{pair[0]}__{suffix.format(pair[1])}" in REFERENCE]


def close(got, expected):
    "Equal to 1e-4 of the largest value: single precision, matrices of condition up to 100."
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("case, name", cases("{}_xhat"))
def test_estimates_and_effective_noise(case, name):
    v = of(case)
    estimate = jax.jit(LINEAR[name])(v["y"], v["h"], v["s"])
    close(estimate.x, v[f"{name}_xhat"])
    close(estimate.noise, v[f"{name}_noeff"])


@pytest.mark.parametrize("case, name", cases("llr_{}_app"))
@pytest.mark.parametrize("method, suffix", METHODS)
def test_soft_bits_of_linear_detectors(case, name, method, suffix):
    v = of(case)
    expected = v[f"llr_{name}_{suffix}"]
    estimate = jax.jit(LINEAR[name])(v["y"], v["h"], v["s"])
    close(demap_qam(estimate.x, estimate.noise, expected.shape[-1], method=method), expected)


@pytest.mark.parametrize("case", CASES[:3])
@pytest.mark.parametrize("method, suffix", METHODS)
def test_maximum_likelihood(case, method, suffix):
    v = of(case)
    expected = v[f"llr_ml_{suffix}"]
    points = qam(expected.shape[-1])
    close(maximum_likelihood_llr(v["y"], v["h"], v["s"], points, method), expected)
    decided = maximum_likelihood(v["y"], v["h"], v["s"], points)
    np.testing.assert_array_equal(decided, v["sym_ml"])


def test_scalar_noise_equals_its_covariance():
    v = of("2x2_16qam")
    scalar = whiten(v["y"], v["h"], v["s"][0, 0, 0].real)
    for white, colored in zip(scalar, whiten(v["y"], v["h"], v["s"]), strict=True):
        close(white, colored)
