"""The one door to data: parsers on files made here in each official format and on packs of the real
sets; fetching from a local server."""

import collections
import dataclasses
import functools
import hashlib
import http.server
import importlib.util
import io
import os
import pathlib
import pickle
import sys
import tarfile
import threading
import tracemalloc
import wave

import h5py
import jax
import numpy as np
import pytest
import scipy.io
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.data import sets, formats, speech

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKS = pathlib.Path(os.environ.get("MIMO_JAX_PACKS", ROOT.parent / "shared" / "data"))
RNG = np.random.default_rng(0)
IMAGES = RNG.random((5, 2048), np.float32)
TONE = (8000 * np.sin(np.arange(3000) / 5)).astype(np.int16)


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty folder of data sets."
    monkeypatch.setenv("MIMO_JAX_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


# Files in each official format, made here


def mat5(path, key="HT", x=IMAGES, compress=True):
    scipy.io.savemat(path, {key: x}, do_compression=compress)


def mat73(path, key="HT", x=IMAGES):
    """As MATLAB writes version 7.3: a user block of 512 bytes, axes in the opposite order, complex
    numbers as pairs."""
    pairs = np.zeros(x.shape[::-1], [("real", "f8"), ("imag", "f8")]) if np.iscomplexobj(x) else x.T
    if np.iscomplexobj(x):
        pairs["real"], pairs["imag"] = x.T.real, x.T.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        packing = {"chunks": True, "compression": "gzip"} if x.size else {}
        file.create_dataset(key, data=pairs, **packing).attrs["MATLAB_class"] = np.bytes_("double")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def cifar(folder, n=6, protocol=2):
    "The three pickles of cifar-100-python.tar.gz, in small."
    folder.mkdir(exist_ok=True)
    pixels = RNG.integers(0, 256, (n, 3072), np.uint8)
    record = {
        b"data": pixels,
        b"fine_labels": list(range(n)),
        b"coarse_labels": [i % 20 for i in range(n)],
        b"filenames": [b"a.png"] * n,
    }
    for split in ("train", "test"):
        (folder / split).write_bytes(pickle.dumps(record, protocol))
    names = {
        b"fine_label_names": [f"f{i}".encode() for i in range(100)],
        b"coarse_label_names": [f"c{i}".encode() for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol))
    return pixels


def wav(path, samples=TONE, channels=1, width=2, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def libri(folder, n=3, rate=16000):
    chapter = folder / "84" / "121123"
    chapter.mkdir(parents=True)
    for i in range(n):
        soundfile.write(
            chapter / f"84-121123-{i:04d}.flac", TONE[: 1000 * (i + 1)], rate, subtype="PCM_16"
        )
    (chapter / "84-121123.trans.txt").write_text(
        "".join(f"84-121123-{i:04d} GO DO {i}\n" for i in range(n))
    )
    return chapter


# CSI


@pytest.mark.parametrize("look, said", [("import time; time.sleep(60)", "HDF5 finds no end in it"),
                                        ("import os; os.abort()", "HDF5 stops with -6")])
def test_an_hdf5_file_that_hangs_or_kills_the_library_is_refused(look, said, tmp_path, monkeypatch):
    mat73(tmp_path / "x.mat")
    formats.check_hdf5(tmp_path / "x.mat")
    monkeypatch.setattr(formats, "_LOOK", look)
    monkeypatch.setattr(formats, "HDF5_LIMIT_S", 2.0)
    with pytest.raises(ValueError, match=f"x.mat is damaged: {said}"):
        formats.read_mat(tmp_path / "x.mat", "HT", IMAGES.shape[1])


@pytest.mark.parametrize("write", [mat5, functools.partial(mat5, compress=False), mat73])
def test_both_mat_formats_hold_the_same_images(write, tmp_path):
    write(tmp_path / "x.mat")
    images = formats.read_csi(tmp_path / "x.mat")
    np.testing.assert_array_equal(images, IMAGES.reshape(5, 2, 32, 32))
    assert images.dtype == np.float32 and images.flags.c_contiguous
    np.testing.assert_array_equal(formats.read_csi(tmp_path / "x.mat", limit=2), images[:2])


@pytest.mark.parametrize("write", [mat5, mat73])
def test_frequency_channels_are_complex(write, tmp_path):
    H = (RNG.normal(size=(3, 4000)) + 1j * RNG.normal(size=(3, 4000))).astype(np.complex64)
    write(tmp_path / "x.mat", "HF_all", H)
    np.testing.assert_array_equal(
        formats.read_csi_frequency(tmp_path / "x.mat"), H.reshape(3, 32, 125)
    )
    with pytest.raises(ValueError, match="x.mat: no variable 'HT'; it holds HF_all"):
        formats.read_csi(tmp_path / "x.mat")


def test_blocks_of_a_large_hdf5_file_join(tmp_path):
    x = np.linspace(0, 1, 4100 * 2048, dtype=np.float32).reshape(4100, 2048)
    with h5py.File(tmp_path / "x.mat", "w") as file:
        file["HT"] = x.T
    np.testing.assert_array_equal(
        formats.read_csi(tmp_path / "x.mat", limit=4099), x[:4099].reshape(-1, 2, 32, 32)
    )


@pytest.mark.parametrize("write", [mat5, mat73])
@pytest.mark.parametrize(("x", "problem"), [
    (IMAGES[:, :2000], r"HT has shape \(5, 2000\); expected \[samples, 2048\]"),
    (IMAGES.T, r"HT has shape \(2048, 5\)"),
    (IMAGES[:0], r"HT has shape \(0, "),
    (IMAGES * np.where(np.arange(5) == 3, np.nan, 1)[:, None],
     "NaN or infinite values in 1 of 5 samples, the first is sample 3"),
    (IMAGES + np.where(np.arange(5) == 3, np.inf, 0)[:, None],
     "NaN or infinite values in 1 of 5 samples, the first is sample 3"),
    (IMAGES - 0.5, "expected 0 to 1"),
    (IMAGES + 1j, "HT is of type complex64|HT is of type complex128"),
])
def test_wrong_contents_are_named(write, x, problem, tmp_path):
    write(tmp_path / "bad.mat", x=x)
    with pytest.raises(ValueError, match=problem) as refused:
        formats.read_csi(tmp_path / "bad.mat")
    assert (
        str(refused.value).startswith(f"{tmp_path / 'bad.mat'}: ")
        and str(refused.value).count("bad.mat") == 1
    )


@pytest.mark.parametrize("content", [
    b"",
    b"<!DOCTYPE html>",
    b"MATLAB 5.0 MAT-file",
    b"\x00" * 5000,
    b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n",
])
def test_other_files_are_no_mat_files(content, tmp_path):
    (tmp_path / "bad.mat").write_bytes(content)
    with pytest.raises(ValueError, match="bad.mat: "):
        formats.read_csi(tmp_path / "bad.mat")


def test_hdf5_that_reads_another_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["HT"] = IMAGES.T
    with h5py.File(tmp_path / "link.mat", "w") as file:
        file["HT"] = h5py.ExternalLink("secret.h5", "HT")
    with h5py.File(tmp_path / "soft.mat", "w") as file:
        file["HT"] = h5py.SoftLink("/nowhere")
    layout = h5py.VirtualLayout((2048, 5), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "HT", (2048, 5))
    with h5py.File(tmp_path / "virtual.mat", "w") as file:
        file.create_virtual_dataset("HT", layout)
    (tmp_path / "raw").write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "external.mat", "w") as file:
        file.create_dataset(
            "HT", (2048, 5), "f4", external=[(str(tmp_path / "raw"), 0, IMAGES.nbytes)]
        )
    for name in ("link", "soft", "virtual", "external"):
        with pytest.raises(ValueError, match=f"{name}.mat: no variable 'HT'"):
            formats.read_csi(tmp_path / f"{name}.mat")


def test_a_limit_of_nothing_is_refused(tmp_path):
    mat5(tmp_path / "x.mat")
    with pytest.raises(ValueError, match="limit=0"):
        formats.read_csi(tmp_path / "x.mat", limit=0)


# Pickles


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar_pickles_of_several_protocols(protocol, tmp_path):
    pixels = cifar(tmp_path, protocol=protocol)
    images, labels, names = formats.read_cifar100(tmp_path, "test")
    np.testing.assert_array_equal(images[2, :, :, 1].ravel(), pixels[2, 1024:2048])
    assert (
        images.shape == (6, 32, 32, 3) and labels.tolist() == list(range(6)) and names[99] == "f99"
    )
    assert len(formats.read_cifar100(tmp_path, "train", "coarse").names) == 20
    with pytest.raises(ValueError, match="meta: no entry 'finest_label_names'"):
        formats.read_cifar100(tmp_path, "train", "finest")


def test_a_pickle_as_python_2_wrote_it(tmp_path):
    """The published files were written by Python 2: byte strings where Python 3 has text, and the
    old name of NumPy's module."""
    raw = bytes(range(12))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        b"(K\x00tU\x01btR(K\x01(K\x03K\x04tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x0c" + raw + b"tb"
    )
    (tmp_path / "old").write_bytes(
        b"\x80\x02}(U\x04data" + array + b"U\x06labels]K\x07aU\x05batchU\x03abcu."
    )
    pixels, labels, batch = formats.read_pickle(tmp_path / "old", "data", "labels", "batch")
    np.testing.assert_array_equal(pixels, np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert labels == [7] and batch == b"abc"


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


SENTINEL = ROOT / "tests" / "executed-by-a-pickle"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(("attack", "named"), [
    (Hostile(os.system, f"touch {SENTINEL}"), "system"),
    (Hostile(eval, f"open({str(SENTINEL)!r}, 'w')"), "eval"),
    (Hostile(pickle.loads, b"cos\nsystem\n."), "loads"),
    (Hostile(np.load, "x.npy"), "load"),
    (Hostile(np.frombuffer, b"abc", "u1"), "frombuffer"),
    (Hostile(collections.OrderedDict), "OrderedDict"),
    (Hostile(importlib.import_module, "os"), "import_module"),
])
def test_a_hostile_pickle_runs_nothing(attack, named, protocol, tmp_path):
    (tmp_path / "train").write_bytes(pickle.dumps({b"data": attack, b"fine_labels": []}, protocol))
    with pytest.raises(ValueError, match=f"train: .*refused: it asks to run .*({named})"):
        formats.read_pickle(tmp_path / "train", "data")
    assert not SENTINEL.exists()


def test_no_allowed_name_is_ever_called(tmp_path):
    """Names an array needs are allowed, and still cannot be made to work: no huge allocation, no
    odd codec, no object array."""
    huge = b"\x80\x02}U\x04datacnumpy\nndarray\n(J\xff\xff\xff\x7ftRs."
    codec = b"\x80\x02}U\x04datac_codecs\nencode\n(X\x01\x00\x00\x00aU\x03zipttRs."
    nested = pickle.dumps({"data": [[1, 2], [3]]})
    objects = pickle.dumps({"data": np.array([None, {}], object)}, 2)
    for content in (
        huge,
        codec,
        nested,
        objects,
        pickle.dumps([1]),
        pickle.dumps({"data": 1 + 2j}),
        pickle.dumps({"data": {1}}),
    ):
        (tmp_path / "train").write_bytes(content)
        with pytest.raises(ValueError, match="train: "):
            formats.read_pickle(tmp_path / "train", "data")


def test_a_small_pickle_takes_little_memory(tmp_path):
    """The unpickler in C makes room for every place up to the highest that a file names, here 2**24
    of them."""
    (tmp_path / "train").write_bytes(b"\x80\x02}r\xff\xff\xff\x00.")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="no entry 'data'"):
            formats.read_pickle(tmp_path / "train", "data")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("change", "problem"), [
    ({b"data": np.zeros((6, 3000), np.uint8)}, "data is uint8 of shape"),
    ({b"data": np.zeros((6, 3072))}, "data is float64"),
    ({b"fine_labels": [1, 2]}, "expected 6 integers from 0 to 99"),
    ({b"fine_labels": [0, 1, 2, 3, 4, 100]}, "expected 6 integers from 0 to 99"),
    ({b"fine_labels": [0.5] * 6}, "expected 6 integers"),
    ({b"fine_labels": [-1] * 6}, "expected 6 integers"),
])
def test_wrong_images_are_named(change, problem, tmp_path):
    pixels = cifar(tmp_path)
    record = {b"data": pixels, b"fine_labels": list(range(6))}
    (tmp_path / "train").write_bytes(pickle.dumps(record | change, 2))
    with pytest.raises(ValueError, match=f"train: .*{problem}"):
        formats.read_cifar100(tmp_path)


