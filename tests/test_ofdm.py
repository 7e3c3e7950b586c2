"""OFDM over random carriers, and channel estimators against direct solutions."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.phy import channel_estimation as estimation
from mimo_jax.phy import ofdm

carriers = st.builds(
    ofdm.Carrier, st.sampled_from([1, 7, 24]), st.sampled_from([15, 30, 60, 120, 240]),
    st.sampled_from([0, 640]),
)


@given(carrier=carriers, slot=st.integers(0, 7))
@settings(max_examples=4, deadline=None)
def test_round_trip_and_energy(carrier, slot):
    grid = jax.random.normal(jax.random.key(0), (2, 14, carrier.subcarriers), jnp.complex64)
    wave = jax.jit(ofdm.ofdm_modulate, static_argnums=(1, 2))(grid, carrier, slot)
    back = jax.jit(ofdm.ofdm_demodulate, static_argnums=(1, 2))(wave, carrier, slot)
    prefixes = ofdm.cyclic_prefixes(carrier, slot)
    assert wave.shape[-1] == sum(prefixes) + 14 * carrier.size
    np.testing.assert_allclose(back, grid, atol=1e-5)  # float32
    wave, size = np.asarray(wave), carrier.size
    first = ofdm.symbol_starts(carrier, slot)[0]
    energy = np.sum(np.abs(wave[:, first : first + size]) ** 2)
    np.testing.assert_allclose(energy, np.sum(np.abs(np.asarray(grid)[:, 0]) ** 2), rtol=1e-4)
    np.testing.assert_array_equal(wave[:, : prefixes[0]], wave[:, size : size + first])


def test_one_subcarrier_is_one_tone():
    "Twin: the definition of the waveform, 38.211 5.3.1, summed term by term."
    carrier = ofdm.Carrier(1, 30)
    grid = jax.random.normal(jax.random.key(0), (14, 12), jnp.complex64)
    t = (np.arange(128) - 9) / carrier.sample_rate_hz  # a prefix of 9 samples
    tones = np.exp(2j * np.pi * np.outer(carrier.frequencies_hz, t)) / np.sqrt(128)
    start = ofdm.symbol_starts(carrier)[1] - 9
    wave = ofdm.ofdm_modulate(grid, carrier)[start : start + 128]
    np.testing.assert_allclose(wave, np.asarray(grid)[1] @ tones, atol=1e-5)  # float32


places = st.lists(st.integers(0, 50), min_size=1, max_size=8, unique=True)


@given(places=places, a=st.floats(-3, 3), b=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_linear_interpolation_is_exact_on_lines(places, a, b):
    at = np.sort(places)
    line = estimation.linear_interpolation(at, np.arange(51))
    values = jnp.asarray((a + b * at)[None] * (1 + 1j), jnp.complex64)
    reached = np.arange(51) if len(at) > 1 else np.full(51, at[0])
    expected = (a + b * reached) * (1 + 1j)
    # float32, extrapolated by up to 50 times the distance of two pilots
    np.testing.assert_allclose(estimation.interpolate(values, line)[0], expected, atol=2e-3)


def test_lmmse_is_the_direct_solution():
    "Kronecker covariance, inverted in one piece."
    rng = np.random.default_rng(0)
    delays, powers, noise = np.array([0, 3e-7, 9e-7]), np.array([0.5, 0.3, 0.2]), 0.1
    f, t = np.arange(24) * 3e4, np.arange(6) * 1e-4
    fp, tp = f[1::5], t[[1, 4]]
    rf, cf = (estimation.delay_covariance(powers, delays, x, fp) for x in (fp, f))
    rt, ct = (estimation.doppler_covariance(400.0, x, tp) for x in (tp, t))
    seen = (rng.normal(size=(3, 2, 5)) + 1j * rng.normal(size=(3, 2, 5))).astype(np.complex64)
    axes = estimation.smoother(rt, ct), estimation.smoother(rf, cf)
    found, variance = estimation.lmmse_estimate(jnp.asarray(seen), noise, *axes)
    cross = np.kron(ct, cf)
    weights = cross @ np.linalg.inv(np.kron(rt, rf) + noise * np.eye(10))
    direct = (seen.reshape(3, 10) @ weights.T).reshape(3, 6, 24)
    left = (1 - np.einsum("ij,ij->i", weights, cross.conj()).real).reshape(6, 24)
    np.testing.assert_allclose(found, direct, atol=1e-4)  # float32
    np.testing.assert_allclose(variance, left, atol=1e-4)


@pytest.mark.parametrize("method", ["lmmse", "zf"])
def test_static_and_repeated_channels_are_detected_alike(method):
    "A time axis of one is the same channel at every symbol."
    H = jax.random.normal(jax.random.key(0), (2, 1, 12, 4, 2), jnp.complex64)
    y = jax.random.normal(jax.random.key(1), (2, 4, 14, 12), jnp.complex64)
    detect = jax.jit(ofdm.detect, static_argnums=(3, 4))
    once = detect(y, H, 0.2, 4, method)
    assert once.shape == (2, 2, 14, 12, 4)
    repeated = detect(y, jnp.repeat(H, 14, 1), 0.2, 4, method)
    np.testing.assert_allclose(once, repeated, rtol=2e-3, atol=1e-3)  # float32, condition ~ 100


@pytest.mark.parametrize("wrong, message", [
    (lambda: ofdm.Carrier(276), "1 to 275"), (lambda: ofdm.Carrier(10, 45), "table 4.2-1"),
    (lambda: ofdm.Carrier(10, fft_size=200), "multiple of 128"),
])
def test_bad_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
