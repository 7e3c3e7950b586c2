"""CDL channels against the statistics of an independent implementation, and invariants over random links."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.propagation import delay_lines

DRAWS = 2000
FREQUENCIES = ((np.arange(612) - 306) * 30e3).astype(np.float32)


@partial(jax.jit, static_argnames="name")
def realisations(name):
    def one(key):
        paths = delay_lines.draw(key, delay_lines.DelayLine(name))
        return paths.gains[0], delay_lines.frequency_response(paths, FREQUENCIES)[0]

    return jax.lax.map(one, jax.random.split(jax.random.key(1), DRAWS), batch_size=100)


def within_three_errors(samples, expected):
    "Both sides are means of as many draws: the difference has twice the variance of ours."
    error = np.sqrt(2) * samples.std(0) / np.sqrt(DRAWS)
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), 3 * error + 1e-6)


@pytest.mark.parametrize("letter", ["A", "C"])
def test_statistics(reference, letter):
    stored = {k.partition("__")[2]: v for k, v in reference("cdl_statistics.npz").items() if k.startswith(f"CDL{letter}_")}
    levels = reference("cdl_statistics.npz")["q_levels"]
    gains, H = map(np.asarray, realisations(f"cdl-{letter.lower()}"))
    order = np.argsort(delay_lines.profile(f"cdl-{letter.lower()}").delays, kind="stable")
    np.testing.assert_allclose(delay_lines.profile(f"cdl-{letter.lower()}").delays[order] * 100e-9, stored["tap_delay_s"], rtol=1e-5, atol=1e-12)
    within_three_errors(np.abs(gains[:, order]) ** 2, np.moveaxis(stored["tap_power_per_pair"], -1, 0))
    within_three_errors(np.mean(H * H[:, :1].conj(), (2, 3)), stored["freq_corr"])
    within_three_errors(np.einsum("bkrt,bkst->brs", H, H.conj()) / 612 / 2, stored["R_rx"])
    within_three_errors(np.einsum("bkrt,bkru->btu", H, H.conj()) / 612 / 2, stored["R_tx"])
    pairs = H[:, 306].reshape(DRAWS, 4)
    within_three_errors(pairs[:, :, None] * pairs[:, None].conj(), stored["R_full"])
    singular = np.linalg.svd(H[:, 306], compute_uv=False)
    within_three_errors(singular, stored["mean_sv"])
    capacity, power = np.log2(1 + 10 / 2 * singular**2).sum(-1), np.mean(np.abs(H[:, 306]) ** 2, (1, 2))
    within_three_errors(capacity, stored["mean_cap10dB"])
    for samples, quantiles in ((power, stored["q_power"]), (capacity, stored["q_cap10dB"])):
        below = np.mean(samples[:, None] < quantiles, 0)
        np.testing.assert_array_less(np.abs(below - levels), 3 * np.sqrt(2 * levels * (1 - levels) / DRAWS))


panels = st.builds(
    delay_lines.Antennas, columns=st.integers(1, 3), rows=st.integers(1, 2), polarization=st.sampled_from(["V", "H", "VH", "cross"]),
    element=st.sampled_from(["omni", "38.901"]), orientation=st.tuples(*[st.floats(-3, 3)] * 3),
)


@given(bs=panels, ue=panels, name=st.sampled_from(delay_lines.PROFILES), speed=st.floats(0, 100))
@settings(max_examples=4, deadline=None)
def test_any_link(bs, ue, name, speed):
    line = delay_lines.DelayLine(name, bs=bs, ue=ue, speed_m_s=speed, direction="downlink")
    paths = delay_lines.draw(jax.random.key(0), line, np.linspace(0, 1e-3, 3, dtype=np.float32))
    assert paths.gains.shape == (3, len(paths.delays), ue.count, bs.count) and bool(jnp.isfinite(paths.gains).all())
    H = delay_lines.frequency_response(paths, np.linspace(-1e6, 1e6, 4, dtype=np.float32))
    brute = sum(np.asarray(paths.gains)[:, i] * np.exp(-2j * np.pi * np.linspace(-1e6, 1e6, 4)[:, None, None, None] * float(d))
                for i, d in enumerate(paths.delays))
    np.testing.assert_allclose(H, np.swapaxes(brute, 0, 1), atol=2e-3)


def test_element_is_rotated_with_its_panel():
    "A 38.901 element looks where its panel is turned to."
    toward = delay_lines.direction(jnp.linspace(-3, 3, 61), jnp.full(61, np.pi / 2))
    gain = jnp.sum(jnp.abs(delay_lines.response(delay_lines.Antennas(element="38.901", orientation=(1.0, 0.0, 0.0)), toward)) ** 2, (-1, -2))
    assert int(jnp.argmax(gain)) == 40  # azimuth 1.0
    np.testing.assert_allclose(gain[40], 10**0.8, rtol=1e-4)


def test_correlated_taps():
    rho = jnp.array([[1, 0.7], [0.7, 1]], jnp.complex64)
    line = delay_lines.DelayLine("tdl-a")
    one = jnp.eye(2, dtype=jnp.complex64)
    gains = jax.vmap(lambda k: delay_lines.correlate(delay_lines.draw(k, line), rho, one).gains[0])(jax.random.split(jax.random.key(3), 2000))
    measured = jnp.mean(jnp.sum(gains[..., 0, :] * gains[..., 1, :].conj(), (1, 2))) / 2
    np.testing.assert_allclose(measured, 0.7, atol=0.05)


@pytest.mark.parametrize("name, wanted", [  # typical spreads of 7.7.5.1; with a strong line of sight the large ones wrap around the circle
    *((name, (5.0, 1.0, 30.0, 5.0)) for name in ("cdl-b", "cdl-c", "cdl-d", "cdl-e")),
    *((name, (25.0, 5.0, 60.0, 15.0)) for name in ("cdl-b", "cdl-c")),
])
def test_scaled_angles_have_the_wanted_spread_and_mean(name, wanted):
    line = delay_lines.DelayLine(name, angle_spreads_deg=wanted, mean_angles_deg=(10.0, 95.0, -170.0, 80.0))
    mean, spread = np.rad2deg(delay_lines.angular_moments(line.profile))
    np.testing.assert_allclose(spread, wanted, rtol=0.25)  # scaled on a line, measured on a circle
    np.testing.assert_allclose((mean - line.mean_angles_deg + 180) % 360 - 180, 0, atol=6)
    before, after = delay_lines.profile(name), line.profile
    np.testing.assert_array_equal(before.powers, after.powers)
    unscaled = delay_lines.with_angles(before, (None,) * 4)
    np.testing.assert_allclose(np.exp(1j * unscaled.departure), np.exp(1j * before.departure), atol=1e-9)


@pytest.mark.parametrize("name", ["cdl-d", "cdl-e", "tdl-d", "tdl-e"])
@pytest.mark.parametrize("k_factor_db", [-3.0, 7.0, 20.0])
def test_scaled_k_factor_keeps_power_and_delay_spread(name, k_factor_db):
    table = delay_lines.DelayLine(name, k_factor_db=k_factor_db).profile
    np.testing.assert_allclose([table.powers.sum(), 10 * np.log10(table.powers[0] / table.powers[1:].sum())], [1, k_factor_db], atol=1e-9)
    np.testing.assert_allclose(table.powers @ table.delays**2 - (table.powers @ table.delays) ** 2, 1)
    np.testing.assert_allclose(table.powers[1:] / table.powers[1], delay_lines.profile(name).powers[1:] / delay_lines.profile(name).powers[1])


def test_narrow_beams_correlate_antennas():
    "The narrower the angles at the base station, the more alike are neighbouring antennas; the drawn channel sees it."
    def correlation(spread):
        line = delay_lines.DelayLine("cdl-c", angle_spreads_deg=(spread, None, None, None), mean_angles_deg=(0.0, 90.0, None, None))
        h = jax.vmap(lambda key: delay_lines.draw(key, line).gains[0])(jax.random.split(jax.random.key(0), 500))
        return float(abs(jnp.mean(h[:, :, 0] * h[:, :, 1].conj()) / jnp.mean(jnp.abs(h) ** 2)))

    assert correlation(2.0) > 0.97


@pytest.mark.parametrize("name", ["cdl-d", "tdl-a"])
def test_gradients_through_the_channel_are_finite(name):
    "By delay spread's stand-in, the frequencies, and by the gains themselves; by directions through the arrays' response."
    line = delay_lines.DelayLine(name, speed_m_s=10.0, ue=delay_lines.Antennas(polarization="cross", element="38.901", orientation=(0.3, 0.2, 0.1)))

    def energy(scale):
        paths = delay_lines.draw(jax.random.key(0), line, scale * jnp.linspace(0, 1e-3, 3))
        H = delay_lines.frequency_response(paths._replace(delays=scale * paths.delays), scale * jnp.linspace(-9e6, 9e6, 7))
        return jnp.mean(jnp.abs(H - 0.5) ** 2)

    slope = jax.jit(jax.grad(energy))(1.0)
    assert bool(jnp.isfinite(slope)) and float(abs(slope)) > 1e-4

    def gain(angles):
        return jnp.sum(jnp.abs(delay_lines.response(line.ue, delay_lines.direction(angles[0], angles[1])).sum((-2, -1))) ** 2)

    slopes = jax.jit(jax.grad(gain))(jnp.array([[0.4, -1.0, 2.0], [1.2, 1.6, 0.7]]))
    assert bool(jnp.isfinite(slopes).all()) and float(jnp.abs(slopes).min()) > 0


@pytest.mark.parametrize("wrong, told", [
    (lambda: delay_lines.DelayLine("cdl-a", k_factor_db=3.0), "7.7.6 scales profiles with a line of sight"),
    (lambda: delay_lines.DelayLine(angle_spreads_deg=(5.0, 0.0, 5.0, 5.0)), "7.7.5.1"),
    (lambda: delay_lines.DelayLine(mean_angles_deg=(5.0, 0.0)), "four angles"),
])
def test_bad_scaling_is_named(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()
