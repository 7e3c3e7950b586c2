"CRC and scrambling against vectors of another implementation."
import numpy as np

from mimo_jax.nr.crc import CRC_LENGTH, attach, check
from mimo_jax.nr.scrambling import data_seed, descramble, gold, scramble


def test_crc_vectors(reference):
    vectors = reference("crc.npz")
    for name in CRC_LENGTH:
        for length in (12, 100):
            block = vectors[f"CRC{name}_out{length}"]
            np.testing.assert_array_equal(attach(vectors[f"CRC{name}_in{length}"], name), block)
            assert check(block, name).all() and not check(block ^ np.eye(1, block.shape[1], dtype=np.uint8), name).any()


def test_crc_of_a_whole_transport_block_has_no_length_limit():
    bits = np.random.default_rng(0).integers(2, size=(2, 200_000), dtype=np.uint8)
    block = np.array(attach(bits, "24A"))
    assert check(block, "24A").all()
    block[0, 123_456] ^= 1
    np.testing.assert_array_equal(check(block, "24A"), [False, True])


def test_gold_vectors(reference):
    vectors = reference("gold.npz")
    np.testing.assert_array_equal(gold(vectors["c_init"], 2048), vectors["seq"])


def test_scrambling_vectors(reference):
    vectors = reference("gold.npz")
    seeds = [data_seed(*map(int, pair)) for pair in vectors["tb_rnti_nid"]]
    for seed, bits, llr in zip(seeds, vectors["tb_bits_out"], vectors["tb_llr_out"], strict=True):
        np.testing.assert_array_equal(scramble(vectors["tb_bits_in"], seed), bits)
        np.testing.assert_array_equal(descramble(vectors["tb_llr_in"], seed), llr)
