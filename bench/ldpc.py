"""LDPC decoding against the decoders one can install, side by side in one run: medians, CPU seconds, ratios, compile time; prints one JSON object.

    python bench/ldpc.py [--peer /path/to/python] [--batches 8 64] [--repeat 5] [--output FILE]

`--peer` is a Python that has `sionna-no-rt` and `ldpc`; by default this one, and what it lacks is left out. Every side runs in a process of its
own with one thread, in turns, on the same code: base graph 1, 8448 information bits in 16896, QPSK, 20 iterations, at 1.1 dB (where one block in
a hundred fails) and, for those that stop early, at 2 dB too. Ours and Sionna's make all iterations unless "early stop" says so; `ldpc` always
stops early.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

K, N, SNR_DB, EASY_DB, ITERATIONS = 8448, 16896, 1.1, 2.0, 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
              "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
SIDES = {  # name -> batches
    "mimo_jax": (8, 64), "mimo_jax, early stop": (8,
                                                  64), "mimo_jax, float32": (
                                                      8,), "mimo_jax, sum-product": (8,),
    "sionna": (8, 64), "sionna, min-sum": (8,), "ldpc": (8,), "mimo_jax, early stop, 2 dB": (
        8,), "ldpc, 2 dB": (8,),
}
PAIRS = [("mimo_jax", "sionna"), ("mimo_jax", "sionna, min-sum"),
         ("mimo_jax, sum-product", "sionna"), ("mimo_jax", "ldpc"),
         ("mimo_jax, early stop", "ldpc"), ("mimo_jax, early stop, 2 dB", "ldpc, 2 dB")]


def ours(bits_and_llr, batch, options):
    "A function of a batch's number that decodes it, and the CPU seconds of compiling it."
    import jax
    import jax.numpy as jnp

    from mimo_jax.nr.ldpc import make_code
    from mimo_jax.nr.ldpc_decoding import LdpcDecoder, _decode
    from mimo_jax.nr.rate_matching import rate_dematch, rows_used

    jax.config.update("jax_enable_compilation_cache", False)
    code = make_code(K, 1)
    decoder = LdpcDecoder(code, rows_used(code, N), **options)
    llr, iterations = rate_dematch(jnp.asarray(bits_and_llr["llr"]), code), jnp.asarray(ITERATIONS)
    batches = [llr[i : i + batch] for i in range(0, len(llr), batch)]
    start = time.process_time()
    executable = _decode.lower(batches[0], decoder, iterations).compile()
    return lambda i: np.asarray(executable(batches[i],
                                           iterations).bits), time.process_time() - start


def sionna(bits_and_llr, batch, rule):
    import torch
    from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder

    torch.set_num_threads(1)
    decoder = LDPC5GDecoder(LDPC5GEncoder(K, N), num_iter=ITERATIONS, cn_update=rule, hard_out=True)
    llr = torch.as_tensor(bits_and_llr["llr"])
    return lambda i: decoder(llr[i * batch : (i + 1) * batch]).cpu().numpy(), 0.0


def syndrome_form(bits_and_llr, batch):
    """The `ldpc` package, C++: decodes the error pattern of a syndrome, one block at a time,
    with one channel probability per bit."""
    sys.path.pop(0)  # this script's own folder, where `ldpc` would be this script
    import ldpc
    from scipy.sparse import csr_matrix

    H = csr_matrix((np.ones(len(bits_and_llr["edges"]), np.uint8), bits_and_llr["edges"].T))
    llr = np.concatenate([np.zeros((len(bits_and_llr["llr"]), 768), np.float32),
                          bits_and_llr["llr"]], 1)
    guess = (llr > 0).astype(np.uint8)
    decoder = ldpc.BpDecoder(H, error_rate=0.1, max_iter=ITERATIONS, bp_method="ms",
                             schedule="serial", ms_scaling_factor=0.7)

    def one(row, received):
        decoder.update_channel_probs(1 / (1 + np.exp(np.abs(np.clip(row, -30, 30)))))
        return received ^ decoder.decode(H @ received % 2)

    return lambda i: np.stack([one(llr[j], guess[j])
                               for j in range(i * batch, (i + 1) * batch)])[:, :K], 0.0


def side(name, batch, repeat, data):
    "One side of the comparison, in this process."
    loaded = np.load(data)
    if name.endswith(", 2 dB"):
        loaded = {"bits": loaded["bits"], "edges": loaded["edges"], "llr": loaded["easy_llr"]}
    makers = {
        "mimo_jax": lambda: ours(loaded, batch,
                                 {}), "mimo_jax, early stop": lambda: ours(loaded, batch, {
                                     "stop": "syndrome"}),
        "mimo_jax, float32": lambda: ours(loaded, batch, {"messages": "float32"}),
        "mimo_jax, sum-product": lambda: ours(loaded, batch,
                                              {"check_node_update": "sum-product",
                                               "schedule": "flooding"}),
        "sionna": lambda: sionna(loaded, batch,
                                 "boxplus-phi"), "sionna, min-sum": lambda: sionna(
                                     loaded, batch, "minsum"),
        "ldpc": lambda: syndrome_form(loaded, batch),
    }
    decode, compile_s = makers[name.removesuffix(", 2 dB")]()
    checked = len(loaded["bits"]) // batch if batch == 8 else 1
    wrong = sum(int((decode(i) != loaded["bits"][i * batch : (i + 1) * batch]).any(1).sum())
                for i in range(checked))
    cpu, wall = [], []
    for _ in range(repeat):
        start = time.process_time(), time.perf_counter()
        decode(0)
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    middle = statistics.median(cpu)
    print(json.dumps({"cpu_s": round(middle, 4), "wall_s": round(statistics.median(wall), 4),
                      "compile_cpu_s": round(compile_s, 1),
                      "blocks_checked": checked * batch, "blocks_wrong": wrong, "information_mbit_per_cpu_s": round(batch * K / middle / 1e6, 4)}))


def make_data(path, blocks):
    "Bits, their noisy LLRs, and the edges of the parity-check matrix, for all sides."
    import jax

    from mimo_jax.phy.channel import awgn, noise_variance
    from mimo_jax.phy.constellation import demap_qam, modulate, qam, random_bits
    from mimo_jax.nr.ldpc import encode, make_code
    from mimo_jax.nr.rate_matching import rate_match, rows_used

    code, bits = make_code(K, 1), random_bits(jax.random.key(0), (blocks, K))
    symbols = modulate(rate_match(encode(bits, code), code, N), qam(2))
    llr, easy = (demap_qam(awgn(jax.random.key(1), symbols, N0), N0, 2).reshape(blocks, N)
                 for N0 in map(noise_variance, (SNR_DB, EASY_DB)))
    t = np.arange(code.Z)
    rows = enumerate(code.rows[: rows_used(code, N)])
    edges = [np.stack([i * code.Z + t, e.column * code.Z + (t + e.shift) % code.Z], 1) for i,
             row in rows for e in row]
    np.savez(path, bits=bits, llr=llr, easy_llr=easy, edges=np.concatenate(edges))


def run_side(name, batch, repeat, data, peer):
    "One side in a process of its own; the last line of the error if it cannot run."
    python = sys.executable if name.startswith("mimo_jax") else peer
    command = [python, __file__, "--side", name, "--batches", str(batch), "--repeat", str(repeat),
               "--data", data]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        return {"absent": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=sys.executable,
                        help="a Python that has sionna-no-rt and ldpc")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=256,
                        help="blocks on which errors are counted, at batch 8")
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(arguments.side, arguments.batches[0], arguments.repeat, arguments.data)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        data = str(pathlib.Path(folder) / "data.npz")
        make_data(data, max(*arguments.batches, arguments.blocks))
        for batch in arguments.batches:
            for name in (name for name,
                         batches in SIDES.items() if batch in batches or batch not in (8, 64)):
                results[f"{name}, batch {batch}"] = run_side(name, batch, arguments.repeat, data,
                                                             arguments.peer)
                print(name, batch, results[f"{name}, batch {batch}"], file=sys.stderr, flush=True)
    rates = {name: r["information_mbit_per_cpu_s"] for name,
             r in results.items() if "absent" not in r}
    ratios = {f"{one} / {other}, batch {batch}": round(rates[f"{one}, batch {batch}"]
                                                       / rates[f"{other}, batch {batch}"], 1)
              for batch in arguments.batches for one, other in PAIRS if f"{one}, batch {batch}" in rates and f"{other}, batch {batch}" in rates}
    report = json.dumps({"code": [K, N], "iterations": ITERATIONS, "snr_db": SNR_DB,
                         "sides": results, "ratios": ratios}, indent=1)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(report)
    print(report)


if __name__ == "__main__":
    main()
