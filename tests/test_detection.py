"""Detectors against vectors of an independent implementation."""
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax.phy.constellation import demap_qam, qam
from mimo_jax.phy.detection import lmmse, matched_filter, maximum_likelihood, maximum_likelihood_llr, whiten, zero_forcing

CASES = ["2x2_16qam", "4x2_16qam_col", "4x4_qpsk", "128x32_64qam"]


def load(reference, case):
    vectors = {k.removeprefix(f"{case}__"): v for k, v in reference("mimo_detection.npz").items() if k.startswith(case)}
    to32 = {"c": np.complex64, "f": np.float32}
    return {k: jnp.asarray(v, to32.get(v.dtype.kind, v.dtype)) for k, v in vectors.items()}


def close(got, expected):
    "Equal to 1e-4 of the largest value: single precision on vectors made in double precision."
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name, detect", [("lmmse", lmmse), ("zf", zero_forcing), ("mf", matched_filter)])
def test_estimates_and_effective_noise(reference, case, name, detect):
    v = load(reference, case)
    if f"{name}_xhat" not in v:
        pytest.skip(f"no {name} vectors for {case}")
    estimate = detect(v["y"], v["h"], v["s"])
    close(estimate.x, v[f"{name}_xhat"])
    close(estimate.noise, v[f"{name}_noeff"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method, suffix", [("exact", "app"), ("maxlog", "maxlog")])
@pytest.mark.parametrize("name, detect", [("lmmse", lmmse), ("zf", zero_forcing)])
def test_soft_bits_of_linear_detectors(reference, case, name, detect, method, suffix):
    v = load(reference, case)
    expected = v.get(f"llr_{name}_{suffix}")
    if expected is None:
        pytest.skip(f"no {name} LLRs for {case}")
    estimate = detect(v["y"], v["h"], v["s"])
    close(demap_qam(estimate.x, estimate.noise, expected.shape[-1], method=method), expected)


@pytest.mark.parametrize("case", CASES[:3])
@pytest.mark.parametrize("method, suffix", [("exact", "app"), ("maxlog", "maxlog")])
def test_maximum_likelihood(reference, case, method, suffix):
    v = load(reference, case)
    expected = v[f"llr_ml_{suffix}"]
    points = qam(expected.shape[-1])
    close(maximum_likelihood_llr(v["y"], v["h"], v["s"], points, method), expected)
    np.testing.assert_array_equal(maximum_likelihood(v["y"], v["h"], v["s"], points), v["sym_ml"])


def test_scalar_noise_equals_its_covariance(reference):
    v = load(reference, "2x2_16qam")
    n0 = v["s"][0, 0, 0].real
    for white, coloured in zip(whiten(v["y"], v["h"], n0), whiten(v["y"], v["h"], v["s"]), strict=True):
        close(white, coloured)
