"LDPC coding against vectors of another implementation, and over random legal configurations."
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from mimo_jax.phy.channel import awgn, noise_variance
from mimo_jax.phy.constellation import demap_qam, modulate, qam, random_bits
from conftest import vectors
from mimo_jax.nr.crc import attach, check
from mimo_jax.nr.ldpc import (
    LARGEST_BLOCK, LIFTING_SIZES, Code, edges, encode, join, make_code, segment, segmentation,
    select_base_graph, syndrome_is_zero,
)
from mimo_jax.nr.ldpc_decoding import LdpcDecoder, decode, decode_unrolled
from mimo_jax.nr.rate_matching import block_lengths, rate_dematch, rate_match, rows_used


def test_encoding_and_rate_matching_vectors():
    reference = vectors("ldpc_encode")
    for i, row in enumerate(reference["meta"].tolist()):
        _, k, n, base_graph, Z, _, _, systematic, _, bits_per_symbol, fillers = row
        code = make_code(k, base_graph)
        assert (code.Z, code.systematic, code.fillers) == (Z, systematic, fillers)
        word = encode(reference[f"u{i}"], code)
        sent = rate_match(word, code, n, bits_per_symbol=bits_per_symbol or 1)
        np.testing.assert_array_equal(sent, reference[f"c{i}"])


def test_redundancy_version_vectors():
    reference = vectors("ldpc_rate_match_rv")
    for i, (_, k, n, base_graph, *_) in enumerate(reference["meta"].tolist()):
        code = make_code(k, base_graph)
        word = encode(reference[f"u{i}"], code)
        for rv in range(4):
            expected = reference[f"c{i}"][:, rv]
            np.testing.assert_array_equal(rate_match(word, code, n, rv), expected)
            np.testing.assert_array_equal(rate_match(word, code, n, jnp.asarray(rv)), expected)


def test_segmentation_of_transport_block_sizes():
    reference = vectors("tbs")
    column = {str(name): i for i, name in enumerate(reference["tbs_grid_cols"])}
    names = ("tbs_exact38214", "rate2048", "bg_38212", "C_38212", "Kprime_38212")
    grid = reference["tbs_grid"][:, [column[name] for name in names]]
    rows = np.unique(grid, axis=0).tolist()
    for size, rate2048, base_graph, blocks, k in rows:
        plan = segmentation(size, rate2048 / 2048)
        assert (plan.code.base_graph, plan.blocks, plan.code.k) == (base_graph, blocks, k)
        assert plan.code.fillers >= 0
        assert select_base_graph(size, rate2048 / 2048) == base_graph
    # Both graphs, and one as well as several code blocks, occur among them.
    assert {row[2] for row in rows} == {1, 2} and min(row[3] for row in rows) == 1 < rows[-1][3]


@pytest.mark.parametrize("base_graph, Z", [(1, 384), (2, 208)])
def test_code_words_pass_every_check(base_graph, Z):
    code = Code(Z * (22 if base_graph == 1 else 10) - 3, base_graph, Z)
    bits = np.random.default_rng(Z).integers(2, size=(3, code.k), dtype=np.uint8)
    assert syndrome_is_zero(bits, encode(bits, code), code).all()


def test_every_lifting_size_has_its_set_of_shifts():
    for base_graph, count in ((1, 316), (2, 197)):
        for Z in LIFTING_SIZES:
            rows = edges(base_graph, Z)
            assert sum(map(len, rows)) == count
            assert all(0 <= e.shift < Z for row in rows for e in row)


@st.composite
def transmissions(draw):
    "Any legal block: base graph, bits, modulation, length, version, buffer."
    base_graph = draw(st.sampled_from([1, 2]))
    code = make_code(draw(st.integers(30, 400 if base_graph == 2 else 1000)), base_graph)
    bits_per_symbol = draw(st.sampled_from([1, 2, 4, 6, 8]))
    least, most = 1 + code.k // bits_per_symbol, 2 * code.length // bits_per_symbol
    n = bits_per_symbol * draw(st.integers(least, most))
    n_ref = draw(st.one_of(st.none(), st.integers(code.systematic, code.length)))
    return code, n, draw(st.integers(0, 3)), bits_per_symbol, n_ref


