"""OFDM over random carriers, and estimators against direct solutions."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.phy import channel_estimation, ofdm


@given(prb=st.sampled_from([1, 7, 24]), spacing=st.sampled_from([15, 30, 60, 120, 240]), slot=st.integers(0, 7), wider=st.booleans())
@settings(max_examples=6, deadline=None)
def test_round_trip_and_energy(prb, spacing, slot, wider):
    carrier = ofdm.Carrier(prb, spacing, 640 if wider else 0)
    grid = jax.random.normal(jax.random.key(prb), (2, 14, carrier.subcarriers), jnp.complex64)
    wave = ofdm.ofdm_modulate(grid, carrier, slot)
    assert wave.shape[-1] == sum(ofdm.cyclic_prefixes(carrier, slot)) + 14 * carrier.size
    np.testing.assert_allclose(ofdm.ofdm_demodulate(wave, carrier, slot), grid, atol=1e-5)
    first = ofdm.symbol_starts(carrier, slot)[0]
    np.testing.assert_allclose(jnp.sum(jnp.abs(wave[:, first : first + carrier.size]) ** 2), jnp.sum(jnp.abs(grid[:, 0]) ** 2), rtol=1e-4)
    np.testing.assert_allclose(wave[:, : ofdm.cyclic_prefixes(carrier, slot)[0]], wave[:, carrier.size : first + carrier.size - 0][:, : first], atol=1e-6)


def test_one_subcarrier_is_one_tone():
    "Twin: the definition of the waveform, 38.211 5.3.1, summed term by term."
    carrier = ofdm.Carrier(1, 30)
    grid = jax.random.normal(jax.random.key(0), (14, 12), jnp.complex64)
    t = (np.arange(128) - 9) / carrier.sample_rate_hz  # prefix of 9, and 2 more in the first symbol
    tones = np.exp(2j * np.pi * np.outer(carrier.frequencies_hz, t)) / np.sqrt(128)
    start = ofdm.symbol_starts(carrier)[1] - 9
    np.testing.assert_allclose(ofdm.ofdm_modulate(grid, carrier)[start : start + 128], np.asarray(grid)[1] @ tones, atol=1e-5)


@given(places=st.lists(st.integers(0, 50), min_size=1, max_size=8, unique=True), a=st.floats(-3, 3), b=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_lines_are_exact_on_lines(places, a, b):
    at = np.sort(places)
    line = channel_estimation.linear_interpolation(at, np.arange(51))
    values = jnp.asarray((a + b * at)[None] * (1 + 1j), jnp.complex64)
    expected = (a + b * (np.arange(51) if len(at) > 1 else np.full(51, at[0]))) * (1 + 1j)
    np.testing.assert_allclose(channel_estimation.interpolate(values, line)[0], expected, atol=2e-3)


def test_lmmse_is_the_direct_solution():
    "Kronecker covariance, inverted in one piece."
    rng = np.random.default_rng(0)
    tau, powers, noise = np.array([0, 3e-7, 9e-7]), np.array([0.5, 0.3, 0.2]), 0.1
    f, t = np.arange(24) * 3e4, np.arange(6) * 1e-4
    fp, tp = f[1::5], t[[1, 4]]
    rf, rt = channel_estimation.delay_covariance(powers, tau, fp, fp), channel_estimation.doppler_covariance(400.0, tp, tp)
    cf, ct = channel_estimation.delay_covariance(powers, tau, f, fp), channel_estimation.doppler_covariance(400.0, t, tp)
    seen = (rng.normal(size=(3, 2, 5)) + 1j * rng.normal(size=(3, 2, 5))).astype(np.complex64)
    found, variance = channel_estimation.lmmse_estimate(jnp.asarray(seen), noise, channel_estimation.smoother(rt, ct), channel_estimation.smoother(rf, cf))
    weights = np.kron(ct, cf) @ np.linalg.inv(np.kron(rt, rf) + noise * np.eye(10))
    np.testing.assert_allclose(found, (seen.reshape(3, 10) @ weights.T).reshape(3, 6, 24), atol=1e-4)
    np.testing.assert_allclose(variance, (1 - np.einsum("ij,ij->i", weights, np.kron(ct, cf).conj()).real).reshape(6, 24), atol=1e-4)


def test_still_and_repeated_channels_are_detected_alike():
    "A time axis of one is the same channel at every symbol."
    H = jax.random.normal(jax.random.key(0), (2, 1, 12, 4, 2), jnp.complex64)
    y = jax.random.normal(jax.random.key(1), (2, 4, 14, 12), jnp.complex64)
    for method in ("lmmse", "zf"):
        once = ofdm.detect(y, H, 0.2, 4, method)
        assert once.shape == (2, 2, 14, 12, 4)
        np.testing.assert_allclose(once, ofdm.detect(y, jnp.repeat(H, 14, 1), 0.2, 4, method), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("wrong, told", [
    (lambda: ofdm.Carrier(276), "1 to 275"), (lambda: ofdm.Carrier(10, 45), "table 4.2-1"),
    (lambda: ofdm.Carrier(10, fft_size=200), "multiple of 128"),
])
def test_bad_input_is_named(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()
