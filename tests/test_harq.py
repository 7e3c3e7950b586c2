"""HARQ: its policies, and what combining does to the soft buffer."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax.nr import harq, pusch
from mimo_jax.phy.constellation import random_bits
from mimo_jax.phy.ofdm import Carrier

LINK = pusch.Link(pusch.Pusch(Carrier(1), 0, layers=1))


def test_policies():
    assert harq.Harq(6).versions == (0, 2, 3, 1, 0, 2) and harq.Harq(3, "chase").versions == (0, 0, 0)
    needed = np.array([1, 1, 2, 4, 5])
    np.testing.assert_array_equal(harq.residual(needed, 4), [3, 2, 2, 1])
    assert harq.expected_transmissions(needed, 4) == (1 + 1 + 2 + 4 + 4) / 5


def test_one_program_from_never_to_at_once():
    "Sure failures use all tries, sure successes one; new and same channel share the program."
    policy = harq.Harq(5)
    lost = harq.simulate(jax.random.key(0), LINK, policy, -40.0, 8)
    at_once = harq.simulate(jax.random.key(0), LINK, policy, 10.0, 8)
    between = [harq.simulate(jax.random.key(1), LINK, harq.Harq(5, channel=kind), -12.0, 8) for kind in ("new", "same")]
    np.testing.assert_array_equal(lost, 6)
    np.testing.assert_array_equal(at_once, 1)
    np.testing.assert_array_equal(*between)  # white noise has no fading to draw again
    assert 1 < between[0].mean() < 6 and harq._simulate._cache_size() == 1


def test_versions_fill_the_buffer():
    "Four versions reach all of a code word that one does not; chase combining only adds up."
    config = pusch.Pusch(Carrier(2), 9, layers=1)
    words = pusch.encode(random_bits(jax.random.key(0), (config.payload,)), config)
    def heard(rv): return pusch.dematch(1 - 2.0 * (pusch.match(words, config, rv) == 0), config, rv)
    total, seen = jnp.zeros(words.shape), []
    for rv in harq.RV_ORDER:
        traced = jax.jit(heard)(rv)
        np.testing.assert_array_equal(traced, heard(rv))
        total = total + traced
        seen.append(int(jnp.sum(total != 0)))
    assert np.all(np.diff(seen) > 0) and bool(jnp.all(((total > 0) == (words == 1))[total != 0]))
    np.testing.assert_array_equal(heard(0) + heard(0) != 0, heard(0) != 0)


@pytest.mark.parametrize("wrong, told", [
    (lambda: harq.Harq(0), "1 to 16"), (lambda: harq.Harq(17), "1 to 16.*38.214 clause 6.1.2.1"), (lambda: harq.Harq(combining="none"), "'chase'"),
    (lambda: harq.Harq(channel="old"), "'new' or 'same'"),
])
def test_bad_input_is_named(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()
