"""Points as Ray tasks: equal results, workers that die, runs that are interrupted and resumed."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from mimo_jax.executors import ATTEMPTS, check_address, engine_named
from mimo_jax.experiment import Experiment, load_results, partial_path, run

TESTS = str(Path(__file__).parent)
MIMO_JAX = str(Path(sys.executable).parent / "mimo-jax")
TEST_ONLY = ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS")
USER = {name: value for name, value in os.environ.items() if name not in TEST_ONLY}
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs the extra 'distributed'")
QUICK = ("reproduce", "autoencoder", "--preset", "smoke", "--points", "interference/[mz]*")


def call(*arguments, **more):
    return subprocess.run([MIMO_JAX, *map(str, arguments)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, env=USER | more)


@dataclass(frozen=True)
class Few:
    numbers: tuple[int, ...] = (1, 2, 3)


def square(number, folder, deadly, report):
    "A point that leaves a trace of each time that it is begun."
    with (folder / f"{number}").open("a") as trace:
        trace.write("begun\n")
    begun = len((folder / f"{number}").read_text().splitlines())
    if begun <= deadly.get(number, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise FileNotFoundError("no data set: fetch it")
    return {"square": number**2}


def squares(folder, deadly, numbers=Few().numbers):
    "An experiment of squares, some of whose points kill their process the first times."
    def points(config, seed):
        return {f"{n}": partial(square, n, folder, deadly) for n in config.numbers}

    return Experiment("squares", {"smoke": Few(numbers)}, points, lambda results: {})


@pytest.fixture(scope="module")
def ray():
    "Ray on this machine, for the tests of this module."
    if not HAS_RAY:
        pytest.skip("needs the extra 'distributed'")
    before = os.environ.get("PYTHONPATH")  # workers find this module by it
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, before]))
    engine_named("ray")
    import ray

    yield ray
    ray.shutdown()
    os.environ["PYTHONPATH"] = before or ""


def test_a_worker_that_is_killed_computes_its_point_again(ray, tmp_path):
    experiment = squares(tmp_path, {2: ATTEMPTS - 1})
    run(experiment, "smoke", root=tmp_path, engine=engine_named("ray"))
    points = load_results("squares", "smoke", tmp_path)["points"]
    assert [p["value"]["square"] for p in points.values()] == [1, 4, 9] and list(points)[0] == "1"
    assert len((tmp_path / "2").read_text().splitlines()) == ATTEMPTS


def test_a_point_that_kills_every_worker_ends_the_run_but_not_what_was_finished(ray, tmp_path):
    engine = engine_named("ray")
    with pytest.raises(RuntimeError, match=f"^2: its process died {ATTEMPTS} times"):
        run(squares(tmp_path, {2: 99}, (1, 2)), "smoke", root=tmp_path, engine=engine)
    kept = json.loads(partial_path("squares", "smoke", tmp_path).read_text())["points"]
    assert kept.keys() == {"1"}
    (tmp_path / "2").unlink()
    run(squares(tmp_path, {2: 0}, (1, 2)), "smoke", root=tmp_path, engine=engine)
    done = load_results("squares", "smoke", tmp_path)["points"]
    assert done["2"]["value"] == {"square": 4} and done.keys() == {"1", "2"}


def test_points_without_data_are_left_out_and_finished_ones_are_not_begun_again(ray, tmp_path):
    experiment = squares(tmp_path, {}, (1, -1))
    for _ in range(2):
        run(experiment, "smoke", root=tmp_path, engine=engine_named("ray"))
    results = load_results("squares", "smoke", tmp_path)
    assert results["points"].keys() == {"1"} and "fetch it" in results["left_out"]["-1"]
    assert (tmp_path / "1").read_text() == "begun\n"


def test_a_running_cluster_is_joined_by_its_address(ray, tmp_path):
    run(squares(tmp_path, {}), "smoke", root=tmp_path, engine=engine_named("ray"))
    address = ray.get_runtime_context().gcs_address
    done = call(*QUICK, "--engine", f"ray={address}", "--results", tmp_path / "joined",
                RAY_AUTH_MODE="token")
    assert done.returncode == 0, done.stderr


@needs_ray
def test_the_file_is_that_of_a_local_run_and_ctrl_c_keeps_what_is_finished(tmp_path):
    folders = {engine: tmp_path / engine for engine in ("local", "ray")}
    assert call(*QUICK, "--results", folders["local"]).returncode == 0
    command = [MIMO_JAX, *QUICK, "--engine", "ray", "--results", str(folders["ray"])]
    stopped = subprocess.Popen(command, env=USER, stderr=subprocess.PIPE, text=True)
    unfinished = partial_path("autoencoder", "smoke", folders["ray"])
    while not unfinished.exists() and stopped.poll() is None:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate(timeout=60)[1].strip().splitlines()
    kept = json.loads(unfinished.read_text())["points"]
    assert stopped.returncode in (0, 130) and kept and len(said) <= 1, said
    assert call(*QUICK, "--engine", "ray", "--results", folders["ray"]).returncode == 0
    local, side = (load_results("autoencoder", "smoke", f) for f in folders.values())
    assert all(side["points"][name]["seconds"] == kept[name]["seconds"] for name in kept)
    assert list(side["points"]) == list(local["points"])
    for results in (local, side):
        del results["date"], results["seconds"]
        for point in results["points"].values():
            del point["seconds"]
    assert side == local


@needs_ray
@pytest.mark.parametrize("engine, code, told", [
    ("spark", 2, "choose local, ray or ray=HOST:PORT"),
    ("ray=nowhere", 2, "need HOST:PORT"),
    ("ray=127.0.0.1:9", 1, "no Ray cluster answers at 127.0.0.1:9"),
])
def test_engines_that_cannot_be_are_refused_in_one_line(engine, code, told, tmp_path):
    done = call(*QUICK, "--engine", engine, "--results", tmp_path)
    assert done.returncode == code and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert told in done.stderr and not list(tmp_path.iterdir())


def test_without_ray_the_error_names_the_extra(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('No module named ray')")
    path = os.pathsep.join(filter(None, [str(tmp_path), USER.get("PYTHONPATH")]))
    done = call(*QUICK, "--engine", "ray", "--results", tmp_path / "results", PYTHONPATH=path)
    assert done.returncode == 2 and "pip install 'mimo_jax[distributed]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_service_at_the_address_is_no_cluster():
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer():
            line, _ = server.accept()
            line.sendall(b"220 mail.example ready\r\n")
            line.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionError, match="what answers is not Ray"):
            check_address(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
