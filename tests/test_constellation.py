"""Constellations and LLRs against vectors of an independent implementation."""
import jax
import numpy as np
import pytest

from conftest import vectors
from mimo_jax.phy.constellation import demap, demap_qam, labels, modulate, qam

REFERENCE = vectors("qam_llr")
METHODS = [("exact", "app"), ("maxlog", "maxlog")]


def close(got, expected):
    "Equal to 1e-5 of each value, and of the largest where values cancel: single precision."
    largest = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("m", [2, 4, 6, 8, 10])
def test_points_are_those_of_38211(m):
    np.testing.assert_allclose(qam(m), REFERENCE[f"points_{m}"], rtol=1e-6)


def test_bpsk_is_the_diagonal_pair_of_38211():
    np.testing.assert_allclose(qam(1), REFERENCE["points_bpsk_38211"], rtol=1e-6)


@pytest.mark.parametrize("m", [2, 4, 8])
def test_modulate(m):
    sent = modulate(jax.numpy.asarray(REFERENCE[f"bits_{m}"]), qam(m))
    np.testing.assert_allclose(sent, REFERENCE[f"x_{m}"], rtol=1e-6)


def observations(m, name):
    return zip(REFERENCE[f"y_{m}"], REFERENCE["no"], REFERENCE[f"llr_{name}_{m}"], strict=True)


@pytest.mark.parametrize("method, name", METHODS)
@pytest.mark.parametrize("m", [2, 4, 8])
def test_llrs_in_double_precision(m, method, name):
    with jax.enable_x64(True):
        points = qam(m).astype(complex)
        for y, noise, expected in observations(m, name):
            y = jax.numpy.asarray(y)
            close(demap_qam(y, noise, m, method=method).ravel(), expected)
            close(demap(y, noise, points, method=method).ravel(), expected)


@pytest.mark.parametrize("method, name", METHODS)
@pytest.mark.parametrize("m", [2, 4, 8])
def test_llrs_in_single_precision(m, method, name):
    for y, noise, expected in observations(m, name):
        y = jax.numpy.asarray(y.astype(np.complex64))
        close(demap_qam(y, noise, m, method=method).ravel(), expected)


@pytest.mark.parametrize("m", [2, 4, 8])
def test_llrs_with_priors(m):
    y = jax.numpy.asarray(REFERENCE[f"y_{m}"][1], np.complex64)
    prior = jax.numpy.asarray(REFERENCE[f"prior_{m}"], np.float32)
    noise, expected = REFERENCE["no"][1], REFERENCE[f"llr_app_prior_{m}"]
    close(demap_qam(y, noise, m, prior).ravel(), expected)
    close(demap(y, noise, qam(m), prior).ravel(), expected)


def test_labels_count_in_binary():
    np.testing.assert_array_equal(labels(3) @ [4, 2, 1], np.arange(8))
