"LDPC coding against vectors of another implementation, and properties over random legal configurations."
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from mimo_jax.phy.channel import awgn, noise_variance
from mimo_jax.phy.constellation import demap_qam, modulate, qam, random_bits
from mimo_jax.nr.crc import attach, check
from mimo_jax.nr.ldpc import (
    LARGEST_BLOCK, LIFTING_SIZES, Code, edges, encode, join, make_code, syndrome_is_zero, segment, segmentation, select_base_graph,
)
from mimo_jax.nr.ldpc_decoding import LdpcDecoder, decode, decode_unrolled
from mimo_jax.nr.rate_matching import block_lengths, rate_dematch, rate_match, rows_used


def test_encoding_and_rate_matching_vectors(reference):
    vectors = reference("ldpc_encode.npz")
    for i, (_, k, n, bg, z, _, _, systematic, _, bits_per_symbol, fillers) in enumerate(vectors["meta"].tolist()):
        code = make_code(k, bg)
        assert (code.Z, code.systematic, code.fillers) == (z, systematic, fillers)
        sent = rate_match(encode(vectors[f"u{i}"], code), code, n, bits_per_symbol=bits_per_symbol or 1)
        np.testing.assert_array_equal(sent, vectors[f"c{i}"])


def test_redundancy_version_vectors(reference):
    vectors = reference("ldpc_rate_match_rv.npz")
    for i, (_, k, n, bg, *_) in enumerate(vectors["meta"].tolist()):
        code = make_code(k, bg)
        word = encode(vectors[f"u{i}"], code)
        for rv in range(4):
            np.testing.assert_array_equal(rate_match(word, code, n, rv), vectors[f"c{i}"][:, rv])
            np.testing.assert_array_equal(rate_match(word, code, n, jnp.asarray(rv)), vectors[f"c{i}"][:, rv])


def test_segmentation_of_every_transport_block_size(reference):
    vectors = reference("tbs.npz")
    column = {str(name): i for i, name in enumerate(vectors["tbs_grid_cols"])}
    names = ("tbs_exact38214", "rate2048", "bg_38212", "C_38212", "Kprime_38212")
    configurations = np.unique(vectors["tbs_grid"][:, [column[name] for name in names]], axis=0).tolist()
    for payload, rate2048, base_graph, blocks, k in configurations:
        plan = segmentation(payload, rate2048 / 2048)
        assert (plan.code.base_graph, plan.blocks, plan.code.k) == (base_graph, blocks, k)
        assert plan.code.fillers >= 0 and select_base_graph(payload, rate2048 / 2048) == base_graph
    assert len(configurations) > 1000


@pytest.mark.parametrize("base_graph, Z", [(1, 384), (2, 384), (1, 26), (2, 208)])
def test_code_words_pass_every_check(base_graph, Z):
    code = Code(Z * (22 if base_graph == 1 else 10) - 3, base_graph, Z)
    bits = np.random.default_rng(Z).integers(2, size=(3, code.k), dtype=np.uint8)
    assert syndrome_is_zero(bits, encode(bits, code), code).all()


def test_every_lifting_size_has_its_set_of_shifts():
    for base_graph, count in ((1, 316), (2, 197)):
        for Z in LIFTING_SIZES:
            rows = edges(base_graph, Z)
            assert sum(map(len, rows)) == count and all(0 <= e.shift < Z for row in rows for e in row)


