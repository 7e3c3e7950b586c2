"""HARQ: its policies, and what combining does to the soft buffer."""
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax.nr import harq, pusch
from mimo_jax.phy.constellation import random_bits
from mimo_jax.phy.ofdm import Carrier

LINK = pusch.Link(pusch.Pusch(Carrier(1), 9, layers=1))  # few rows of the base graph to compile


def test_policies():
    assert harq.Harq(6).versions == (0, 2, 3, 1, 0, 2)
    assert harq.Harq(3, "chase").versions == (0, 0, 0)
    needed = np.array([1, 1, 2, 4, 5])
    np.testing.assert_array_equal(harq.residual(needed, 4), [3, 2, 2, 1])
    assert harq.expected_transmissions(needed, 4) == (1 + 1 + 2 + 4 + 4) / 5


IN_64_BITS = """
import jax
from mimo_jax.nr import harq, pusch
from mimo_jax.phy.ofdm import Carrier
link = pusch.Link(pusch.Pusch(Carrier(1), 9, layers=1))
print(harq.simulate_harq(jax.random.key(0), link, harq.Harq(2), 10.0, 4).tolist())
"""


def test_soft_buffers_keep_their_type_where_floats_have_64_bits():
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    ran = subprocess.run([sys.executable, "-c", IN_64_BITS], env=environment, text=True,
                         capture_output=True, timeout=300)
    assert ran.stdout.strip() == "[1, 1, 1, 1]", ran.stderr


def test_one_program_from_never_to_at_once():
    "Sure failures use all transmissions, sure successes one; all policies share the program."
    def needed(snr_db, seed=0, transmissions=5, channel="new"):
        policy = harq.Harq(transmissions, "chase", channel)
        return harq.simulate_harq(jax.random.key(seed), LINK, policy, snr_db, 8)

    np.testing.assert_array_equal(needed(-40.0), 6)
    np.testing.assert_array_equal(needed(-40.0, transmissions=3), 4)
    np.testing.assert_array_equal(needed(10.0), 1)
    between = needed(-3.0, seed=1)
    # White noise has no fading to draw again.
    np.testing.assert_array_equal(between, needed(-3.0, seed=1, channel="same"))
    assert 1 < between.mean() < 6 and harq._simulate._cache_size() == 1


def test_versions_fill_the_buffer():
    "Four versions reach all of a code word that one does not; chase combining only adds up."
    config = pusch.Pusch(Carrier(2), 9, layers=1)
    bits = random_bits(jax.random.key(0), (config.transport_block_size,))
    words = pusch.encode_transport_block(bits, config)

    def received(rv): return pusch.dematch(2.0 * pusch.match(words, config, rv) - 1, config, rv)

    total, seen, traced = jnp.zeros(words.shape), [], jax.jit(received)
    for rv in harq.RV_ORDER:
        np.testing.assert_array_equal(traced(rv), received(rv))
        total = total + traced(rv)
        seen.append(int(jnp.sum(total != 0)))
    assert np.all(np.diff(seen) > 0)
    assert bool(jnp.all(((total > 0) == (words == 1))[total != 0]))
    np.testing.assert_array_equal(received(0) + received(0) != 0, received(0) != 0)


@pytest.mark.parametrize("wrong, message", [
    (lambda: harq.Harq(0), "1 to 16"),
    (lambda: harq.Harq(17), "1 to 16.*38.214 clause 6.1.2.1"),
    (lambda: harq.Harq(combining="none"), "'chase'"),
    (lambda: harq.Harq(channel="old"), "'new' or 'same'"),
])
def test_bad_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
