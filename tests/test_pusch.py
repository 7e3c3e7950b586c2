"""Transport block sizes, blocks before and after scrambling, grids and codebooks against an independent implementation; random configurations."""
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.nr import dmrs, ldpc, pusch
from mimo_jax.propagation.delay_lines import Antennas, DelayLine
from mimo_jax.phy.constellation import random_bits
from mimo_jax.nr.dmrs import Dmrs
from mimo_jax.phy.ofdm import Carrier
from mimo_jax.nr.scrambling import data_seed, scramble


def test_transport_block_sizes(reference):
    "Size, code blocks, check sums, base graph and K' on the whole grid."
    stored = reference("tbs.npz")
    columns = {name: stored["tbs_grid"][:, i] for i, name in enumerate(stored["tbs_grid_cols"].tolist())}
    assert len(columns["mcs"]) == 11610
    for i in range(len(columns["mcs"])):
        row = {name: int(column[i]) for name, column in columns.items()}
        chosen = pusch.scheme(row["mcs"], row["mcs_table"])
        assert chosen == (row["qm"], Fraction(row["rate2048"], 2048))
        size = pusch.transport_block_size(12 * row["nsym"] - row["dmrs_re_per_prb"], row["prb"], chosen, row["layers"])
        assert size == row["tbs_exact38214"], row
        parts = ldpc.segmentation(size, float(chosen.code_rate))
        graph = ldpc.select_base_graph(size, float(chosen.code_rate))
        assert (parts.blocks, parts.code.k, graph) == (row["C_38212"], row["Kprime_38212"], row["bg_38212"]), row


@pytest.mark.parametrize("case", ["default", "nm"])
def test_transport_blocks(reference, case):
    "Bit exact before and after scrambling; the grid with its pilots."
    stored = reference("pusch_transport_block.npz")
    meta = dict(zip(stored["meta_cols"].tolist(), stored[f"{case}__meta"].tolist(), strict=True))
    config = pusch.Pusch(
        Carrier(meta["n_prb"], meta["scs_khz"]), meta["mcs"], meta["mcs_table"], meta["layers"],
        dmrs=Dmrs(ports=tuple(range(meta["layers"])), identity=meta["n_cell_id"]), rnti=meta["n_rnti"], identity=meta["n_cell_id"],
    )
    parts = config.segmentation
    assert (config.payload, config.coded_bits, parts.blocks, parts.code.k, parts.code.base_graph, parts.code.Z) == tuple(
        meta[k] for k in ("tbs", "G", "C", "Kprime", "bg", "Z"))
    assert config.lengths == tuple(stored[f"{case}__cw_lengths"].tolist())
    bits = jnp.asarray(stored[f"{case}__b"][:, 0])
    np.testing.assert_array_equal(ldpc.segment(bits, parts), stored[f"{case}__cb_with_crc"][:, 0])
    coded = pusch.match(pusch.encode(bits, config), config)
    np.testing.assert_array_equal(coded, stored[f"{case}__coded_before_scrambling"][:, 0])
    np.testing.assert_array_equal(scramble(coded, data_seed(config.rnti, config.identity)), stored[f"{case}__coded"][:, 0])
    grids = np.asarray(pusch.transmit(bits, config))
    expected = stored[f"{case}__x"][:, 0]
    np.testing.assert_allclose(grids[: len(expected)], expected, atol=1e-6)


def test_codebooks_are_orthogonal():
    "Every precoder has orthogonal columns and radiates at most one unit (38.211, 6.3.1.5)."
    for layers, ports in ((1, 2), (1, 4), (2, 2), (2, 4), (3, 4), (4, 4)):
        for tpmi in range(99):
            try: W = pusch.precoder(pusch.Pusch(layers=layers, ports=ports, tpmi=tpmi))
            except ValueError as refused:
                assert f"TPMI 0 to {tpmi - 1}" in str(refused)
                break
            gram = W.conj().T @ W
            np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6)
            assert np.trace(gram).real <= 1 + 1e-6
        assert tpmi == {(1, 2): 6, (1, 4): 28, (2, 2): 3, (2, 4): 22, (3, 4): 7, (4, 4): 5}[layers, ports]


