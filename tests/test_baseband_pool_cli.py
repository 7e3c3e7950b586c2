"""`mimo-jax baseband simulate`, `compare`, `trace` and `run --policy`: pools in words, losses and
returns, one line for what cannot be, and interruptions that keep what was counted."""

import io
import json
import signal
from typing import get_args

import numpy as np
import pytest
from test_baseband_cli import answer, ask

from mimo_jax.baseband import pool
from mimo_jax.baseband.instructions import Granularity
from mimo_jax.baseband.occupancy import GPUS, PoolCalibration
from mimo_jax.baseband.pool_runs import PoolScenario, measure_pool
from mimo_jax.baseband.simulator import SimDevice
from mimo_jax.baseband.static import POLICIES
from mimo_jax.baseband.trace import trace_problems
from mimo_jax.cli import baseband, pools
from mimo_jax.cli import main as cli

SMALL = ("--pool", "2xa100", "--rus", 1, "--mimo", "64x16", "--frames", 12)
TINY = ("--mimo", "4x2", "--subcarriers", 96, "--fft-size", 128, "--schedule", "PUU",
        "--code-rate", 0.9, "--modulation", "16qam")


def test_a_simulation_says_what_the_library_measures(capsys):
    found = answer(capsys, "simulate", "--pool", "a100+2xV100", "--rus", 2, "--mimo", "64x16",
                   "--frames", 30, "--direction", "downlink", "--link-gb-s", 20, "--seed", 3,
                   "--deadline-ms", 1.5, "--no-discard", "--policy", "symbol")
    devices = (SimDevice(), SimDevice("V100"), SimDevice("V100"))
    scenario = PoolScenario("64x16", "D", "symbol", devices, 30, 2, "paced", deadline_s=1.5e-3)
    there = measure_pool(scenario, PoolCalibration(link_gb_s=20.0), 3)
    assert found["average_ms"] == pytest.approx(there.average_ms)
    assert found["p9999_ms"]["value"] == pytest.approx(there.tail_ms)
    assert found["throughput_kfps"] == pytest.approx(there.kfps)
    assert found["copied_mb"] == pytest.approx(60 * there.copied_mb)
    assert found["frames"] == 60 == found["decoded"] + found["nacks"]
    assert len(found["sm_percent"]) == 3 and all(0 <= n <= 100 for n in found["sm_percent"])
    p50, p99, last = (found[name] for name in ("p50_ms", "p99_ms", "p9999_ms"))
    assert p50["low"] <= p50["value"] <= p50["high"] <= p99["value"] <= last["value"]
    assert last["low"] <= last["value"] and last["high"] is None  # 60 frames do not bound it
    assert found["pool"] == "a100+2xV100" and found["seed"] == 3 and not found["discard"]


def test_seeds_repeat_and_differ(capsys):
    one, same, other = (answer(capsys, "simulate", *SMALL, "--seed", s) for s in (1, 1, 2))
    assert one == same and one["average_ms"] != other["average_ms"]


def test_closed_traffic_has_as_many_frames_in_flight_as_units(capsys):
    one, two = (answer(capsys, "simulate", *SMALL, "--traffic", "closed", "--rus", n)
                for n in (1, 2))
    assert one["frames"] == 12 and two["frames"] == 24
    assert two["throughput_kfps"] > 1.2 * one["throughput_kfps"]


def test_a_lost_device_works_less_and_no_frame_is_forgotten(capsys):
    for policy in POLICIES:
        found = answer(capsys, "simulate", *SMALL, "--policy", policy, "--lose", "1@0.003",
                       "--join", "1@0.009")
        assert found["frames"] == 12 == found["decoded"] + found["nacks"]
    whole = answer(capsys, "simulate", *SMALL)
    lost = answer(capsys, "simulate", *SMALL, "--lose", "1@0.0005")
    assert lost["sm_percent"][1] < 0.5 * whole["sm_percent"][1]


@pytest.mark.parametrize("words", [("--pool", "a100", "--lose", "0@0"), ("--link-gb-s", 0.01)])
def test_where_nothing_runs_every_frame_is_given_up(capsys, words):
    found = answer(capsys, "simulate", *SMALL, *words)
    assert found["nacks"] == found["frames"] == 12 and found["average_ms"] is None
    assert found["p9999_ms"] is None and found["throughput_kfps"] == 0
    code, out, error = ask(capsys, "compare", *SMALL, *words, "--json")
    assert code == 0 and len(json.loads(out)["policies"]) == len(POLICIES)