# Sound


def test_wav_and_flac_give_the_samples(tmp_path):
    wav(tmp_path / "x.wav")
    libri(tmp_path / "part")
    x, rate = formats.read_wav(tmp_path / "x.wav")
    np.testing.assert_array_equal(x * 2**15, TONE)
    assert rate == 8000 and x.dtype == np.float32
    said = formats.read_librispeech(tmp_path / "part")
    np.testing.assert_allclose(said.audio[2] * 2**15, TONE, atol=1e-3)
    assert said.text[1] == "GO DO 1" and said.speaker == ["84"] * 3 and said.rate == 16000
    assert len(formats.read_librispeech(tmp_path / "part", limit=2).audio) == 2
    with pytest.raises(ValueError, match="'GO DO 0' is not one of zero, one"):
        said.labels


def test_digits_are_split_by_the_number_in_their_name(tmp_path):
    (tmp_path / "recordings").mkdir()
    for name in ("7_jackson_32", "0_theo_4", "0_theo_5", "notes"):
        wav(tmp_path / "recordings" / f"{name}.wav")
    train, test = formats.read_fsdd(tmp_path, "train"), formats.read_fsdd(tmp_path, "test")
    assert (train.text, train.speaker, train.labels.tolist()) == (
        ["zero", "seven"],
        ["theo", "jackson"],
        [0, 7],
    ) and test.text == ["zero"]
    with pytest.raises(ValueError, match="no part 'valid'"):
        formats.read_fsdd(tmp_path, "valid")
    wav(tmp_path / "recordings" / "1_theo_9.wav", rate=16000)
    with pytest.raises(ValueError, match=r"recordings at \[8000, 16000\] Hz"):
        formats.read_fsdd(tmp_path, "train")


