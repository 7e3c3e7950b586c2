"""The simulator of pools against the same rules in simpy, what schedulers cost, and frames that
they get through on real devices; prints one JSON object.

    python bench/scheduler.py [--rounds 5] [--frames 200] [--output FILE]

The log of a run is taken once for each scheduler. The simulator and simpy then execute its commands
without a scheduler, in turns, and a fresh scheduler is told its events without a simulator: each
alone, in processor seconds of one core. A frame has as many instructions as its program has groups.
Real devices are two virtual ones of a CPU on all cores, in a process of their own, where schedulers
take turns; frames come when others end, four at a time. Means are over the rounds, with 95 %
intervals (Student's t); ratios are geometric means of the rounds' ratios.
"""
import argparse
import datetime
import gc
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from functools import partial

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))  # the rules in simpy
if hasattr(os, "sched_setaffinity"):
    one, every = {max(os.sched_getaffinity(0))}, range(os.cpu_count() or 1)
    os.sched_setaffinity(0, every if "--side" in sys.argv else one)

from split import T_95, tell

SIZES = (("128x32", "U"), ("128x64", "U"), ("128x32", "D"), ("128x64", "D"))
KINDS = ("A100", "A100")
REAL_SIZES, GRAINS, DEVICES, IN_FLIGHT = ("8x4", "16x4"), ("task", "symbol", "frame"), 2, 4


def interval(values, digits=2):
    "Mean, and the ends of its 95 % interval."
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return [round(statistics.mean(values) + x, digits) for x in (0, -half, half)]


