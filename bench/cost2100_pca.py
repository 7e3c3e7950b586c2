"""Errors of PCA over ten independent draws, beside those of the reference: what the page on the COST 2100 reference quotes.

    python bench/cost2100_pca.py [DRAWS]        about 8 CPU seconds a draw
"""
import sys
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np

from mimo_jax.propagation.cost2100 import SCENARIOS, draw_channels
from mimo_jax.propagation.images import pca_bound, to_layout
from mimo_jax.units import db

LENGTHS = (512, 128, 64, 32)


def gap(seed: int) -> np.ndarray:
    """Ours minus the reference in dB: 2,500 channels to fit, 3,000 to test, rounded as the
    reference is stored."""
    x, _ = to_layout(jnp.asarray(draw_channels(jax.random.key(seed), SCENARIOS["indoor"], 5500)))
    half = x.astype(jnp.float16).astype(jnp.float32)
    with resources.files("mimo_jax.propagation").joinpath("cost2100_reference.npz").open(
        "rb") as file, np.load(file) as reference:
        return np.asarray(db(pca_bound(half[:2500], half[2500:],
                                       LENGTHS))) - reference["indoor/pca_db"]


if __name__ == "__main__":
    gaps = np.array([gap(100 + i) for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)])
    for name, values in {"mean": gaps.mean(0), "from draw to draw": gaps.std(0, ddof=1)}.items():
        print(f"{name:>18}: " + "  ".join(f"M={m} {v:+.2f} dB" for m,
                                          v in zip(LENGTHS, values, strict=True)))