def test_wrong_sound_is_named(tmp_path):
    wav(tmp_path / "stereo.wav", channels=2)
    wav(tmp_path / "bytes.wav", width=1)
    wav(tmp_path / "empty.wav", samples=TONE[:0])
    (tmp_path / "text.wav").write_text("no sound")
    for name, problem in {
        "stereo": "2 channels of 16 bits",
        "bytes": "1 channels of 8 bits",
        "empty": "truncated",
        "text": "RIFF",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.wav: .*{problem}"):
            formats.read_wav(tmp_path / f"{name}.wav")
    soundfile.write(tmp_path / "stereo.flac", np.stack([TONE, TONE], 1), 16000)
    with pytest.raises(ValueError, match="stereo.flac: 3000 samples of 2 channels"):
        formats.read_flac(tmp_path / "stereo.flac")


def test_wrong_transcripts_are_named(tmp_path):
    chapter = libri(tmp_path / "part")
    transcript = chapter / "84-121123.trans.txt"
    transcript.write_text(transcript.read_text() + "84-121123-0003 MISSING\n")
    with pytest.raises(FileNotFoundError, match="84-121123-0003.flac"):
        formats.read_librispeech(tmp_path / "part")
    for text in ("../../etc/passwd X\n", "84-121123-0000\n", "", "\xff\n"):
        transcript.write_bytes(text.encode("latin1"))
        with pytest.raises(ValueError, match="trans.txt: "):
            formats.read_librispeech(tmp_path / "part")
    with pytest.raises(FileNotFoundError, match="has no transcripts"):
        formats.read_librispeech(tmp_path / "elsewhere")


# Any stump, any garbled byte: the right thing or a ValueError that names the file


@pytest.fixture(scope="session")
def whole_files(tmp_path_factory):
    "One small file in each format, with its reader."
    folder = tmp_path_factory.mktemp("whole")
    mat5(folder / "a.mat", x=IMAGES[:2])
    mat5(folder / "b.mat", x=IMAGES[:2], compress=False)
    cifar(folder / "cifar")
    wav(folder / "d.wav")
    soundfile.write(folder / "e.flac", TONE, 16000)
    mat73(folder / "c.mat", x=IMAGES[:2])
    return [
        (folder / "a.mat", formats.read_csi),
        (folder / "b.mat", formats.read_csi),
        (folder / "cifar" / "train", lambda path: formats.read_cifar100(path.parent)[0]),
        (folder / "d.wav", lambda path: formats.read_wav(path)[0]),
        (folder / "e.flac", lambda path: formats.read_flac(path)[0]),
        (folder / "c.mat", formats.read_csi),
    ]


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), which=st.integers(0, 5))
def test_a_stump_is_never_read(whole_files, share, which):
    path, read = whole_files[which]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    try:
        with pytest.raises(ValueError, match=f"{path}: "):
            read(path)
    finally:
        path.write_bytes(whole)


