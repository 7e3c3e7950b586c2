"""A damaged, foreign or lying file is read rightly or refused by name, in bounded memory.

Every reader of the package stands in `readers()`; a new one is one line there."""

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import safetensors.numpy
import soundfile
from flax import nnx
from hypothesis import event, given, note
from hypothesis import strategies as st

from budget import budget
from mimo_jax import checkpoint, experiment, ledger
from mimo_jax.autoencoder import experiment as autoencoder
from mimo_jax.baseband import emulator, frame
from mimo_jax.cli import split, sweep
from mimo_jax.csi import checkpoints, csinet, families
from mimo_jax.training import check_resume
from mimo_jax.data import csi_sets, formats, sets
from mimo_jax.split import algorithms, model
from mimo_jax.split import checkpoints as federations
from mimo_jax.tolerance import networks, weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_csi import torch_file  # noqa: E402
from test_data import IMAGES, TONE, cifar, libri, mat5, mat73, wav  # noqa: E402

REFUSALS = (ValueError, FileNotFoundError)
ROOM = 2**30  # bytes of address space that reading a file of some kilobytes may take


class Reader(NamedTuple):
    "How a file is written, and read."

    file: str  # its place below a folder
    write: Callable[[Path], Any]  # writes it, and what belongs to it, given its path
    read: Callable[[Path], Any]  # reads it, given its path
    whole: bool = True  # whether it reads what `write` writes; else a layer is missing
    compiles: bool = False  # XLA, in the same process, ends that when it gets no memory


def whole_json(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def coin(report):
    return {"heads": 1}


def coins() -> experiment.Experiment:
    return experiment.Experiment("coins", {"smoke": csinet.CsiArchitecture(4)},
                                 lambda *_: {"one": coin, "two": coin}, lambda _: {})


def results(path: Path) -> None:
    "A results file, as a run leaves it."
    experiment.run(coins(), "smoke", root=path.parents[1])
    path.with_name("smoke.partial.json").rename(path) if path.name != "smoke.json" else None


def resumed(path: Path):
    return experiment.run(coins(), "smoke", root=path.parents[1])


def judged(path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "stale_points", lambda *_: set())
        return ledger.ledger(autoencoder.experiment, "laptop", path.parents[1])


def laptop(path: Path) -> None:
    "A small part of a stored run."
    stored = json.loads((Path(__file__).parents[2] / "results/autoencoder/laptop.json").read_text())
    kept = list(stored["points"])[::7]
    whole_json(path, stored | {"points": {name: stored["points"][name] for name in kept}})


ROW = {"snr_db": 0.0, "blocks": 8, "errors": 1, "residual": [0.1], "transmissions": 1.0}
ROW |= {name: 0.5 for name in sweep.SWEEP_ROW if name not in ROW}
LINK = {"schema": 2, "chapter": "link", "preset": "x", "seed": 0,
        "points": {"0 dB": {"value": ROW, "seconds": 0.1, "digest": "same"}}}


def swept(path: Path):
    "A sweep whose only point is in the file, or is simulated by a stand-in."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_needed", lambda *_: np.array([1, 2, 1, 1]))
        patch.setattr(sweep, "plot_sweep", lambda rows: repr(sweep.sweep_rows(rows)).encode())
        patch.setattr(experiment, "_digests", lambda points: dict.fromkeys(points, "same"))
        return sweep.run_sweep("x", sweep.Sweep(), (0.0,), root=path.parents[1])


def manifest(path: Path) -> None:
    settings = csi_sets.settings_of("indoor", 8, 0)
    done = {split: 0 for split in csi_sets.SHARES} | {"train": settings["splits"]["train"]}
    whole_json(path, settings | {"done": done, "complete": False, "sha256": {"a.mat": "00"}})


def generated(path: Path):
    "A set that goes on from its manifest."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csi_sets, "_fill", lambda *_: None)
        patch.setattr(csi_sets, "_publish", lambda *_: None)
        return csi_sets.generate("indoor", 8, 0, path.parent)


