"""A frame on many devices is that of one device, to the last bit of every float."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jax.sharding import PartitionSpec as P

from mimo_jax.baseband.downlink import DownlinkPlan
from mimo_jax.baseband.frame import FrameFormat, frame_code, frame_for
from mimo_jax.baseband.mapped import mapped_program, mapped_uplink, stack_antennas, unstack
from mimo_jax.baseband.radio import Radio, radio_frame
from mimo_jax.baseband.sharding import (AXIS, collectives, device_mesh, exchange, holdings,
                                        llrs_on_device, sharded_downlink, sharded_uplink,
                                        spread_antennas, uplink_program, without_padding)
from mimo_jax.baseband.uplink import UplinkFrame, UplinkPlan

needs_eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 virtual devices")
HIGH_RATE = 8 / 9  # few parity rows: a decoder that compiles fast


def equal(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def half(plan, devices):
    "The program up to the LLRs: all but the decoder, which takes long to compile."
    def one(iq):
        found, noise = llrs_on_device(iq, plan, AXIS, with_symbols=True)
        return exchange(found.llr.transpose(1, 2, 3, 0, 4), AXIS, 0, 3), found, noise

    found = P(AXIS)
    return jax.jit(jax.shard_map(one, mesh=device_mesh(devices), in_specs=P(None, AXIS),
                                 out_specs=(P(AXIS), found, P()), check_vma=False))


@st.composite
def frames(draw):
    group = draw(st.sampled_from([4, 12, 16]))
    users = draw(st.integers(1, 2 * group if group < 16 else 9))
    antennas = draw(st.integers(max(users, 2), 26))
    groups = draw(st.integers(-(-96 // group), 128 // group + 2))
    pilots = -(-users // group)
    return FrameFormat(antennas, users, "P" * pilots + "U" * draw(st.integers(1, 3)),
                       group * groups, 256, group, draw(st.sampled_from([4, 8])))


@needs_eight
@settings(max_examples=6, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))
@given(frames(), st.integers(2, 8), st.sampled_from(["zf", "mmse", "conjugate"]))
def test_llrs_of_any_frame_on_any_number_of_devices(frame, devices, detector):
    plan = UplinkPlan(frame, detector)
    iq = np.random.default_rng(0).integers(
        -90, 90, (len(frame.schedule), frame.antennas, frame.fft_size, 2)).astype(np.int8)
    on_one, on_many = (jax.tree.map(np.asarray, half(plan, n)(spread_antennas(iq, device_mesh(n))))
                       for n in (1, devices))
    np.testing.assert_array_equal(on_many[0][: frame.users, :, :, : frame.groups], on_one[0])
    for many, one in zip(on_many[1], on_one[1], strict=True):
        np.testing.assert_array_equal(many[: frame.groups], one)
        assert np.isfinite(np.abs(many).astype(float)).all()  # padding is no NaN either
    np.testing.assert_array_equal(on_many[2], on_one[2])


@needs_eight
def test_a_whole_frame_on_more_devices_than_antennas_groups_or_users():
    frame = FrameFormat(7, 3, "PUU", 80, 128, 16, 4, code_rate=HIGH_RATE)
    plan = UplinkPlan(frame, "conjugate")  # which makes errors
    made = radio_frame(jax.random.key(1), Radio(frame), 20.0)
    iq = spread_antennas(made.iq, device_mesh(8))
    compiled = uplink_program(plan, device_mesh(8), with_symbols=True).lower(iq).compile()
    crossing = collectives(compiled.as_text())
    assert [c.kind for c in crossing] == ["all-to-all", "all-to-all", "all-gather"]
    assert crossing[2].bytes == 4 * 8  # noise, of an antenna each and one of padding
    padded = compiled(iq)
    many = without_padding(padded, frame)
    equal(many, sharded_uplink(plan, device_mesh(1), with_symbols=True)(made.iq))
    assert not many.parity_ok.all()  # floats that decide nothing would hide a difference
    held = {h.what: h.shape for h in holdings(frame, 8)}
    shard = padded.bits.addressable_shards[0].data.shape
    assert shard == held["bits of my users"]  # bits stay with their user's device


def test_errors_name_what_is_wrong():
    plan = UplinkPlan(frame_for("16x4", subcarriers=192, fft_size=256))
    with pytest.raises(ValueError, match="need an axis 'device'"):
        uplink_program(plan, jax.make_mesh((1,), ("antenna",), devices=jax.devices()[:1]))
    with pytest.raises(ValueError, match=r"0 devices: there are \d"):
        device_mesh(0)
    with pytest.raises(ValueError, match="start with XLA_FLAGS"):
        device_mesh(len(jax.devices()) + 1)
    with pytest.raises(ValueError, match="samples of shape"):
        sharded_uplink(plan, device_mesh(1))(np.zeros((14, 8, 256, 2), np.int8))
    with pytest.raises(ValueError, match="samples of shape"):
        mapped_uplink(plan, 1)(np.zeros((14, 8, 256, 2), np.int8))
    with pytest.raises(ValueError, match="99 devices"):
        mapped_program(plan, 99)


def test_collectives_are_read_from_text_of_other_devices_too():
    text = """
  %a = (c64[2,3]{1,0}, c64[2,3]{1,0}) all-to-all(%x, %y), replica_groups={{0,1}}
  %b = s8[5,4]{1,0} all-to-all(%x), channel_id=1
  %c = bf16[] all-reduce-start(%x)
  %d = f32[7]{0} add(%all-gather, %x)
