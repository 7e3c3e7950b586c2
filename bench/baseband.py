"""Stages and frames of the baseband pipeline against NumPy, SciPy and plain jax.numpy, in turns in
one process on one core; then how they scale, and how far from the roofline they are. Prints one
JSON object.

    python bench/baseband.py [--rounds 7] [--sizes 64x16 128x32] [--output FILE]

Seconds are processor seconds on a CPU, the clock's on anything else. A stage's ratio is the best
peer's median over ours. The frame without decoding is held against the sum of each stage's best
kernel, whoever's it is; with decoding, the decoder alone on the same LLRs is added. Peaks of the
roofline are measured here: a matrix product of 1500 x 1500, and a copy of 256 MB. Freed memory
stays with the process (glibc's malloc is told so), for all sides: else each of them pays for pages
that another one has given back. A call that is timed follows one that is not.
"""
import argparse
import datetime
import os
import pathlib
import subprocess
import sys
import time

KEPT = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "2000000000",
        "MALLOC_TOP_PAD_": "100000000"}  # bytes
if __name__ == "__main__" and not KEPT.items() <= os.environ.items():
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEPT)
if hasattr(os, "sched_setaffinity"):  # before JAX makes its threads
    one, every = {min(os.sched_getaffinity(0))}, range(os.cpu_count() or 1)
    os.sched_setaffinity(0, every if "--side" in sys.argv else one)

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from split import tell

from mimo_jax.baseband.beamforming import effective_noise, least_squares, group_detector
from mimo_jax.baseband.coding import decode_planes, scrambling_planes, symbol_decoder
from mimo_jax.baseband.equalization import LLR_UNIT, equalizer, first_llrs, level_spacing
from mimo_jax.baseband.equalization import llr_bytes
from mimo_jax.baseband.fourier import each_symbol, edge_energy, to_spectrum, used
from mimo_jax.baseband.frame import frame_code, frame_for
from mimo_jax.baseband.radio import Radio, radio_frame
from mimo_jax.baseband.speed import Machine, roofline_s, uplink_work
from mimo_jax.baseband.uplink import UplinkPlan, uplink, uplink_llrs
from mimo_jax.nr.ldpc_decoding import decode
from mimo_jax.nr.rate_matching import rate_dematch
from mimo_jax.phy.constellation import demap_qam

ON_CPU = jax.default_backend() == "cpu"
CLOCK = time.process_time if ON_CPU else time.perf_counter
ANTENNAS, USERS = (16, 32, 64, 128, 256), (4, 8, 16, 32, 64)  # of the scaling curves
DEVICES = (1, 2, 4, 8)
SNR_DB = 20.0


def in_turns(sides, rounds):
    "Seconds of every side in every round, A B A B; each runs once before."
    for run in sides.values():
        jax.block_until_ready(run())
    found = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            jax.block_until_ready(run())
            start = CLOCK()
            jax.block_until_ready(run())
            found[name].append(CLOCK() - start)
    return found


def transforms(iq, frame):
    "Bytes to subcarriers of all symbols."
    host, last = np.asarray(iq), frame.first + frame.subcarriers

    def with_library(fft):
        z = (host[..., 0] + 1j * host[..., 1].astype(np.float32)).astype(np.complex64)
        return np.fft.fftshift(fft(z), -1)[..., frame.first : last]

    @jax.jit
    def plain(iq):
        z = jax.lax.complex(iq[..., 0].astype(jnp.float32), iq[..., 1].astype(jnp.float32))
        return jnp.fft.fftshift(jnp.fft.fft(z), -1)[..., frame.first : last]

    ours = jax.jit(lambda x: each_symbol(lambda one: used(to_spectrum(one), frame), x, frame))
    return {"mimo_jax": lambda: ours(iq), "numpy": lambda: with_library(np.fft.fft),
            "scipy": lambda: with_library(scipy.fft.fft), "jax.numpy": lambda: plain(iq)}


def zero_forcing(H):
    "Pseudo-inverses of all groups."
    host = np.asarray(H)

    def solved(xp, H):
        adjoint = xp.conj(xp.swapaxes(H, 1, 2))
        return xp.linalg.solve(adjoint @ H, adjoint)

    ours = jax.jit(lambda H: group_detector(H, jnp.float32(0.1)))
    pinv, plain = jax.jit(jnp.linalg.pinv), jax.jit(lambda H: solved(jnp, H))
    return {"mimo_jax": lambda: ours(H), "numpy pinv": lambda: np.linalg.pinv(host),
            "numpy solve": lambda: solved(np, host), "jax.numpy pinv": lambda: pinv(H),
            "jax.numpy solve": lambda: plain(H)}


