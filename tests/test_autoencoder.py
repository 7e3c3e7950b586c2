"""The autoencoder chapter: what its pages do not show. Bad sizes, checkpoints on disk, a process
that is watched, links that share an executable."""
import jax
import jax.numpy as jnp
import pytest

from mimo_jax.autoencoder import evaluation, memory, measured, training
from mimo_jax.autoencoder.model import Architecture, Autoencoder
from mimo_jax.phy.channel import interference

SMALL = Architecture("tanh-bae", hidden_tx=16, hidden_rx=32)
SHORT = training.LinkTraining(steps=20, batch=64)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bits": 0}, "bits=0"),
        ({"antennas": -2}, "antennas=-2"),
        ({"hidden_rx": 0}, "hidden_rx=0"),
        ({"kind": "bea"}, "ae, bae, tanh-bae"),
        ({"csi": "all"}, "none, receiver, both"),
        ({"csi": "both", "csi_bits": 0}, "at least one bit"),
    ],
)
def test_sizes_that_cannot_be_built(fields, says):
    with pytest.raises(ValueError, match=says):
        Architecture(**fields)


def test_a_network_too_wide_says_what_it_would_take():
    from flax import nnx

    with pytest.raises(ValueError, match=r"2\*\*96 units, .* GiB: use bae or tanh-bae"):
        Autoencoder(Architecture("ae", 16, 6), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="one training step takes .* GiB"):
        training.train_link(Architecture("ae", 4, 6), training.LinkTraining(), None,
                            jax.random.key(0))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    model, *_ = training.train_link(SMALL, SHORT, interference(2)[None], jax.random.key(0))
    training.save_model(model, SHORT, tmp_path / "model")
    bits = jnp.zeros((3, 4), jnp.uint8)
    assert jnp.array_equal(training.load_model(tmp_path / "model", SMALL, SHORT).encode(bits),
                           model.encode(bits))
    other = training.LinkTraining(steps=20, batch=64, snr_db=(2.0, 4.0))
    with pytest.raises(ValueError, match="plan is .*snr_db"):
        training.load_model(tmp_path / "model", SMALL, other)
    with pytest.raises(FileNotFoundError):
        training.load_model(tmp_path / "none", SMALL, SHORT)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no checkpoint of this package, or a damaged one"):
        training.load_model(tmp_path / "empty", SMALL, SHORT)


def test_what_a_process_takes_is_near_the_plan():
    a = Architecture("bae", 2, 2, hidden_tx=64, hidden_rx=1024)
    seen = measured.measure(a, training.LinkTraining(steps=3, batch=2048))
    plan = measured.compiled_bytes(a)
    assert 0.8 * plan < seen.peak_bytes < 2 * plan
    assert abs(memory.estimate_memory(a).total / plan - 1) < 0.1


def test_two_models_of_one_size_share_a_simulation():
    H = interference(2)[None]
    models = [training.train_link(SMALL, SHORT, H, jax.random.key(i)).model for i in range(2)]
    first, second = (evaluation.learned_link(model, H) for model in models)
    assert first.send is second.send
    curves = [evaluation.error_curve(link, [0.0, 20.0], jax.random.key(2), 50, 10_000)
              for link in (first, second)]
    assert curves[0] != curves[1]