@settings(max_examples=15, deadline=None, derandomize=True)
@given(transmissions())
def test_dematching_is_the_transpose_of_matching(transmission):
    code, n, rv, bits_per_symbol, n_ref = transmission
    where = np.asarray(rate_match(jnp.arange(code.length), code, n, rv, bits_per_symbol, n_ref))
    llr = np.random.default_rng(n).normal(size=(2, n)).astype(np.float32)
    expected = np.stack([np.bincount(where, row, code.length) for row in llr])
    found = rate_dematch(llr, code, rv, bits_per_symbol, n_ref)
    np.testing.assert_allclose(found, expected, atol=1e-4)  # float32
    fillers = np.arange(code.k, code.systematic) - 2 * code.Z
    assert not np.isin(where, fillers).any()
    assert where.max() < min(code.length, n_ref or code.length)
    reached = where.max() // code.Z + 3 - code.systematic // code.Z
    assert rows_used(code, n, (rv,), n_ref) >= reached


def _few_codes():
    "Small codes of both graphs, of random sizes, and the rows that their decoders use."
    rng, codes = np.random.default_rng(6), []
    for base_graph, Z, rows in ((1, 3, 6), (1, 7, 6), (2, 9, 7), (2, 11, 7)):
        most = Z * (22 if base_graph == 1 else 10)
        codes.append((Code(int(rng.integers(most - Z, most + 1)), base_graph, Z), rows))
    return codes


