"""The simulator of pools against the same rules written a second time as processes of simpy: what
waits for what is then decided by simpy's resources and queues, and every group has to be done at
the same time."""
from functools import partial

import pytest
import simpy

from mimo_jax.baseband.frame import frame_for
from mimo_jax.baseband.instructions import Committed, Copy, Submit, frame_program
from mimo_jax.baseband.lroc import LrocRules
from mimo_jax.baseband.occupancy import GPUS, PoolCalibration, group_load
from mimo_jax.baseband.pool import closed_traffic, paced_traffic, run_pool
from mimo_jax.baseband.scoreboard import OpcodeInfoTable
from mimo_jax.baseband.simulator import SimDevice, SimExecutor
from mimo_jax.baseband.static import POLICIES, make_scheduler

QUIET = PoolCalibration(spread=0.0, stall_chance=0.0)


def uneven(program, group, kind):
    "What a group asks for; each has a time of its own, so that no order is left to chance."
    load = group_load(program, group, GPUS[kind], QUIET)
    longer = 1 + 0.05 * (group * 0.618 % 1)
    return load._replace(kernels=tuple((n, held, longer * s) for n, held, s in load.kernels))


class Gpu:
    "A GPU: SMs in a container, one queue of kernels, a thread that launches, streams, links."

    def __init__(self, pool, number, kind):
        one = simpy.Resource
        self.pool, self.number, self.kind = pool, number, kind
        self.sms = simpy.Container(pool.env, GPUS[kind].sms, GPUS[kind].sms)
        self.turn, self.thread = one(pool.env), one(pool.env)
        self.up, self.down, self.into, self.out = (one(pool.env) for _ in range(4))
        self.streams = {}

    def over(self, links, size, rate):
        "Bytes over links that are held until the last one is sent."
        asked = [link.request() for link in links]
        yield simpy.AllOf(self.pool.env, asked)
        yield self.pool.env.timeout(size / (1e9 * rate))
        for link, request in zip(links, asked, strict=True):
            link.release(request)
        yield self.pool.env.timeout(1e-6 * self.pool.at.copy_us)

    def wave(self, sms, seconds):
        yield self.pool.env.timeout(seconds)
        yield self.sms.put(sms)

    def kernel(self, blocks, held, seconds):
        "All SMs that are free for one wave, until no block is left; then the next kernel's turn."
        waves = []
        with self.turn.request() as mine:
            yield mine
            while blocks:
                yield self.sms.get(1)
                sms = min(1 + self.sms.level, -(-blocks // held))
                if sms > 1:
                    yield self.sms.get(sms - 1)
                blocks -= min(blocks, sms * held)
                waves.append(self.pool.env.process(self.wave(sms, seconds)))
        yield simpy.AllOf(self.pool.env, waves)


class Pool:
    "Commands to times at which groups are done."

    def __init__(self, program, kinds, dynamic):
        self.env, self.at, self.program = simpy.Environment(), QUIET, program
        self.gpus = [Gpu(self, *one) for one in enumerate(kinds)]
        self.extra_s, self.done = 1e-6 * QUIET.schedule_us * dynamic, {}
        self.there, self.coming = set(), {}

    def result(self, key):
        "The event that a group's result has come to a device."
        return self.coming.setdefault(key, self.env.event())

    def wait_for(self, *key):
        if key not in self.there:
            yield self.result(key)

    def run(self, timed):
        self.env.process(self.submit(timed))
        self.env.run()
        return self.done

    def submit(self, timed):
        for when, command in timed:
            if when > self.env.now:
                yield self.env.timeout(when - self.env.now)
            self.env.process(self.launch(command))

    def launch(self, command):
        "On the thread of its device; then it is put into its stream."
        copy, at = isinstance(command, Copy), self.at
        gpu = self.gpus[command.target if copy else command.device]
        with gpu.thread.request() as mine:
            yield mine
            if copy:
                yield from self.wait_for(command.frame, command.group, command.source)
                yield self.env.timeout(2e-6 * at.call_us)
            else:
                load = uneven(self.program, command.group, gpu.kind)
                yield self.env.timeout(1e-6 * at.call_us * load.calls + self.extra_s)
            stream = gpu.streams.setdefault(command.stream, simpy.Resource(self.env))
            place = stream.request()
        yield place
        yield from self.copied(gpu, command) if copy else self.computed(gpu, command, load)
        self.there.add(key := (command.frame, command.group, gpu.number))
        yield stream.release(place)  # what is next in the stream goes before others that waited
        self.result(key).succeed()
        if not copy:
            self.done[command.frame, command.group] = self.env.now + 1e-6 * at.poll_us

    def copied(self, gpu, command):
        size = self.program.result_bytes[command.group]
        source = self.gpus[command.source]
        yield from gpu.over((source.out, gpu.into), size, self.at.peer_gb_s)

    def computed(self, gpu, command, load):
        for b in self.program.before[command.group]:
            yield from self.wait_for(command.frame, b, command.device)
        if load.upload:
            yield from gpu.over((gpu.up,), load.upload, self.at.link_gb_s)
        for kernel in load.kernels:
            yield from gpu.kernel(*kernel)
        if load.download:
            yield from gpu.over((gpu.down,), load.download, self.at.link_gb_s)

def both(policy, kinds, frame, traffic):
    "Times of all groups: the simulator's, and those of its commands in simpy."
    pool = [(kind, GPUS[kind].sms) for kind in kinds]
    rules = LrocRules(overcommit=False, discard=False)  # no stream of low priority here
    made = make_scheduler(policy, pool, OpcodeInfoTable(uneven), rules)
    program = frame_program(frame, parts=made.parts(frame.pilots))
    executor = SimExecutor([SimDevice(kind) for kind in kinds], traffic(program), QUIET,
                           dynamic=policy == "lroc", profile=uneven)
    log = run_pool(made, executor, keep=True)
    ours = {event[:2]: now for now, event in log.events if isinstance(event, Committed)}
    timed = [(now, command) for (now, _), commands in zip(log.events, log.commands, strict=True)
             for command in commands if isinstance(command, Submit | Copy)]
    assert len(ours) == len(log.ended) * len(program.groups) and log.ended
    assert not any(isinstance(command, Submit) and command.low for _, command in timed)
    return ours, Pool(program, kinds, policy == "lroc").run(timed)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kinds", [("A100",), ("A100", "A100"), ("A100", "V100", "H200")],
                         ids="+".join)
@pytest.mark.parametrize("mimo, direction", [("64x16", "U"), ("128x32", "D"), ("128x64", "U")])
def test_every_group_is_done_when_simpy_says(policy, kinds, mimo, direction):
    for traffic in (partial(closed_traffic, frames=3, deadline_s=1.0, in_flight=2),
                    partial(paced_traffic, frames=2, units=2, deadline_s=1.0)):
        ours, theirs = both(policy, kinds, frame_for(mimo, direction), traffic)
        assert ours.keys() == theirs.keys()
        apart = {key: theirs[key] - ours[key] for key in ours}
        assert max(map(abs, apart.values())) < 1e-12, apart
