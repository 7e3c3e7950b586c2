"""The installed command: exit codes, one JSON object, one line per error, and runs that survive kill -9."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MIMO_JAX = str(Path(sys.executable).parent / "mimo-jax")
# The command as a user has it: one device, no checked shapes.
USER = {k: v for k, v in os.environ.items() if k not in ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS")}


def call(*arguments):
    return subprocess.run([MIMO_JAX, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=USER)


def test_memory_answers_in_json():
    done = call("memory", "--model", "ae", "--antennas", 4, "--bits", 6, "--device", "v100", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and not answer["fits"] and answer["largest_batch"] == 0
    assert abs(answer["paper_gib"] - 800.9) < 0.1
    assert answer["estimate_bytes"] == sum(answer["components"].values())


def test_largest_batch_is_the_largest():
    def fits(batch):
        return json.loads(call("memory", "--batch", batch, "--device", "2", "--json").stdout)
    largest = fits(1)["largest_batch"]
    assert fits(largest)["fits"] and not fits(largest + 1)["fits"]


@pytest.mark.parametrize("arguments, said", [
    (("memory", "--antennas", 0), "antennas=0"),
    (("memory", "--batch", -3), "batch=-3"),
    (("memory", "--bits", 0), "bits=0"),
    (("memory", "--device", "abacus"), "h200, a100, v100"),
    (("memory", "--device", "nan"), "must be positive"),
    (("memory", "--precision", "int3"), "float32, float16, bfloat16"),
    (("memory", "--bits", "two"), "valid integer"),
    (("reproduce", "alchemy"), "autoencoder"),
    (("reproduce", "autoencoder", "--preset", "huge"), "smoke, laptop, paper"),
    (("report", "--preset", "laptop", "--results", "nowhere"), "mimo-jax reproduce autoencoder --preset laptop"),
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
    points = {name: {k: v for k, v in point["value"].items() if k not in TIMED} for name, point in results["points"].items()}
    return {k: v for k, v in results.items() if k not in ("date", "seconds")} | {"points": points}


def test_a_killed_run_resumes_to_the_same_file(tmp_path):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    command = [MIMO_JAX, "reproduce", "autoencoder", "--preset", "smoke", "--json", "--results"]
    partial = killed / "autoencoder" / "smoke.partial.json"
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=USER)
    while process.poll() is None and not (partial.exists() and len(json.loads(partial.read_text())["points"]) >= 6):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = json.loads(partial.read_text())["points"]
    resumed = subprocess.run([*command, str(killed)], capture_output=True, text=True, check=True, env=USER)
    subprocess.run([*command, str(straight)], capture_output=True, check=True, env=USER)
    after = json.loads((killed / "autoencoder" / "smoke.json").read_text())
    assert all(after["points"][name] == point for name, point in finished.items()), "a finished point was computed again"
    assert strip(after) == strip(json.loads((straight / "autoencoder" / "smoke.json").read_text()))
    assert not partial.exists()
    assert {"rows", "summary"} == set(json.loads(resumed.stdout))
