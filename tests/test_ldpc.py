"LDPC coding against vectors of another implementation, and properties over random legal configurations."
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.phy.crc import attach
from mimo_jax.phy.ldpc import LARGEST_BLOCK, LIFTING_SIZES, Code, encode, join, make_code, parity_holds, segment, segmentation, select_base_graph
from mimo_jax.phy.ldpc_decoding import Decoder, decode, decode_unrolled
from mimo_jax.phy.rate_matching import block_lengths, rate_dematch, rate_match, rows_used


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


def test_segmentation_grid(reference):
    vectors = reference("tbs.npz")
    columns = [str(c) for c in vectors["tbs_grid_cols"]]
    for row in vectors["tbs_grid"][::37]:
        print(columns, row); break
