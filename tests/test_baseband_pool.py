"""Whatever comes and goes: every frame ends once, every group once, and nothing is left."""
from collections import Counter, defaultdict, deque

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.baseband.downlink import DownlinkPlan, downlink
from mimo_jax.baseband.executors import HostFrame, JaxExecutor, PoolKernels
from mimo_jax.baseband.frame import frame_code, frame_for
from mimo_jax.baseband.instructions import Arrived, Committed, Copied, Copy, Failed, Finish
from mimo_jax.baseband.instructions import Lost, Returned, Submit, frame_program
from mimo_jax.baseband.occupancy import Load
from mimo_jax.baseband.pool import closed_traffic, paced_traffic, run_pool, with_events
from mimo_jax.baseband.radio import Radio, radio_frame
from mimo_jax.baseband.scoreboard import OpcodeInfoTable, gpu_profile
from mimo_jax.baseband.simulator import SimDevice, SimExecutor
from mimo_jax.baseband.static import POLICIES, make_scheduler
from mimo_jax.baseband.uplink import UplinkPlan, uplink


class Rules:
    "What every scheduler and executor keep to, checked event by event."

    def __init__(self):
        self.running = {}  # (frame, group, device): stream
        self.order = defaultdict(deque)  # of submissions, by device and stream
        self.there = defaultdict(set)  # devices with a result, by frame and group
        self.coming = set()  # copies under way: (frame, group, device)
        self.alive, self.programs, self.stored, self.ended = set(), {}, Counter(), Counter()

    def __call__(self, now, event, commands):
        getattr(self, type(event).__name__.lower(), lambda event: None)(event)
        for command in commands:
            if isinstance(command, Submit): self.submit(command)
            if isinstance(command, Copy): self.copy(command)
            if isinstance(command, Finish): self.finish(command)

    def arrived(self, event):
        self.programs[event.frame] = event.program

    def committed(self, event):
        key = event.frame, event.group, event.device
        stream = self.order[event.device, self.running.pop(key)]
        assert stream.popleft() == key, "a stream is not in order"
        self.there[key[:2]].add(event.device)
        if event.group in self.programs[event.frame].last: self.stored[key[:2]] += 1

    def copied(self, event):
        self.coming.discard((event.frame, event.group, event.device))
        self.there[event.frame, event.group].add(event.device)

    def failed(self, event):
        key = event.frame, event.group, event.device
        self.order[event.device, self.running.pop(key)].remove(key)
        self.coming -= {(event.frame, b, event.device) for b in event.inputs}

    def lost(self, event):
        gone = event.device
        self.alive.discard(gone)
        self.running = {key: s for key, s in self.running.items() if key[2] != gone}
        for place in list(self.order):
            if place[0] == gone: del self.order[place]
        for devices in self.there.values(): devices.discard(gone)
        self.coming = {key for key in self.coming if key[2] != gone}

    def returned(self, event):
        self.alive.add(event.device)

    def submit(self, command):
        key, device = (command.frame, command.group), command.device
        assert not self.ended[command.frame] and device in self.alive
        assert (*key, device) not in self.running, "a group runs twice at the same time"
        for b in self.programs[command.frame].before[command.group]:
            before = command.frame, b
            assert (device in self.there[before] or (*before, device) in self.running
                    or (*before, device) in self.coming), "an input will never be there"
        self.running[*key, device] = command.stream
        self.order[device, command.stream].append((*key, device))

    def copy(self, command):
        assert 0 <= command.source != command.target
        self.coming.add((command.frame, command.group, command.target))

    def finish(self, command):
        self.ended[command.frame] += 1
        if command.decoded:
            program = self.programs[command.frame]
            assert all(self.stored[command.frame, g] == 1 for g in program.last), "not stored once"

    def check_end(self, log, scheduler):
        assert not self.running, "a group has not ended"
        assert self.ended.keys() == self.programs.keys() and set(self.ended.values()) <= {1}
        assert len(log.ended) == len(self.ended) and not scheduler.frames
        if hasattr(scheduler, "board"):
            assert all(gpu.used == 0 and not any(gpu.streams) for gpu in scheduler.board.gpus)
            assert not any(queue.waiting for queue in scheduler.queues)


FRAME = frame_for("128x32")
PROGRAMS = [frame_program(FRAME, schedule, parts, granularity)
            for schedule, parts in (("PUUU", 1), ("PPUUU", 2), ("PUUDD", 1))
            for granularity in ("task", "symbol", "frame")]
SCENARIOS = st.fixed_dictionaries({
    "kinds": st.lists(st.sampled_from(["A100", "V100"]), min_size=1, max_size=4),
    "program": st.integers(0, len(PROGRAMS) - 1), "frames": st.integers(1, 5),
    "units": st.integers(1, 3), "period_s": st.sampled_from([2e-4, 1e-3]),
    "deadline_s": st.sampled_from([2e-4, 6e-4, 4e-3]), "at_once": st.booleans(),
    "losses": st.lists(st.tuples(st.floats(0, 4e-3), st.integers(0, 3),
                                 st.one_of(st.none(), st.floats(0, 1e-3))), max_size=5)})


def traffic_of(kinds, program, losses, **paced):
    "Frames of some units, and devices that go, most of which come back."
    events = []
    for at, device, back in losses:
        events.append((at, Lost(device % len(kinds))))
        if back is not None: events.append((at + back, Returned(device % len(kinds))))
    return with_events(paced_traffic(PROGRAMS[program], **paced), events)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40, deadline=None)