def known_set(path: Path):
    "What `data list` and `data verify` take from a manifest."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMO_JAX_DATA", str(path.parents[1]))
        return sets.status("csinet-indoor"), list(sets.changed_files("csinet-indoor"))


def cost2100(path: Path) -> None:
    "A manifest beside the files of its set."
    for pattern in sets.lookup("csinet-indoor").files:
        (path.parent / pattern).write_bytes(b"x")
    manifest(path)


def keras(path: Path) -> None:
    "A file of Keras with a convolution and a dense layer."
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv", b"dense"]
        for name, shape in (("conv", (3, 3, 2, 2)), ("dense", (8, 4))):
            layer = file.create_group(name)
            layer.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            layer["kernel:0"], layer["bias:0"] = np.ones(shape), np.zeros(shape[-1])


def network(path: Path) -> None:
    tiny = csinet.CsiArchitecture(4, angles=8, delays=8)
    checkpoints.save_network(path, families.network("csinet", tiny, nnx.Rngs(0)))


def training(path: Path):
    "The arrays of a checkpoint with the facts that it must have."
    like = {"a": np.zeros((2, 3), np.float32)}
    return checkpoint.load(path, {"kind": "test", "seed": 1}, like)


TRAINING = {"training": {"plan": {}, "key": "", "start": "", "data": ""}, "losses": [1.0],
            "scores": []}


def torch(path: Path) -> None:
    torch_file(path, {"fc.weight": np.ones((4, 8)), "fc.bias": np.zeros(4)})


def torchvision(path: Path) -> None:
    network = networks.resnet18(networks.ImageSizes(1, 2, 1), nnx.Rngs(0))
    slots = weights._slots(network, weights.torch_prefixes("resnet18", network))
    path.write_bytes(safetensors.numpy.save({slot.name: np.ones(slot.shape, np.float32)
                                             for slot in slots}))


def utterances(path: Path):
    return list(formats.utterances(path.parents[2]))


def sound(path: Path) -> None:
    path.parent.rmdir()  # it makes it
    libri(path.parents[2])


SPLIT = federations.SplitPlan(model.SplitArchitecture(2, 2, 2, 2),
                              algorithms.Federation("csilocal", 2, 2, 1e-3),
                              without=("refine3", "refine5"))


@cache
def federation():
    return algorithms.begin_federation(SPLIT.federation, SPLIT.modules())


def federated(path: Path) -> None:
    federations.save_federation(path.parent, SPLIT, federation()[1], np.zeros((3, 2), np.float32))


def federated_again(path: Path):
    return federations.load_federation(path.parent, SPLIT)


def own_channels(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, channels=np.ones((4, 3, 2), np.complex64), ue=np.arange(4))


def recording(path: Path) -> None:
    "Frames of noise with a truth that was not sent."
    sizes = frame.FrameFormat(4, 2, "PU", 96, 98)
    emulator.write_recording(path, emulator.Recording(
        sizes, np.ones((2, 2, 4, 98, 2), np.int8),
        np.zeros((2, 2, 1, frame.frame_code(sizes).k), np.uint8), np.ones(2, np.float32)))


def own_capture(path: Path) -> None:
    "One frame of complex numbers."
    np.savez_compressed(path, iq=np.ones((2, 4, 98), np.complex64))


