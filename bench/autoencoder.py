"""Training throughput of the Tanh-BAE against the same network in PyTorch, side by side in one
run: bits/s, ratios; prints JSON.

    python bench/autoencoder.py [--peer /path/to/python] [--steps 400] [--threads 1] [--output FILE]

`--peer` is a Python that has `torch`; by default this one, and without it only our side is
measured. Each side runs in a process of its own, in turns, three times; the median is reported.
Both train from fresh random bits and noise, with Adam: 2x2, two bits per antenna, batch 2048.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time

from mimo_jax.experiment import provenance

BATCH, BITS = 2048, 4
WIDTHS = {"64/256": (64, 256, 1.0), "256/2048": (256, 2048, 0.05)}  # H_T, H_R, share of the steps


def ours(tx, rx, steps):
    "Loss after some steps, by number of run."
    import jax
    import jax.numpy as jnp

    from mimo_jax.autoencoder.model import Architecture
    from mimo_jax.autoencoder.training import LinkTraining, train_link

    H = jnp.eye(2, dtype=jnp.complex64)[None]
    plan = LinkTraining(steps=steps, batch=BATCH, chunk=steps)
    a = Architecture("tanh-bae", hidden_tx=tx, hidden_rx=rx)
    return lambda n: float(train_link(a, plan, H, jax.random.key(n)).losses[-1])


def torch_side(tx, rx, steps):
    import torch
    from torch import nn

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def run(n):
        torch.manual_seed(n)
        encoder = nn.Sequential(nn.Linear(BITS, tx), nn.Tanh(), nn.Linear(tx, tx), nn.Tanh(),
                                nn.Linear(tx, 4), nn.Tanh())
        hidden = [layer for width in (4, rx, rx)
                  for layer in (nn.Linear(width, rx), nn.ReLU(), nn.BatchNorm1d(rx))]
        decoder = nn.Sequential(*hidden, nn.Linear(rx, BITS))
        adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
        deviation = (2 / 10**0.8 / 2) ** 0.5
        for _ in range(steps):
            bits = torch.randint(0, 2, (BATCH, BITS)).float()
            x = encoder(2 * bits - 1)
            loss = nn.functional.binary_cross_entropy_with_logits(decoder(
                x + deviation * torch.randn_like(x)), bits)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return loss.item()

    return run


def side(name, widths, steps):
    "One side at one size, in this process; the first run compiles and is not counted."
    *sizes, share = WIDTHS[widths]
    steps = max(1, round(share * steps))
    run = {"mimo_jax": ours, "torch": torch_side}[name](*sizes, steps)
    run(0)
    cpu, wall = time.process_time(), time.perf_counter()
    loss = run(1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"bits_per_s": steps * BATCH * BITS / wall, "bits_per_cpu_s": steps * BATCH * BITS / cpu,
            "loss": loss}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="also write the JSON here")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return print(json.dumps(side(*options.side, options.steps)))
    multi = "true" if options.threads > 1 else "false"
    flags = f"--xla_cpu_multi_thread_eigen={multi} intra_op_parallelism_threads={options.threads}"
    limits = {"OMP_NUM_THREADS": str(options.threads), "XLA_FLAGS": flags}
    results = provenance() | {"date": f"{datetime.date.today()}", "batch": BATCH,
                              "steps": options.steps, "threads": options.threads}
    for widths in WIDTHS:
        runs = {"mimo_jax": [], "torch": []}
        for _ in range(3):
            for name, python in (("mimo_jax", sys.executable), ("torch", options.peer)):
                command = [python, __file__, "--side", name, widths, "--steps", str(options.steps)]
                done = subprocess.run(command, capture_output=True, text=True,
                                      env=os.environ | limits)
                if done.returncode: results.setdefault("left out",
                                                       {})[name] = done.stderr.strip().splitlines()[
                                                           -1]
                else: runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        found = {name: {what: statistics.median(r[what] for r in rs) for what in rs[0]} for name,
                 rs in runs.items() if rs}
        if len(found) == 2: found["ratio"] = round(found["mimo_jax"]["bits_per_cpu_s"]
                                                   / found["torch"]["bits_per_cpu_s"], 2)
        results[widths] = found
    if options.output:
        with open(options.output, "w") as file: file.write(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
