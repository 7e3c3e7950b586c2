"""How many cases the strategies draw: few and always the same in `make test`, MIMO_JAX_FUZZ of
them, and new ones, in `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

CASES = int(os.environ.get("MIMO_JAX_FUZZ", "0"))  # in all; 0: the budget of `make test`
UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
             HealthCheck.data_too_large]


def budget(few: int, share: float) -> settings:
    "Settings of a test that takes so many cases of `make test`, and a share of `make fuzz`."
    return settings(
        max_examples=max(few, round(share * CASES)), deadline=None, derandomize=not CASES,
        database=None, print_blob=True, suppress_health_check=UNHURRIED,
    )