PRECODERS = {(1, 1): 0, (1, 2): 6, (1, 4): 28, (2, 2): 3, (2, 4): 22, (3, 3): 0, (3, 4): 7, (4, 4): 5}  # (layers, ports): how many there are


@st.composite
def configurations(draw):
    "Any MCS of any table, layers, precoder, DMRS; few blocks, which a small code serves."
    table, (layers, ports) = draw(st.integers(1, 4)), draw(st.sampled_from(sorted(PRECODERS)))
    tpmi = draw(st.sampled_from([None] * (layers == ports) + list(range(PRECODERS[layers, ports]))))
    mcs = draw(st.integers(0, {1: 28, 2: 27, 3: 28, 4: 26}[table]))
    kind, length = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pilots = kind, tuple(range(layers)), length, draw(st.integers(0, 3 if length == 1 else 1))
    return (mcs, table, layers, ports, tpmi), pilots, draw(st.integers(1, 2)), draw(st.booleans())


@given(arguments=configurations(), seed=st.integers(0, 99), rv=st.integers(1, 3))
@settings(max_examples=3, deadline=None, derandomize=True)  # each compiles an encoder and a decoder
def test_any_configuration_delivers(arguments, seed, rv):
    "Without noise: soft bits are the coded bits, soft buffers have the signs of the mother code words, their sum decodes to the transport block."
    chosen, pilots, prb, limited = arguments
    config = pusch.Pusch(Carrier(prb, 15), *chosen, dmrs=Dmrs(*pilots), limited_buffer=limited)
    link = pusch.Link(config, "rayleigh", antennas=12, knowledge="ls")
    bits = np.random.default_rng(seed).integers(2, size=config.payload, dtype=np.uint8)

    @jax.jit
    def heard(words, version):
        coded, H = pusch.match(words, config, version), pusch.draw_channel(jax.random.key(seed + 1), link)
        y = pusch.apply_channel(H, pusch.precode(pusch.to_grid(coded, config), pusch.precoder(config)))
        llr = pusch.soft_bits(y, pusch.estimate(y, H, 1e-4, link), 1e-4, config)
        return coded, llr, pusch.dematch(llr, config, version)

    words, buffers = np.asarray(jax.jit(partial(pusch.encode, pusch=config))(bits)), 0
    for version in (0, rv):
        coded, llr, buffer = map(np.asarray, heard(words, jnp.asarray(version)))
        np.testing.assert_array_equal(llr > 0, coded == 1)
        buffers = buffers + buffer
    np.testing.assert_array_equal((buffers > 0)[buffers != 0], (words == 1)[buffers != 0])
    back = jax.jit(partial(pusch.decode_blocks, pusch=config))(buffers)  # with the rows that the first version reaches: fewer to compile
    np.testing.assert_array_equal(back.bits, bits)
    assert bool(back.ok)