@given(SCENARIOS, st.integers(0, 99))
def test_every_frame_and_every_group_ends_once_whatever_is_lost(policy, scenario, seed):
    kinds, traffic = scenario["kinds"], traffic_of(**scenario)
    executor = SimExecutor([SimDevice(kind) for kind in kinds], traffic, seed=seed)

    def fresh():
        sms = [(one.kind, one.total) for one in executor.gpus]
        return make_scheduler(policy, sms, OpcodeInfoTable(gpu_profile()))

    rules, scheduler = Rules(), fresh()
    rules.alive = set(range(len(kinds)))
    log = run_pool(scheduler, executor, keep=True, watch=rules)
    rules.check_end(log, scheduler)
    again = fresh()
    assert [tuple(again.handle(event, now)) for now, event in log.events] == log.commands


SMALL = {"subcarriers": 96, "fft_size": 128, "group": 16, "code_rate": 0.9}
UP, DOWN = frame_for("8x4", **SMALL), frame_for("8x4", "D", **SMALL)


def any_time(program, group, kind):
    return Load(1, 1, 1e-3, ((1, 1, 1e-3),), 0, 0, 0)


@pytest.fixture(scope="module")
def made():
    "Frames of a radio unit."
    return [jax.tree.map(np.asarray, radio_frame(jax.random.key(n), Radio(UP))) for n in range(2)]


@pytest.fixture(scope="module")
def kernels():
    return PoolKernels()


def run_on_devices(program, policy, traffic, source, kernels, devices=2, **more):
    "A run on virtual devices under the rules."
    executor = JaxExecutor([program], jax.devices()[:devices], source, traffic, kernels, **more)
    scheduler = make_scheduler(policy, [("cpu", 1)] * devices, OpcodeInfoTable(any_time))
    rules = Rules()
    rules.alive, most = set(range(devices)), [0]

    def watch(now, event, commands):
        most[0] = max(most[0], sum(len(worker.table) for worker in executor.workers))
        rules(now, event, commands)

    log = run_pool(scheduler, executor, watch=watch)
    rules.check_end(log, scheduler)
    assert not executor.frames and not any(worker.table for worker in executor.workers)
    return executor, log, most[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_frame_with_both_directions_receives_and_sends(policy, made, kernels):
    ups, downs = 7, 6
    mixed = frame_program(UP, "P" + "U" * ups + "D" * downs)
    bits = np.random.default_rng(0).integers(0, 2, (4, downs, frame_code(DOWN).k)).astype(np.uint8)
    padded = np.concatenate([bits, np.zeros((4, 13 - downs, bits.shape[2]), np.uint8)], 1)
    sent = np.asarray(downlink(made[0].iq[:1], padded, DownlinkPlan(DOWN)))[:downs]
    whole = uplink(made[0].iq, UplinkPlan(UP))
    executor, log, _ = run_on_devices(
        mixed, policy, closed_traffic(mixed, 2, 60.0), lambda frame: HostFrame(made[0].iq, bits),
        kernels)
    assert all(one.decoded for one in log.ended)
    for found in executor.results.values():
        np.testing.assert_array_equal(found.bits, np.asarray(whole.bits)[:, :ups])
        np.testing.assert_array_equal(found.samples, sent)


def test_what_devices_hold_does_not_grow_with_the_frames(made, kernels):
    program = frame_program(UP)
    held = [run_on_devices(program, "lroc", closed_traffic(program, frames, 60.0, 2),
                           lambda frame: HostFrame(made[frame[1] % 2].iq), kernels)[2]
            for frames in (4, 24)]
    assert held[1] <= 2 * 2 * len(program.groups) and held[1] < 2 * held[0]


def test_unpaced_frames_come_in_their_order_without_waiting(made, kernels):
    program = frame_program(UP, granularity="symbol")
    slow = paced_traffic(program, 6, period_s=20.0, deadline_s=60.0, at_once=True)
    executor, log, _ = run_on_devices(program, "lroc", slow,
                                      lambda frame: HostFrame(made[frame[1] % 2].iq), kernels,
                                      paced=False)
    assert all(one.decoded and one.finished < 20 for one in log.ended)
    assert [one.frame for one in sorted(log.ended, key=lambda one: one.arrived)] == [
        (0, n) for n in range(6)]


@pytest.mark.parametrize("policy", POLICIES)
def test_devices_that_come_and_go_leave_no_frame_without_an_end(policy, made, kernels):
    program = frame_program(UP, granularity="symbol")
    rng = np.random.default_rng(7)
    events = [(t + back, kind(d)) for t, d in zip(rng.uniform(0, 0.3, 8), [1, 2] * 4, strict=True)
              for back, kind in ((0.0, Lost), (rng.exponential(0.02), Returned))]
    paced = paced_traffic(program, 20, period_s=15e-3, deadline_s=60.0)
    executor, log, _ = run_on_devices(program, policy, with_events(paced, events),
                                      lambda frame: HostFrame(made[frame[1] % 2].iq), kernels, 3)
    assert policy != "lroc" or all(one.decoded for one in log.ended)
    for (_, n), found in executor.results.items():
        np.testing.assert_array_equal(found.bits, made[n % 2].bits)


def test_events_have_the_names_that_the_rules_look_for():
    handled = {Arrived, Committed, Copied, Failed, Lost, Returned}
    assert all(hasattr(Rules, kind.__name__.lower()) for kind in handled)
