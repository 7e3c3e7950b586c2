"""The command line in a process of its own, with work that takes a second instead of an hour.

Children are forked from a server that has imported everything, so that one costs little."""

import os
import resource
import signal
import sys
import time
from functools import partial
from multiprocessing import forkserver, get_context
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np

from mimo_jax import checkpoint, experiment, training
from mimo_jax.baseband import emulator, radio
from mimo_jax.cli import csi, main, sweep
from mimo_jax.csi import checkpoints, compression
from mimo_jax.csi import training as csi_training
from mimo_jax.data import csi_sets

SERVER = get_context("forkserver")


def serve() -> None:
    "Start the server: it imports as a user does, without checked shapes."
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    SERVER.set_forkserver_preload(["workers"])
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        for name in ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS"):
            os.environ.pop(name, None)
        forkserver.ensure_running()


PAUSE_S = 0.02  # of a step of work
COMMANDS = {
    "reproduce": ["reproduce", "csi", "--preset", "smoke", "--results", "made", "--json"],
    "train": ["csi", "train", "--out", "made/net", "--epochs", "8", "--batch", "4",
              "--samples", "16", "--start", "random", "--ratio", "1/64", "--json"],
    "link": ["link", "--out", "made", "--snr", "0:7:1", "--errors", "99", "--blocks", "8",
             "--prb", "1", "--json"],
    "record": ["baseband", "record", "--out", "made/my.npz", "--mimo", "4x2", "--subcarriers", "96",
               "--fft-size", "98", "--schedule", "PU", "--frames", "20", "--json"],
    "generate": ["data", "generate", "--samples", "30", "--out", "made", "--json"],
}


def point(name: str, report) -> dict:
    time.sleep(PAUSE_S)
    return {"letters": sorted(name)}


def tiny(chapter: str) -> experiment.Experiment:
    points = {f"point {n}": partial(point, f"point {n}") for n in range(10)}
    configuration = compression.GENTLE  # any frozen dataclass
    return experiment.Experiment(chapter, dict.fromkeys(experiment.PRESET_NAMES, configuration),
                                 lambda *_: points, lambda _: {})


def loss(model, data, draw):
    rows = data[draw]
    return ((model(rows) - rows) ** 2).mean()


def train(model, plan, images, val, key, resume, report):
    "The training loop of every network, with one that compiles fast."
    def slowly(done):
        time.sleep(PAUSE_S)
        report(done)

    return training.fit(model, plan, loss, images, key, validate=lambda m: float(loss(m, val, ...)),
                        resume=resume, report=slowly)


def channels(*_):
    images = jax.random.normal(jax.random.key(1), (16, 2))
    return SimpleNamespace(train=images, val=images[:4])


def begin(*_):
    from flax import nnx

    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    model.architecture = None
    return model


def save(path, model, history):
    from flax import nnx

    checkpoint.save(path, nnx.to_pure_dict(nnx.state(model)), {"history": history})


def needed(sweep_, key, snr_db):
    time.sleep(PAUSE_S)
    return np.asarray(jax.random.randint(key, (4,), 1, 3))


def chunk(scenario, seed, first, n, frequency):
    time.sleep(PAUSE_S)
    numbers = np.arange(first, first + n, dtype=np.float32)[:, None] / 100
    columns = (2048, 1, 4000)[: 2 + frequency]
    return tuple(np.repeat(numbers, width, axis=1) for width in columns)


def frames(key, unit, number, distinct, *_):
    for n in range(distinct):
        time.sleep(PAUSE_S)
        yield radio.RadioFrame(np.full((2, 4, 98, 2), n, np.int8), np.zeros((2, 1, 176), np.uint8),
                               np.ones((), np.float32))


def lighten() -> None:
    "Put light work in the place of heavy."
    main._experiment, main._compile_fast = tiny, lambda: None
    csi._channels, csi._begin, csi._quality = channels, begin, lambda *_: {}
    compression.usual_plan = lambda _: compression.GENTLE
    csi_training.train_network, checkpoints.save_network = train, save
    sweep._needed, sweep.plot_sweep = needed, lambda results: repr(results["points"]).encode()
    csi_sets.chunk_arrays, emulator.unit_frames = chunk, frames
    generate = csi_sets.generate
    csi_sets.generate = lambda *a, **k: generate(*a, **k, chunk=4)


def child(words, folder, streams, largest):
    "Run a command line in a folder, files growing to a size at most."
    os.chdir(folder)
    lighten()
    os.dup2(streams.fileno(), 1), os.dup2(streams.fileno(), 2)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder).parent / "programs")
    os.write(1, b"ready\n")
    main.main(words)


class Run:
    "A command line that runs in a folder."

    def __init__(self, name: str, folder: Path, largest: int | None = None):
        serve()
        folder.mkdir(exist_ok=True)
        self.streams, theirs = SERVER.Pipe()
        self.process = SERVER.Process(
            target=child, args=(COMMANDS[name], str(folder), theirs, largest))
        self.process.start()
        theirs.close()
        self.said = os.read(self.streams.fileno(), 6)

    def send(self, number: int) -> None:
        if self.process.is_alive(): os.kill(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        "Exit code, minus the signal that killed it, and all that it said."
        while more := self._more():
            self.said += more
        self.process.join()
        return self.process.exitcode, self.said.decode().removeprefix("ready\n")

    def _more(self) -> bytes:
        try:
            return os.read(self.streams.fileno(), 65536)
        except ConnectionResetError:
            return b""


CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
