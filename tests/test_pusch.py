"""PUSCH against an independent implementation, and over random configurations."""
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import vectors
from mimo_jax.nr import dmrs, ldpc, pusch
from mimo_jax.nr.dmrs import Dmrs
from mimo_jax.nr.scrambling import data_seed, scramble
from mimo_jax.phy.constellation import random_bits
from mimo_jax.phy.ofdm import Carrier
from mimo_jax.propagation.delay_lines import Antennas, DelayLine


def test_transport_block_sizes():
    "Size, code blocks, base graph and K' over a grid of allocations."
    reference = vectors("tbs")
    columns = reference["tbs_grid_cols"].tolist()
    rows = [dict(zip(columns, row, strict=True)) for row in reference["tbs_grid"].tolist()]
    assert {row["mcs_table"] for row in rows} == {1, 2, 3}
    for row in rows:
        chosen = pusch.scheme(row["mcs"], row["mcs_table"])
        assert chosen == (row["qm"], Fraction(row["rate2048"], 2048))
        elements = 12 * row["nsym"] - row["dmrs_re_per_prb"]
        size = pusch.transport_block_size(elements, row["prb"], chosen, row["layers"])
        assert size == row["tbs_exact38214"], row
        rate = float(chosen.code_rate)
        parts, graph = ldpc.segmentation(size, rate), ldpc.select_base_graph(size, rate)
        expected = row["C_38212"], row["Kprime_38212"], row["bg_38212"]
        assert (parts.blocks, parts.code.k, graph) == expected, row


@pytest.mark.parametrize("case", ["default", "nm"])
def test_transport_blocks(case):
    "Bit exact before and after scrambling; the grid with its pilots."
    reference = vectors("pusch_transport_block")
    def stored(name): return reference[f"{case}__{name}"]

    meta = dict(zip(reference["meta_cols"].tolist(), stored("meta").tolist(), strict=True))
    layers, n_id = meta["layers"], meta["n_cell_id"]
    config = pusch.Pusch(
        Carrier(meta["n_prb"], meta["scs_khz"]), meta["mcs"], meta["mcs_table"], layers,
        dmrs=Dmrs(ports=tuple(range(layers)), n_id=n_id), rnti=meta["n_rnti"], n_id=n_id,
    )
    parts = config.segmentation
    code = parts.code
    sizes = config.transport_block_size, config.coded_bits, parts.blocks
    assert sizes == tuple(meta[k] for k in ("tbs", "G", "C"))
    assert (code.k, code.base_graph, code.Z) == tuple(meta[k] for k in ("Kprime", "bg", "Z"))
    assert config.block_lengths == tuple(stored("cw_lengths").tolist())
    bits = jnp.asarray(stored("b")[:, 0])
    np.testing.assert_array_equal(ldpc.segment(bits, parts), stored("cb_with_crc")[:, 0])
    coded = pusch.match(pusch.encode_transport_block(bits, config), config)
    np.testing.assert_array_equal(coded, stored("coded_before_scrambling")[:, 0])
    scrambled = scramble(coded, data_seed(config.rnti, config.n_id))
    np.testing.assert_array_equal(scrambled, stored("coded")[:, 0])
    if f"{case}__x" in reference:
        grids, expected = np.asarray(pusch.transmit_slot(bits, config)), stored("x")[:, 0]
        np.testing.assert_allclose(grids[: len(expected)], expected, atol=1e-6)  # float32


# (layers, ports): precoders in the tables 6.3.1.5-1 to -7 of 38.211
PRECODERS = {(1, 2): 6, (1, 4): 28, (2, 2): 3, (2, 4): 22, (3, 4): 7, (4, 4): 5}


@pytest.mark.parametrize("layers, ports", PRECODERS)
def test_codebooks_are_orthogonal(layers, ports):
    "Every precoder has orthogonal columns and radiates at most one unit (38.211, 6.3.1.5)."
    count = PRECODERS[layers, ports]
    for tpmi in range(count):
        W = pusch.precoder(pusch.Pusch(layers=layers, ports=ports, tpmi=tpmi))
        gram = W.conj().T @ W
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6)  # complex64
        assert np.trace(gram).real <= 1 + 1e-6
    with pytest.raises(ValueError, match=f"TPMI 0 to {count - 1}"):
        pusch.Pusch(layers=layers, ports=ports, tpmi=count)