def ratio(above, below):
    "The same of a ratio, round by round."
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    half = T_95[len(logs)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return [round(math.exp(statistics.mean(logs) + x), 2) for x in (0, -half, half)]


def seconds(run):
    "Processor seconds of a call, and what it returns; the collector runs before, not during it."
    gc.collect()
    gc.disable()
    start = time.process_time()
    found = run()
    spent = time.process_time() - start
    gc.enable()
    return spent, found


class Recorded:
    "Commands of a run, given again; no scheduler."

    def __init__(self, commands):
        self.commands = iter(commands)

    def handle(self, event, now):
        return next(self.commands)

    def parts(self, pilots):
        return 1


class Case:
    "A scheduler's run of one size, and its log."

    def __init__(self, policy, mimo, direction, frames):
        from mimo_jax.baseband.frame import frame_for
        from mimo_jax.baseband.instructions import frame_program
        from mimo_jax.baseband.pool import run_pool

        self.policy, self.frames = policy, frames
        frame = frame_for(mimo, direction)
        made = self.scheduler()
        self.program = frame_program(frame, parts=made.parts(frame.pilots))
        self.log = run_pool(made, self.executor(), keep=True)

    def scheduler(self):
        from mimo_jax.baseband.lroc import LrocRules
        from mimo_jax.baseband.occupancy import GPUS
        from mimo_jax.baseband.scoreboard import OpcodeInfoTable
        from mimo_jax.baseband.static import make_scheduler
        from test_baseband_simpy import uneven

        rules = LrocRules(discard=False, overcommit=False)  # simpy has no low priority
        return make_scheduler(self.policy, [(kind, GPUS[kind].sms) for kind in KINDS],
                              OpcodeInfoTable(uneven), rules)

    def executor(self):
        from mimo_jax.baseband.pool import closed_traffic
        from mimo_jax.baseband.simulator import SimDevice, SimExecutor
        from test_baseband_simpy import QUIET, uneven

        return SimExecutor([SimDevice(kind) for kind in KINDS],
                           closed_traffic(self.program, self.frames, 1.0, 2), QUIET,
                           dynamic=self.policy == "lroc", profile=uneven)

    def simulate(self):
        from mimo_jax.baseband.pool import run_pool

        executor = self.executor()
        run_pool(Recorded(self.log.commands), executor)
        return executor.count

    def in_simpy(self):
        from mimo_jax.baseband.instructions import Copy, Submit
        from test_baseband_simpy import Pool

        timed = [(now, one) for (now, _), commands in zip(self.log.events, self.log.commands,
                                                           strict=True)
                 for one in commands if isinstance(one, Submit | Copy)]
        return Pool(self.program, KINDS, self.policy == "lroc").run(timed)

    def schedule(self):
        made = self.scheduler()
        for now, event in self.log.events:
            made.handle(event, now)


def costs(mimo, direction, frames, rounds):
    "What each scheduler and its simulation cost."
    from mimo_jax.baseband.static import POLICIES

    cases = {policy: Case(policy, mimo, direction, frames) for policy in POLICIES}
    runs = {(policy, name): getattr(case, name) for policy, case in cases.items()
            for name in ("schedule", "simulate", "in_simpy")}
    for run in runs.values(): run()
    spent, events = {key: [] for key in runs}, {}
    for _ in range(rounds):
        for key, run in runs.items():
            took, found = seconds(run)
            spent[key].append(took)
            if key[1] == "simulate": events[key[0]] = found
    report = {}
    for policy, case in cases.items():
        scheduling, ours, theirs = (spent[policy, name]
                                    for name in ("schedule", "simulate", "in_simpy"))
        report[policy] = {
            "instructions a frame": len(case.program.groups),
            "scheduling, us an instruction": interval(
                [1e6 * s / frames / len(case.program.groups) for s in scheduling]),
            "scheduling, ms a frame": interval([1e3 * s / frames for s in scheduling], 3),
            "events a frame": round(events[policy] / frames, 1),
            "simulator, events/s": interval([events[policy] / s for s in ours], 0),
            "simulator, frames/s": interval([frames / s for s in ours], 1),
            "simpy, frames/s": interval([frames / s for s in theirs], 1),
            "simulator / simpy, frames/s": ratio(theirs, ours)}
    return report


def real(mimo, frames, rounds):
    "Frames that schedulers get through on virtual devices, in turns."
    import jax
    import numpy as np

    from mimo_jax.baseband.executors import HostFrame, PoolKernels
    from mimo_jax.baseband.frame import frame_for
    from mimo_jax.baseband.radio import Radio, radio_frame
    from mimo_jax.baseband.static import POLICIES
    from mimo_jax.cli.pools import PoolAsked, pool_traffic, real_numbers, real_pool, run_real

    frame = frame_for(mimo)
    made = jax.tree.map(np.asarray, radio_frame(jax.random.key(0), Radio(frame)))
    traffic = partial(pool_traffic, times=np.zeros((IN_FLIGHT, frames // IN_FLIGHT)), closed=True)
    found, kernels = {}, PoolKernels()
    for number in range(rounds + 1):  # the first one compiles
        for policy in POLICIES:
            for grain in GRAINS:
                pool = real_pool(PoolAsked(policy, grain, DEVICES), frame,
                                 lambda _: HostFrame(made.iq), kernels, traffic)
                run_real(pool)
                numbers = real_numbers(pool, lambda _: made.bits)
                assert numbers["wrong_bits"] == 0 and numbers["nacks"] == 0
                if number: found.setdefault((policy, grain), []).append(numbers["frames_per_s"])
    return {policy: {grain: interval(found[policy, grain]) for grain in GRAINS}
            for policy in POLICIES}


def apart(mimo, frames, rounds):
    "The same in a process that has two virtual devices."
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
    command = [sys.executable, __file__, "--side", mimo, f"{frames}", f"{rounds}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, choices=T_95)
    parser.add_argument("--frames", type=int, default=200, help="of each simulation")
    parser.add_argument("--real", type=int, default=40, help="frames on real devices")
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        mimo, frames, rounds = arguments.side
        return print(json.dumps(real(mimo, int(frames), int(rounds))))
    import simpy

    from mimo_jax.experiment import provenance

    report = provenance() | {
        "date": f"{datetime.date.today()}", "load_before": os.getloadavg()[0],
        "simpy": simpy.__version__, "rounds": arguments.rounds, "frames": arguments.frames,
        "pool": "+".join(KINDS)}
    report["settings"] = {f"{mimo} {direction}": costs(mimo, direction, arguments.frames,
                                                       arguments.rounds)
                          for mimo, direction in SIZES}
    report["real"] = {"devices": DEVICES, "frames": arguments.real, "in flight": IN_FLIGHT,
                      "frames/s": {mimo: apart(mimo, arguments.real, arguments.rounds)
                                   for mimo in REAL_SIZES}}
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