def readers() -> dict[str, Reader]:
    "Every reader of a file from outside, by name."
    found = {
        "results": Reader("r/coins/smoke.json", results, lambda p: experiment.load_results(
            "coins", "smoke", p.parents[1])),
        "resumed": Reader("r/coins/smoke.json", results, resumed),
        "partial": Reader("r/coins/smoke.partial.json", results, resumed),
        "judged": Reader("r/autoencoder/laptop.json", laptop, judged),
        "link": Reader("r/link/x.json", partial(whole_json, content=LINK), swept),
        "link, partial": Reader("r/link/x.partial.json", partial(whole_json, content=LINK), swept),
        "manifest": Reader("s/manifest_in.json", manifest, generated),
        "manifest of a set": Reader("cost2100/manifest_in.json", cost2100, known_set),
        "checkpoint": Reader("net", network, checkpoint.read),
        "facts": Reader("net", lambda p: checkpoint.save(
            p, {"a": np.ones((2, 3), np.float32)}, {"kind": "test", "seed": 1}), training),
        "resumed training": Reader("net.resume", lambda p: checkpoint.save(
            p, {"a": np.ones(3, np.float32)}, TRAINING), check_resume),
        "network": Reader("net", network, checkpoints.load_network, compiles=True),
        "UE": Reader("f/ue-01.safetensors", federated, federated_again, compiles=True),
        "base station": Reader("f/base-station.safetensors", federated, federated_again,
                               compiles=True),
        "channels of UEs": Reader("my.npz", own_channels, split.read_channels),
        "recording": Reader("my.npz", recording, emulator.read_recording),
        "capture": Reader("c.npz", own_capture, lambda p: emulator.read_recording(
            p, frame.FrameFormat(4, 2, "PU", 96, 98))),
        "Keras": Reader("k.h5", keras, checkpoints.keras_layers),
        "CsiNet of Keras": Reader("k.h5", keras, checkpoints.load_keras, whole=False,
                                  compiles=True),
        "PyTorch": Reader("t.pth", torch, checkpoints.torch_tensors),
        "CRNet of PyTorch": Reader("t.pth", torch, partial(checkpoints.load_torch, "crnet"),
                                   whole=False, compiles=True),
        "ResNet18 of torchvision": Reader("r.safetensors", torchvision, weights.load_torch_weights,
                                          compiles=True),
        "MATLAB 5": Reader("a.mat", lambda p: mat5(p, x=IMAGES[:2]), formats.read_csi),
        "MATLAB 7.3": Reader("b.mat", lambda p: mat73(p, x=IMAGES[:2]), formats.read_csi),
        "channels": Reader("c.mat", lambda p: mat5(p, "HF_all", np.ones((2, 4000), np.complex64)),
                           formats.read_csi_frequency),
        "CIFAR": Reader("cifar/train", lambda p: cifar(p.parent),
                        lambda p: formats.read_cifar100(p.parent)),
        "names of CIFAR": Reader("cifar/meta", lambda p: cifar(p.parent),
                                 lambda p: formats.read_cifar100(p.parent)),
        "wav": Reader("7_me_9.wav", wav, formats.read_wav),
        "FLAC": Reader("e.flac", lambda p: soundfile.write(p, TONE, 16000), formats.read_flac),
        "LibriSpeech": Reader("l/84/121123/84-121123-0001.flac", sound, utterances),
        "transcript": Reader("l/84/121123/84-121123.trans.txt", sound, utterances),
    }
    return found


READERS = readers()


@cache
def shelf(name: str) -> dict[str, bytes]:
    "What a reader's file and its neighbors hold, by their places below a folder."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / READERS[name].file
        path.parent.mkdir(parents=True, exist_ok=True)
        READERS[name].write(path)
        found = {str(p.relative_to(folder)): p.read_bytes()
                 for p in Path(folder).rglob("*") if p.is_file()}
        assert READERS[name].whole == (refused(READERS[name], path) is None), name
    return found


@contextlib.contextmanager
def bounded(room: int = ROOM):
    "No more address space than is taken now, and so many bytes."
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(reader: Reader, path: Path) -> str | None:
    "What a reader says against a file; None if it reads it."
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            with contextlib.nullcontext() if reader.compiles else bounded():
                reader.read(path)
        except REFUSALS as refusal:
            return str(refusal)
    return None


def own(name: str) -> bytes:
    "What a reader's own file holds."
    return shelf(name)[READERS[name].file]