MCS_COUNT = {1: 29, 2: 28, 3: 29, 4: 27}  # of each table
FEW_ROWS = {  # schemes of a code rate for which a decoder has few rows to compile
    table: [mcs for mcs in range(count) if pusch.scheme(mcs, table).code_rate > 0.55]
    for table, count in MCS_COUNT.items()
}


@st.composite
def configurations(draw):
    "MCS of any table with few rows to compile, layers, precoder, DMRS; one or two blocks."
    table = draw(st.integers(1, 4))
    layers, ports = draw(st.sampled_from(sorted(PRECODERS | {(1, 1): 0, (3, 3): 0})))
    codebook = list(range(PRECODERS.get((layers, ports), 0)))
    tpmi = draw(st.sampled_from([None] * (layers == ports) + codebook))
    mcs = draw(st.sampled_from(FEW_ROWS[table]))
    config_type, length = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    additional = draw(st.integers(0, 3 if length == 1 else 1))
    options = {"mcs": mcs, "table": table, "layers": layers, "ports": ports, "tpmi": tpmi}
    pilots = config_type, tuple(range(layers)), length, additional
    return draw(st.integers(1, 2)), options | {"limited_buffer": draw(st.booleans())}, pilots


@given(arguments=configurations(), seed=st.integers(0, 99), rv=st.integers(1, 3))
@settings(max_examples=2, deadline=None, derandomize=True)  # each compiles a whole chain
def test_any_configuration_delivers(arguments, seed, rv):
    "Without noise LLRs are the coded bits, soft buffers the mother code words, and both decode."
    prb, options, pilots = arguments
    config = pusch.Pusch(Carrier(prb, 15), dmrs=Dmrs(*pilots), **options)
    link = pusch.Link(config, "rayleigh", antennas=12, channel_estimation="ls")
    size = config.transport_block_size
    bits = np.random.default_rng(seed).integers(2, size=size, dtype=np.uint8)

    @jax.jit
    def received(words, version):
        coded = pusch.match(words, config, version)
        H = pusch.draw_channel(jax.random.key(seed + 1), link)
        x = pusch.precode(pusch.to_grid(coded, config), pusch.precoder(config))
        y = pusch.apply_channel(H, x)
        llr = pusch.soft_bits(y, pusch.estimate_channel(y, H, 1e-4, link), 1e-4, config)
        return coded, llr, pusch.dematch(llr, config, version)

    words, buffers = pusch.encode_transport_block(jnp.asarray(bits), config), 0
    for version in (0, rv):
        coded, llr, buffer = map(np.asarray, received(words, jnp.asarray(version)))
        np.testing.assert_array_equal(llr > 0, coded == 1)
        buffers = buffers + buffer
    sent = np.asarray(words)
    np.testing.assert_array_equal((buffers > 0)[buffers != 0], (sent == 1)[buffers != 0])
    # With the rows that the first version reaches: fewer to compile.
    back = jax.jit(partial(pusch.decode_blocks, pusch=config))(buffers)
    np.testing.assert_array_equal(back.bits, bits)
    assert bool(back.crc_ok)


@pytest.mark.parametrize("detector", ["zf", "ml"])
def test_detectors_agree_on_one_stream(detector):
    "With one layer, ZF, LMMSE and ML are the same receiver."
    config = pusch.Pusch(Carrier(1), 3, layers=1)
    bits = random_bits(jax.random.key(0), (config.transport_block_size,))
    H = jax.random.normal(jax.random.key(1), (1, 12, 2, 1), jnp.complex64)
    noise = 0.3 * jax.random.normal(jax.random.key(2), (2, 14, 12), jnp.complex64)
    y = pusch.apply_channel(H, pusch.transmit_slot(bits, config)) + noise
    found = dmrs.ChannelEstimate(H, jnp.zeros((1, 1, 1)))
    detect = jax.jit(partial(pusch.soft_bits, pusch=config), static_argnames="detector")
    expected = detect(y, found, 0.09, detector="lmmse")
    other = detect(y, found, 0.09, detector=detector)
    np.testing.assert_allclose(other, expected, rtol=1e-3, atol=1e-3)  # float32, LLRs to 100


