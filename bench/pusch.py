"""The whole PUSCH chain and CDL generation against Sionna, side by side in one run: CPU seconds per slot, medians, ratios, errors; prints JSON.

    python bench/pusch.py [--peer /path/to/python] [--batch 32] [--repeat 3] [--cases CASE ...] [--output FILE]

`--peer` is a Python that has `sionna-no-rt`; by default this one, and without it only our side is measured. Each side runs in a process of its own
with one thread, in turns. The slot: MCS 13 (16-QAM,
                                             rate 0.48), 51 resource blocks, 2 layers, one DMRS, CDL-C at 100 ns, 2 x 2 antennas,
LS estimation, LMMSE detection, 20 decoder iterations (Sionna: flooding boxplus; ours: layered min-sum that stops when all blocks are right).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SNR_DB = 14.0  # per antenna: about five block errors in a hundred
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
              "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
CASES = ("chain", "channel", "moving channel")


def ours(case, batch):
    "A function of the run's number: block errors (0 for channels)."
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mimo_jax.propagation import delay_lines
    from mimo_jax.nr import pusch

    if case == "chain":
        link = pusch.Link(pusch.Pusch(), delay_lines.DelayLine("cdl-c"), channel_estimation="ls")
        return lambda n: int(np.sum(~pusch.simulate(jax.random.key(n), link, SNR_DB, batch).ok))
    times = jnp.arange(14) / 28e3 if case == "moving channel" else jnp.zeros(1)
    line = delay_lines.DelayLine("cdl-c", speed_m_s=10.0 if case == "moving channel" else 0.0)
    frequencies = (jnp.arange(612) - 306) * 30e3
    draw = jax.jit(jax.vmap(lambda key: delay_lines.frequency_response(delay_lines.draw(
        key, line, times), frequencies)))
    return lambda n: draw(jax.random.split(jax.random.key(n), batch)).block_until_ready() is None


def sionna(case, batch):
    import torch
    from sionna.phy.channel import OFDMChannel, cir_to_ofdm_channel, subcarrier_frequencies
    from sionna.phy.channel.tr38901 import CDL, PanelArray
    from sionna.phy.nr import PUSCHConfig, PUSCHReceiver, PUSCHTransmitter

    torch.set_num_threads(1)
    array = PanelArray(num_rows_per_panel=1, num_cols_per_panel=2, polarization="single",
                       polarization_type="V", antenna_pattern="omni",
                       carrier_frequency=3.5e9)
    speed = 10.0 if case == "moving channel" else 0.0
    model = CDL("C", 100e-9, 3.5e9, array, array, "uplink", min_speed=speed, max_speed=speed)
    if case != "chain":
        frequencies, steps = subcarrier_frequencies(612,
                                                    30e3), 14 if case == "moving channel" else 1
        return lambda n: cir_to_ofdm_channel(frequencies, *model(batch, steps, 28e3)) is None
    config = PUSCHConfig()
    config.carrier.n_size_grid, config.carrier.subcarrier_spacing = 51, 30
    config.num_antenna_ports, config.num_layers = 2, 2
    config.tb.mcs_index, config.tb.mcs_table = 13, 1
    config.dmrs.dmrs_port_set = [0, 1]
    transmitter = PUSCHTransmitter(config)
    receiver = PUSCHReceiver(transmitter, return_tb_crc_status=True)
    air = OFDMChannel(model, transmitter.resource_grid, normalize_channel=False)

    def slots(n):
        x, bits = transmitter(batch)
        decided, _ = receiver(air(x, 10 ** (-SNR_DB / 10)), 10 ** (-SNR_DB / 10))
        return int(torch.sum(torch.any(decided != bits, -1)))

    return slots


def side(name, case, batch, repeat):
    "One side of one case, in this process."
    run = {"mimo_jax": ours, "sionna": sionna}[name](case, batch)
    start = time.process_time()
    run(0)
    first, cpu, wall, errors = time.process_time() - start, [], [], []
    for n in range(1, repeat + 1):
        before = time.process_time(), time.perf_counter()
        errors.append(run(n))
        cpu.append(time.process_time() - before[0])
        wall.append(time.perf_counter() - before[1])
    seconds = {"cpu_s_per_slot": statistics.median(cpu) / batch,
               "wall_s_per_slot": statistics.median(wall) / batch, "first_call_cpu_s": first}
    return seconds | {"errors": int(sum(errors)), "slots": repeat * batch}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python that has sionna-no-rt")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="cases to run")
    parser.add_argument("--output",
                        help="also write the JSON here; cases it has from an earlier run stay")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return print(json.dumps(side(*options.side, options.batch, options.repeat)))
    kept = {}
    if options.output and os.path.exists(options.output):
        with open(options.output) as file: kept = {case: value for case,
                                                   value in json.load(file).items(
                                                       ) if case in CASES}
    results = {"batch": options.batch, "snr_db": SNR_DB} | kept
    for case in options.cases:
        results[case] = {}
        for name, python in (("mimo_jax", sys.executable), ("sionna", options.peer)):
            command = [python, __file__, "--side", name, case, "--batch", str(options.batch),
                       "--repeat", str(options.repeat)]
            done = subprocess.run(command, capture_output=True, text=True,
                                  env=os.environ | ONE_THREAD)
            if done.returncode: results[case][name] = {"left out": done.stderr.strip().splitlines()[
                -1]}
            else: results[case][name] = json.loads(done.stdout.splitlines()[-1])
        costs = [results[case][name].get("cpu_s_per_slot") for name in ("mimo_jax", "sionna")]
        if all(costs): results[case]["ratio"] = round(costs[1] / costs[0], 1)
    if options.output:
        with open(options.output, "w") as file: file.write(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