def products(y, made, detector, frame):
    "Equalized symbols of all data symbols."
    host, W = np.asarray(y), np.asarray(detector.W)
    shape = (len(y), frame.antennas, frame.groups, frame.group)

    def numpy():
        ordered = host.reshape(shape).transpose(2, 1, 0, 3).reshape(frame.groups, shape[1], -1)
        return W @ ordered

    ours = jax.jit(lambda y, e: each_symbol(lambda one: first_llrs(one, e), y, frame))
    plain = jax.jit(lambda y, W: jnp.einsum("gkm,umgs->ugks", W, y.reshape(shape)))
    return {"mimo_jax": lambda: ours(y, made), "numpy": numpy,
            "jax.numpy": lambda: plain(y, detector.W)}


def demapping(t, made, detector, frame):
    "LLRs of a byte of equalized symbols."
    level, half = level_spacing(frame.bits_per_symbol), frame.bits_per_symbol // 2
    c, host = np.asarray(made.c), np.asarray(t)
    parts = t.reshape(*t.shape[:2], 2, frame.users, -1)
    x = -level * jax.lax.complex(parts[:, :, 0], parts[:, :, 1]) / made.c[None, ..., None]

    def numpy():
        planes, thresholds = [host], np.concatenate([c, c], 1)[None, ..., None]
        for i in range(1, half):
            planes.append(np.abs(planes[-1]) - 2 ** (half - i) * thresholds)
        return np.clip(np.round(np.stack(planes)), -127, 127).astype(np.int8)

    @jax.jit
    def plain(x, error):
        llr = demap_qam(x, error[None, ..., None], frame.bits_per_symbol, method="maxlog")
        return jnp.clip(jnp.round(LLR_UNIT * llr), -127, 127).astype(jnp.int8)

    ours = jax.jit(lambda t, e: llr_bytes(t, e, frame))
    return {"mimo_jax": lambda: ours(t, made), "numpy": numpy,
            "jax.numpy maxlog": lambda: plain(x, detector.error)}


def inputs(mimo):
    "A frame, and what each stage gets of it."
    frame = frame_for(mimo)
    plan, P = UplinkPlan(frame, stop=None), frame.pilots
    iq = radio_frame(jax.random.key(0), Radio(frame), SNR_DB).iq
    spectrum = jax.jit(to_spectrum)(iq[:P])
    H = least_squares(used(spectrum, frame), frame)
    noise = effective_noise(edge_energy(spectrum, frame).mean(), frame)
    detector = group_detector(H, noise)
    made = equalizer(detector, frame)
    y = jax.lax.map(lambda one: used(to_spectrum(one), frame), iq[P:])
    return frame, plan, iq, H, detector, made, y


def whole(frame, plan, iq):
    "The frame with and without decoding, and its decoding alone."
    llr, decoder = uplink_llrs(iq, plan).llr, symbol_decoder(frame, None)
    flat = llr.reshape(*llr.shape[:2], -1).astype(jnp.float32) / LLR_UNIT
    soft = rate_dematch(flat, frame_code(frame))
    alone = jax.jit(lambda soft: decode(soft, decoder, plan.iterations).bits)
    scrambling = scrambling_planes(frame)
    early = UplinkPlan(frame)
    return {"without decoding": lambda: uplink_llrs(iq, plan).llr,
            "decoder alone": lambda: alone(soft),
            "decode": lambda: decode_planes(llr, frame, scrambling, plan.iterations, None).bits,
            "with decoding": lambda: uplink(iq, plan).bits,
            "with decoding, early stop": lambda: uplink(iq, early).bits}


def median_ms(times):
    return {name: [round(1e3 * t, 4) for t in each] for name, each in times.items()}


def best(times):
    "The least median of a stage, whoever's it is."
    return min(float(np.median(each)) for each in times.values())


def compared(mimo, rounds):
    "All stages of a size, and its frame."
    frame, plan, iq, H, detector, made, y = inputs(mimo)
    t = jax.lax.map(lambda one: first_llrs(one, made), y)
    stages = {"FFT": transforms(iq, frame), "zero forcing": zero_forcing(H),
              "equalize": products(y, made, detector, frame),
              "demap": demapping(t, made, detector, frame)}
    times = {name: in_turns(sides, rounds) for name, sides in stages.items()}
    frames = in_turns(whole(frame, plan, iq), rounds)
    kernels = sum(map(best, times.values()))
    found = {name: float(np.median(each)) for name, each in frames.items()}
    ratios = {name: round(min(float(np.median(v)) for k, v in each.items() if k != "mimo_jax")
                          / float(np.median(each["mimo_jax"])), 3) for name, each in times.items()}
    return {"stages_ms": {name: median_ms(each) for name, each in times.items()},
            "best peer / mimo_jax": ratios, "frame_ms": median_ms(frames),
            "sum of best kernels, ms": round(1e3 * kernels, 4),
            "frame / kernels": round(found["without decoding"] / kernels, 3),
            "frame / kernels, with decoding": round(
                found["with decoding"] / (kernels + found["decoder alone"]), 3)}