@settings(max_examples=200, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), which=st.integers(0, 4))
def test_a_garbled_byte_gives_the_right_shape_or_a_named_error(whole_files, share, value, which):
    path, read = whole_files[which]
    whole = path.read_bytes()
    shape, at = read(path).shape, int(share * len(whole))
    path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    try:
        assert read(path).shape[1:] == shape[1:]
    except ValueError as error:
        assert path.name in str(error)
    finally:
        path.write_bytes(whole)


# The door


def test_home_is_the_variable_or_the_cache(monkeypatch):
    monkeypatch.setenv("MIMO_JAX_DATA", "~/sets")
    assert sets.home() == pathlib.Path.home() / "sets"
    monkeypatch.delenv("MIMO_JAX_DATA")
    assert sets.home().name == "data" and "mimo_jax" in sets.home().parts


def test_missing_sets_say_how_to_get_them(home):
    for attempt, words in {
        sets.csi: "csinet-indoor: no DATA_Htrainin.mat in .*cost2100.*Google|README of.*mimo-jax "
                  "data generate --scenario indoor",
        sets.csi_frequency: "DATA_HtestFin_all.mat",
        sets.cifar100: "mimo-jax data fetch cifar100.*161 MiB",
        sets.fsdd: "mimo-jax data fetch fsdd",
        sets.librispeech: "mimo-jax data fetch librispeech-dev-clean.*322 MiB",
    }.items():
        with pytest.raises(FileNotFoundError, match=words):
            attempt()
    with pytest.raises(FileNotFoundError, match="published parts are dev-clean"):
        sets.librispeech("mine")