def test_all_schedulers_side_by_side(capsys, tmp_path):
    for suffix, start in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        path = tmp_path / f"compared{suffix}"
        found = answer(capsys, "compare", *SMALL, "--output", path)
        assert path.read_bytes().startswith(start)
    assert [one["policy"] for one in found["policies"]] == list(POLICIES)
    alone = answer(capsys, "simulate", *SMALL, "--policy", "task")
    task = found["policies"][list(POLICIES).index("task")]
    assert {name: alone[name] for name in task} == task
    code, out, error = ask(capsys, "compare", *SMALL)
    assert code == 0 and not error
    for said in ("MegaStation (lroc)", "LuMaMi-GPU (frame)", "P99.99 (ms)", "SM (%)", "NACK"):
        assert said in out


def test_people_get_a_table(capsys):
    code, out, error = ask(capsys, "simulate", *SMALL)
    assert code == 0 and not error
    for said in ("12 of 12 frames", "P99.99 (ms)", " ... ", "(from ", "SM time in use (%)", "NACK"):
        assert said in out


@pytest.mark.parametrize("policy", POLICIES)
def test_a_trace_keeps_the_rules_of_its_format(capsys, tmp_path, policy):
    path = tmp_path / "new" / "trace.json"
    found = answer(capsys, "trace", *SMALL, "--policy", policy, "--lose", "1@0.004", "--output",
                   path)
    content = json.loads(path.read_text())
    assert trace_problems(content) == [] and found["bytes"] == path.stat().st_size
    phases = [event["ph"] for event in content["traceEvents"]]
    assert phases.count("X") == found["spans"] and phases.count("i") == found["marks"] >= 1
    assert {e["args"]["name"] for e in content["traceEvents"] if e["name"] == "process_name"} == {
        "0: A100", "1: A100"}


