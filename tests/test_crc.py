"CRC and scrambling against vectors of another implementation."
import jax.numpy as jnp
import numpy as np

from conftest import vectors
from mimo_jax.nr.crc import CRC_LENGTH, attach, check
from mimo_jax.nr.scrambling import data_seed, descramble, gold, scramble


def test_crc_vectors():
    reference = vectors("crc")
    for name in CRC_LENGTH:
        for length in (12, 100):
            block = reference[f"CRC{name}_out{length}"]
            np.testing.assert_array_equal(attach(reference[f"CRC{name}_in{length}"], name), block)
            one_bit = np.eye(1, block.shape[1], dtype=np.uint8)
            assert check(block, name).all() and not check(block ^ one_bit, name).any()


def test_crc_of_a_whole_transport_block_has_no_length_limit():
    bits = np.random.default_rng(0).integers(2, size=(2, 200_000), dtype=np.uint8)
    block = np.array(attach(bits, "24A"))
    assert check(block, "24A").all()
    block[0, 123_456] ^= 1
    np.testing.assert_array_equal(check(block, "24A"), [False, True])


def test_gold_vectors():
    reference = vectors("gold")
    length = reference["seq"].shape[1]
    np.testing.assert_array_equal(gold(reference["c_init"], length), reference["seq"])


def test_seeds_of_32_bits():
    "Device integers of 32 bits are seeds like any other."
    np.testing.assert_array_equal(gold(jnp.array([1, 5]), 40), gold(np.array([1, 5]), 40))


def test_scrambling_vectors():
    reference = vectors("gold")
    seeds = [data_seed(*map(int, pair)) for pair in reference["tb_rnti_nid"]]
    for i, seed in enumerate(seeds):
        scrambled, llr = scramble(reference["tb_bits_in"], seed), reference["tb_llr_in"]
        np.testing.assert_array_equal(scrambled, reference["tb_bits_out"][i])
        np.testing.assert_array_equal(descramble(llr, seed), reference["tb_llr_out"][i])
