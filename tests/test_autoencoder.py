"""The autoencoder chapter: what its pages do not show. Bad sizes, checkpoints on disk, a process
that is watched, links that share an executable."""
import json

import jax
import jax.numpy as jnp
import pytest

from conftest import ROOT
from mimo_jax.autoencoder import evaluation, memory, measured, training
from mimo_jax.autoencoder.answers import answers
from mimo_jax.autoencoder.experiment import CASES, MEASURED, memory_text
from mimo_jax.autoencoder.model import Architecture, Autoencoder
from mimo_jax.experiment import SCHEMA, values
from mimo_jax.ledger import AGREES, FALLS_SHORT, claims, verdict
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


CLAIMS = {claim.id: claim for claim in claims("autoencoder")}


def invented_curve(where: str, shift: float) -> dict:
    grid = list(CASES[where].snrs_db)
    errors = [int(10 ** (6.45 - n / 3 - shift)) for n in range(len(grid))]
    return {"snr_db": grid, "trials": [10**7] * len(grid), "errors": errors,
            "restarts": [0.02 + shift, 0.03 + shift / 2]}


def invented_run(measured_share: float = 0.8) -> dict:
    "Points in the form of a laptop run: nobody has trained anything."
    found = {"memory/table2": memory.table2(), "memory/text": memory_text()}
    for i, plan in enumerate(MEASURED):
        size = measured_share * (100 + 10 * i)
        found["memory/measured/" + " ".join(map(str, plan))] = {
            "paper_bytes": 100 + 10 * i, "measured_bytes": [size, 1.01 * size, 0.99 * size]}
    for where, case in CASES.items():
        names = [*case.detectors, *(f"{kind}/{i}" for kind in case.kinds for i in range(3))]
        found |= {f"{where}/{name}": invented_curve(where, i / 1000)
                  for i, name in enumerate(names)}
    return found


def runs() -> list:
    "The invented run, and what is stored."
    stored = [json.loads(path.read_text("utf8"))
              for path in sorted((ROOT / "results" / "autoencoder").glob("*.json"))]
    finished = [run for run in stored if run.get("schema") == SCHEMA]
    return [pytest.param(invented_run(), id="invented"),
            *(pytest.param(values(run), id=run["preset"]) for run in finished)]


@pytest.mark.parametrize("points", runs())
def test_what_is_measured_has_an_interval_and_every_answer_a_claim(points):
    found = answers(points)
    assert set(found) <= set(CLAIMS)
    for name, ours in found.items():
        if ours.value is not None and CLAIMS[name].kind != "formula":
            assert ours.low is not None and ours.high is not None, name
            assert ours.low <= ours.value <= ours.high, name


@pytest.mark.parametrize("lost", ["memory/", "awgn/", "interference/", "interference4/", "qam16/",
                                  "interference/mmse", "interference/tanh-bae/0", "memory/text"])
def test_answers_do_without_points_that_are_missing(lost):
    points = invented_run()
    whole = answers(points)
    found = answers({name: v for name, v in points.items() if not name.startswith(lost)})
    assert set(found) <= set(whole) and found != whole
    assert answers({}) == {}


def test_one_seed_answers_no_claim_but_formulas():
    points = {n: v for n, v in invented_run().items() if n[-2:] not in ("/1", "/2")}
    found = answers({n: v for n, v in points.items() if not n.startswith("memory/measured/")})
    assert {CLAIMS[n].kind for n, ours in found.items() if ours.value is not None} == {"formula"}


def test_memory_below_the_estimate_is_not_memory_above_it():
    row = CLAIMS["autoencoder.fig2.paper.bae.n2.k2"]
    bound = CLAIMS["autoencoder.fig2.fourth"]
    for share, larger, inside in ((0.8, FALLS_SHORT, FALLS_SHORT), (1.1, AGREES, AGREES),
                                  (0.95, FALLS_SHORT, AGREES), (1.3, AGREES, FALLS_SHORT)):
        found = answers(invented_run(share))
        assert verdict(row, found[row.id]) == larger
        assert verdict(bound, found[bound.id]) == inside


def test_claims_have_rules_that_cannot_flatter():
    for claim in CLAIMS.values():
        assert claim.relation in ("equals", "holds"), f"{claim.id}: the paper states no bound"
        assert (claim.relation == "holds") == (claim.paper_value == "true"), claim.id
        assert claim.relation != "holds" or claim.tolerance is None, claim.id
        assert claim.kind in ("formula", "statement") or claim.relation == "equals", claim.id