"""
    assert [tuple(c) for c in collectives(text)] == [
        ("all-to-all", 96), ("all-to-all", 20), ("all-reduce", 2)]


def test_stacking_is_undone():
    frame = frame_for("36x20", subcarriers=192, fft_size=256, group=16)
    iq = np.arange(14 * 36 * 256 * 2).astype(np.int8).reshape(14, 36, 256, 2)
    stacked = stack_antennas(iq, 8)
    np.testing.assert_array_equal(stacked.swapaxes(0, 1).reshape(14, 40, 256, 2)[:, :36], iq)
    bits, error = np.arange(24 * 2 * 3).reshape(8, 3, 2, 3), np.arange(16 * 20).reshape(8, 2, 20)
    symbols = np.arange(2 * 20 * 256).reshape(2, 20, 8, 32)
    found = unstack(UplinkFrame(bits, bits[..., 0], bits[..., 0], np.full(8, 3.0), error,
                                symbols.transpose(2, 0, 1, 3)), frame)
    np.testing.assert_array_equal(found.bits, bits.reshape(24, 2, 3)[:20])
    np.testing.assert_array_equal(found.error, error.reshape(16, 20)[:12])
    np.testing.assert_array_equal(found.symbols, symbols.reshape(2, 20, 256)[..., :192])
    assert found.noise == 3


@needs_eight
def test_an_exchange_is_undone_by_its_inverse():
    x = np.arange(8 * 6 * 5).reshape(48, 5)
    there = partial(exchange, axis_name=AXIS, split=1, join=0)
    def back(x): return exchange(there(x), AXIS, split=0, join=1)
    mapped = jax.shard_map(back, mesh=device_mesh(8), in_specs=P(AXIS), out_specs=P(AXIS),
                           check_vma=False)
    np.testing.assert_array_equal(jax.jit(mapped)(x)[:, :5], x)


@needs_eight
def test_a_downlink_frame_where_nothing_divides():
    frame = FrameFormat(9, 5, "PPDD", 48, 64, 4, 8)
    plan = DownlinkPlan(frame, "mmse")
    rng = np.random.default_rng(0)
    iq = rng.integers(-90, 90, (2, 9, 64, 2)).astype(np.int8)
    bits = rng.integers(0, 2, (5, 2, frame_code(frame).k)).astype(np.uint8)
    many = sharded_downlink(plan, device_mesh(8))(iq, bits)
    assert many.shape == (2, 9, 64, 2) and (np.abs(many) > 3).mean() > 0.5
    np.testing.assert_array_equal(many, sharded_downlink(plan, device_mesh(1))(iq, bits))
    with pytest.raises(ValueError, match="need an axis 'device'"):
        sharded_downlink(plan, jax.make_mesh((1,), ("user",), devices=jax.devices()[:1]))
