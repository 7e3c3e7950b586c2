"""A pool of processes: one is killed with frames on it, and every frame ends exactly once."""
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mimo_jax.baseband.frame import frame_for
from mimo_jax.baseband.instructions import Returned, Lost, frame_program

FRAMES = 12
SIZES = {"subcarriers": 96, "fft_size": 128, "group": 16, "code_rate": 0.9}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                               reason="needs the extra 'distributed'")


def in_a_process_of_its_own(test, folder):
    "Ray forks, which JAX's threads do not survive: a test of it is a process of its own."
    code = f"import sys, {Path(__file__).stem} as t; t.{test}()"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], cwd=folder,
                          env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def pool(policy, traffic, workers=2):
    "Frames of a radio unit on workers of Ray."
    import jax

    from mimo_jax.baseband.executors import HostFrame
    from mimo_jax.baseband.failures import RayExecutor
    from mimo_jax.baseband.occupancy import Load
    from mimo_jax.baseband.radio import Radio, radio_frame
    from mimo_jax.baseband.scoreboard import OpcodeInfoTable
    from mimo_jax.baseband.static import make_scheduler

    frame = frame_for("8x4", **SIZES)
    program = frame_program(frame, granularity="frame")
    executor = RayExecutor([program], workers, lambda f: HostFrame(made[f[1] % 2].iq),
                           traffic(program))
    made = [jax.tree.map(np.asarray, radio_frame(jax.random.key(n), Radio(frame)))
            for n in range(2)]
    load = Load(1, 1, 1e-3, ((1, 1, 1e-3),), 0, 0, 0)
    scheduler = make_scheduler(policy, [("cpu", 1)] * workers,
                               OpcodeInfoTable(lambda *group: load))
    return executor, scheduler, made


def frames_after_a_kill():
    "LROC: the frames of a worker that dies run again on the other, and it comes back."
    from mimo_jax.baseband.pool import closed_traffic, run_pool

    executor, scheduler, made = pool(
        "lroc", lambda program: closed_traffic(program, FRAMES, deadline_s=600.0, in_flight=4))
    process = executor.ray.get(executor.actors[1].handle.process.remote())
    seen = []

    def watch(now, event, commands):
        seen.append(event)
        if sum(type(e).__name__ == "Committed" for e in seen) == 2 and process not in killed:
            killed.append(process)
            os.kill(process, signal.SIGKILL)
        if type(event) is Lost: executor.rejoin(event.device)

    killed: list[int] = []
    log = run_pool(scheduler, executor, watch=watch)
    assert killed and Lost(1) in seen and Returned(1) in seen
    check(log, executor, made)
    assert all(one.decoded for one in log.ended) and not scheduler.frames


def frames_given_up():
    "Frame level: those of a worker that is lost are given up."
    from mimo_jax.baseband.pool import closed_traffic, run_pool, with_events

    executor, scheduler, made = pool("frame", lambda program: with_events(
        closed_traffic(program, FRAMES, deadline_s=600.0, in_flight=4), [(0.0, Lost(1))]))
    log = run_pool(scheduler, executor)
    check(log, executor, made)
    assert not scheduler.frames and any(one.decoded for one in log.ended)


def check(log, executor, made):
    "Every frame has ended once; what is decoded is right, and nothing is left."
    assert sorted(one.frame for one in log.ended) == [(0, n) for n in range(FRAMES)]
    assert executor.results.keys() == {one.frame for one in log.ended if one.decoded}
    for (_, n), found in executor.results.items():
        np.testing.assert_array_equal(found.bits, made[n % 2].bits)
        assert found.parity_ok.all()
    assert not executor.frames


@needs_ray
def test_frames_of_a_worker_that_is_killed_run_again_elsewhere(tmp_path):
    in_a_process_of_its_own("frames_after_a_kill", tmp_path)


@needs_ray
def test_a_static_scheduler_gives_up_the_frames_of_a_lost_worker(tmp_path):
    in_a_process_of_its_own("frames_given_up", tmp_path)


def test_without_ray_the_error_names_the_extra(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('No module named ray')")
    code = ("from mimo_jax.baseband.failures import RayExecutor\n"
            "from mimo_jax.baseband.pool import Traffic\n"
            "RayExecutor([], 1, None, Traffic([]))")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {k: v for k, v in os.environ.items() if k != "MIMO_JAX_CHECK_SHAPES"}
    done = subprocess.run([sys.executable, "-c", code], env=env | {"PYTHONPATH": path},
                          capture_output=True, text=True)
    assert "a pool of processes needs Ray: pip install 'mimo_jax[distributed]'" in done.stderr
