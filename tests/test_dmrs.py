"""PUSCH pilots against an independent implementation; estimation over random configurations."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import vectors
from mimo_jax.nr import dmrs as d
from mimo_jax.phy.ofdm import Carrier

REFERENCE = vectors("pusch_dmrs")
CASES = [name.partition("__")[0] for name in REFERENCE if name.endswith("__meta")]


@pytest.mark.parametrize("case", CASES)
def test_grids(case):
    def stored(name): return REFERENCE[f"{case}__{name}"]

    columns = REFERENCE["meta_cols"].tolist()
    meta = dict(zip(columns, stored("meta").tolist(), strict=True))
    config = d.Dmrs(
        meta["config_type"], tuple(stored("ports").tolist()), meta["length"],
        meta["additional_position"], meta["num_cdm_groups_without_data"],
        meta["type_a_position"], chr(meta["mapping_type_ord"]), meta["sym_start"],
        meta["sym_len"], meta["n_cell_id"], meta["n_scid"],
    )
    prb, slot = meta["n_prb"], meta["slot"]
    assert d.dmrs_symbols(config) == tuple(stored("syms").tolist())
    pilots = d.pilots(config, prb, slot).swapaxes(1, 2)
    np.testing.assert_allclose(pilots, stored("grid"), atol=1e-6)  # float32
    inside = slice(meta["sym_start"], meta["sym_start"] + meta["sym_len"])
    mask = d.data_mask(config, prb)
    np.testing.assert_array_equal(mask.T[:, inside], stored("mask")[:, inside] == 0)
    assert not np.delete(mask, np.arange(14)[inside], 0).any()


@st.composite
def configurations(draw):
    config_type, length = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    all_groups = 1 + config_type
    groups = draw(st.integers(1, all_groups))
    legal = [p for p in range(2 * all_groups * length) if p // 2 % all_groups < groups]
    ports = draw(st.lists(st.sampled_from(legal), min_size=1, max_size=4, unique=True))
    mapping = draw(st.sampled_from("AB"))
    start = 0 if mapping == "A" else draw(st.integers(0, 8))
    return (
        config_type, tuple(ports), length, draw(st.integers(0, 3 if length == 1 else 1)), groups,
        draw(st.sampled_from([2, 3])), mapping, start, draw(st.integers(5, 14 - start)),
        draw(st.integers(0, 65535)), draw(st.sampled_from([0, 1])),
    )


@given(arguments=configurations(), slot=st.integers(0, 19))
@settings(max_examples=6, deadline=None)
def test_flat_channel_is_found_exactly(arguments, slot):
    "Without noise and echoes, interpolated pilots are the channel for every port; energy is kept."
    config = d.Dmrs(*arguments)
    grid = d.pilots(config, 2, slot)
    assert not np.any(d.data_mask(config, 2) & (np.abs(grid).max(0) > 0))
    energy = np.sum(np.abs(grid) ** 2, (1, 2)) / len(d.dmrs_symbols(config)) / 24
    expected = config.groups_without_data / (1 + config.config_type)
    np.testing.assert_allclose(energy, expected, rtol=1e-5)
    H = jax.random.normal(jax.random.key(slot), (2, len(config.ports)), jnp.complex64)
    y = jnp.einsum("rp,plk->rlk", H, grid)
    found = d.estimate_linear(y, 0.1, config, slot)
    np.testing.assert_allclose(found.H, np.broadcast_to(H, found.H.shape), atol=1e-4)  # float32
    assert found.variance.shape == (*found.H.shape[:2], len(config.ports))
    assert bool(jnp.all(found.variance > 0))


@given(arguments=configurations())
@settings(max_examples=2, deadline=None)
def test_lmmse_never_does_worse_than_nothing(arguments):
    config = d.Dmrs(*arguments)
    carrier, statistics = Carrier(4), d.ChannelStatistics((0.5, 0.5), (0.0, 3e-7), 100.0)
    y = jax.random.normal(jax.random.key(0), (3, 2, 14, 48), jnp.complex64)
    found = d.estimate_lmmse(y, 0.3, config, carrier, statistics)
    assert found.H.shape == (3, 14, 48, 2, len(config.ports))
    assert bool(jnp.all((found.variance > 0) & (found.variance < 1)))