def damaged(whole: bytes, data) -> bytes:
    "A file that was cut, flipped, filled, or made to declare another size."
    how = data.draw(st.sampled_from(["cut", "flip", "zeros", "size", "more", "twice"]))
    last = len(whole) - 1
    at = data.draw(st.integers(0, last) | st.integers(0, min(last, 600)))  # heads stand in front
    event(how)
    if how == "cut":
        return whole[:at]
    if how == "flip":
        return whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1:]
    if how == "zeros":
        return whole[:at] + bytes(len(whole) - at)
    if how == "size":
        size = data.draw(st.sampled_from([2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63, 0, 1]))
        width = data.draw(st.sampled_from([4, 8]))
        order = data.draw(st.sampled_from(["little", "big"]))
        told = (size % 2 ** (8 * width)).to_bytes(width, order)
        return whole[:at] + told + whole[at + width:]
    return whole + (whole if how == "twice" else data.draw(st.binary(max_size=50)))


def checked(name: str, content: bytes | None) -> None:
    "A reader reads content in the place of its file, or refuses it by the file's name."
    reader, files = READERS[name], shelf(name)
    with tempfile.TemporaryDirectory() as folder:
        for place, whole in files.items():
            (Path(folder) / place).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / place).write_bytes(whole)
        path = Path(folder) / reader.file
        path.write_bytes(content) if content is not None else path.unlink()
        said = refused(reader, path)
    assert said is None or path.name in said or path.parent.name in said


NAMES = sorted(READERS)
JSON = [name for name in NAMES if READERS[name].file.endswith(".json")]


@budget(few=150, share=0.25)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(name, data):
    checked(name, damaged(own(name), data))


@budget(few=40, share=0.05)
@given(name=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
def test_another_file_is_read_or_refused_by_name(name, other):
    checked(name, own(other))


VALUES = [None, [], {}, "", "x", -1, 0, 1e308, 10**400, float("nan"), True, [[]], {"a": None}]


def replaced(content, data):
    "JSON with one of its values replaced, or one of its names gone."
    places = [(content, key) for key in content]
    for holder, key in places:
        inner = holder[key]
        if isinstance(inner, dict): places += [(inner, k) for k in inner]
        if isinstance(inner, list): places += [(inner, k) for k in range(min(len(inner), 3))]
    holder, key = places[data.draw(st.integers(0, len(places) - 1))]
    if data.draw(st.booleans()):
        holder[key] = data.draw(st.sampled_from(VALUES))
    else:
        del holder[key]
    return content


@budget(few=90, share=0.2)
@given(name=st.sampled_from(JSON), data=st.data())
def test_json_of_another_structure_is_read_or_refused_by_name(name, data):
    content = replaced(json.loads(own(name)), data)
    note(json.dumps(content)[:300])
    checked(name, json.dumps(content).encode())


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_no_such_object_is_read_or_refused_by_name(name):
    for text in ("[]", "null", "1", '"x"', "{}", '{"points": {}}', "[" * 10**5, '{"a":' * 10**5,
                 '{"seed": 1' + "0" * 5000 + "}", ""):
        checked(name, text.encode())


@budget(few=15, share=0.05)
@given(name=st.sampled_from(["checkpoint", "facts", "network"]), data=st.data())
def test_a_checkpoint_of_other_facts_is_read_or_refused_by_name(name, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net"
        path.write_bytes(own("network"))
        facts, arrays = checkpoint.read(path)
        checkpoint.save(path, arrays, replaced(facts, data))
        checked(name, path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_or_made(name):
    checked(name, None)


READ_ALL = """
import sys
from pathlib import Path
from mimo_jax.data.formats import read_csi_frequency

path, whole = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
for at in range(195, 215):
    path.write_bytes(whole[:at] + bytes(len(whole) - at))
    try:
        read_csi_frequency(path)
    except ValueError:
        pass
"""


def test_zeros_at_the_end_of_a_mat_file_do_not_end_the_process():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.mat"
        path.write_bytes(own("channels"))
        done = subprocess.run([sys.executable, "-c", READ_ALL, path], capture_output=True)
    assert done.returncode == 0