def test_wrong_names_list_the_right_ones(home):
    for attempt, words in [
        (lambda: sets.find("imagenet"), "no data set 'imagenet'; known are digits"),
        (lambda: sets.csi("forest"), "'csinet-forest'"),
        (lambda: sets.csi("indoor", "trian"), "has no part 'trian'; it has train, val"),
        (lambda: sets.cifar100("val"), "it has train, test"),
        (lambda: sets.fsdd("val"), "no part 'val'"),
        (lambda: sets.digits("val"), "no part 'val'"),
        (lambda: sets.find("digits"), "it is built in"),
        (lambda: sets.fetch("speech"), "cannot be fetched"),
        (lambda: sets.fetch("csinet-outdoor"), "--scenario outdoor"),
    ]:
        with pytest.raises(ValueError, match=words):
            attempt()


def test_status_knows_present_partial_and_absent(home):
    assert sets.status("cifar100").state == "absent"
    (home).mkdir()
    cifar(home / "cifar-100-python")
    assert sets.status("cifar100").state == "present" and sets.status("cifar100").n_bytes > 6 * 3072
    assert [(row.part, row.samples, row.problem) for row in sets.verify("cifar100")] == [
        ("train", 6, ""),
        ("test", 6, ""),
    ]
    (home / "cifar-100-python" / "meta").unlink()
    assert sets.status("cifar100").state == "partial"
    with pytest.raises(FileNotFoundError, match="no meta in"):
        sets.cifar100()


