"""Two processes receive what one does; where one is lost, the other ends with a line, in time."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from conftest import ROOT
from mimo_jax.baseband.frame import frame_for
from mimo_jax.baseband.hosts import (HOST_PROGRAM, Host, digest, host_command,
                                     reason, supervise)
from mimo_jax.baseband.radio import Radio, radio_frame

SIZES = {"subcarriers": 96, "fft_size": 128, "bits_per_symbol": 4, "code_rate": 8 / 9}
ENDS_S = 30  # within which a process ends when another is lost


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Process:
    "One of two, and what it says."

    def __init__(self, address, number, *options):
        sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
        command = [*HOST_PROGRAM, address, str(number), "2", "--mimo=12x6", "--devices=2",
                   *sizes, *options]
        env = {k: v for k, v in os.environ.items() if k != "MIMO_JAX_CHECK_SHAPES"}
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      text=True, env=env, cwd=ROOT)

    def line(self):
        text = self.child.stdout.readline()
        assert text, self.child.stderr.read()
        return json.loads(text)

    def end(self, seconds):
        started = time.monotonic()
        _, err = self.child.communicate(timeout=seconds)
        return self.child.returncode, err, time.monotonic() - started


@pytest.fixture
def two():
    "Starts a pair, and ends what is left of it."
    begun = []

    def begin(*options):
        address = free_address()
        begun.extend(Process(address, number, *options) for number in range(2))
        return begun

    yield begin
    for process in begun:
        process.child.kill()
        process.child.communicate()


def ends_with_a_line(process, rule):
    code, err, seconds = process.end(ENDS_S)
    assert code == 1 and seconds < ENDS_S
    assert re.match(rule, err) and len(err.strip().splitlines()) == 1, err


def test_two_processes_are_as_one_until_one_is_killed(two):
    processes = two("--frames=100000")
    pids = [process.line()["pid"] for process in processes]
    received = {}
    for process in processes:
        for _ in range(2):
            line = process.line()
            assert line["errors"] == 0
            received |= {(line["frame"], int(user)): name for user, name in line["bits"].items()}
    assert received == bits_sent(2)
    os.kill(pids[1], signal.SIGKILL)
    ends_with_a_line(processes[0], "process 0: process 1 is lost: ")  # closed, or silent
    ends_with_a_line(processes[1], "process 1 was killed")


@pytest.mark.parametrize("victim, number, rule", [
    (0, signal.SIGKILL, "process 1: process 0 is lost"),
    (1, signal.SIGSTOP, "process 0: process 1 is lost: no sign of life for 3 s"),
])
def test_a_process_that_is_lost_before_the_first_frame(two, victim, number, rule):
    processes = two("--frames=1", "--lost-s=3")
    pids = [process.line()["pid"] for process in processes]
    os.kill(pids[victim], number)
    ends_with_a_line(processes[1 - victim], rule)
    if number == signal.SIGSTOP: os.kill(pids[victim], signal.SIGKILL)
    ends_with_a_line(processes[victim], f"process {victim} was killed")


def bits_sent(frames):
    "Digests of what was sent; page Hosts compares with what one process receives."
    frame, found = frame_for("12x6", **SIZES), {}
    for number in range(frames):
        made = radio_frame(jax.random.key(number), Radio(frame), 20.0)
        found |= {(number, user): digest(np.asarray(bits)) for user, bits in enumerate(made.bits)}
    return found


def test_an_address_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process = Process(f"127.0.0.1:{other.getsockname()[1]}", 0, "--join-s=1")
        code, err, _ = process.end(60)
    assert code == 1 and "is taken" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments, rule", [
    (["127.0.0.1", "0", "2"], "address and port"),
    (["127.0.0.1:4321", "2", "2"], "process 2 of 2: they count from 0"),
    (["127.0.0.1:4321", "0", "2", "--devices", "0"], "at least 1 each"),
    (["127.0.0.1:4321", "0", "2", "--lost-s", "0"], "at least 1 each"),
    (["127.0.0.1:4321", "0", "2", "--mimo", "4x16"], "16 users at 4 antennas"),
])
def test_bad_input_is_refused_in_a_line(arguments, rule, capsys):
    assert host_command(arguments) == 2
    err = capsys.readouterr().err
    assert rule in err and len(err.splitlines()) == 1


def test_the_end_of_any_program_is_explained(capfd):
    host = Host("127.0.0.1:4321", 0, 3)

    def ends(code):
        return supervise([sys.executable, "-c", code], host), capfd.readouterr()

    assert ends("print('{}'); print('[Gloo] Rank 0')") == (0, ("{}\n", ""))
    code, (out, err) = ends("1 / 0")
    assert code == 1 and "ZeroDivisionError" in err and not out
    code, (_, err) = ends("import os; os.kill(os.getpid(), 9)")
    assert (code, err) == (1, "process 0 was killed\n")
    code, (_, err) = ends("raise SystemExit(2)")
    assert code == 2
    closed = "Gloo all-gather failed: pair.cc:5 Read error: Connection reset by peer"
    assert reason(closed, host).startswith("process 0: another process is lost")
    assert reason("Gloo all-gather failed: x", host) == (
        "process 0: the all-gather of a frame failed: x")
