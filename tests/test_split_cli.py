"""`mimo-jax split`: a killed training resumes to the same curve, a federation of commands, and
errors of one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

MIMO_JAX = str(Path(sys.executable).parent / "mimo-jax")
TEST_ONLY = ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION")
USER = {name: value for name, value in os.environ.items() if name not in TEST_ONLY}
SMALL = ["--smashed", "16", "--returned", "16", "--batch", "8", "--without", "refine3",
         "--without", "refine5"]


def start(*arguments):
    return subprocess.Popen([MIMO_JAX, "split", *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=USER)


def call(*arguments):
    process = start(*arguments)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def mine(folder, ues=(0, 1, 2), name="my.npz", **more):
    rng = np.random.default_rng(0)
    shape = (20 * len(ues), 8, 8)
    channels = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    np.savez(folder / name, **{"channels": channels, "ue": np.repeat(ues, 20)} | more)
    return folder / name


def test_a_killed_training_resumes_to_the_same_curve(tmp_path):
    train = ["train", "--data", mine(tmp_path), *SMALL, "--json"]
    process = start(*train, "--rounds", 10**6, "--out", tmp_path / "killed")
    end = time.monotonic() + 100
    while not (tmp_path / "killed" / "base-station.safetensors").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)  # anywhere between two files
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, out, error = call(*train, "--rounds", 1, "--out", tmp_path / "killed")
    done = json.loads(out)["rounds"]
    assert done >= 20 and done % 20 == 0, error
    resumed = json.loads(call(*train, "--rounds", done + 20, "--out", tmp_path / "killed")[1])
    straight = json.loads(call(*train, "--rounds", done + 20)[1])
    assert resumed["losses"] == straight["losses"] and resumed["nmse_db"] == straight["nmse_db"]
    assert len(resumed["nmse_db"]) == 3 and straight["losses"][-1] < straight["losses"][0]
    files = {path.name for path in (tmp_path / "killed").glob("*.safetensors")}
    assert files == {"base-station.safetensors", *(f"ue-0{ue}.safetensors" for ue in range(3))}


@pytest.mark.parametrize("arguments, said", [
    (["train", "--ues", 2, "--data", "my.npz"], "3 labels for 2 UEs"),
    (["train", "--cuts", "compress", "moon", "--data", "my.npz", *SMALL],
     "choose from features, compress"),
    (["train", "--smashed", 999, "--data", "my.npz"], "at most the 128 numbers of an image"),
    (["train", "--algorithm", "magic"], "'csilocal', 'fedavg'"),
    (["train", "--data", "none.npz"], "none.npz"),
    (["train", "--data", "nan.npz"], "nan.npz: channels has NaN"),
    (["train", "--out", "my.npz"], "name a folder"),
    (["join", "127.0.0.1:1", "--ue", 0], "nothing answers at 127.0.0.1:1"),
    (["join", "nowhere", "--ue", 0], "write HOST:PORT"),
    (["serve", "--host", "192.0.2.7"], "needs keys"),
    (["join", "127.0.0.1:1", "--ue", 0, "--keys", "."], "has no ca.pem"),
], ids=lambda value: "")
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    from mimo_jax.cli import main as cli

    mine(tmp_path)
    mine(tmp_path, name="nan.npz", channels=np.full((60, 8, 8), np.nan + 0j))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    complaints = []
    monkeypatch.setattr(cli, "_complain", lambda *told: complaints.append(told) or told[1])
    began = time.monotonic()
    assert cli._run(["split", *map(str, arguments)]) == 2
    assert said in complaints[0][0] and time.monotonic() - began < 20


def test_files_of_another_cut_are_refused_by_name(tmp_path):
    train = ["train", "--data", mine(tmp_path), *SMALL, "--rounds", 1, "--out", tmp_path / "f"]
    assert call(*train)[0] == 0
    code, out, error = call(*train, "--cuts", "compress", "mix")
    assert code == 2 and not out and error.count("\n") == 1
    assert "base-station.safetensors belongs to another federation: cuts is" in error


def test_a_base_station_and_its_ues_are_commands(tmp_path, monkeypatch):
    monkeypatch.setitem(USER, "XDG_CONFIG_HOME", str(tmp_path / "config"))
    for ue in range(2):
        mine(tmp_path, (0,), f"{ue}.npz")
    sizes = ["--angles", 8, "--delays", 8, "--ues", 2, "--rounds", 4, *SMALL, "--json"]
    serve = start("serve", *sizes, "--out", tmp_path / "base", "--late", "wait")
    address = None
    for line in serve.stderr:
        if found := re.search(r"join (\S+) --ue", line):
            address = found[1]
            break
    joins = [start("join", address, "--ue", ue, "--data", tmp_path / f"{ue}.npz", "--out",
                   tmp_path / f"ue-{ue}", "--json") for ue in range(2)]
    try:
        out, error = serve.communicate(timeout=150)
        assert serve.returncode == 0, error
        assert [row["rounds_missed"] for row in json.loads(out)["ues"]] == [0, 0]
        for ue, join in enumerate(joins):
            answer, error = join.communicate(timeout=60)
            assert join.returncode == 0 and json.loads(answer)["rounds"] == 4, error
            assert (tmp_path / f"ue-{ue}" / f"ue-0{ue}.safetensors").exists()
    finally:
        for process in (serve, *joins):
            process.kill()
    assert (tmp_path / "base" / "base-station.safetensors").exists()
