"""PUSCH pilots and masks against an independent implementation, and estimation over random configurations."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.nr import dmrs as d
from mimo_jax.phy.ofdm import Carrier

CASES = ("default", "nm", "nm_add1_slot3", "mapB_sym4_10", "mapA_10sym_tap3")


@pytest.mark.parametrize("case", CASES)
def test_grids(reference, case):
    stored = reference("pusch_dmrs.npz")
    meta = dict(zip(stored["meta_cols"].tolist(), stored[f"{case}__meta"].tolist(), strict=True))
    config = d.Dmrs(
        meta["config_type"], tuple(stored[f"{case}__ports"].tolist()), meta["length"], meta["additional_position"],
        meta["num_cdm_groups_without_data"], meta["type_a_position"],
         chr(meta["mapping_type_ord"]), meta["sym_start"], meta["sym_len"], meta["n_cell_id"], meta["n_scid"],
    )
    assert d.symbols(config) == tuple(stored[f"{case}__syms"].tolist())
    np.testing.assert_allclose(d.pilots(config, meta["n_prb"], meta["slot"]).swapaxes(1, 2), stored[f"{case}__grid"], atol=1e-6)
    inside = slice(meta["sym_start"], meta["sym_start"] + meta["sym_len"])
    np.testing.assert_array_equal(d.data_mask(config, meta["n_prb"]).T[:, inside], stored[f"{case}__mask"][:, inside] == 0)
    assert not np.delete(d.data_mask(config, meta["n_prb"]), np.arange(14)[inside], 0).any()


@st.composite
def configurations(draw):
    kind, length = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    groups = draw(st.integers(1, 1 + kind))
    legal = [p for p in range(2 * (1 + kind) * length) if p // 2 % (1 + kind) < groups]
    ports = tuple(draw(st.lists(st.sampled_from(legal), min_size=1, max_size=4, unique=True)))
    mapping = draw(st.sampled_from("AB"))
    start = 0 if mapping == "A" else draw(st.integers(0, 8))
    duration = draw(st.integers(5, 14 - start))
    additional, first, identity = draw(st.integers(0, 3 if length == 1 else 1)), draw(st.sampled_from([2, 3])), draw(st.integers(0, 65535))
    return kind, ports, length, additional, groups, first, mapping, start, duration, identity, draw(st.sampled_from([0, 1]))


@given(arguments=configurations(), slot=st.integers(0, 19))
@settings(max_examples=12, deadline=None)
def test_flat_channel_is_found_exactly(arguments, slot):
    "Without noise and echoes, lines through despread pilots are the channel, for every port at once; energy is shared fairly."
    config = d.Dmrs(*arguments)
    grid = d.pilots(config, 2, slot)
    assert not np.any(d.data_mask(config, 2) & (np.abs(grid).max(0) > 0))
    energy = np.sum(np.abs(grid) ** 2, (1, 2)) / len(d.symbols(config)) / 24
    np.testing.assert_allclose(energy, config.groups_without_data / (1 + config.kind), rtol=1e-5)
    H = jax.random.normal(jax.random.key(slot), (2, len(config.ports)), jnp.complex64)
    found = d.estimate_linear(jnp.einsum("rp,plk->rlk", H, grid), 0.1, config, slot)
    np.testing.assert_allclose(found.H, np.broadcast_to(H, found.H.shape), atol=1e-4)
    assert found.variance.shape == (*found.H.shape[:2], len(config.ports)) and bool(jnp.all(found.variance > 0))


@given(arguments=configurations())
@settings(max_examples=3, deadline=None)
def test_lmmse_never_does_worse_than_nothing(arguments):
    config = d.Dmrs(*arguments)
    carrier, spread = Carrier(4), d.Spread((0.5, 0.5), (0.0, 3e-7), 100.0)
    y = jax.random.normal(jax.random.key(0), (3, 2, 14, 48), jnp.complex64)
    found = d.estimate_lmmse(y, 0.3, config, carrier, spread)
    assert found.H.shape == (3, 14, 48, 2, len(config.ports))
    assert bool(jnp.all((found.variance > 0) & (found.variance < 1)))