def peaks():
    "Operations and bytes a second that this processor reaches."
    a, x = jnp.ones((1500, 1500), jnp.float32), jnp.ones(2**25, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)
    times = in_turns({"product": lambda: product(a), "copy": lambda: copy(x)}, 5)
    return Machine(2 * 1500**3 / min(times["product"]), 2 * x.nbytes / min(times["copy"]))


def rooflines(mimo, machine, rounds):
    "Least seconds of every stage over its own."
    from mimo_jax.baseband.speed import stage_seconds, uplink_stages

    frame = frame_for(mimo)
    iq = radio_frame(jax.random.key(0), Radio(frame), SNR_DB).iq
    seconds = stage_seconds(uplink_stages(iq, UplinkPlan(frame, stop=None)), rounds, CLOCK)
    work = uplink_work(frame)
    return {name: {"ms": round(1e3 * float(np.median(each)), 4),
                   "share of roofline": round(
                       roofline_s(work[name], machine) / float(np.median(each)), 3),
                   "limit": "memory" if work[name].bytes / machine.bandwidth
                   > work[name].flops / machine.flops else "arithmetic"}
            for name, each in seconds.items()}


def scaling(axis, rounds):
    "Milliseconds of the frame without decoding along an axis, and the exponent of their growth."
    found = {}
    for size in ANTENNAS if axis == "antennas" else USERS:
        mimo = f"{size}x16" if axis == "antennas" else f"64x{size}"
        frame = frame_for(mimo, subcarriers=1216, group=32 if size > 16 or axis == "users" else 16)
        iq = radio_frame(jax.random.key(0), Radio(frame), SNR_DB).iq
        run = whole(frame, UplinkPlan(frame, stop=None), iq)["without decoding"]
        found[size] = float(np.median(in_turns({"frame": run}, rounds)["frame"]))
        jax.clear_caches()
    slope = np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0]
    return {"ms": {size: round(1e3 * s, 3) for size, s in found.items()},
            "exponent": round(float(slope), 3)}


def on_devices(mimo, devices, rounds):
    "Milliseconds of a frame with decoding, on the clock; devices are virtual on a CPU."
    from mimo_jax.baseband.sharding import device_mesh, sharded_uplink

    frame = frame_for(mimo)
    iq = radio_frame(jax.random.key(0), Radio(frame), SNR_DB).iq
    run, times = sharded_uplink(UplinkPlan(frame), device_mesh(devices)), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(iq).bits)
        times.append(1e3 * (time.perf_counter() - start))
    return round(float(np.median(times[1:])), 3)


def over_devices(mimo, rounds):
    "The same for 1 to 8 devices, each in a process of its own, on all cores."
    found = {}
    for devices in DEVICES:
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, __file__, "--side", mimo, f"{devices}", f"{rounds}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        found[devices] = float(done.stdout.splitlines()[-1])
    slope = np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0]
    return {"setting": mimo, "wall_ms": found, "exponent": round(float(slope), 3)}


def latency(mimo, frames):
    "Latency of frames one after the other, on the clock: what a closed loop sees."
    frame = frame_for(mimo)
    plan, iq = UplinkPlan(frame), radio_frame(jax.random.key(0), Radio(frame), SNR_DB).iq
    host, times = np.asarray(iq), []
    for _ in range(frames + 1):
        start = time.perf_counter()
        jax.block_until_ready(uplink(jnp.asarray(host), plan).bits)
        times.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times[1:], [50, 99])
    return {"P50_ms": round(p50, 3), "P99_ms": round(p99, 3), "frames": frames,
            "frames_per_s": round(1e3 / float(np.mean(times[1:])), 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=["16x4", "64x16", "128x32"])
    parser.add_argument("--latency", nargs="*", default=["64x16", "128x32", "128x64", "256x64",
                                                         "256x128"])
    parser.add_argument("--frames", type=int, default=20 if ON_CPU else 1000)
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        mimo, devices, rounds = arguments.side
        return print(on_devices(mimo, int(devices), int(rounds)))
    from mimo_jax.experiment import provenance

    machine = peaks()
    report = provenance() | {
        "date": f"{datetime.date.today()}", "load_before": os.getloadavg()[0],
        "clock": "processor" if ON_CPU else "wall", "rounds": arguments.rounds,
        "peaks": {"GFLOP/s": round(machine.flops / 1e9, 1),
                  "GB/s": round(machine.bandwidth / 1e9, 1)}}
    report["sizes"] = {mimo: compared(mimo, arguments.rounds) for mimo in arguments.sizes}
    report["roofline"] = {mimo: rooflines(mimo, machine, arguments.rounds)
                          for mimo in arguments.sizes}
    report["scaling"] = {axis: scaling(axis, arguments.rounds) for axis in ("antennas", "users")}
    report["scaling"]["devices"] = over_devices("64x16", arguments.rounds)
    report["latency"] = {mimo: latency(mimo, arguments.frames) for mimo in arguments.latency}
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
