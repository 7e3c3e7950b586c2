"""Frames of any size keep their sums, and every constellation comes through both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mimo_jax.baseband.beamforming import effective_noise, group_detector
from mimo_jax.baseband.coding import scrambling_planes
from mimo_jax.baseband.downlink import DownlinkPlan, at_users, downlink, user_receiver
from mimo_jax.baseband.equalization import fold, level_spacing
from mimo_jax.baseband.experiment import PRESETS, experiment
from mimo_jax.baseband.fourier import to_samples, to_spectrum
from mimo_jax.baseband.frame import FrameFormat, coded_bits, frame_code, frame_for, parity_rows
from mimo_jax.baseband.frame import pilot_sequence, pilot_user
from mimo_jax.baseband.radio import Radio, captured, draw_bits, radio_channel, radio_frame
from mimo_jax.baseband.radio import user_pilots
from mimo_jax.baseband.speed import downlink_work, uplink_work
from mimo_jax.baseband.uplink import UplinkPlan, uplink
from mimo_jax.phy.constellation import demap_qam

FORMATS = st.builds(
    dict, antennas=st.integers(1, 300), users=st.integers(1, 140),
    groups=st.integers(1, 80), group=st.sampled_from((1, 2, 8, 16, 32)),
    bits_per_symbol=st.sampled_from((2, 4, 6, 8)), code_rate=st.floats(1 / 3, 0.95),
    direction=st.sampled_from("UD"), data=st.integers(1, 20), spare=st.integers(1, 100))


@given(FORMATS)
@settings(max_examples=300, deadline=None)
def test_a_frame_is_refused_or_keeps_its_sums(sizes):
    subcarriers = sizes["groups"] * sizes["group"]
    pilots = -(-sizes["users"] // sizes["group"])
    half = subcarriers // 2 + sizes["spare"]
    try:
        frame = FrameFormat(sizes["antennas"], sizes["users"],
                            "P" * pilots + sizes["direction"] * sizes["data"], subcarriers,
                            2 * half, sizes["group"], sizes["bits_per_symbol"],
                            sizes["code_rate"])
    except ValueError:
        return
    code, E = frame_code(frame), coded_bits(frame)
    assert code.k == 22 * code.Z and code.k <= sizes["code_rate"] * E
    assert 4 <= parity_rows(frame) <= 46
    assert frame.first + frame.subcarriers < frame.fft_size
    users, counts = np.unique(pilot_user(frame), return_counts=True)
    there = users >= 0
    assert users[there].tolist() == list(range(frame.users))
    assert (counts[there] == frame.groups).all()
    np.testing.assert_allclose(np.abs(pilot_sequence(frame)) ** 2, frame.group, rtol=1e-5)
    work = (uplink_work if sizes["direction"] == "U" else downlink_work)(frame)
    assert all(stage.flops > 0 and stage.bytes > 0 for stage in work.values())


@given(st.sampled_from((1, 6)), st.sampled_from((4, 250)), st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_bytes_come_back_through_both_transforms(antennas, size, seed):
    draw = np.random.default_rng(seed)
    iq = draw.integers(-127, 128, (antennas, size, 2)).astype(np.int8)
    back = to_samples(to_spectrum(jnp.asarray(iq)), 1.0)
    np.testing.assert_array_equal(back, iq)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_folding_decides_as_max_log_does(bits):
    a, variance = level_spacing(bits), 0.1
    r = np.linspace(-1.7, 1.7, 2001)
    exact = demap_qam(jnp.asarray(r + 0j, jnp.complex64), variance, bits, method="maxlog")[:, 0::2]
    t = jnp.asarray(-4 * a / variance * r, jnp.float32)
    folded = np.stack(fold(t, jnp.full(1, 4 * a**2 / variance), bits // 2), -1)
    clear = np.abs(folded) > 1e-3
    assert (np.sign(folded) == np.sign(exact))[clear].all()
    assert (np.abs(folded) <= np.abs(exact) + 1e-3).all()  # never more certain
    near = np.abs(exact) < 2 * a**2 / variance  # where a decision is close
    np.testing.assert_allclose(folded[near], np.asarray(exact)[near], atol=1e-2)


@pytest.mark.parametrize(("users", "spare"), [(1, 0), (3, 1), (8, 8), (12, 40)])
def test_mmse_leaves_the_least_error(users, spare):
    H = jax.random.normal(jax.random.key(users), (40, users + spare, users), jnp.complex64)
    names = ("mmse", "zf", "conjugate")
    least = [group_detector(H, jnp.asarray(0.3), name).error for name in names]
    assert (least[0] <= least[1] * 1.01).all() and (least[0] <= least[2] * 1.01).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_every_constellation_comes_through_both_directions(bits):
    sizes = {"subcarriers": 192, "fft_size": 256, "bits_per_symbol": bits, "code_rate": 0.9}
    up, down = (frame_for("16x4", direction, **sizes) for direction in "UD")
    key = jax.random.key(bits)
    made = radio_frame(key, Radio(up), 30.0)
    found = uplink(made.iq, UplinkPlan(up))
    np.testing.assert_array_equal(found.bits, made.bits)
    channel, sent = radio_channel(key, Radio(down)), draw_bits(key, down)
    pilots = captured(key, jnp.asarray(user_pilots(down)), channel, Radio(down), jnp.asarray(1e-3))
    plan = DownlinkPlan(down)
    y = at_users(key, downlink(pilots, sent, plan), channel(0), plan, 30.0)
    np.testing.assert_array_equal(user_receiver(y, plan).bits, sent)


def test_scrambling_differs_between_users_and_not_between_calls():
    frame = frame_for("16x4", subcarriers=192, fft_size=256)
    planes = scrambling_planes(frame)
    assert planes is scrambling_planes(frame) and planes.shape == (4, 6, 192)
    assert all((planes[0] != other).mean() > 0.4 for other in planes[1:])


def test_more_users_than_a_group_mean_more_noise():
    frame = frame_for("64x16")
    assert effective_noise(1.0, frame) == 2.0


@pytest.mark.parametrize("preset", PRESETS)
def test_every_point_has_a_name_of_its_own(preset):
    points = experiment.points(PRESETS[preset], 0)
    assert len(points) >= 8 and {"identities", "programs"} <= points.keys()