def test_sets_are_well_formed():
    assert all(name == known.name and " " not in name for name, known in sets.SETS.items())
    for known in sets.SETS.values():
        assert known.terms and "{" not in sets.how_to_get(known) and len(known.title) < 100
        if known.archive and known.archive.checksum:
            assert (
                known.archive.checksum.startswith("md5:")
                and len(known.archive.checksum) == 36
                and known.archive.url.startswith("https://")
            )


def test_a_missing_extra_is_named(home, monkeypatch, tmp_path):
    mat73(tmp_path / "x.mat")
    for module, attempt in {
        "h5py": lambda: formats.read_csi(tmp_path / "x.mat"),
        "soundfile": lambda: formats.read_flac(tmp_path / "x.flac"),
        "pooch": lambda: sets.fetch("cifar100"),
        "sklearn.datasets": sets.digits,
    }.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            ImportError, match=rf"needs the package {module}: pip install 'mimo_jax\[data\]'"
        ):
            attempt()


def test_generated_speech_depends_on_its_key_only():
    few, more = speech.spoken_digits(
        jax.random.key(4), 3, words=2, speakers=2
    ), speech.spoken_digits(jax.random.key(4), 3, words=2, speakers=2)
    other = speech.spoken_digits(jax.random.key(5), 3, words=2, speakers=2)
    assert (
        few.text == more.text
        and few.speaker == ["0", "1", "0"]
        and all(map(np.array_equal, few.audio, more.audio))
    )
    assert not any(
        a.shape == b.shape and np.allclose(a, b)
        for a, b in zip(few.audio, other.audio, strict=True)
    )
    assert all(
        0.4 < len(x) / few.rate < 3 and x.dtype == np.float32 and 0.45 < np.abs(x).max() < 0.55
        for x in few.audio
    )
    with pytest.raises(ValueError, match="speakers=0"):
        speech.spoken_digits(jax.random.key(0), 3, speakers=0)


# Fetching, from a server on this machine


