"""Block error rates of LDPC decoders against those of another implementation, point by point; makes results/nr/ldpc_bler.json.

    python bench/ldpc_bler.py [bler_awgn.npz] [--most 4096] [--codes ACEG]       (interrupt and run again to go on)

Without a file it takes $MIMO_JAX_REFERENCE/bler_awgn.npz.

The reference file holds, for each code X, `X__meta` = [k, n, base graph, Z, bits per symbol]
and `X__rows` = [Es/N0 dB, decoder, iterations, blocks, errors, ...].
"""
import argparse
import datetime
import json
import os
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mimo_jax.experiment import provenance, read_json, write_whole
from mimo_jax.phy.channel import awgn, noise_variance
from mimo_jax.phy.constellation import demap_qam, modulate, qam, random_bits
from mimo_jax.nr.ldpc import encode, make_code
from mimo_jax.nr.ldpc_decoding import LdpcDecoder, decode
from mimo_jax.nr.rate_matching import rate_dematch, rate_match, rows_used

TARGET = pathlib.Path(__file__).resolve().parent.parent / "results" / "nr" / "ldpc_bler.json"
FLOODING = {"schedule": "flooding"}
THEIRS = {  # the reference's four decoders, by index
    0: ("sum-product", FLOODING | {"check_node_update": "sum-product"}),
    1: ("min-sum", FLOODING | {"check_node_update": "min-sum"}),
    2: ("offset", FLOODING | {"check_node_update": "offset", "offset": 0.5}),
    3: ("layered 0.75", {"check_node_update": "normalized", "factor": 0.75}),
}
BATCH = {"A": 256, "B": 128, "C": 128, "D": 64, "E": 32, "F": 32, "G": 32}


@partial(jax.jit, static_argnames=("decoder", "n", "m", "blocks"))
def block_errors(key, snr_db, iterations, decoder, n, m, blocks):
    "Blocks in error of one batch over white noise, exact demapping."
    bits_key, noise_key = jax.random.split(key)
    bits = random_bits(bits_key, (blocks, decoder.code.k))
    symbols = modulate(rate_match(encode(bits, decoder.code), decoder.code, n, bits_per_symbol=m),
                       qam(m))
    llr = demap_qam(awgn(noise_key, symbols, noise_variance(snr_db)), noise_variance(snr_db),
                    m).reshape(blocks, n)
    return jnp.any(decode(rate_dematch(llr, decoder.code, bits_per_symbol=m), decoder,
                          iterations).bits != bits, -1).sum()


def simulate(code, row, name, options, meta, most):
    "One point: as many blocks as the reference has, or `most`."
    k, n, base_graph, _, m = map(int, meta)
    decoder, batch = LdpcDecoder(make_code(k, base_graph), rows_used(make_code(k, base_graph), n),
                                 **options), BATCH[code]
    batches = max(min(int(row[3]), most) // batch, 1)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(ord(code)),
                                               round(row[0] * 100) + 10_000), batches)
    errors = sum(int(block_errors(key, row[0], int(row[2]), decoder, n, m, batch)) for key in keys)
    ours = {"code": code, "decoder": name, "iterations": int(row[2]), "snr_db": row[0],
            "blocks": batches * batch, "errors": errors}
    return ours | {"their_blocks": int(row[3]), "their_errors": int(row[4])}


def tasks(reference, codes):
    """Every point of the reference by decoder for some codes, and for all codes the default
    decoder where the reference has its exact one."""
    for code in sorted(name[0] for name in reference if name.endswith("__rows")):
        rows = reference[f"{code}__rows"].tolist()
        for index, (name, options) in THEIRS.items() if code in codes else ():
            yield from ((code, row, name, options) for row in rows if row[1] == index)
        yield from ((code, row, "default", {}) for row in rows if row[1] == 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = pathlib.Path(os.environ.get("MIMO_JAX_REFERENCE", "."))
    parser.add_argument("reference", type=pathlib.Path, nargs="?", default=folder / "bler_awgn.npz")
    parser.add_argument("--most", type=int, default=4096, help="blocks per point, at most")
    parser.add_argument("--codes", default="ACEG", help="on which to compare all decoders")
    arguments = parser.parse_args()
    if not arguments.reference.exists():
        return print(f"nothing to compare with: no {arguments.reference}; name a file or set "
                     f"MIMO_JAX_REFERENCE")
    reference = dict(np.load(arguments.reference))
    results = read_json(TARGET) if TARGET.exists() else {"points": {}, "seconds": 0.0}
    for code, row, name, options in tasks(reference, arguments.codes):
        if (point := f"{code} {name} {row[0]:g}") in results["points"]:
            continue
        start = time.process_time()
        results["points"][point] = simulate(code, row, name, options, reference[f"{code}__meta"],
                                            arguments.most)
        results["seconds"] = round(results["seconds"] + time.process_time() - start, 1)
        results |= {"date": datetime.date.today().isoformat(), "seed": 0, **provenance()}
        write_whole(TARGET, json.dumps(results, indent=1))
        print(point, results["points"][point], flush=True)


if __name__ == "__main__":
    main()
