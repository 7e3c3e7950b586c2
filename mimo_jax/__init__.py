"""The literate JAX toolkit for machine learning in massive MIMO.

Set `MIMO_JAX_CHECK_SHAPES=1` before the first import (the tests do) and beartype checks every annotated array's shape and type as functions are
called or traced.
"""
import os as _os

__version__ = "0.1.0"

if _os.environ.get("MIMO_JAX_CHECK_SHAPES") == "1":
    from jaxtyping import install_import_hook as _install_import_hook

    _install_import_hook("mimo_jax", "beartype.beartype")