@st.composite
def transmissions(draw):
    "Any legal block: base graph, bits, modulation, length, version, buffer."
    base_graph = draw(st.sampled_from([1, 2]))
    code = make_code(draw(st.integers(30, 400 if base_graph == 2 else 1000)), base_graph)
    bits_per_symbol = draw(st.sampled_from([1, 2, 4, 6, 8]))
    n = bits_per_symbol * draw(st.integers(1 + code.k // bits_per_symbol, 2 * code.length // bits_per_symbol))
    n_ref = draw(st.one_of(st.none(), st.integers(code.systematic, code.length)))
    return code, n, draw(st.integers(0, 3)), bits_per_symbol, n_ref


@settings(max_examples=15, deadline=None, derandomize=True)
@given(transmissions())
def test_dematching_is_the_transpose_of_matching(transmission):
    code, n, rv, bits_per_symbol, n_ref = transmission
    where = np.asarray(rate_match(jnp.arange(code.length), code, n, rv, bits_per_symbol, n_ref))
    llr = np.random.default_rng(n).normal(size=(2, n)).astype(np.float32)
    expected = np.stack([np.bincount(where, row, code.length) for row in llr])
    np.testing.assert_allclose(rate_dematch(llr, code, rv, bits_per_symbol, n_ref), expected, atol=1e-4)
    fillers = np.arange(code.k, code.systematic) - 2 * code.Z
    assert not np.isin(where, fillers).any() and where.max() < min(code.length, n_ref or code.length)
    assert rows_used(code, n, (rv,), n_ref) >= where.max() // code.Z + 3 - code.systematic // code.Z


def _few_codes():
    "Small codes of both graphs, of random sizes, and the rows that their decoders use: the more rows, the longer it compiles."
    rng, codes = np.random.default_rng(6), []
    for base_graph, Z, rows in ((1, 2, 7), (1, 3, 7), (1, 7, 6), (2, 5, 9), (2, 9, 9), (2, 11, 8), (2, 26, 7)):
        most = Z * (22 if base_graph == 1 else 10)
        codes.append((Code(int(rng.integers(most - Z, most + 1)), base_graph, Z), rows))
    return codes


@pytest.mark.parametrize("code, rows", _few_codes())
@settings(max_examples=2, deadline=None, derandomize=True)
@given(length=st.floats(0, 1), buffer=st.one_of(st.none(), st.floats(0, 1)), m=st.sampled_from([1, 2, 4, 6, 8, 10]),
       versions=st.sampled_from([(0,), (0, 1), (0, 2), (0, 3), (0, 2, 3, 1)]), seed=st.integers(0, 2**31 - 1))
def test_noiseless_blocks_come_back(code, rows, length, buffer, m, versions, seed):
    "Any transmission of up to 0.9 information bits a coded bit, alone or after others, up to twice around the buffer; a few rows suffice."
    least = int(code.k / 0.9) + 1
    n = m * round(-(-least // m) + length * (2 * code.length // m - -(-least // m)))
    n_ref = None if buffer is None else round(least + code.fillers + buffer * (code.length - least - code.fillers))
    bits = np.random.default_rng(seed).integers(2, size=(3, code.k), dtype=np.uint8)
    word = encode(bits, code)
    assert syndrome_is_zero(bits, word, code).all()
    llr = sum(rate_dematch(8.0 * rate_match(word, code, n, jnp.asarray(v), m, n_ref) - 4.0, code, jnp.asarray(v), m, n_ref) for v in versions)
    found = decode(llr, LdpcDecoder(code, rows))
    np.testing.assert_array_equal(found.bits, bits)
    assert found.parity_ok.all()


def _block_errors(code, n, m, snr_db, blocks, decoder, iterations):
    bits = random_bits(jax.random.key(0), (blocks, code.k))
    N0, symbols = noise_variance(snr_db), modulate(rate_match(encode(bits, code), code, n, bits_per_symbol=m), qam(m))
    llr = demap_qam(awgn(jax.random.key(1), symbols, N0), N0, m).reshape(blocks, n)
    return int((decode(rate_dematch(llr, code, bits_per_symbol=m), decoder, iterations).bits != bits).any(-1).sum())


@pytest.mark.parametrize("index, options", [
    (0, {"schedule": "flooding", "check_node_update": "sum-product"}), (1, {"schedule": "flooding", "check_node_update": "min-sum"}),
    (2, {"schedule": "flooding", "check_node_update": "offset"}), (3, {"factor": 0.75}),
])
def test_block_error_rates_of_the_short_code(reference, index, options):
    vectors = reference("bler_awgn.npz")
    k, n, base_graph, _, m = vectors["A__meta"].tolist()
    code = make_code(k, base_graph)
    decoder = LdpcDecoder(code, rows_used(code, n), **options)
    rows = [row for row in vectors["A__rows"].tolist() if row[1] == index and 0.005 < row[5] < 0.97]
    assert len(rows) > 8
    for snr_db, _, iterations, blocks, errors, *_ in rows:
        ours = _block_errors(code, n, m, snr_db, 512, decoder, int(iterations))
        p = fisher_exact([[ours, 512 - ours], [errors, blocks - errors]]).pvalue
        assert p > 0.05 / 60, f"{snr_db} dB: {ours}/512 against {errors:.0f}/{blocks:.0f}"


def test_stopping_by_crc_returns_blocks_that_pass_it():
    code = make_code(100, 2)
    bits = attach(random_bits(jax.random.key(0), (500, 76)), "24B")
    N0, symbols = noise_variance(1.5), modulate(rate_match(encode(bits, code), code, 200, bits_per_symbol=2), qam(2))
    llr = rate_dematch(demap_qam(awgn(jax.random.key(1), symbols, N0), N0, 2).reshape(500, 200), code, bits_per_symbol=2)
    found = decode(llr, LdpcDecoder(code, rows_used(code, 200), stop="24B"))
    right = (found.bits == bits).all(-1)
    np.testing.assert_array_equal(right, check(found.bits, "24B"))
    assert right[found.iterations < 20].all()
    assert 0.5 < right.mean() < 0.99


def test_one_executable_for_any_number_of_iterations():
    from mimo_jax.nr.ldpc_decoding import _decode

    code = make_code(60, 2)
    llr, decoder = jax.random.normal(jax.random.key(0), (4, code.length)), LdpcDecoder(code, 6, messages="float32")
    decode(llr, decoder, 1)
    compiled = _decode._cache_size()
    results = [decode(llr, decoder, iterations).llr for iterations in (1, 2, 7, 50)]
    assert _decode._cache_size() == compiled and not np.array_equal(results[0], results[1])
    np.testing.assert_allclose(decode_unrolled(llr, decoder, 7).llr, results[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule, schedule", [("normalized", "layered"), ("offset", "layered"), ("sum-product", "flooding")])
def test_gradients_reach_the_channel_and_are_finite(rule, schedule):
    code = make_code(60, 2)
    bits = random_bits(jax.random.key(0), (4, code.k))
    llr = rate_dematch(4.0 * rate_match(encode(bits, code), code, 80) - 2.0, code) + jax.random.normal(jax.random.key(1), (4, code.length))
    decoder = LdpcDecoder(code, rows_used(code, 80), schedule, rule)
    slope = jax.grad(lambda x: jnp.mean(jax.nn.softplus((1.0 - 2.0 * bits) * decode_unrolled(x, decoder, 4).llr)))(llr.at[0].set(0.0))
    assert jnp.isfinite(slope).all() and (jnp.abs(slope[1:]).sum(-1) > 0).all()


def test_whole_chain_of_a_segmented_transport_block():
    plan = segmentation(3904, 0.2)
    assert (plan.blocks, plan.code.base_graph) == (2, 2)
    bits = random_bits(jax.random.key(0), (2, 3904))
    lengths = block_lengths(20_002, plan.blocks, 2)
    words = encode(segment(bits, plan), plan.code)
    sent = [rate_match(words[:, i], plan.code, n) for i, n in enumerate(lengths)]
    llr = jnp.stack([rate_dematch(4.0 * s - 2.0 + jax.random.normal(jax.random.key(i), s.shape), plan.code) for i, s in enumerate(sent)], 1)
    found = decode(llr, LdpcDecoder(plan.code, rows_used(plan.code, max(lengths)), stop="24B"))
    joined = join(found.bits, plan)
    assert joined.crc_ok.all() and joined.block_crc_ok.all() and len(set(lengths)) == 2
    np.testing.assert_array_equal(joined.bits, bits)


@pytest.mark.parametrize("wrong, text", [
    (lambda: make_code(3841, 2), "3840"), (lambda: make_code(0, 1), "k=0"), (lambda: Code(10, 3, 2), "base_graph=3"),
    (lambda: Code(10, 1, 385), "Z=385"), (lambda: select_base_graph(100, 1.0), "6.2.2"),
    (lambda: segmentation(LARGEST_BLOCK[1] * 3 + 1, 0.9), "5.1.3.2"),
    (lambda: block_lengths(101, 2, 2, 4), "multiple"), (lambda: block_lengths(8, 3, 1, 4), "at least 3"),
    (lambda: rate_dematch(np.zeros((1, 7), np.float32), make_code(100, 2), 0, 2), "n=7"),
    (lambda: rate_match(np.zeros((1, 900), np.uint8), make_code(100, 2), 10, 0, 3), "bits_per_symbol=3"),
    (lambda: LdpcDecoder(make_code(100, 2), stop="25A"), "25A"), (lambda: LdpcDecoder(make_code(100, 2), check_node_update="max-sum"), "max-sum"),
    (lambda: decode(np.zeros((2, 899), np.float32), LdpcDecoder(make_code(100, 2))), "N = 900"),
    (lambda: decode(np.zeros((2, 900), np.float32), LdpcDecoder(make_code(100, 2)), 0), "iterations=0"),
    (lambda: decode_unrolled(np.zeros((2, 900), np.float32), LdpcDecoder(make_code(100, 2), stop="syndrome"), 2), "derivative"),
])
def test_bad_input_is_named(wrong, text):
    with pytest.raises(ValueError, match=text):
        wrong()
