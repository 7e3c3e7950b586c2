"""One iteration of CSILocal on this processor against the same arithmetic in PyTorch, side by
side in one run; prints one JSON object.

    python bench/split.py [--peer /path/to/python] [--batch 16 64] [--rounds 3] [--output FILE]

`--peer` is a Python that has torch (the CPU build will do; with its other packages it takes
gigabytes, so give it an environment of its own); by default this one, and a side that cannot run
is left out. An iteration: 10 UEs, each with an encoder and a head of its own, one tail for all;
forward, backward, Adam for every part. Ours is one program, a scan over UEs; theirs a loop over
UEs. Sides run in turns, in processes of their own, on the same cores. Wall-clock times say
something on an idle machine only, so the CPU seconds stand beside them.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

UES, STEPS, THREADS = 10, 3, 2  # steps in one timing
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # by rounds


def ours(batch):
    "A function that makes some iterations."
    import jax
    from flax import nnx

    from mimo_jax.split.algorithms import Federation, begin_federation, train_rounds
    from mimo_jax.split.model import SplitArchitecture, split_network
    from mimo_jax.split.shares import equal_shares

    federation = Federation("csilocal", UES, batch)
    graphs, state = begin_federation(federation, split_network(SplitArchitecture(), nnx.Rngs(0)))
    images = 0.5 + 0.05 * jax.random.normal(jax.random.key(0), (UES * batch, 32, 32, 2))
    shares, keys = equal_shares(UES * batch, UES), jax.random.split(jax.random.key(1), STEPS)

    def run():
        nonlocal state
        state, losses = train_rounds(federation, graphs, state, images, shares, keys)
        return float(losses[-1].mean())

    return run


def torch_parts():
    "Encoder and tail in PyTorch, as classes."
    import torch
    from torch import nn
    from torch.nn.functional import leaky_relu

    def unit(a, b, *size):
        return nn.Sequential(nn.Conv2d(a, b, size, padding="same", bias=False),
                             nn.BatchNorm2d(b))

    def path(*units):
        between = [nn.LeakyReLU(0.3)] * (len(units) - 1)
        return nn.Sequential(*(x for pair in zip(units, [*between, nn.Identity()], strict=True)
                               for x in pair))

    class Block(nn.Module):
        "Two paths around an identity; the first has a factorized kernel of so many taps."

        def __init__(self, taps):
            super().__init__()
            self.long = path(unit(2, 7, 3, 3), unit(7, 7, 1, taps), unit(7, 7, taps, 1))
            self.short = path(unit(2, 7, 1, 5), unit(7, 7, 5, 1))
            self.merge = unit(14, 2, 1, 1)

        def forward(self, x):
            both = torch.cat([self.long(x), self.short(x)], 1)
            return leaky_relu(x + self.merge(leaky_relu(both, 0.3)), 0.3)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.compress = unit(2, 2, 3, 3), nn.Linear(2048, 256)

        def forward(self, x):
            return self.compress(leaky_relu(self.features(x), 0.3).flatten(1))

    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.expand, self.gather = nn.Linear(256, 2048), nn.Linear(2048, 256)
            self.mix = nn.Conv2d(2, 2, 3, padding=1)
            self.blocks = nn.Sequential(Block(3), Block(5))

        def forward(self, s):
            x = leaky_relu(self.mix(self.expand(s).view(-1, 2, 32, 32)), 0.3)
            return self.gather(self.blocks(x).flatten(1))

    return Encoder, Tail


def theirs(batch):
    "The same in PyTorch, UE by UE."
    import torch
    from torch import nn

    torch.set_num_threads(THREADS)
    Encoder, Tail = torch_parts()
    encoders, tail = [Encoder() for _ in range(UES)], Tail()
    heads = [nn.Sequential(nn.Linear(256, 2048), nn.Hardsigmoid()) for _ in range(UES)]
    parts = [*encoders, tail, *heads]
    adams = [torch.optim.Adam(p.parameters(), 8e-5, (0.9, 0.95)) for p in parts]
    images = 0.5 + 0.05 * torch.randn(UES, batch, 2, 32, 32)

    def run():
        for _ in range(STEPS):
            for adam in adams:
                adam.zero_grad()
            for encoder, head, x in zip(encoders, heads, images, strict=True):
                flat = x.flatten(1)
                error = ((head(tail(encoder(x))) - flat) ** 2).sum(1) / (flat**2).sum(1)
                error.mean().backward()
            for adam in adams:
                adam.step()
        return float(error.detach().mean())

    return run


SIDES = {"mimo_jax": ours, "pytorch": theirs}


def side(name, batch, repeats=5):
    "One side's seconds per iteration, on the clock and of the processor, as one JSON object."
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:THREADS]))
    run = SIDES[name](batch)
    run()
    found = {"wall_s": [], "cpu_s": []}
    for _ in range(repeats):
        clocks = time.perf_counter(), time.process_time()
        run()
        after = time.perf_counter(), time.process_time()
        for kind, first, last in zip(found, clocks, after, strict=True):
            found[kind].append((last - first) / STEPS)
    print(json.dumps({kind: statistics.median(times) for kind, times in found.items()}))


def in_turns(batch, peer, rounds):
    "Each side's times in every round; none of a side that cannot run, which says why."
    found = {name: [] for name in SIDES}
    for name in rounds * list(SIDES):
        command = [peer if name == "pytorch" else sys.executable, __file__, "--side", name,
                   "--batch", str(batch)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no reason"]
            print(f"{name} left out: {said[-1]}", file=sys.stderr)
        else:
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found


def ratio(times, kind, rounds):
    "Theirs over ours, geometric mean over the rounds, with its 95 % interval (Student's t)."
    pairs = zip(times["pytorch"], times["mimo_jax"], strict=True)
    logs = [math.log(peer[kind] / own[kind]) for peer, own in pairs]
    half = T_95[rounds] * statistics.stdev(logs) / math.sqrt(rounds)
    middle = statistics.mean(logs)
    return [round(math.exp(x), 2) for x in (middle, middle - half, middle + half)]


def tell(report, output):
    "Print a report as JSON, and write it to a file where one is named."
    from mimo_jax.files import write_whole

    text = json.dumps(report, indent=1)
    if output:
        write_whole(output, text + "\n")
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64], help="images per UE")
    parser.add_argument("--rounds", type=int, default=3, choices=T_95, help="of both sides")
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(arguments.side, arguments.batch[0])
    from mimo_jax.experiment import provenance

    report = provenance() | {"date": f"{datetime.date.today()}", "ues": UES, "threads": THREADS,
                             "load_before": os.getloadavg()[0], "batches": {}}
    for batch in arguments.batch:
        times = in_turns(batch, arguments.peer, arguments.rounds)
        report["batches"][batch] = {name: {kind: [round(t[kind], 4) for t in each]
                                           for kind in ("wall_s", "cpu_s")}
                                    for name, each in times.items()}
        if all(len(each) == arguments.rounds for each in times.values()):
            report["batches"][batch]["pytorch / mimo_jax: ratio, low, high"] = {
                kind: ratio(times, kind, arguments.rounds) for kind in ("wall_s", "cpu_s")}
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
