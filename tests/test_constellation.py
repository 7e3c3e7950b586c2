"""Constellations and LLRs against vectors of an independent implementation."""
import jax
import numpy as np
import pytest

from mimo_jax.phy.constellation import demap, demap_qam, labels, modulate, qam


@pytest.mark.parametrize("m", [2, 4, 6, 8, 10])
def test_points_are_those_of_38211(reference, m):
    np.testing.assert_allclose(qam(m), reference("qam_llr.npz")[f"points_{m}"], rtol=1e-6)


def test_bpsk_is_the_diagonal_pair_of_38211(reference):
    np.testing.assert_allclose(qam(1), reference("qam_llr.npz")["points_bpsk_38211"], rtol=1e-6)


@pytest.mark.parametrize("m", [2, 4, 8])
def test_modulate(reference, m):
    ref = reference("qam_llr.npz")
    np.testing.assert_allclose(modulate(jax.numpy.asarray(ref[f"bits_{m}"]), qam(m)), ref[f"x_{m}"], rtol=1e-6)


@pytest.mark.parametrize("method, name", [("exact", "app"), ("maxlog", "maxlog")])
@pytest.mark.parametrize("m", [2, 4, 8])
def test_llrs_to_1e_5(reference, m, method, name):
    ref = reference("qam_llr.npz")
    with jax.enable_x64(True):
        for demapper in (lambda y, no: demap_qam(y, no, m, method=method), lambda y, no: demap(y, no, qam(m).astype(complex), method=method)):
            for y, no, expected in zip(ref[f"y_{m}"], ref["no"], ref[f"llr_{name}_{m}"], strict=True):
                got = demapper(jax.numpy.asarray(y), no).ravel()
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("method, name", [("exact", "app"), ("maxlog", "maxlog")])
@pytest.mark.parametrize("m", [2, 4, 8])
def test_llrs_in_single_precision(reference, m, method, name):
    ref = reference("qam_llr.npz")
    for y, no, expected in zip(ref[f"y_{m}"].astype(np.complex64), ref["no"], ref[f"llr_{name}_{m}"], strict=True):
        got = demap_qam(jax.numpy.asarray(y), no, m, method=method).ravel()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("m", [2, 4, 8])
def test_llrs_with_priors(reference, m):
    ref = reference("qam_llr.npz")
    y, prior = jax.numpy.asarray(ref[f"y_{m}"][1], np.complex64), jax.numpy.asarray(ref[f"prior_{m}"], np.float32)
    expected = ref[f"llr_app_prior_{m}"]
    for got in (demap_qam(y, ref["no"][1], m, prior), demap(y, ref["no"][1], qam(m), prior)):
        np.testing.assert_allclose(got.ravel(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_labels_count_in_binary():
    np.testing.assert_array_equal(labels(3) @ [4, 2, 1], np.arange(8))
