"""Any command line ends with 0, 1 or 2 and a word why, never in a traceback.

The commands and their options are found by walking the application, so that a new command is
tested without a word here; what computes for long is replaced by a stand-in (`stand_ins`)."""

import contextlib
import io
import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_origin

import numpy as np
import pytest
import typer.main
from hypothesis import event, given, note
from hypothesis import strategies as st

from budget import budget
from mimo_jax.baseband import emulator, frame
from mimo_jax.baseband.radio import RadioFrame
from mimo_jax.cli import baseband as baseband_commands
from mimo_jax.cli import csi as csi_commands
from mimo_jax.cli import main as cli
from mimo_jax.cli import split as split_commands
from mimo_jax.cli import tolerate as tolerate_commands
from mimo_jax.cli import sweep
from mimo_jax.csi import checkpoints, compression, csinet, deployment, families, training
from mimo_jax.csi.channels import Channels
from mimo_jax.data import csi_sets, sets
from mimo_jax import experiment
from mimo_jax.split import network

FEW_FRAMES = ["--frames", "2", "--pool", "2xa100"]
FEW = 4  # values of an integer option from its least on: what is legal and cheap
TEXTS = ("", " ", "[/x]", "[red]", "nan", "inf", "-inf", "1e400", "9" * 400, "-1", "0", "1",
         "é漢\u202e", "a" * 300, "b/" * 2000, "../x", "x/y", "\x1b[2J", "%s{}", "--", "-", "0:1:1",
         "nan,1", "2,400")
NUMBERS = ("0.5", "0", "-1", "1e-300", "1e300", "nan", "inf", "-inf", "1e400", "x", "")
WORDS = st.sampled_from(TEXTS) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def commands(command, words=()):
    "Every command below a command, with the words that call it."
    inner = getattr(command, "commands", {})
    return [found for name, c in inner.items() for found in commands(c, (*words, name))] or [
        (words, command)]


COMMANDS = commands(typer.main.get_command(cli.app))


def texts(parameter) -> st.SearchStrategy[str]:
    "Texts for an option or argument, half of them legal."
    kind = parameter.type_descriptor.annotation
    inner = [k for k in get_args(kind) if isinstance(k, type) and k is not type(None)]
    choices = [k for one in (kind, *get_args(kind)) for k in get_args(one) if isinstance(k, str)]
    kinds = {kind, *inner} | ({get_origin(kind)} - {None})
    if choices:
        return st.sampled_from(choices) | WORDS
    if kinds & {int}:
        low = parameter.min or 0
        few = st.integers(low, min(low + FEW, parameter.max or low + FEW)).map(str)
        edges = [low - 1, 10**20, -(10**20)] + ([parameter.max + 1] if parameter.max else [])
        return few | few | st.sampled_from([str(n) for n in edges]) | WORDS
    if kinds & {float}:
        return st.sampled_from(NUMBERS) | st.floats().map(str) | WORDS
    if kinds & {Path}:
        return st.sampled_from(PLACES) | st.sampled_from(PLACES) | WORDS
    return WORDS


def is_work(parameter) -> bool:
    "Whether a parameter is a number without bound, whose default may mean hours."
    numeric = parameter.type_descriptor.annotation in (int, int | None)
    return numeric and parameter.max is None


@st.composite
def command_lines(draw):
    "The words of a call: a command, some of its options, its arguments."
    words, command = draw(st.sampled_from(COMMANDS))
    options, arguments = [], []
    for parameter in command.params:
        flag = getattr(parameter, "is_bool_flag", False)
        if not parameter.opts[0].startswith("-"):
            count = draw(st.integers(0, 2)) if parameter.nargs == -1 else 1
            given = draw(st.booleans()) or parameter.required
            arguments += [draw(texts(parameter)) for _ in range(count if given else 0)]
        elif flag and draw(st.booleans()):
            options += [parameter.opts[0]]
        elif not flag and (parameter.required or is_work(parameter)
                           or draw(st.integers(0, 3)) == 0):
            options += [parameter.opts[0], draw(texts(parameter))]
    return [*words, *options, *arguments]


# Files and folders that a path may name: links to them stand in the folder of every call
PLACES = ("net", "my.npz", "keras.h5", "file.tflite", "cut.tflite", "empty", "folder", "missing",
          "new/file", "text.txt/below", "text.txt", "readonly", "results", "wrong", "", ".",
          "/dev/null", "/dev/full", "loop", "x" * 300, "[/x]", "new")
TINY = csinet.CsiArchitecture(32)
RECORDED = frame.FrameFormat(4, 2, "PU", 96, 98)


@dataclass(frozen=True)
class Coins:
    flips: int = 1


