"""CDL channels against statistics of an independent implementation; any link's invariants."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import vectors
from mimo_jax.propagation import delay_lines

REFERENCE = vectors("cdl_statistics")
DRAWS = 2000
FREQUENCIES = ((np.arange(612) - 306) * 30e3).astype(np.float32)


@partial(jax.jit, static_argnames="name")
def realizations(name):
    def one(key):
        paths = delay_lines.draw(key, delay_lines.DelayLine(name))
        return paths.gains[0], delay_lines.frequency_response(paths, FREQUENCIES)[0]

    return jax.lax.map(one, jax.random.split(jax.random.key(1), DRAWS), batch_size=100)


def within_three_errors(samples, expected, theirs=None):
    "Both are means of as many draws; `theirs` are samples of what the reference averaged."
    variance = samples.var(0) + (samples if theirs is None else theirs).var(0)
    error = np.sqrt(variance / DRAWS)
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), 3 * error + 1e-6)


@pytest.fixture(scope="module", params=["A", "C"])
def drawn(request):
    "Stored statistics of a profile, and gains and responses drawn by us."
    prefix, name = f"CDL{request.param}_", f"cdl-{request.param.lower()}"
    stored = {k.partition("__")[2]: v for k, v in REFERENCE.items() if k.startswith(prefix)}
    gains, H = map(np.asarray, realizations(name))
    return name, stored, gains, H


def test_tap_powers_and_frequency_correlation(drawn):
    name, stored, gains, H = drawn
    delays = delay_lines.profile(name).delays
    order = np.argsort(delays, kind="stable")
    expected = stored["tap_delay_s"]
    np.testing.assert_allclose(delays[order] * 100e-9, expected, rtol=1e-5, atol=1e-12)
    powers = np.abs(gains[:, order]) ** 2
    within_three_errors(powers, np.moveaxis(stored["tap_power_per_pair"], -1, 0))
    step = -(-612 // len(stored["freq_corr"]))  # the small vectors have every 17th subcarrier
    within_three_errors(np.mean(H * H[:, :1].conj(), (2, 3))[:, ::step], stored["freq_corr"])


def test_antenna_correlations(drawn):
    "Ours over the band; the reference's may be of one subcarrier, which varies more."
    _, stored, _, H = drawn
    for subscripts, key in (("brt,bst->brs", "R_rx"), ("brt,bru->btu", "R_tx")):
        def of(k, subscripts=subscripts): return np.einsum(subscripts, H[:, k], H[:, k].conj()) / 2
        band = np.mean([of(k) for k in range(0, 612, 9)], 0)
        within_three_errors(band, stored[key], of(306))
    pairs = H[:, 306].reshape(DRAWS, 4)
    within_three_errors(pairs[:, :, None] * pairs[:, None].conj(), stored["R_full"])


def test_singular_values_and_capacity(drawn):
    _, stored, _, H = drawn
    levels = REFERENCE["q_levels"]
    singular = np.linalg.svd(H[:, 306], compute_uv=False)
    within_three_errors(singular, stored["mean_sv"])
    capacity = np.log2(1 + 10 / 2 * singular**2).sum(-1)
    power = np.mean(np.abs(H[:, 306]) ** 2, (1, 2))
    within_three_errors(capacity, stored["mean_cap10dB"])
    error = np.sqrt(2 * levels * (1 - levels) / DRAWS)  # of two empirical distributions
    for samples, quantiles in ((power, stored["q_power"]), (capacity, stored["q_cap10dB"])):
        below = np.mean(samples[:, None] < quantiles, 0)
        np.testing.assert_array_less(np.abs(below - levels), 3 * error)


panels = st.builds(
    delay_lines.Antennas, columns=st.integers(1, 3), rows=st.integers(1, 2),
    polarization=st.sampled_from(["V", "H", "VH", "cross"]),
    element=st.sampled_from(["omni", "38.901"]), orientation=st.tuples(*[st.floats(-3, 3)] * 3),
)


@given(bs=panels, ue=panels, name=st.sampled_from(delay_lines.PROFILES), speed=st.floats(0, 100))
@settings(max_examples=4, deadline=None)
def test_any_link(bs, ue, name, speed):
    line = delay_lines.DelayLine(name, bs=bs, ue=ue, speed_m_s=speed, direction="downlink")
    times = np.linspace(0, 1e-3, 3, dtype=np.float32)
    paths = delay_lines.draw(jax.random.key(0), line, times)
    gains, delays = np.asarray(paths.gains), np.asarray(paths.delays, float)
    assert gains.shape == (3, len(delays), ue.count, bs.count) and np.isfinite(gains).all()
    f = np.linspace(-1e6, 1e6, 4)
    H = delay_lines.frequency_response(paths, f.astype(np.float32))
    brute = np.einsum("tpus,pk->tkus", gains, np.exp(-2j * np.pi * np.outer(delays, f)))
    np.testing.assert_allclose(H, brute, atol=2e-3)  # float32 phases of up to 2 pi 6 turns


def test_element_is_rotated_with_its_panel():
    "A 38.901 element looks where its panel is turned to."
    toward = delay_lines.direction(jnp.linspace(-3, 3, 61), jnp.full(61, np.pi / 2))
    panel = delay_lines.Antennas(element="38.901", orientation=(1.0, 0.0, 0.0))
    gain = jnp.sum(jnp.abs(delay_lines.response(panel, toward)) ** 2, (-1, -2))
    assert int(jnp.argmax(gain)) == 40  # azimuth 1.0
    np.testing.assert_allclose(gain[40], 10**0.8, rtol=1e-4)


def test_correlated_taps():
    rho = jnp.array([[1, 0.7], [0.7, 1]], jnp.complex64)
    line = delay_lines.DelayLine("tdl-a")
    one = jnp.eye(2, dtype=jnp.complex64)

    def drawn(key): return delay_lines.correlate(delay_lines.draw(key, line), rho, one).gains[0]

    gains = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(3), 2000))
    products = jnp.sum(gains[..., 0, :] * gains[..., 1, :].conj(), (1, 2)) / 2
    error = 3 * float(jnp.std(products)) / np.sqrt(2000)
    np.testing.assert_allclose(jnp.mean(products), 0.7, atol=error)


# Typical spreads of 7.7.5.1; with a strong line of sight large ones wrap around the circle.
@pytest.mark.parametrize("name, wanted", [
    *((name, (5.0, 1.0, 30.0, 5.0)) for name in ("cdl-b", "cdl-c", "cdl-d", "cdl-e")),
    *((name, (25.0, 5.0, 60.0, 15.0)) for name in ("cdl-b", "cdl-c")),
])
def test_scaled_angles_have_the_wanted_spread_and_mean(name, wanted):
    means = (10.0, 95.0, -170.0, 80.0)
    line = delay_lines.DelayLine(name, angle_spreads_deg=wanted, mean_angles_deg=means)
    mean, spread = np.rad2deg(delay_lines.angular_moments(line.profile))
    np.testing.assert_allclose(spread, wanted, rtol=0.25)  # scaled on a line, measured on a circle
    np.testing.assert_allclose((mean - means + 180) % 360 - 180, 0, atol=6)  # degrees; as above
    before, after = delay_lines.profile(name), line.profile
    np.testing.assert_array_equal(before.powers, after.powers)
    unscaled = delay_lines.with_angles(before, (None,) * 4)
    turned = np.exp(1j * unscaled.departure), np.exp(1j * before.departure)
    np.testing.assert_allclose(*turned, atol=1e-9)


@pytest.mark.parametrize("name", ["cdl-d", "cdl-e", "tdl-d", "tdl-e"])
@pytest.mark.parametrize("k_factor_db", [-3.0, 7.0, 20.0])
def test_scaled_k_factor_keeps_power_and_delay_spread(name, k_factor_db):
    table = delay_lines.DelayLine(name, k_factor_db=k_factor_db).profile
    powers, before = table.powers, delay_lines.profile(name).powers
    found = powers.sum(), 10 * np.log10(powers[0] / powers[1:].sum())
    np.testing.assert_allclose(found, [1, k_factor_db], atol=1e-9)
    np.testing.assert_allclose(powers @ table.delays**2 - (powers @ table.delays) ** 2, 1)
    np.testing.assert_allclose(powers[1:] / powers[1], before[1:] / before[1])


def test_narrow_beams_correlate_antennas():
    "The narrower the angles at the base station, the more alike are neighboring antennas."
    spreads, means = (2.0, None, None, None), (0.0, 90.0, None, None)
    line = delay_lines.DelayLine("cdl-c", angle_spreads_deg=spreads, mean_angles_deg=means)
    keys = jax.random.split(jax.random.key(0), 500)
    h = jax.vmap(lambda key: delay_lines.draw(key, line).gains[0])(keys)
    correlation = jnp.mean(h[:, :, 0] * h[:, :, 1].conj()) / jnp.mean(jnp.abs(h) ** 2)
    # Small angles: exp(-(pi sigma)^2 / 2) = 0.994 at half a wavelength and 2 degrees.
    assert abs(correlation) > 0.97


@pytest.mark.parametrize("name", ["cdl-d", "tdl-a"])
def test_gradients_through_the_channel_are_finite(name):
    "By a common scale of times, delays and frequencies; by directions through the arrays."
    panel = delay_lines.Antennas(
        polarization="cross", element="38.901", orientation=(0.3, 0.2, 0.1)
    )
    line = delay_lines.DelayLine(name, speed_m_s=10.0, ue=panel)

    def energy(scale):
        paths = delay_lines.draw(jax.random.key(0), line, scale * jnp.linspace(0, 1e-3, 3))
        paths = paths._replace(delays=scale * paths.delays)
        H = delay_lines.frequency_response(paths, scale * jnp.linspace(-9e6, 9e6, 7))
        return jnp.mean(jnp.abs(H - 0.5) ** 2)

    slope = jax.jit(jax.grad(energy))(1.0)
    assert bool(jnp.isfinite(slope)) and float(abs(slope)) > 1e-4

    def gain(angles):
        field = delay_lines.response(panel, delay_lines.direction(angles[0], angles[1]))
        return jnp.sum(jnp.abs(field.sum((-2, -1))) ** 2)

    slopes = jax.jit(jax.grad(gain))(jnp.array([[0.4, -1.0, 2.0], [1.2, 1.6, 0.7]]))
    assert bool(jnp.isfinite(slopes).all()) and float(jnp.abs(slopes).min()) > 0


@pytest.mark.parametrize("wrong, message", [
    (lambda: delay_lines.DelayLine("cdl-a", k_factor_db=3.0), "7.7.6 scales profiles with a line"),
    (lambda: delay_lines.DelayLine(angle_spreads_deg=(5.0, 0.0, 5.0, 5.0)), "7.7.5.1"),
    (lambda: delay_lines.DelayLine(mean_angles_deg=(5.0, 0.0)), "four angles"),
])
def test_bad_scaling_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