@pytest.mark.parametrize("channel", ["awgn", "rayleigh"])
def test_gradient_from_soft_bits_to_channel(channel):
    link = pusch.Link(pusch.Pusch(Carrier(2), 10), channel, channel_estimation="ls")
    config = link.pusch
    coded = random_bits(jax.random.key(0), (config.coded_bits,))
    H = pusch.draw_channel(jax.random.key(1), link)
    noise = 0.1 * jax.random.normal(jax.random.key(2), (2, 14, 24), jnp.complex64)

    def loss(x):
        y = pusch.apply_channel(H, x) + noise
        llr = pusch.soft_bits(y, pusch.estimate_channel(y, H, 0.01, link), 0.01, config)
        return jnp.mean(jax.nn.softplus(jnp.where(coded == 1, -llr, llr)))

    slope = jax.jit(jax.grad(loss))(pusch.to_grid(coded, config))
    assert bool(jnp.isfinite(slope).all()) and float(jnp.abs(slope).max()) > 0


def test_gradient_from_decoded_bits_to_channel_input():
    "Through decoder, detector, channel estimate and CDL to the transmitted grid."
    line = DelayLine("cdl-c", ue=Antennas(), bs=Antennas(2), speed_m_s=10.0)
    link = pusch.Link(pusch.Pusch(Carrier(1), 9, layers=1), line, channel_estimation="lmmse")
    config = link.pusch
    bits = random_bits(jax.random.key(0), (config.transport_block_size,))
    noise = 2.0 * jax.random.normal(jax.random.key(1), (2, 14, 12), jnp.complex64)
    H = pusch.draw_channel(jax.random.key(1), link)

    def loss(x):
        y = pusch.apply_channel(H, x) + noise
        llr = pusch.soft_bits(y, pusch.estimate_channel(y, H, 4.0, link), 4.0, config)
        back = pusch.decode_blocks(pusch.dematch(llr, config), config, 2, differentiable=True)
        logits = back.llr[0, : len(bits)]
        return jnp.mean(jax.nn.softplus(jnp.where(bits == 1, -logits, logits)))

    slope = jax.jit(jax.grad(loss))(pusch.transmit_slot(bits, config))
    assert bool(jnp.isfinite(slope).all()) and float(jnp.mean(jnp.abs(slope) > 0)) > 0.5


SMALL = pusch.Pusch(Carrier(1), 9, layers=1)


@pytest.mark.parametrize("wrong, message", [
    (lambda: pusch.Pusch(Carrier(0)), "1 to 275"),
    (lambda: pusch.Pusch(mcs=28, table=2), "table 5.1.3.1-2 has MCS 0 to 27"),
    (lambda: pusch.Pusch(table=5), "tables 1 to 4"),
    (lambda: pusch.Pusch(layers=0), "1 to 4"),
    (lambda: pusch.Pusch(rnti=70000), "65536"),
    (lambda: pusch.Pusch(layers=2, dmrs=Dmrs(ports=(0,))), "one DMRS port for each of 2 layers"),
    (lambda: pusch.Pusch(overhead=5), "0, 6, 12 and 18"),
    (lambda: pusch.Link(channel="cdl-c"), "'awgn', 'rayleigh' or a DelayLine"),
    (lambda: pusch.Link(antennas=3), "ends in 2"),
    (lambda: pusch.dematch(jnp.zeros(7), pusch.Pusch()), "7 LLRs.*G = 63648.*38.212"),
    (lambda: pusch.transmit_slot(jnp.zeros(7, jnp.uint8), pusch.Pusch()), "30216.*clause 5.2.2"),
    (lambda: pusch.decode_blocks(jnp.zeros((1, 7)), pusch.Pusch()), "38.212 clause 5.3.2"),
    (lambda: pusch.Link(channel_estimation="genie"), "'perfect', 'ls' or 'lmmse'"),
])
def test_bad_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_nan_is_named():
    buffers = jnp.full((1, SMALL.segmentation.code.length), jnp.nan)
    with pytest.raises(ValueError, match="NaN.*38.212 clause 5.3.2"):
        pusch.decode_blocks(buffers, SMALL)


def test_one_program_for_all_snrs():
    "The SNR is traced: a range of SNRs compiles once."
    run = partial(pusch.simulate, jax.random.key(0), pusch.Link(SMALL), batch=4)
    run(10.0)
    before = pusch._simulate._cache_size()
    assert run(11.0).ok.all() and not run(-20.0).ok.any()
    assert pusch._simulate._cache_size() == before
