"""The idle share of a pipeline on this processor: two equal stages on two devices of one thread
each, forward and backward, against the formula; prints one JSON object.

    python bench/split_pipeline.py [--batch 50] [--repeats 7] [--output FILE]

Time grows by one stage's time with every micro-batch, and the rest is the time in which a stage
waits: its share is the measured bubble. Two stages need two idle cores.
"""
import argparse
import json
import os
import pathlib
import statistics
import time

MICROS = (1, 2, 4, 8, 16)
ONE_THREAD = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"


def pipeline():
    "Loss and gradients of two blocks as stages, a function of weights and micro-batches."
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from jax.sharding import Mesh

    from mimo_jax.csi.families import CRBlock
    from mimo_jax.split.model import cut_layers
    from mimo_jax.split.pipeline import pipelined, stack_stages

    blocks = {name: CRBlock(3, rngs=nnx.Rngs(0)) for name in ("first", "second")}
    stages = stack_stages(cut_layers(blocks, ("first",)), (32, 32, 2))
    run = pipelined(stages, Mesh(np.array(jax.devices()[:2]), ("stage",)))
    return jax.jit(jax.grad(lambda weights, x: jnp.mean(run(weights, x) ** 2))), stages.weights


def seconds(batch, repeats):
    "Least time of a step for every number of micro-batches."
    import jax

    step, weights = pipeline()
    found = {}
    for micros in MICROS:
        x = jax.random.normal(jax.random.key(0), (micros, batch, 32, 32, 2))
        jax.block_until_ready(step(weights, x))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(step(weights, x))
            times.append(time.perf_counter() - start)
        found[micros] = min(times)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=50, help="images of a micro-batch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = ONE_THREAD
    from mimo_jax.experiment import provenance
    from mimo_jax.split.pipeline import bubble_fraction

    times = seconds(arguments.batch, arguments.repeats)
    stage_s = statistics.linear_regression(list(times), list(times.values())).slope
    bubbles = {m: {"seconds": t, "bubble": 1 - m * stage_s / t, "formula": bubble_fraction(2, m)}
               for m, t in times.items()}
    report = {"stage_s": stage_s, "micro_batches": bubbles} | provenance()
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
