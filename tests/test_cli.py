"""The installed command: exit codes, one JSON object, one line per error, and runs that survive
kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.testing import CliRunner

from mimo_jax.cli import main as cli
from mimo_jax.cli.output import finite
from mimo_jax.experiment import Experiment, run, stale_points
from mimo_jax.ledger import AGREES, FALLS_SHORT, NOT_RUN, STALE, TOO_SMALL, Measured, claims
from mimo_jax.ledger import claims_file
from mimo_jax.ledger import ledger

MIMO_JAX = str(Path(sys.executable).parent / "mimo-jax")
# The command as a user has it: one device, no checked shapes.
TEST_ONLY = ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS")
USER = {name: value for name, value in os.environ.items() if name not in TEST_ONLY}
HEAVY = ("jax", "numpy", "scipy", "matplotlib")


def call(*arguments):
    command = [MIMO_JAX, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=USER
    )


def commands(app, *before) -> list[tuple[str, ...]]:
    "Every command of an application, as the words that call it."
    import typer.main

    click = typer.main.get_command(app)

    def walk(command, words):
        inner = getattr(command, "commands", {})
        return [words] + [found for name, c in inner.items() for found in walk(c, (*words, name))]

    return walk(click, before)


USAGE_ERRORS = [
    ("memorise",), ("report", "--loud"), ("memory", "--bits", "two"), ("csi", "weigh"),
    ("data", "fetch"), ("reproduce", "--seed", "-1"), ("reproduce", "--preset", "huge"),
    ("reproduce", "alchemy"), ("report", "alchemy"), ("memory", "--precision", "int3"),
    ("memory", "--device", "abacus"), ("link", "--snr", "0:1:0"), ("link", "--channel", "moon"),
    ("link", "--mcs", "29"), ("csi", "train", "--out", "x", "--ratio", "1/5"),
    ("csi", "compress", "x", "y", "--method", "magic"), ("data", "generate", "--seed", "-1"),
    ("baseband", "run", "--modulation", "8psk"), ("baseband", "run", "--picture", "x.gif"),
    ("baseband", "record"), ("baseband", "simulate", "--policy", "fifo"), ("baseband", "trace"),
    ("baseband", "simulate", "--deadline-ms", "0.01"), ("baseband", "compare", "--output", "x.gif"),
]


def test_help_and_usage_errors_import_nothing_heavy():
    "All in one process, since what is not imported after the last was not imported by any."
    asked = [(*words, "--help") for words in commands(cli.app)]
    assert len(asked) > 12, "the walk found the commands"
    code = ("import json, sys; from mimo_jax.cli.main import _run\n"
            "codes = [_run(words) for words in json.loads(sys.argv[1])]\n"
            f"print(json.dumps([codes, [m for m in {HEAVY} if m in sys.modules]]))")
    words = json.dumps([*asked, *USAGE_ERRORS])
    done = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, env=USER
    )
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(asked) + [2] * len(USAGE_ERRORS), done.stderr
    assert not heavy


def test_choices_of_options_are_those_of_the_library():
    "The command line names them itself, so that its help imports nothing heavy."
    from mimo_jax.autoencoder import memory, model
    from mimo_jax.cli import autoencoder, csi, data, link, split, tolerate
    from mimo_jax.csi import channels, csinet, families, pruning, quantization
    from mimo_jax.propagation import cost2100, delay_lines
    from mimo_jax.split import algorithms
    from mimo_jax.tolerance.link import ORDERS, VALUE_DTYPES

    def choices(command, option: str) -> tuple[str, ...]:
        return get_args(get_type_hints(command)[option])

    assert choices(data.generate_command, "scenario") == tuple(cost2100.SCENARIOS)
    assert choices(link.link_command, "channel") == ("awgn", "rayleigh", *delay_lines.PROFILES)
    assert choices(autoencoder.memory_command, "kind") == model.KINDS
    assert choices(autoencoder.memory_command, "precision") == tuple(memory.VALUE_BYTES)
    assert choices(csi.train_command, "family") == tuple(families.FAMILIES)
    assert choices(csi.train_command, "ratio") == tuple(csinet.RATIOS)
    assert choices(csi.train_command, "environment") == tuple(channels.ENVIRONMENTS)
    assert choices(csi.compress_command, "shape") == pruning.SHAPES
    assert choices(csi.export_command, "precision") == quantization.PRECISIONS
    assert choices(split.split_train_command, "algorithm") == tuple(algorithms.ALGORITHMS)
    assert choices(tolerate.transmit_command, "dtype") == tuple(VALUE_DTYPES)
    assert choices(tolerate.transmit_command, "order") == ORDERS
    assert choices(tolerate.profile_command, "link") == tolerate.LINKS


def test_memory_answers_in_json():
    done = call(
        "memory", "--model", "ae", "--antennas", 4, "--bits", 6, "--device", "v100", "--json"
    )
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and not answer["fits"] and answer["largest_batch"] == 0
    assert abs(answer["paper_gib"] - 800.9) < 0.1  # the paper prints 800; its formula gives 800.9
    assert answer["estimate_bytes"] == sum(answer["components"].values())


@pytest.mark.parametrize("arguments, said", [
    (("memory", "--antennas", 0), "'--antennas'"),
    (("memory", "--device", "abacus"), "h200, a100, v100"),
    (("memory", "--device", "nan"), "must be positive"),
    (("memory", "--precision", "int3"), "'float32', 'float16', 'bfloat16'"),
    (("memory", "--bits", "two"), "valid integer"),
    (("reproduce", "alchemy"), "autoencoder"),
    (("reproduce", "autoencoder", "--preset", "huge"), "'smoke', 'laptop', 'paper'"),
    (("report", "--preset", "laptop", "--results", "nowhere"),
     "mimo-jax reproduce autoencoder --preset laptop"),
])
def test_bad_input_is_one_line_and_exit_code_2(arguments, said):
    done = call(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_corrupt_results_are_named(tmp_path):
    (tmp_path / "autoencoder").mkdir()
    (tmp_path / "autoencoder" / "smoke.json").write_text('{"points": ')
    done = call("report", "--results", tmp_path)
    assert done.returncode == 2 and "smoke.json is not readable JSON" in done.stderr


TIMED = {"bits_per_s", "seconds", "peak_bytes", "measured_bytes"}  # what differs from run to run


def strip(results: dict) -> dict:
    "A results file without what clocks and allocators say."
    points = {name: {k: v for k, v in point["value"].items() if k not in TIMED}
              for name, point in results["points"].items()}
    return {k: v for k, v in results.items() if k not in ("date", "seconds")} | {"points": points}


SMOKE = [MIMO_JAX, "reproduce", "autoencoder", "--preset", "smoke", "--results"]


def start_and_wait(results, finished: int) -> subprocess.Popen:
    "A smoke run that has finished so many points."
    partial = results / "autoencoder" / "smoke.partial.json"
    process = subprocess.Popen([*SMOKE, str(results)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, env=USER)
    while process.poll() is None:
        if partial.exists() and len(json.loads(partial.read_text())["points"]) >= finished:
            break
        time.sleep(0.02)
    return process


def test_a_killed_run_resumes_to_the_same_file(tmp_path):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    partial = killed / "autoencoder" / "smoke.partial.json"
    process = start_and_wait(killed, 6)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = json.loads(partial.read_text())["points"]
    resumed = subprocess.run([*SMOKE, str(killed), "--json"], capture_output=True, text=True,
                             check=True, env=USER)
    shown = subprocess.run(
        [*SMOKE, str(straight)], capture_output=True, text=True, check=True, env=USER
    )
    after = json.loads((killed / "autoencoder" / "smoke.json").read_text())
    again = [name for name, point in finished.items() if after["points"][name] != point]
    assert not again, f"finished points were computed again: {again}"
    assert strip(after) == strip(json.loads((straight / "autoencoder" / "smoke.json").read_text()))
    assert not partial.exists()
    judged = json.loads(resumed.stdout)
    assert {"rows", "summary"} == set(judged)
    assert judged["summary"][TOO_SMALL] + judged["summary"][NOT_RUN] > 0
    missed = [row["id"] for row in judged["rows"] if row["verdict"] == FALLS_SHORT]
    patterns = claims_file("autoencoder")["any_size"]  # what a smoke run may judge
    assert all(any(fnmatch(i, pattern) for pattern in patterns) for i in missed)
    assert len(shown.stdout.splitlines()) < 24, "the summary fits on one screen"
    assert "mimo-jax report --preset smoke" in shown.stdout


@pytest.mark.parametrize("sent, code, said", [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"),
])
def test_a_signal_ends_in_one_line_and_keeps_what_was_finished(tmp_path, sent, code, said):
    process = start_and_wait(tmp_path, 2)
    process.send_signal(sent)
    error = process.communicate()[1]
    complaint = [line for line in error.splitlines() if line.startswith("mimo-jax:")]
    assert process.returncode == code and len(complaint) == 1 and said in complaint[0]
    assert "Traceback" not in error
    assert (
        len(json.loads((tmp_path / "autoencoder" / "smoke.partial.json").read_text())["points"])
        >= 2
    )


def test_every_chapter_has_an_experiment_claims_and_patterns_that_match():
    assert {"autoencoder", "csi", "split", "tolerance"} <= set(cli.CHAPTERS)
    assert list(cli.CHAPTERS.values()) == sorted(cli.CHAPTERS.values())
    for chapter in cli.CHAPTERS:
        facts, ids = claims_file(chapter), {claim.id for claim in claims(chapter)}
        assert len(facts["headline"]) >= 3 and set(facts["headline"]) <= ids
        assert all(any(fnmatch(i, pattern) for i in ids) for pattern in facts["any_size"])


def test_a_smoke_run_gets_no_verdict_but_where_every_size_will_do(tmp_path):
    answers = {c.id: Measured(float(c.paper_value)) for c in claims("autoencoder")
               if c.relation == "equals" and not c.untestable}

    def verdicts(preset):
        made = Experiment("autoencoder", {preset: Coins()}, lambda *_: {}, lambda _: answers)
        run(made, preset, root=tmp_path)
        return {row["id"]: row["verdict"] for row in ledger(made, preset, tmp_path)}

    small, large = verdicts("smoke"), verdicts("laptop")
    patterns = claims_file("autoencoder")["any_size"]
    judgeable = [name for name in answers if any(fnmatch(name, p) for p in patterns)]
    assert 0 < len(judgeable) < len(answers)
    assert all(small[name] == (AGREES if name in judgeable else TOO_SMALL) for name in answers)
    assert all(large[name] == AGREES for name in answers)


@dataclass(frozen=True)
class Coins:
    flips: int = 1


def double(factor, report):
    return {"value": 2 * factor}


def triple(factor, report):
    return {"value": 3 * factor}


def test_only_what_an_edit_makes_stale_is_computed_again(tmp_path):
    def experiment(*functions):
        names = {f"point/{i}": partial(f, i) for i, f in enumerate(functions)}
        return Experiment("csi", {"laptop": Coins()}, lambda *_: names, lambda points: {
            "csi.fig2.float16": Measured(points["point/1"]["value"] / 2)
            if "point/1" in points else Measured(None)})

    before, after = experiment(double, double), experiment(double, triple)
    seen = []
    first = json.loads(run(before, "laptop", root=tmp_path).read_text())
    assert stale_points(before, first) == set() and stale_points(after, first) == {"point/1"}
    rows = {row["id"]: row["verdict"] for row in ledger(after, "laptop", tmp_path)}
    assert rows["csi.fig2.float16"] == STALE
    done = run(after, "laptop", root=tmp_path, progress=lambda *told: seen.append(told))
    second = json.loads(done.read_text())
    assert second["points"]["point/0"] == first["points"]["point/0"]
    assert second["points"]["point/1"]["value"] == {"value": 3}
    assert stale_points(after, second) == set()


def test_square_brackets_in_a_ledger_are_text(monkeypatch):
    claim = {
        "place": "[red]",
        "quantity": "[/]",
        "unit": "",
        "rule": "1",
        "kind": "measured",
        "stand_in": "",
        "value": 1.0,
        "low": None,
        "high": None,
        "preset": None,
        "verdict": FALLS_SHORT,
        "reason": "[bold]",
    }
    monkeypatch.setattr(cli, "_ledger", lambda *_: [claim])
    shown = CliRunner().invoke(cli.app, ["report", "csi"], catch_exceptions=False).stdout
    assert "[red]" in shown and "[/]" in shown and "[bold]" in shown


def test_what_is_not_finite_becomes_null():
    assert finite({"a": float("nan"), "b": (1.0, float("inf")), "c": "nan"}) == {
        "a": None,
        "b": [1.0, None],
        "c": "nan",
    }
