"""The factor and the offset of the default decoder: block errors over a grid of both for codes of 6 to 46 rows; prints JSON.

    python bench/ldpc_factors.py [--codes GIACFDL] [--factors 0.7 0.75 0.8 0.85 0.9] [--offsets 0 0.1 0.2 0.3] [--blocks 512]

Every cell compiles a decoder (5 to 15 CPU s). All cells of a code see the same blocks, at an Es/N0 where a few in a hundred fail after 20 layered
sweeps; messages have 32 bits.
`FACTORS` and `OFFSET` of `mimo_jax.nr.ldpc_decoding` are what does well for all codes of about as many rows.
"""
import argparse
import json
from functools import partial

import jax
import jax.numpy as jnp

from mimo_jax.phy.channel import awgn, noise_variance
from mimo_jax.phy.constellation import demap_qam, modulate, qam, random_bits
from mimo_jax.nr.ldpc import encode, make_code
from mimo_jax.nr.ldpc_decoding import LdpcDecoder, decode
from mimo_jax.nr.rate_matching import rate_dematch, rate_match, rows_used

CODES = {  # information bits, coded bits, base graph, bits per symbol, Es/N0 in dB
    "A": (100, 200, 2, 2, 2.25), "C": (1000, 2000, 2, 2,
                                       1.4), "D": (2288, 6864, 1, 2,
                                                   -1.12), "E": (7584, 15912, 1, 4, 5.9),
    "F": (8448, 16896, 1, 2, 1.06), "G": (8448, 10560, 1, 6,
                                          16.25), "I": (3000, 3400, 1, 2,
                                                        5.1), "L": (1000, 5000, 2, 2, -3.35),
}


@partial(jax.jit, static_argnames=("code", "n", "m", "blocks"))
def received(key, snr_db, code, n, m, blocks):
    "Bits, and the LLRs of their code words after white noise."
    bits_key, noise_key = jax.random.split(key)
    bits, N0 = random_bits(bits_key, (blocks, code.k)), noise_variance(snr_db)
    symbols = modulate(rate_match(encode(bits, code), code, n, bits_per_symbol=m), qam(m))
    return bits, rate_dematch(demap_qam(awgn(noise_key, symbols, N0), N0, m).reshape(blocks, n),
                              code, bits_per_symbol=m)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", default="".join(CODES))
    parser.add_argument("--factors", type=float, nargs="+", default=[0.7, 0.75, 0.8, 0.85, 0.9])
    parser.add_argument("--offsets", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--blocks", type=int, default=512)
    arguments = parser.parse_args()
    for name in arguments.codes:
        k, n, base_graph, m, snr_db = CODES[name]
        code = make_code(k, base_graph)
        bits, llr = received(jax.random.key(0), snr_db, code, n, m, arguments.blocks)
        for factor in arguments.factors:
            cells = {o: LdpcDecoder(code, rows_used(code, n), factor=factor, offset=o,
                                    messages="float32") for o in arguments.offsets}
            errors = {o: int(jnp.sum(jnp.any(decode(llr, d).bits != bits, -1))) for o,
                      d in cells.items()}
            about = {"code": name, "rows": rows_used(code, n), "blocks": arguments.blocks,
                     "factor": factor}
            print(json.dumps(about | {"errors by offset": errors}), flush=True)


if __name__ == "__main__":
    main()