def heads(report):
    report(0.5)
    return {"heads": 1}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    "One file of each kind, and what only looks like one."
    from flax import nnx

    folder = tmp_path_factory.mktemp("shelf")
    checkpoints.save_network(folder / "net", families.network("csinet", TINY, nnx.Rngs(0)))
    emulator.write_recording(folder / "my.npz", emulator.Recording(
        RECORDED, np.zeros((2, 2, 4, 98, 2), np.int8)))
    (folder / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (folder / "file.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    (folder / "cut.tflite").write_bytes(b"\x1c\0\0\0TFL")
    (folder / "empty").touch()
    (folder / "text.txt").write_text("[/x] é")
    for name in ("folder", "results", "wrong/autoencoder", "wrong/link", "readonly"):
        (folder / name).mkdir(parents=True)
    (folder / "readonly").chmod(0o500)
    (folder / "loop").symlink_to("loop")
    for name in ("laptop.json", "smoke.json", "smoke.partial.json"):
        (folder / "wrong" / "autoencoder" / name).write_text('{"schema": 2, "points": {"a": []}}')
    return folder


@pytest.fixture(scope="module")
def stand_ins(shelf):
    "What computes for long does nothing instead; what checks and reads stays as it is."
    images = np.full((16, 32, 32, 2), 0.5, np.float32)
    channels = Channels(images, images[:2], images[:4], np.ones((4, 32, 125), np.complex64))
    quality = {"nmse_db": float("nan"), "rho": 1.0}
    network, _ = checkpoints.load_network(shelf / "net")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csi_commands, "_channels", lambda *_: channels)
        patch.setattr(csi_commands, "_quality", lambda *_: quality)
        patch.setattr(families, "network", lambda *_: network)
        for name in ("start_pca", "reconstruct"):
            patch.setattr(training, name, lambda model, given, *_: given)
        patch.setattr(training, "quality", lambda *_: SimpleNamespace(_asdict=lambda: quality))
        patch.setattr(training, "train_network",
                      lambda model, *_, **__: SimpleNamespace(model=model))
        for name in ("fine_tune", "prune_network", "cluster_network"):
            patch.setattr(compression, name, lambda model, *_: model)
        patch.setattr(deployment, "checked_file", lambda *_, **__: b"file")
        patch.setattr(deployment, "latency", lambda *_, **__: deployment.Latency(1.0, 1.0))
        patch.setattr(sweep, "_needed", lambda *_: np.array([1, 2, 3, 1]))
        patch.setattr(sweep, "plot_sweep", lambda _: b"png")
        patch.setattr(experiment, "_digests", lambda points: dict.fromkeys(points, "same"))
        patch.setattr(csi_sets, "chunk_arrays", lambda s, k, f, n, frequency: tuple(
            np.zeros((n, columns), np.float32) for columns in (2048, 1, 4000)[: 2 + frequency]))
        patch.setattr(sets, "_download", partial(_refuse, "no network"))
        patch.setattr(cli, "_experiment", lambda chapter: experiment.Experiment(
            chapter, dict.fromkeys(experiment.PRESET_NAMES, Coins()),
            lambda *_: {"coins": heads}, lambda _: {}))
        patch.setattr(cli, "_compile_fast", lambda: None)
        stand_in_federations(patch, images)
        stand_in_transmissions(patch)
        stand_in_frames(patch)
        yield patch


def stand_in_federations(patch, images):
    "No training, no processes, no network."
    patch.setattr("mimo_jax.csi.channels.generate_channels",
                  lambda *_: Channels(images, images, images, None))
    patch.setattr(split_commands, "_train", lambda plan, *_: (
        np.ones((1, plan.federation.ues)), [float("nan")] * plan.federation.ues))
    patch.setattr(split_commands, "_over_ray", lambda *_: [{"ue": 0, "last_loss": None}])
    patch.setattr(split_commands, "_own_keys", lambda *_: None)
    patch.setattr(split_commands, "_wait_for", lambda *_: None)
    patch.setattr(network, "ray_cluster", lambda *_: contextlib.nullcontext("127.0.0.1:1"))
    patch.setattr(network, "joined_cluster", partial(_refuse, "no network"))
    patch.setattr(network, "need_ray", lambda: SimpleNamespace(kill=lambda _: None))
    for name in ("start_ue", "start_base_station"):
        patch.setattr(network, name, lambda *_: None)


def stand_in_transmissions(patch):
    "Networks that are not trained, and accuracies of nothing sent."
    from flax import nnx

    from mimo_jax.tolerance import networks

    made = {name: make(networks.ImageSizes(1, 10, 1), nnx.Rngs(0))
            for name, make in networks.IMAGE_NETWORKS.items()}

    def untrained(name, width, updates, layers, *_):
        for layer in layers:
            networks.check_layer(made[name], layer)
        return made[name]

    patch.setattr(tolerate_commands, "_built_in", untrained)
    patch.setattr(tolerate_commands, "_scores",
                  lambda subject, layer, rates, links, *_: np.ones((len(links), len(rates), 1)))
    patch.setattr(tolerate_commands, "_schemes",
                  lambda *_: [tolerate_commands.Sending("raw", 1, 0, 1.0)])


def stand_in_frames(patch):
    "Frames that are not made, and not received."
    frame_ = RadioFrame(np.zeros((1, 1, 1, 2), np.int8), np.zeros((1, 1, 1), np.uint8),
                        np.ones(()))

    def counted(processing, made, seen):
        seen.squares, seen.against = [np.ones(2)], "truth"
        seen.outcomes = [baseband_commands.Outcome(None, 1, 2, 2, None, float("nan"))]

    def timed(*arguments):
        arguments[-1].seconds, arguments[-1].late = [1.0], [0.0]

    patch.setattr(emulator, "unit_frames", lambda *_: [frame_])
    patch.setattr(baseband_commands, "_orders", lambda *_: lambda _: frame_)
    patch.setattr(baseband_commands, "_count_errors", counted)
    patch.setattr(baseband_commands, "_take_times", timed)
    patch.setattr(baseband_commands, "_in_pool", timed)
    patch.setattr(baseband_commands, "draw_users", lambda *_: b"picture")


def _refuse(reason, *_):
    raise RuntimeError(reason)


def call(words) -> tuple[int, str, str]:
    "Exit code and both streams of a call in this process."
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = cli._run(list(words))
    return code, out.getvalue(), error.getvalue()


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def check(words, code, out, error):
    "What holds of every call."
    assert code in (0, 1, 2)
    assert "Traceback" not in error
    if code == 2 or (code == 1 and not out.strip()):
        last = error.splitlines()[-1]
        assert last.startswith("mimo-jax: ") and len(last) > len("mimo-jax: ")
    if code == 0 and "--json" in words and not {"--help", "--version"} & set(words):
        assert isinstance(json.loads(out, parse_constant=no_constant), dict)


@pytest.fixture
def calls(shelf, stand_ins, monkeypatch):
    "Runs a command line in a fresh folder that holds the shelf."

    def run(words):
        with tempfile.TemporaryDirectory() as folder:
            for path in shelf.iterdir():
                os.symlink(path, Path(folder) / path.name)
            monkeypatch.setenv("MIMO_JAX_DATA", str(Path(folder) / "data"))
            with contextlib.chdir(folder):
                return call(words)

    return run


@budget(few=90, share=0.4)
@given(words=command_lines())
def test_any_command_line_ends_with_a_code_and_a_word(calls, words):
    code, out, error = calls(words)
    event(f"{' '.join(words[:2])}: {code}")
    note(f"{words}\nexit code {code}\n{out[-1000:]}\n{error[-1000:]}")
    check(words, code, out, error)


@budget(few=20, share=0.05)
@given(words=st.lists(
    st.sampled_from(["csi", "data", "link", "--help", "--json"]) | WORDS, max_size=5))
def test_words_that_are_no_command_are_refused(calls, words):
    check(words, *calls(words))


def test_every_command_can_succeed_under_the_stand_ins(calls):
    "Else the strategies would only test refusals."
    legal = {
        "memory": [], "report": [], "link": ["--snr", "0"], "reproduce": ["--preset", "smoke"],
        "csi train": ["--out", "new"], "csi compress": ["net", "new"],
        "csi export": ["net", "new"], "csi evaluate": ["net"], "data list": [], "data path": [],
        "data generate": ["--samples", "8", "--out", "new"],
        "split train": [], "split simulate": [], "split serve": [], "split keys": ["new"],
        "baseband run": ["--picture", "new.svg"], "baseband record": ["--out", "new.npz"],
        "baseband simulate": FEW_FRAMES, "baseband compare": FEW_FRAMES,
        "baseband trace": [*FEW_FRAMES, "--output", "new.json"],
        "tolerate profile": [], "tolerate transmit": [], "tolerate compare": [],
    }
    known = {" ".join(words) for words, _ in COMMANDS}
    assert legal.keys() <= known and known - legal.keys() <= {
        "csi bench", "data fetch", "data verify", "split join"}
    for name, arguments in legal.items():
        words = [*name.split(), *arguments, "--json"]
        code, out, error = calls(words)
        check(words, code, out, error)
        assert code == 0, (words, error)