@pytest.mark.parametrize("code, rows", _few_codes())
@settings(max_examples=2, deadline=None, derandomize=True)
@given(
    length=st.floats(0, 1), buffer=st.one_of(st.none(), st.floats(0, 1)),
    m=st.sampled_from([1, 2, 4, 6, 8, 10]), seed=st.integers(0, 2**31 - 1),
    versions=st.sampled_from([(0,), (0, 1), (0, 2), (0, 3), (0, 2, 3, 1)]),
)
def test_noiseless_blocks_come_back(code, rows, length, buffer, m, versions, seed):
    "Any transmission up to rate 0.9, up to twice around the buffer, after others or alone."
    least = int(code.k / 0.9) + 1
    symbols = -(-least // m)
    n = m * round(symbols + length * (2 * code.length // m - symbols))
    smallest = least + code.fillers
    n_ref = None if buffer is None else round(smallest + buffer * (code.length - smallest))
    bits = np.random.default_rng(seed).integers(2, size=(3, code.k), dtype=np.uint8)
    word = encode(bits, code)
    assert syndrome_is_zero(bits, word, code).all()
    llr = 0.0
    for rv in map(jnp.asarray, versions):
        received = 8.0 * rate_match(word, code, n, rv, m, n_ref) - 4.0
        llr = llr + rate_dematch(received, code, rv, m, n_ref)
    found = decode(llr, LdpcDecoder(code, rows))
    np.testing.assert_array_equal(found.bits, bits)
    assert found.parity_ok.all()


def _block_errors(code, n, m, snr_db, blocks, decoder, iterations):
    bits = random_bits(jax.random.key(0), (blocks, code.k))
    sent = rate_match(encode(bits, code), code, n, bits_per_symbol=m)
    noise = noise_variance(snr_db)
    y = awgn(jax.random.key(1), modulate(sent, qam(m)), noise)
    llr = rate_dematch(demap_qam(y, noise, m).reshape(blocks, n), code, bits_per_symbol=m)
    return int((decode(llr, decoder, iterations).bits != bits).any(-1).sum())


@pytest.mark.parametrize("index, options", [
    (0, {"schedule": "flooding", "check_node_update": "sum-product"}),
    (1, {"schedule": "flooding", "check_node_update": "min-sum"}),
    (2, {"schedule": "flooding", "check_node_update": "offset"}), (3, {"factor": 0.75}),
])
def test_block_error_rates_of_the_short_code(index, options):
    reference = vectors("bler_awgn")
    k, n, base_graph, _, m = reference["A__meta"].tolist()
    code = make_code(k, base_graph)
    decoder = LdpcDecoder(code, rows_used(code, n), **options)
    steep = [row for row in reference["A__rows"].tolist() if 0.005 < row[5] < 0.97]
    rows = [row for row in steep if row[1] == index]
    assert len(rows) > 8
    for snr_db, _, iterations, blocks, errors, *_ in rows:
        ours = _block_errors(code, n, m, snr_db, 512, decoder, int(iterations))
        p = fisher_exact([[ours, 512 - ours], [errors, blocks - errors]]).pvalue
        # 5 % over all points of the four decoders together (Bonferroni)
        assert p > 0.05 / len(steep), f"{snr_db} dB: {ours}/512, {errors:.0f}/{blocks:.0f}"


def test_stopping_by_crc_returns_blocks_that_pass_it():
    code = make_code(100, 2)
    bits = attach(random_bits(jax.random.key(0), (500, 76)), "24B")
    sent = rate_match(encode(bits, code), code, 200, bits_per_symbol=2)
    noise = noise_variance(1.5)
    y = awgn(jax.random.key(1), modulate(sent, qam(2)), noise)
    llr = rate_dematch(demap_qam(y, noise, 2).reshape(500, 200), code, bits_per_symbol=2)
    found = decode(llr, LdpcDecoder(code, rows_used(code, 200), stop="24B"))
    right = (found.bits == bits).all(-1)
    np.testing.assert_array_equal(right, check(found.bits, "24B"))
    assert right[found.iterations < 20].all()
    assert 0.5 < right.mean() < 0.99


def test_one_executable_for_any_number_of_iterations():
    from mimo_jax.nr.ldpc_decoding import _decode

    code = make_code(60, 2)
    llr = jax.random.normal(jax.random.key(0), (4, code.length))
    decoder = LdpcDecoder(code, 4, messages="float32")
    decode(llr, decoder, 1)
    compiled = _decode._cache_size()
    results = [decode(llr, decoder, iterations).llr for iterations in (1, 2, 7, 50)]
    assert _decode._cache_size() == compiled and not np.array_equal(results[0], results[1])
    unrolled = decode_unrolled(llr, decoder, 7).llr
    np.testing.assert_allclose(unrolled, results[2], rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("update, schedule", [
    ("normalized", "layered"), ("offset", "layered"), ("sum-product", "flooding"),
])
def test_gradients_reach_the_channel_and_are_finite(update, schedule):
    code = make_code(60, 2)
    bits = random_bits(jax.random.key(0), (4, code.k))
    sent = 4.0 * rate_match(encode(bits, code), code, 80) - 2.0
    llr = rate_dematch(sent, code) + jax.random.normal(jax.random.key(1), (4, code.length))
    decoder = LdpcDecoder(code, rows_used(code, 80), schedule, update)

    def loss(llr):
        soft = decode_unrolled(llr, decoder, 4).llr
        return jnp.mean(jax.nn.softplus((1.0 - 2.0 * bits) * soft))

    slope = jax.jit(jax.grad(loss))(llr.at[0].set(0.0))
    assert jnp.isfinite(slope).all() and (jnp.abs(slope[1:]).sum(-1) > 0).all()


def test_whole_chain_of_a_segmented_transport_block():
    plan = segmentation(3904, 0.2)
    assert (plan.blocks, plan.code.base_graph) == (2, 2)
    bits = random_bits(jax.random.key(0), (2, 3904))
    lengths = block_lengths(6_602, plan.blocks, 2)  # few rows of the base graph to compile
    words = encode(segment(bits, plan), plan.code)

    def received(i, n):
        sent = 4.0 * rate_match(words[:, i], plan.code, n) - 2.0
        return rate_dematch(sent + jax.random.normal(jax.random.key(i), sent.shape), plan.code)

    llr = jnp.stack([received(i, n) for i, n in enumerate(lengths)], 1)
    found = decode(llr, LdpcDecoder(plan.code, rows_used(plan.code, max(lengths)), stop="24B"))
    joined = join(found.bits, plan)
    assert joined.crc_ok.all() and joined.block_crc_ok.all() and len(set(lengths)) == 2
    np.testing.assert_array_equal(joined.bits, bits)


SMALL = make_code(100, 2)
ZEROS = np.zeros((2, 900), np.float32)


@pytest.mark.parametrize("wrong, text", [
    (lambda: make_code(3841, 2), "3840"), (lambda: make_code(0, 1), "k=0"),
    (lambda: Code(10, 3, 2), "base_graph=3"), (lambda: Code(10, 1, 385), "Z=385"),
    (lambda: select_base_graph(100, 1.0), "6.2.2"),
    (lambda: segmentation(LARGEST_BLOCK[1] * 3 + 1, 0.9), "5.1.3.2"),
    (lambda: block_lengths(101, 2, 2, 4), "multiple"),
    (lambda: block_lengths(8, 3, 1, 4), "at least 3"),
    (lambda: rate_dematch(ZEROS[:, :7], SMALL, 0, 2), "n=7"),
    (lambda: rate_match(np.zeros((1, 900), np.uint8), SMALL, 10, 0, 3), "bits_per_symbol=3"),
    (lambda: LdpcDecoder(SMALL, stop="25A"), "25A"),
    (lambda: LdpcDecoder(SMALL, check_node_update="max-sum"), "max-sum"),
    (lambda: decode(ZEROS[:, :899], LdpcDecoder(SMALL)), "N = 900"),
    (lambda: decode(ZEROS, LdpcDecoder(SMALL), 0), "iterations=0"),
    (lambda: decode_unrolled(ZEROS, LdpcDecoder(SMALL, stop="syndrome"), 2), "derivative"),
])
def test_bad_input_is_named(wrong, text):
    with pytest.raises(ValueError, match=text):
        wrong()
