"""Stopped at any moment, by two of them at once or by a full disk, a command loses nothing: the
same command ends with the files of an undisturbed run."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from budget import CASES
from mimo_jax.cli import main as cli
from workers import CODES, COMMANDS, Run

MOMENTS = max(2, CASES // 1000)  # at which every command is stopped, one after the other
TIMED = {"date", "seconds"}  # what differs from run to run
NAMES = list(COMMANDS)


def untimed(content):
    "JSON without times."
    if isinstance(content, dict):
        return {name: untimed(inner) for name, inner in content.items() if name not in TIMED}
    return content


def made(folder: Path) -> dict[str, object]:
    "The files that a command left, by name; not its locks."
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            content = path.read_bytes()
            found[str(path.relative_to(folder))] = (
                untimed(json.loads(content)) if path.suffix == ".json"
                else content if path.suffix != ".png" else None)
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    "What an undisturbed run leaves, and how long it takes, by command."
    known = {}

    def of(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("runs") / name
            run, start = Run(name, folder), time.perf_counter()
            code, said = run.end()
            assert code == 0, said
            known[name] = made(folder), time.perf_counter() - start
        return known[name]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_stopped_at_any_moment_a_command_continues(name, straight, tmp_path):
    expected, seconds = straight(name)
    rng = random.Random(name if not CASES else None)
    signals = rng.sample(list(CODES), len(CODES)) * MOMENTS
    for number in signals[:MOMENTS]:
        run = Run(name, tmp_path / name)
        time.sleep(rng.uniform(0.01, seconds))
        run.send(number)
        code, said = run.end()
        assert code in (0, CODES[number]), said
        assert "Traceback" not in said
        if code > 0: assert said.startswith("mimo-jax: ") and said.count("\n") == 1
    code, said = Run(name, tmp_path / name).end()
    assert code == 0 and isinstance(json.loads(said), dict)
    assert made(tmp_path / name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_two_at_once_do_not_mix(name, straight, tmp_path):
    expected, _ = straight(name)
    ends = [run.end() for run in [Run(name, tmp_path / name) for _ in range(2)]]
    assert {code for code, _ in ends} <= {0, 1} and 0 in {code for code, _ in ends}
    assert all(code == 0 or "another process is writing" in said for code, said in ends)
    assert made(tmp_path / name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_named_and_leaves_nothing_behind(name, straight, tmp_path):
    expected, _ = straight(name)
    for largest in (0, 700):
        code, said = Run(name, tmp_path / name, largest).end()
        assert code == 1 and said.startswith("mimo-jax: ") and said.count("\n") == 1
        assert "made" in said and "too large" in said
    left = [path.name for path in (tmp_path / name).rglob("*")]
    assert not [name for name in left if name.endswith((".tmp", ".part"))]
    code, said = Run(name, tmp_path / name).end()
    assert code == 0 and made(tmp_path / name) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into any folder")
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_read_only_is_refused_at_once(name, tmp_path):
    (tmp_path / name / "made").mkdir(parents=True)
    (tmp_path / name / "made").chmod(0o500)
    code, said = Run(name, tmp_path / name).end()
    assert code == 2 and "cannot be written to" in said


class Rude:
    "An object during whose end a signal arrives, as in the collector's callbacks."

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        for _ in range(9): time.sleep(0)  # the handler runs here, and what it raises is lost


def test_a_signal_that_a_callback_swallows_comes_again(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", cli._stop_again)
    before = signal.signal(signal.SIGTERM, cli._stop)
    try:
        Rude()
        with pytest.raises(cli.Stopped):
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)