@pytest.mark.parametrize("detector", ["lmmse", "zf", "ml"])
def test_detectors_agree_on_one_stream(detector):
    "With one layer, ZF, LMMSE and ML are the same receiver."
    config = pusch.Pusch(Carrier(1), 3, layers=1)
    bits = random_bits(jax.random.key(0), (config.payload,))
    H = jax.random.normal(jax.random.key(1), (1, 12, 2, 1), jnp.complex64)
    y = pusch.apply_channel(H, pusch.transmit(bits, config)) + 0.3 * jax.random.normal(jax.random.key(2), (2, 14, 12), jnp.complex64)
    found = dmrs.Estimated(H, jnp.zeros((1, 1, 1)))
    detect = jax.jit(partial(pusch.soft_bits, pusch=config), static_argnames="detector")
    expected = detect(y, found, 0.09, detector="lmmse")
    np.testing.assert_allclose(detect(y, found, 0.09, detector=detector), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channel", ["awgn", "rayleigh"])
def test_gradient_from_soft_bits_to_channel(channel):
    link = pusch.Link(pusch.Pusch(Carrier(2), 10), channel, knowledge="ls")
    config = link.pusch
    bits = np.random.default_rng(0).integers(2, size=config.payload, dtype=np.uint8)
    coded, H = jax.jit(lambda b: (pusch.match(pusch.encode(b, config), config), pusch.draw_channel(jax.random.key(1), link)))(bits)

    def loss(x):
        y = pusch.apply_channel(H, x) + 0.1 * jax.random.normal(jax.random.key(2), (2, 14, 24), jnp.complex64)
        llr = pusch.soft_bits(y, pusch.estimate(y, H, 0.01, link), 0.01, config)
        return jnp.mean(jax.nn.softplus(jnp.where(coded == 1, -llr, llr)))

    slope = jax.jit(jax.grad(loss))(pusch.to_grid(coded, config))
    assert bool(jnp.isfinite(slope).all()) and float(jnp.abs(slope).max()) > 0


def test_gradient_from_decoded_bits_to_channel_input():
    "From the loss of the decoded information bits through decoder, detector, channel estimate and CDL to the transmitted grid."
    line = DelayLine("cdl-c", ue=Antennas(), bs=Antennas(2), speed_m_s=10.0)
    link = pusch.Link(pusch.Pusch(Carrier(1), 9, layers=1), line, knowledge="lmmse")
    config = link.pusch
    bits = np.random.default_rng(0).integers(2, size=config.payload, dtype=np.uint8)
    noise, H = jax.jit(lambda key: (2.0 * jax.random.normal(key, (2, 14, 12), jnp.complex64), pusch.draw_channel(key, link)))(jax.random.key(1))

    def loss(x):
        y = pusch.apply_channel(H, x) + noise
        llr = pusch.soft_bits(y, pusch.estimate(y, H, 4.0, link), 4.0, config)
        back = pusch.decode_blocks(pusch.dematch(llr, config), config, 2, differentiable=True)
        return jnp.mean(jax.nn.softplus(jnp.where(bits == 1, -back.llr[0, : len(bits)], back.llr[0, : len(bits)])))

    slope = jax.jit(jax.grad(loss))(jax.jit(partial(pusch.transmit, pusch=config))(bits))
    assert bool(jnp.isfinite(slope).all()) and float(jnp.mean(jnp.abs(slope) > 0)) > 0.5


SMALL = pusch.Pusch(Carrier(1), 9, layers=1)


@pytest.mark.parametrize("wrong, told", [
    (lambda: pusch.Pusch(Carrier(0)), "1 to 275"),
    (lambda: pusch.Pusch(mcs=28, table=2), "table 5.1.3.1-2 has MCS 0 to 27"),
    (lambda: pusch.Pusch(table=5), "tables 1 to 4"),
    (lambda: pusch.Pusch(layers=0), "1 to 4"),
    (lambda: pusch.Pusch(rnti=70000), "65536"),
    (lambda: pusch.Pusch(layers=2, dmrs=Dmrs(ports=(0,))), "one DMRS port for each of 2 layers"),
    (lambda: pusch.Pusch(overhead=5), "0, 6, 12 and 18"),
    (lambda: pusch.Link(channel="cdl-c"), "'awgn', 'rayleigh' or a DelayLine"),
    (lambda: pusch.Link(antennas=3), "ends in 2"), (lambda: pusch.dematch(jnp.zeros(7), pusch.Pusch()), "7 LLRs.*G = 63648.*38.212"),
    (lambda: pusch.transmit(jnp.zeros(7, jnp.uint8), pusch.Pusch()), "30216.*38.212 clause 5.2.2"),
    (lambda: pusch.decode_blocks(jnp.zeros((1, 7)), pusch.Pusch()), "38.212 clause 5.3.2"),
    (lambda: pusch.decode_blocks(jnp.full((1, SMALL.segmentation.code.length), jnp.nan), SMALL), "not-a-numbers.*38.212 clause 5.3.2"),
    (lambda: pusch.Link(knowledge="genie"), "'perfect', 'ls' or 'lmmse'"),
])
def test_bad_input_is_named(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()


def test_one_program_for_all_snrs():
    "The SNR is traced: a sweep compiles once."
    link = pusch.Link(pusch.Pusch(Carrier(1), 0, layers=1))
    run = partial(pusch.simulate, jax.random.key(0), link, batch=4)
    run(10.0)
    before = pusch.simulate._cache_size()
    assert run(11.0).ok.all() and not run(-20.0).ok.any() and pusch.simulate._cache_size() == before
