"""How many COST 2100 channels a second, per core: processor time, so that a busy machine tells the same.

    python bench/cost2100.py [SAMPLES]

The page's claim is at least 400 indoor channels a second on one core (150,000 in under three minutes on two).
The ratio beside it: a plain numpy evaluation of the same path sum in double precision, every antenna and frequency, and the two transforms.
"""
import json
import sys
import time

import jax
import numpy as np

from mimo_jax.propagation.cost2100 import SCENARIOS, draw_channels, draw_paths
from mimo_jax.propagation.paths import CSINET_GRID


def processor_seconds(work) -> float:
    "Processor seconds of one call, of all threads."
    start = time.process_time()
    work()
    return time.process_time() - start


def by_transform(paths) -> np.ndarray:
    "The usual way to an angular-delay image: all antennas and frequencies, then the transforms."
    g, tau, cosine = (np.asarray(p, np.complex128) for p in paths)
    grid, seen = CSINET_GRID, np.abs(g) > 0
    seen = np.abs(g) > 0
    offsets = np.arange(grid.points) * grid.bandwidth_hz / (grid.points - 1)
    waves = np.exp(-1j * np.pi * np.arange(grid.antennas)[:, None] * cosine[seen])
    response = (waves * g[seen]) @ np.exp(-2j * np.pi * tau[seen][:, None] * offsets)
    return np.fft.fft(np.fft.ifft(response, axis=1)[:, : grid.delays], axis=0)


def main():
    samples, rows = int(sys.argv[1]) if len(sys.argv) > 1 else 4000, {}
    for name, scenario in SCENARIOS.items():
        n = samples if name.startswith("indoor") else max(samples // 8, 1)
        draw_channels(jax.random.key(0), scenario, n)
        seconds = min(processor_seconds(lambda s=scenario,
                                        m=n: draw_channels(jax.random.key(1), s,
                                                           m)) for _ in range(2))
        paths = jax.device_get([jax.jit(draw_paths, static_argnums=1)(jax.random.key(i), scenario)
                                for i in range(20)])
        by_transform(paths[0])
        plain = processor_seconds(lambda p=paths: [by_transform(q) for q in p]) / 20
        rows[name] = {"channels_per_processor_second": round(n / seconds),
                      "milliseconds_each": round(1e3 * seconds / n, 3),
                      "times_faster_than_transforms_alone": round(plain * n / seconds, 1)}
        print(name, json.dumps(rows[name]), flush=True)
    if rows["indoor"]["channels_per_processor_second"] < 400:
        raise SystemExit(f"indoor: {rows['indoor']['channels_per_processor_second']} channels per "
                         f"processor second, the page claims 400")


if __name__ == "__main__":
    main()
