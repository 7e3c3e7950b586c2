"""A federation of processes on loopback: its weights, what a kill -9 costs, and who is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from mimo_jax.split import network
from mimo_jax.split.algorithms import Federation, begin_federation, exchange_activations
from mimo_jax.split.algorithms import round_messages, train_rounds
from mimo_jax.split.checkpoints import SplitPlan, load_ue, own_images, put_together, ue_file
from mimo_jax.split.model import Parts, SplitArchitecture
from mimo_jax.split.network import BaseStation, Here, Patience, Refused, make_keys, run_round
from mimo_jax.split.shares import equal_shares

IMAGE = (8, 8, 2)
DATA = np.random.default_rng(0).uniform(0.3, 0.7, (60, *IMAGE)).astype(np.float32)
SHARES = equal_shares(60, 3)
PLAN = SplitPlan(SplitArchitecture(16, 16, 8, 8), Federation("csilocal", 3, 16, 1e-3),
                 without=("refine3", "refine5"))
# Two programs that sum in another order: rounding, through Adam's division by small moments.
close = partial(np.testing.assert_allclose, rtol=1e-3, atol=5e-5)


TEST_ONLY = ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION")  # slow to import


def one_process(rounds, plan=PLAN):
    graphs, state = begin_federation(plan.federation, plan.modules())
    return train_rounds(plan.federation, graphs, state, DATA, SHARES, plan.keys(0, rounds))


def ue_here(ue, folder=None, plan=PLAN):
    return network.ue_kind(plan)(plan, ue, lambda: own_images(DATA, SHARES, ue), folder)


IMPATIENT = Patience(give_up_s=0.0)


def here(patience=IMPATIENT, folder=None, plan=PLAN):
    "Both sides in this process."
    ues = {ue: ue_here(ue, folder, plan) for ue in range(3)}
    return BaseStation(plan, Here(ues), IMAGE, patience, folder), ues


def last(ue):
    return ue.history.states[max(ue.history.states)]


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("algorithm, steps", [("fedproxper", 2), ("fedgrad", 1)])
def test_algorithms_that_exchange_copies_are_those_of_one_process(algorithm, steps):
    plan = replace(PLAN, federation=Federation(algorithm, 3, 16, 1e-3, local_steps=steps))
    base, ues = here(plan=plan)
    for _ in range(2):
        report = run_round(base)
    state, losses = one_process(2, plan)
    own = [last(ue) for ue in ues.values()]
    jax.tree.map(close, put_together(plan.federation, own, base.shared()), state)
    np.testing.assert_allclose(base.state.losses, losses, rtol=1e-5)
    graphs, state = begin_federation(plan.federation, plan.modules())
    counted = 12 * sum(leaf.size for leaf in jax.tree.leaves(
        round_messages(plan.federation, graphs, state, IMAGE)))
    assert 0 < report.up_bytes + report.down_bytes - counted < 6 * 3000


def test_the_tail_steps_by_the_sum_over_those_present_and_the_absent_keep_their_parts():
    base, ues = here()
    absent, tail = ues.pop(1), base.state.params.tail
    before = last(absent)
    report = run_round(base)
    assert report.absent == {1: "not there"} and list(report.losses) == [0, 2]
    equal(last(absent), before)
    federation, graphs = PLAN.federation, base.graphs
    gradients = []
    for ue in ues.values():
        start = ue.history.like
        params, moments = (Parts(each.encoder, shared, each.head) for each, shared in (
            (start.params, tail), (start.moments, base.state.moments.tail)))
        images = jax.numpy.asarray(network.draw_own(PLAN, ue.images, ue.ue, 0))
        gradients += [exchange_activations(graphs, params, moments, images)[0].tail]
    total = jax.tree.map(lambda *g: sum(g), *gradients)
    updates, _ = federation.adam.update(total, federation.adam.init(tail))
    jax.tree.map(close, base.state.params.tail, jax.tree.map(lambda a, b: a + b, tail, updates))


def test_a_ue_returns_with_what_its_folder_holds_and_goes_back_to_what_was_counted(tmp_path):
    base, ues = here(folder=tmp_path)
    run_round(base)
    [count, state] = load_ue(tmp_path, PLAN, 1, ues[1].history.like)
    equal(state, last(ues[1]))
    ues[1].forward(1, 1)  # a round that the base station then lost
    ues[1].head(1, network.write_message(1, np.zeros((16, 16), np.float32)))
    ues[1].backward(1, network.write_message(1, np.ones((16, 16), np.float32)))
    assert count == 1 and ues[1].rounds() == 2
    ues[1] = ue_here(1, tmp_path)  # died with a file of round 2, and one of round 1
    base.greeted.discard(1)
    for _ in range(3):
        run_round(base)
    jax.tree.map(close, put_together(PLAN.federation, [last(ue) for ue in ues.values()],
                                     base.shared()), one_process(4)[0])
    ue_file(tmp_path, 1).unlink()
    ue_file(tmp_path, 1).with_name("ue-01.earlier.safetensors").unlink()
    ues[1] = ue_here(1, tmp_path)
    base.greeted.discard(1)
    assert "has no state of it" in run_round(base).absent[1]


def test_a_restarted_base_station_loses_nothing(tmp_path):
    base, ues = here(folder=tmp_path)
    for _ in range(2):
        run_round(base)
    ask = base.ask
    ues[0].forward(2, 2)  # it was in the middle of a round
    again = BaseStation(PLAN, ask, IMAGE, base.patience, tmp_path)
    equal(again.state, base.state)
    run_round(again)
    jax.tree.map(close, put_together(PLAN.federation, [last(ue) for ue in ues.values()],
                                     again.shared()), one_process(3)[0])


class Liar(Here):
    "UE 2 sends something else."

    said = b""

    def __call__(self, method, arguments):
        found = super().__call__(method, arguments)
        return found | {2: self.said} if method == "forward" else found


@pytest.mark.parametrize("said, reason", [
    (network.write_message(0, np.full((16, 16), np.nan, np.float32)), "NaN or infinite"),
    (network.write_message(0, np.full((16, 16), np.inf, np.float32)), "NaN or infinite"),
    (network.write_message(0, np.ones((16, 15), np.float32)),
     r"float32 \[16, 15\], float32 \[16, 16\] is"),
    (network.write_message(0, np.ones((999, 999), np.float32)), "bytes, at most"),
    (network.write_message(7, np.ones((16, 16), np.float32)), "of round 7, round 0 is due"),
    (b"\x80\x04K\x01.", "no message"),
    ("text", "no message, but a str"),
], ids=["NaN", "inf", "shape", "size", "round", "pickle", "type"])
def test_a_wrong_message_is_refused_by_name_and_leaves_its_ue_out(said, reason):
    base, ues = here()
    base.ask = Liar(ues)
    base.ask.said = said
    report = run_round(base)
    assert list(report.losses) == [0, 1] and list(report.absent) == [2]
    with pytest.raises(AssertionError, match=f"what UE 2 sent.*{reason}"):
        raise AssertionError(report.absent[2])


@pytest.mark.parametrize("other, reason", [
    (replace(PLAN, cuts=("compress", "mix")), "cuts is"),
    (replace(PLAN, architecture=SplitArchitecture(8, 16, 8, 8)), "smashed is 16 at the base"),
    (replace(PLAN, federation=Federation("fedavg", 3, 16, 1e-3)), "algorithm is 'csilocal'"),
], ids=["cuts", "architecture", "algorithm"])
def test_another_model_is_refused_by_name(other, reason):
    base, ues = here()
    ues[0] = ue_here(0, plan=other)
    assert reason in run_round(base).absent[0]


def test_a_round_that_comes_twice_or_out_of_order_is_refused():
    base, ues = here()
    run_round(base)
    with pytest.raises(Refused, match="round 0 was replayed or is out of order, round 1 is due"):
        ues[0].forward(0, 0)
    with pytest.raises(Refused, match="round 5 was not begun"):
        ues[0].head(5, b"")
    with pytest.raises(Refused, match="round 0 without a greeting"):
        ue_here(0).forward(0, 0)


@pytest.mark.parametrize("wrong", [{"deadline_s": 0.0}, {"give_up_s": -1.0}])
def test_patience_has_limits(wrong):
    with pytest.raises(ValueError, match="late is drop or wait"):
        Patience(**wrong)


def test_importing_the_module_does_not_import_ray_and_its_absence_is_explained():
    code = ("import sys; from mimo_jax.split import network; assert 'ray' not in sys.modules\n"
            "sys.modules['ray'] = None\ntry: network.need_ray()\n"
            "except ImportError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mimo_jax[distributed]'" in done.stdout


class Running:
    "A federation of four processes, with keys."

    def __init__(self, folder, address, keys):
        self.folder, self.address, self.keys, self.reports = folder, address, keys, []
        for ue in range(3):
            np.save(folder / f"{ue}.npy", own_images(DATA, SHARES, ue))
        self.ues = [network.start_ue(PLAN, ue, partial(np.load, folder / f"{ue}.npy"),
                                     folder / f"ue-{ue}") for ue in range(3)]
        patience = Patience(20.0, "wait", give_up_s=90.0)
        self.base = network.start_base_station(PLAN, IMAGE, patience, folder / "base")

    def inside(self, actor, what, *arguments):
        return network.need_ray().get(actor.__ray_call__.remote(what, *arguments), timeout=60)

    def kill(self, actor):
        pid = self.inside(actor, lambda self: os.getpid())
        os.kill(pid, signal.SIGKILL)
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.05)

    def train(self, rounds):
        self.shared = network.train_to(self.base, rounds, self.reports.append)
        return self.shared

    def state(self):
        own = [self.inside(ue, lambda self: self.history.states[self.rounds()]) for ue in self.ues]
        return put_together(PLAN.federation, own, self.shared)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    keys = make_keys(folder / "keys")
    with pytest.MonkeyPatch.context() as patch:
        for name in TEST_ONLY:  # the processes are a user's
            patch.delenv(name, raising=False)
        with network.ray_cluster(keys=keys) as address:
            yield Running(folder, address, keys)


def test_processes_end_with_the_weights_of_one_and_send_what_was_counted(running):
    running.train(3)
    state, losses = one_process(3)
    jax.tree.map(close, running.state(), state)
    np.testing.assert_allclose(running.shared.losses, losses, rtol=1e-5)
    graphs, state = begin_federation(PLAN.federation, PLAN.modules())
    messages = round_messages(PLAN.federation, graphs, state, IMAGE)
    for way, sent in zip(messages, ("up_bytes", "down_bytes"), strict=True):
        counted = 3 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(way))
        measured = {getattr(report, sent) for report in running.reports}
        assert all(0 < found - counted < 6 * 250 for found in measured), (counted, measured)


def test_a_killed_base_station_returns_and_ends_with_the_undisturbed_weights(running):
    running.kill(running.base)
    running.train(6)
    jax.tree.map(close, running.state(), one_process(6)[0])
    assert not np.isnan(running.shared.losses).any()


def test_a_killed_ue_that_is_waited_for_ends_with_the_undisturbed_weights(running):
    running.kill(running.ues[1])
    running.train(9)
    jax.tree.map(close, running.state(), one_process(9)[0])
    assert not np.isnan(running.shared.losses).any()


def test_training_goes_on_without_a_killed_ue_until_it_returns_from_its_checkpoint(running):
    running.inside(running.base, lambda self: setattr(self, "patience", Patience(20.0, "drop")))
    running.kill(running.ues[1])
    rounds = 9
    while not (np.isnan(running.train(rounds).losses[9:, 1]).any() and
               running.shared.seen[1] == rounds) and rounds < 400:
        rounds += 1
    missed = np.isnan(running.shared.losses)
    assert missed[:, 1].any() and not missed[:, [0, 2]].any() and not missed[-1].any()
    assert set(running.reports[9].absent) == {1} or running.reports[10].absent
    assert running.inside(running.ues[1], lambda self: self.rounds()) == rounds


def test_the_channels_of_a_ue_are_in_no_message(running):
    mine = np.load(running.folder / "0.npy")
    sent = running.inside(running.ues[0], lambda self: [
        self.greet(10**6, self.plan.facts), self.forward(10**6, self.rounds())][1])
    assert len(sent) < mine.nbytes and mine[0].tobytes() not in sent
    assert running.inside(running.ues[0], lambda self: self.images.shape) == mine.shape


def test_a_second_ue_of_a_number_is_refused(running):
    with pytest.raises(ValueError, match="ue-0 is there already"):
        network.start_ue(PLAN, 0, partial(np.load, running.folder / "0.npy"))


@pytest.mark.parametrize("how, said", [
    ("certificate", "the certificate was refused"), ("token", "does not know our token"),
    ("none", "it needs keys"),
])
def test_a_wrong_certificate_or_token_is_refused_by_name(running, tmp_path, how, said):
    keys = None if how == "none" else make_keys(
        tmp_path, issuer=running.keys if how == "token" else None)
    if how == "token":
        network.write_secret(tmp_path / "token", "ab" * 32)
    began = time.monotonic()
    with pytest.raises(Refused, match=said):
        with network.joined_cluster(running.address, keys):
            pass
    assert time.monotonic() - began < 40


def test_it_listens_on_loopback_alone(running):
    listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True).stdout
    port = running.address.rpartition(":")[2]
    places = [line.split()[3] for line in listening.splitlines() if f":{port} " in line + " "]
    assert all("127.0.0.1" in place for place in places)
