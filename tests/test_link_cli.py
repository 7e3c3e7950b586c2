"""The link command's options, files and intervals; what it computes is on its page."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mimo_jax import experiment, files
from mimo_jax.cli import link, sweep
from mimo_jax.propagation.delay_lines import DelayLine
from mimo_jax.nr.harq import Harq
from mimo_jax.phy.ofdm import slot_duration_s
from mimo_jax.nr.pusch import Pusch


@given(first=st.integers(-20, 20), count=st.integers(1, 27),
       step=st.sampled_from([0.1, 0.25, 0.5, 1.0, 3.0]))
@settings(max_examples=50, deadline=None)
def test_ranges(first, count, step):
    values = link.parse_snrs(f"{first}:{first + (count - 1) * step}:{step}")
    np.testing.assert_allclose(values, first + step * np.arange(count), atol=1e-6)


@pytest.mark.parametrize("text", [
    "", "a:b", "1:2:3:4", "2:1:1", "0:1:0", "0:1:-1", "0:1000:1", "1;2", "nan", "inf", "20,400",
    "0:nan",
])
def test_bad_ranges(text):
    with pytest.raises(ValueError, match="snr"):
        link.parse_snrs(text)


def test_channels():
    assert link.named_channel("awgn", 2, 2) == "awgn"
    line = link.named_channel("tdl-a", 2, 4, 30.0, 3.0, "cross")
    assert (
        isinstance(line, DelayLine)
        and line.shape == (4, 2)
        and line.delay_spread_s == pytest.approx(3e-8)
    )
    with pytest.raises(ValueError, match="cdl-a, cdl-b"):
        link.named_channel("cdl", 2, 2)
    with pytest.raises(ValueError, match="must be even"):
        link.named_channel("cdl-c", 1, 2, polarization="cross")


@pytest.mark.parametrize("most, chance", [(1, 0.9), (4, 0.4)])
def test_intervals_cover(most, chance):
    """95 % intervals of throughput hold the truth about 95 % of the time.

    Of 300 draws 95 % +- 3 standard errors of 1.3 % is 91 to 99 %; the ratio's interval is
    only asymptotic.
    """
    rng, pusch = np.random.default_rng(0), Pusch()
    success = 1 - (1 - chance) ** most
    slots = sum(n * chance * (1 - chance) ** (n - 1)
                for n in range(1, most)) + most * (1 - chance) ** (most - 1)
    truth = pusch.transport_block_size / slot_duration_s(pusch.carrier) / 1e6 * success / slots
    draws = [sweep.summarize(np.minimum(rng.geometric(chance, 400), most + 1), most, pusch)
             for _ in range(300)]
    assert 0.9 < np.mean([d["throughput_low"] <= truth <= d["throughput_high"]
                          for d in draws]) < 0.99
    assert all(d["residual"][-1] == pytest.approx(d["bler"]) for d in draws)


def test_bad_sizes_and_files(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        sweep.Sweep(errors=0)
    broken = experiment.partial_path("link", "x", tmp_path)
    files.write_whole(broken, "{")
    with pytest.raises(ValueError, match="x.partial.json"):
        sweep.run_sweep("x", sweep.Sweep(harq=Harq(2)), (0.0,), root=tmp_path)


def test_show_reads_what_was_written(tmp_path, monkeypatch):
    "Table and JSON of a results file; no simulation."
    monkeypatch.setattr(sweep, "_needed", lambda *_: np.array([1, 2, 3, 1]))
    arguments = ["--harq", "2", "--snr", "0:1:1", "--blocks", "8", "--errors", "99", "--out",
                 str(tmp_path), "--name", "x"]
    shown = CliRunner().invoke(link.app, arguments, catch_exceptions=False)
    assert shown.exit_code == 0 and "BLER" in shown.stdout and (tmp_path / "link"
                                                                / "x.png").read_bytes()[
                                                                    :4] == b"\x89PNG"
    answer = json.loads(CliRunner().invoke(link.app, [*arguments, "--json"],
                                           catch_exceptions=False).stdout)
    value = answer["points"]["1 dB"]["value"]
    assert (value["blocks"], value["errors"],
            value["residual"]) == (8, 2, [0.5, 0.25]) and value["transmissions"] == 1.5