@pytest.mark.parametrize("words, said", [
    (("simulate", "--policy", "fifo"), "'lroc', 'frame', 'symbol', 'task', 'weighted'"),
    (("simulate", "--pool", "6xb200"), "GPU 'B200' is unknown; known are V100, A100, H200"),
    (("simulate", "--pool", "0xa100"), "0 devices; a pool has 1 to 64"),
    (("simulate", "--pool", "9999xa100"), "9999 devices; a pool has 1 to 64"),
    (("simulate", "--pool", "a100,v100"), "need GPUs, as in 6xa100"),
    (("simulate", "--pool", ""), "need GPUs, as in 6xa100"),
    (("simulate", "--mimo", "8x16"), "16 users at 8 antennas"),
    (("simulate", "--mimo", "[red]"), "antennas x users, as in 64x16"),
    (("simulate", "--deadline-ms", 0.07), "a symbol takes 0.0714 ms"),
    (("simulate", "--deadline-ms", "nan"), "no finite number"),
    (("simulate", "--deadline-ms", -4), "a symbol takes 0.0714 ms"),
    (("simulate", "--link-gb-s", 0), "0.01"), (("simulate", "--rus", 0), "'--rus'"),
    (("simulate", "--frames", 0), "'--frames'"),
    (("simulate", "--pool", "2xa100", "--lose", "2@0.1"), "the pool has devices 0 to 1"),
    (("simulate", "--lose", "one@0.1"), "need a device and seconds, as in 1@0.3"),
    (("simulate", "--join", "1@1e400"), "need a device and seconds, as in 1@0.3"),
    (("compare", "--output", "all.gif"), ".svg, .png or .pdf"),
    (("compare", "--output", "."), ".svg, .png or .pdf"),
    (("compare", "--pool", "0xv100"), "0 devices"),
    (("trace",), "--output"), (("trace", "--output", "."), "is a folder"),
    (("trace", "--output", "/proc/none/t.json"), "/proc"),
    (("run", *TINY, "--policy", "fifo"), "'lroc', 'frame'"),
    (("run", *TINY, "--policy", "lroc", "--granularity", "job"), "'task', 'symbol', 'frame'"),
    (("run", *TINY, "--policy", "lroc", "--deadline-ms", 0.01), "a symbol takes 0.0714 ms"),
    (("run", *TINY, "--deadline-ms", 4), "--policy"),
    (("run", *TINY, "--policy", "lroc", "--devices", 0), "'--devices'"),
    (("run", *TINY, "--policy", "lroc", "--devices", 64), "there are 8 of cpu"),
], ids=lambda value: "")
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, error = ask(capsys, *words)
    assert code == 2 and not out and said in error, error
    assert error.startswith("mimo-jax: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def stop_after(monkeypatch, ended: int, sent=signal.SIGINT):
    "Stop every run of a pool once so many frames have ended."
    whole = pool.run_pool

    def stopped(scheduler, executor, watch):
        count = [0]

        def seen(now, event, commands):
            watch(now, event, commands)
            count[0] += sum(isinstance(one, pool.Finish) for one in commands)
            if count[0] >= ended: raise cli.Stopped(sent)

        return whole(scheduler, executor, watch=seen)

    monkeypatch.setattr(pool, "run_pool", stopped)


def test_ctrl_c_keeps_what_was_counted(capsys, monkeypatch, tmp_path):
    stop_after(monkeypatch, 5)
    code, out, error = ask(capsys, "simulate", *SMALL, "--json")
    assert code == 130 and error == "mimo-jax: interrupted; what was counted until then is shown\n"
    assert json.loads(out)["frames"] == 5
    code, out, error = ask(capsys, "compare", *SMALL, "--output", tmp_path / "five.svg", "--json")
    assert code == 130 and [one["frames"] for one in json.loads(out)["policies"]] == [5]
    assert (tmp_path / "five.svg").exists()
    code, out, error = ask(capsys, "trace", *SMALL, "--output", tmp_path / "five.json", "--json")
    assert code == 130 and json.loads(out)["frames"] == 5
    assert trace_problems(json.loads((tmp_path / "five.json").read_text())) == []
    stop_after(monkeypatch, 0, signal.SIGTERM)
    code, out, error = ask(capsys, "simulate", *SMALL)
    assert code == 143 and not out and error.count("\n") == 1


def test_real_devices_behind_a_scheduler(capsys):
    run = ("run", *TINY, "--frames", 5, "--units", 2, "--distinct", 2, "--devices", 2, "--snr", 3)
    plain = answer(capsys, *run)
    assert plain["pool"] is None
    for policy, granularity in (("lroc", "task"), ("symbol", "symbol"), ("frame", "frame")):
        found = answer(capsys, *run, "--policy", policy, "--granularity", granularity)
        made = found["pool"]
        assert made["frames"] == found["frames"] == 10 and made["nacks"] == made["late"] == 0
        assert {name: found[name] for name in ("ber", "bler", "evm")} == {
            name: plain[name] for name in ("ber", "bler", "evm")}
        # five frames of each unit in turn: the first of two different ones comes three times
        assert 2 * plain["ber"]["errors"] < made["wrong_bits"] < 3 * plain["ber"]["errors"]
        assert sum(made["latency_ms"]["counts"]) == 10 and len(made["busy_percent"]) == 2
        assert made["policy"] == policy and made["granularity"] == granularity


def test_other_arrivals_and_the_downlink_behind_a_scheduler(capsys):
    down = (*TINY[:6], "--schedule", "PDDD", *TINY[8:], "--direction", "downlink")
    for words in ((*TINY, "--arrivals", "burst", "--burst", 2), (*TINY, "--arrivals", "paced",
                  "--period-ms", 5, "--jitter-ms", 1), down):
        found = answer(capsys, "run", *words, "--frames", 4, "--devices", 2, "--policy", "frame",
                       "--deadline-ms", 0.08)
        made = found["pool"]
        assert made["frames"] == 4 == made["nacks"] + sum(made["latency_ms"]["counts"])
        assert made["late"] == 4 and (made["wrong_bits"] is None) == (words is down)


def test_late_frames_are_given_up_and_counted(capsys):
    made = answer(capsys, "run", *TINY, "--frames", 6, "--policy", "lroc", "--deadline-ms",
                  0.08)["pool"]
    assert made["frames"] == 6 and made["nacks"] == 6 and made["wrong_bits"] is None
    code, out, error = ask(capsys, "run", *TINY, "--frames", 4, "--policy", "lroc")
    assert code == 0 and "Scheduled by lroc, each symbol" in out and "0 NACK, 0 late" in out


def test_ctrl_c_ends_real_devices_and_keeps_what_was_counted(capsys, monkeypatch):
    stop_after(monkeypatch, 3)
    code, out, error = ask(capsys, "run", *TINY, "--frames", 50, "--policy", "frame", "--json")
    found = json.loads(out)
    assert code == 130 and error.startswith("mimo-jax: interrupted; what was counted")
    assert found["pool"]["frames"] == found["frames"] == 3


def test_the_live_view_shows_devices_deadlines_and_latencies():
    from rich.console import Console

    recording = type("Recording", (), {"ran": []})
    executor = type("Executor", (), {"recording": recording, "now": lambda _: 0.0})()
    seen = pools.RealPool(pools.PoolAsked("lroc", "task", 2, 0.004), executor)
    seen.ended = [pool.Ended((0, n), 0.0, 1e-3 * (n + 1), n < 6) for n in range(7)]
    live = baseband.Seen("in time", 8, pool=seen)
    screen = io.StringIO()
    Console(file=screen, width=100).print(baseband._panel(live))
    for said in ("in time", "7 / 8", "device 1 works", "1 NACK, 2 late", "1 █", "█ 6"):
        assert said in screen.getvalue(), screen.getvalue()


def test_choices_are_those_of_the_library():
    assert get_args(pools.Policy) == POLICIES and tuple(pools.STYLES) == POLICIES
    assert get_args(pools.Grain) == get_args(Granularity)
    assert np.isclose(pools.SYMBOL_MS, 1e3 * pool.FRAME_S / 14)
    for kind in GPUS:
        assert pools.pool_devices(f"2x{kind.lower()}") == (SimDevice(kind),) * 2