class Handler(http.server.SimpleHTTPRequestHandler):
    "Serves a folder; /cut/... closes the line half-way."

    def log_message(self, *args): pass

    def do_GET(self):
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        content = (pathlib.Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def shelf(tmp_path):
    "A folder that a server on this machine publishes, and its address."
    folder = tmp_path / "shelf"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def archive_of(folder, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


def cifar_on(shelf):
    folder, address = shelf
    cifar(folder / "cifar-100-python")
    (folder / "cifar-100-python" / "readme").write_text("small")
    checksum = archive_of(folder / "cifar-100-python", folder / "c.tar.gz")
    return dataclasses.replace(
        sets.SETS["cifar100"],
        archive=sets.Archive(f"{address}/c.tar.gz", checksum, "cifar-100-python", 0),
    )


def test_a_fetched_set_is_there_once_and_remembers_its_bytes(home, shelf):
    known = cifar_on(shelf)
    seen = []
    bar = type(
        "Bar",
        (),
        {
            "total": 0,
            "update": lambda self, n: seen.append(n),
            "reset": lambda self: seen.clear(),
            "close": lambda self: None,
        },
    )()
    folder = sets.fetch(known, bar)
    assert folder == home / "cifar-100-python" and sum(seen) == bar.total > 1000
    assert sorted(p.name for p in home.iterdir()) == ["cifar-100-python"]
    assert len(sets.cifar100("test").images) == 6 and not any(
        row.problem for row in sets.verify("cifar100")
    )
    (shelf[0] / "c.tar.gz").unlink()
    assert sets.fetch(known) == folder
    raw = bytearray((folder / "test").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "test").write_bytes(raw)
    assert (
        "test has changed"
        in [row.problem for row in sets.verify("cifar100") if row.part == "test"][-1]
    )
    (folder / "readme").unlink()
    assert [row.part for row in sets.changed_files("cifar100") if "is gone" in row.problem] == [
        "readme"
    ]
    (folder / "test").unlink()
    with pytest.raises(
        ValueError, match="exists but lacks some of train, test, meta: move it away"
    ):
        sets.fetch(known)


@pytest.mark.parametrize(("path", "error", "words"), [
    ("c.tar.gz", ValueError, "c.tar.gz: the checksum is wrong, and nothing was kept"),
    ("cut/c.tar.gz", RuntimeError, "cut/c.tar.gz: the download failed, and nothing was kept"),
    ("missing.tar.gz", RuntimeError, "missing.tar.gz: the download failed"),
])
def test_a_bad_download_leaves_nothing(path, error, words, home, shelf):
    known = cifar_on(shelf)
    bad = sets.Archive(
        f"{shelf[1]}/{path}",
        "md5:" + "0" * 32 if path == "c.tar.gz" else known.archive.checksum,
        "cifar-100-python",
        0,
    )
    with pytest.raises(error, match=words):
        sets.fetch(dataclasses.replace(known, archive=bad))
    assert not list(home.rglob("*"))


def test_an_interrupt_leaves_nothing_and_can_be_repeated(home, shelf):
    known = cifar_on(shelf)

    class Impatient:
        total = 0

        def update(self, n): raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sets.fetch(known, Impatient())
    assert not list(home.rglob("*")) and sets.fetch(known).is_dir()


def test_a_bad_archive_leaves_nothing(home, shelf):
    folder, address = shelf
    known = cifar_on(shelf)
    whole = (folder / "c.tar.gz").read_bytes()
    (folder / "stump.tar.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "page.tar.gz").write_text("<!DOCTYPE html>")
    with tarfile.open(folder / "escape.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    archive_of(folder / "cifar-100-python" / "meta", folder / "other.tar.gz")
    refusals = {
        "stump": "stump.tar.gz: ",
        "page": "page.tar.gz: ",
        "escape": "outside the folder",
        "other": "has no cifar-100-python/train",
    }
    for name, words in refusals.items():
        with pytest.raises(ValueError, match=words):
            sets.fetch(
                dataclasses.replace(
                    known,
                    archive=sets.Archive(f"{address}/{name}.tar.gz", None, "cifar-100-python", 0),
                )
            )
        assert not list(home.rglob("*")) and not list(home.parent.glob("escaped"))


# The real sets, unpacked from packs where this machine has them


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """A function that lays one real set out in its official format and points MIMO_JAX_DATA there,
    or skips with the reason."""
    folder, done = tmp_path_factory.mktemp("unpacked"), set()

    def unpack(name):
        if not (PACKS / "unpack.py").exists():
            pytest.skip(
                f"no packs of real data at {PACKS}; set MIMO_JAX_PACKS to a folder that has them"
            )
        spec = importlib.util.spec_from_file_location("unpack", PACKS / "unpack.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if name not in done:
            getattr(module, name)(folder)
            done.add(name)
        return folder

    return unpack


def packed(name):
    return np.load(PACKS / f"{name}.npz")


def test_reference_channels(unpacked, monkeypatch):
    monkeypatch.setenv("MIMO_JAX_DATA", str(unpacked("cost2100")))
    for scenario, suffix in {"indoor": "in", "outdoor": "out"}.items():
        d = packed(f"cost2100_{suffix}")
        for split in ("train", "val", "test"):
            np.testing.assert_array_equal(
                sets.csi(scenario, split).reshape(-1, 2048), d[f"HT_{split}"].astype(np.float32)
            )
        assert sets.csi_frequency(scenario).shape == (500, 32, 125)
    rows = list(sets.verify("csinet-indoor"))
    assert [(r.part, r.samples, r.published) for r in rows] == [
        ("train", 2000, 100_000),
        ("val", 500, 30_000),
        ("test", 500, 20_000),
        ("frequency", 500, 20_000),
    ] and not any(r.problem for r in rows)


def test_real_images(unpacked, monkeypatch):
    monkeypatch.setenv("MIMO_JAX_DATA", str(unpacked("cifar100")))
    train, test = sets.cifar100("train"), sets.cifar100("test", "coarse")
    assert train.images.shape == (50_000, 32, 32, 3) and test.images.shape == (10_000, 32, 32, 3)
    assert (
        set(np.bincount(train.labels)) == {500}
        and set(np.bincount(test.labels)) == {500}
        and train.names[0] == "apple"
    )
    record = pickle.loads(
        (sets.home() / "cifar-100-python" / "test").read_bytes(), encoding="bytes"
    )  # our own file: safe to trust
    np.testing.assert_array_equal(
        test.images.transpose(0, 3, 1, 2).reshape(-1, 3072), record[b"data"]
    )


def nearest_mean(train, test):
    "Accuracy of the recognizer on the page `speech`: the nearest mean log spectrogram."
    def picture(x, rows=20, columns=20):
        blocks = np.lib.stride_tricks.sliding_window_view(x, 200)[::80] * np.hanning(200)
        power = (np.abs(np.fft.rfft(blocks, axis=1)[:, :100]) ** 2).reshape(-1, rows, 5).sum(-1)
        level = np.log(power / power.max() + 1e-4)[
            np.linspace(0, len(power) - 1, columns).round().astype(int)
        ]
        return ((level - level.mean()) / level.std()).ravel()

    a, b = (np.array([picture(x) for x in s.audio]) for s in (train, test))
    means = np.array([a[train.labels == digit].mean(0) for digit in range(10)])
    return np.mean(np.argmin(((b[:, None] - means[None]) ** 2).sum(-1), 1) == test.labels)


def test_real_digits_and_what_generated_ones_teach(unpacked, monkeypatch):
    monkeypatch.setenv("MIMO_JAX_DATA", str(unpacked("fsdd")))
    train, test, d = sets.fsdd("train"), sets.fsdd("test"), packed("fsdd_8k")
    assert (len(train.audio), len(test.audio), len(set(train.speaker)), train.rate) == (
        2700,
        300,
        6,
        8000,
    )
    first = np.flatnonzero(
        (d["digit"] == 0) & (d["index"] == 0) & (d["speakers"][d["speaker"]] == test.speaker[0])
    )[0]
    np.testing.assert_array_equal(
        test.audio[0] * 2**15, d["audio"][d["offsets"][first] : d["offsets"][first + 1]]
    )
    generated = speech.spoken_digits(jax.random.key(1), 600)
    from_real, from_generated = nearest_mean(train, test), nearest_mean(generated, train)
    assert 0.68 < from_real < 0.85 and 0.35 < from_generated < 0.55, (from_real, from_generated)


def test_real_utterances(unpacked, monkeypatch):
    monkeypatch.setenv("MIMO_JAX_DATA", str(unpacked("an4")))
    said = sets.librispeech("an4-test")
    assert (
        len(said.audio) == 117
        and said.rate == 8000
        and all(text == text.upper() for text in said.text)
    )
    assert (
        len(sets.librispeech("an4-train", limit=5).audio) == 5
        and 0.01 < np.std(np.concatenate(said.audio)) < 0.5
    )
