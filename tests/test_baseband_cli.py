"""`mimo-jax baseband`: frames received and recorded, files that are none, errors of one line, and
an interruption that keeps what was counted."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_jax.baseband import emulator as em
from mimo_jax.baseband.frame import FrameFormat, frame_code, frame_for
from mimo_jax.cli import baseband
from mimo_jax.cli import main as cli

SIZES = {"subcarriers": 96, "fft_size": 128, "schedule": "PUU", "bits_per_symbol": 4,
         "code_rate": 0.9}
FRAME = frame_for("4x2", **SIZES)
TINY = ("--mimo", "4x2", "--subcarriers", 96, "--fft-size", 128, "--schedule", "PUU",
        "--code-rate", 0.9, "--modulation", "16qam")
FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    "A recording, and what only looks like one."
    folder = tmp_path_factory.mktemp("shelf")
    rng = np.random.default_rng(0)
    iq = rng.integers(-90, 90, (2, 3, 4, 128, 2), np.int8)
    em.write_recording(folder / "noise.npz", em.Recording(FRAME, iq))
    named = asdict(FRAME)
    for name, arrays in {
        "other": {"iq": iq[:, :2], **named}, "turned": {"iq": iq.swapaxes(1, 2), **named},
        "float": {"iq": iq.astype(np.float32), **named}, "none": {"samples": iq, **named},
        "half": {"iq": iq, "antennas": 4}, "bare": {"iq": iq[0]}, "empty": {"iq": iq[:0], **named},
        "odd": {"iq": iq, **named, "users": 9}, "text": {"iq": iq, **named, "users": "two"},
        "bits": {"iq": iq, **named, "bits": np.zeros((2, 2, 2, 7), np.uint8)},
        "loud": {"iq": iq, **named, "noise": np.array([1.0, -1.0])},
        "nan": {"iq": np.full((3, 4, 128), np.nan, np.complex64), **named},
        "objects": {"iq": np.array([{}, []], object), **named},
    }.items():
        np.savez(folder / f"{name}.npz", **arrays)
    whole = (folder / "noise.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "lie.npz").write_bytes(whole.replace(b"(2, 3, 4, 128, 2)", b"(99999999999, 2) "))
    np.save(folder / "array.npy", iq)
    return folder


def ask(capsys, *words):
    code = cli._run(["baseband", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def answer(capsys, *words):
    code, out, error = ask(capsys, *words, "--json")
    assert code == 0, error
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


RATE = {"rate", "low", "high", "errors", "trials"}


def test_the_answer_has_all_that_was_promised(capsys, tmp_path):
    path = tmp_path / "users.svg"
    found = answer(capsys, "run", *TINY, "--frames", 5, "--units", 2, "--distinct", 2, "--snr", 3,
                   "--arrivals", "burst", "--burst", 2, "--period-ms", 0.01, "--picture", path)
    assert found["frames"] == 10 and found["different_frames"] == 4 and found["units"] == 2
    k = frame_code(FRAME).k
    assert set(found["ber"]) == set(found["bler"]) == RATE
    assert found["ber"]["trials"] == 4 * 2 * 2 * k and found["bler"]["trials"] == 4 * 2 * 2
    assert 0 < found["ber"]["low"] < found["ber"]["rate"] < found["ber"]["high"]
    assert found["errors_by"] == found["evm"]["against"] == "truth"
    users = np.array(found["evm"]["users_percent"])
    assert users.shape == (2,) and 5 < found["evm"]["mean_percent"] < 100
    np.testing.assert_allclose(np.sqrt(np.mean(users**2)), found["evm"]["mean_percent"])
    assert abs(found["noise"] / found["true_noise"] - 1) < 0.3
    assert 1 <= found["iterations"] <= 5
    for name in ("frame_ms", "late_ms"):
        assert 0 <= found[name]["median"] <= found[name]["p99"]
    assert list(found["stages_ms"]) == ["pilot_fft", "estimation_and_detector", "data_fft",
                                        "equalize", "decode"]
    assert all(ms > 0 for ms in found["stages_ms"].values())
    assert found["frame"] == asdict(FRAME) and found["picture"] == str(path)
    assert path.read_text().lstrip().startswith("<?xml")


def test_a_recording_gives_what_its_frames_give(capsys, tmp_path):
    path, kept = tmp_path / "new" / "my.npz", ("ber", "bler", "evm", "noise", "iterations")
    direct = answer(capsys, "run", *TINY, "--frames", 4, "--snr", 3)
    made = answer(capsys, "record", *TINY, "--frames", 4, "--snr", 3, "--out", path)
    assert made["bytes"] == path.stat().st_size
    again = answer(capsys, "run", "--iq", path, "--frames", 9, "--units", 2, "--devices", 4)
    assert {name: again[name] for name in kept} == {name: direct[name] for name in kept}
    assert again["frames"] == 18 and again["different_frames"] == 4
    agreed = answer(capsys, "run", "--iq", path, *TINY, "--frames", 4)
    assert agreed["ber"] == direct["ber"]
    answer(capsys, "record", *TINY, "--frames", 4, "--snr", 3, "--out", path, "--no-truth")
    blind = answer(capsys, "run", "--iq", path, "--frames", 4)
    assert blind["ber"] is None and blind["errors_by"] == "parity checks"
    assert blind["evm"]["against"] == "nearest point"
    assert blind["evm"]["mean_percent"] < direct["evm"]["mean_percent"]
    assert blind["true_noise"] is None and blind["noise"] == direct["noise"]


def test_people_get_a_table(capsys, shelf):
    code, out, error = ask(capsys, "run", "--iq", shelf / "noise.npz", "--frames", 2)
    assert code == 0 and not error
    for said in ("unknown: no truth", "by parity checks", "against nearest point",
                 "EVM by user (%):", "Stages, each by itself", "ms per frame"):
        assert said in out
    code, out, error = ask(capsys, "run", "--iq", shelf / "bare.npz", *TINY, "--frames", 1)
    assert code == 0, error


def test_the_downlink_is_measured_at_the_users(capsys):
    down = (*TINY[:6], "--schedule", "PDDD", *TINY[8:], "--direction", "downlink", "--frames", 2)
    found = answer(capsys, "run", *down, "--snr", 30)
    assert found["ber"]["errors"] == 0 and found["evm"]["against"] == "truth"
    assert list(found["stages_ms"]) == ["pilot_fft", "estimation_and_detector", "encode",
                                        "modulate", "precode", "inverse_fft"]
    worse = answer(capsys, "run", *down, "--snr", 0)
    assert worse["evm"]["mean_percent"] > 10 * found["evm"]["mean_percent"]


@pytest.mark.parametrize("words, said", [
    (("run", "--mimo", "4x8"), "8 users at 4 antennas"),
    (("run", "--mimo", "64"), "antennas x users, as in 64x16"),
    (("run", *TINY, "--subcarriers", 16, "--modulation", "qpsk"), "the least code of 38.212"),
    (("run", *TINY, "--group", 7), "need whole groups"),
    (("run", *TINY, "--code-rate", 0.99), "rates of 1/3 to 0.95"),
    (("run", *TINY, "--code-rate", "nan"), "no finite number"),
    (("run", *TINY, "--schedule", "UUP"), "pilots (P), then uplink"),
    (("run", *TINY, "--fft-size", 96), "an even number above 96"),
    (("run", *TINY, "--devices", 64), "--devices 64: there are 8 of cpu"),
    (("run", *TINY, "--snr", 101), "less than or equal to 100"),
    (("run", *TINY, "--channel", "moon"), "'rayleigh', 'cdl-a'"),
    (("run", *TINY, "--detector", "ml"), "'conjugate', 'zf', 'mmse'"),
    (("run", *TINY, "--modulation", "8psk"), "'qpsk', '16qam'"),
    (("run", *TINY, "--channel", "cdl-a", "--delay-spread-ns", 1e9), "delay_spread"),
    (("run", *TINY, "--jitter-ms", 2), "no frame overtakes another"),
    (("run", *TINY, "--picture", "users.gif"), ".svg, .png or .pdf"),
    (("run", "--mimo", "1024x512", "--distinct", 100000), "this machine has"),
    (("run", *TINY, "--schedule", "PDD", "--direction", "downlink", "--devices", 2),
     "runs on one device"),
    (("run", *TINY, "--schedule", "PDD", "--direction", "downlink", "--speed", 1), "--speed"),
    (("run", *TINY, "--schedule", "PDD"), "one of the downlink, not the uplink"),
    (("run", *TINY, "--direction", "downlink"), "one of the uplink, not the downlink"),
    (("record", *TINY), "--out"), (("record", *TINY, "--out", "."), "is a folder"),
    (("record", *TINY, "--schedule", "PDD", "--out", "x.npz"), "one of the downlink"),
    *[(("run", "--iq", f"{name}.npz"), f"{name}.npz: {said}") for name, said in (
        ("other", "iq has shape [2, 2, 4, 128, 2]; frames of 4 antennas, 3 symbols"),
        ("turned", "iq has shape [2, 4, 3, 128, 2]; frames of 4 antennas, 3 symbols"),
        ("float", "iq is float32; expected int8"),
        ("none", "no array iq; it holds antennas"), ("half", "no users, schedule"),
        ("empty", "iq has shape [0, 3"), ("odd", "9 users at 4 antennas"),
        ("text", "users is <U3 of shape (); expected one whole number"),
        ("bits", "bits is uint8 of shape [2, 2, 2, 7]; expected [2, 2, 2,"),
        ("loud", "noise is a variance"), ("nan", "iq holds NaN"), ("cut", "no recording"),
        ("lie", "iq.npy declares int8 of shape (99999999999, 2) and holds 6144 bytes"),
        ("objects", "iq.npy declares object"), ("bare", "iq has shape [3, 4, 128, 2]"),
    )],
    (("run", "--iq", "noise.npz", "--mimo", "8x2"), "antennas is 4 in the recording, and 8 was"),
    (("run", "--iq", "noise.npz", "--modulation", "qpsk"), "and 2 was asked for"),
    (("run", "--iq", "noise.npz", "--scale", 2), "bytes are taken as they are"),
    (("run", "--iq", "noise.npz", "--direction", "downlink"), "a recording is of the uplink"),
    (("run", "--iq", "array.npy"), "array.npy: no recording"),
    (("run", "--iq", "absent.npz"), "absent.npz"), (("run", "--iq", "."), ".: no recording"),
], ids=lambda value: "")
def test_bad_input_is_one_line_and_exit_code_2(shelf, monkeypatch, capsys, words, said):
    monkeypatch.chdir(shelf)
    before = sorted(shelf.iterdir())
    code, out, error = ask(capsys, *words)
    assert code == 2 and not out and said in error, error
    assert error.startswith("mimo-jax: ") and error.count("\n") == 1
    assert sorted(shelf.iterdir()) == before


def test_ctrl_c_keeps_what_was_counted(capsys, monkeypatch):
    whole = em.emulate

    def stopped(*arguments):
        for number, arrival in enumerate(whole(*arguments)):
            if number == 3: raise cli.Stopped(signal.SIGINT)
            yield arrival

    monkeypatch.setattr(em, "emulate", stopped)
    code, out, error = ask(capsys, "run", *TINY, "--frames", 50, "--distinct", 2, "--json")
    found = json.loads(out)
    assert code == 130 and error.startswith("mimo-jax: interrupted") and error.count("\n") == 1
    assert found["frames"] == 3 and found["different_frames"] == 2
    assert found["stages_ms"] is None and found["ber"]["trials"] > 0
    monkeypatch.setattr(em, "unit_frames", lambda *_: (_ for _ in [1]).throw(
        cli.Stopped(signal.SIGTERM)))
    code, out, error = ask(capsys, "run", *TINY)
    assert code == 143 and not out and error.count("\n") == 1


def test_devices_are_made_before_jax_starts():
    "In a process that nothing has told how many devices to have."
    env = {name: value for name, value in os.environ.items()
           if name not in ("MIMO_JAX_CHECK_SHAPES", "JAX_NUMPY_RANK_PROMOTION")}
    env["XLA_FLAGS"] = "--xla_backend_optimization_level=1"
    command = [str(Path(sys.executable).parent / "mimo-jax"), "baseband", "run", *map(str, TINY)]
    done = subprocess.run([*command, "--devices", "3", "--frames", "2", "--json"],
                          capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == 3
    env["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
    done = subprocess.run([*command, "--devices", "3"], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stderr == (
        "mimo-jax: --devices 3: there are 2 of cpu\n")


def test_the_live_view_is_drawn_on_a_terminal_alone(monkeypatch):
    from rich.console import Console

    seen = baseband.Seen("counting errors", 8, [0.001], [0.0], against="truth",
                         outcomes=[baseband.Outcome(1, 1, 100, 2, 1.0, 1.0)], squares=[[0.01]])
    screen = io.StringIO()
    Console(file=screen, width=80).print(baseband._panel(seen))
    for said in ("counting errors", "1 / 8", "10.00 % against truth", "0.01 (", "1.00 median"):
        assert said in screen.getvalue()
    with baseband._live(seen, False) as view:
        assert view is None
    monkeypatch.setattr(Console, "is_terminal", True)
    assert baseband._live(seen, True) is not None


def test_choices_are_those_of_the_library():
    from mimo_jax.baseband.beamforming import DetectorMethod
    from mimo_jax.propagation.delay_lines import PROFILES

    hints = get_type_hints(baseband.run_command)
    assert get_args(hints["detector"]) == get_args(DetectorMethod)
    assert get_args(hints["channel"]) == ("rayleigh", *PROFILES)
    assert get_args(hints["arrivals"]) == em.ARRIVAL_PATTERNS
    assert get_args(get_args(hints["modulation"])[0]) == tuple(baseband.MODULATIONS)


# Properties of arrivals and of files

KEY = jax.random.key(7)
KINDS = st.builds(
    lambda pattern, period, share, burst: em.Arrivals(
        pattern, period, share * period * (burst if pattern == "burst" else 1), burst),
    st.sampled_from(em.ARRIVAL_PATTERNS), st.floats(1e-6, 10), st.floats(0, 0.999),
    st.integers(1, 5))


@FEW
@given(kind=KINDS, units=st.integers(1, 3), frames=st.integers(1, 11), duration=st.floats(0, 9))
def test_arrivals_keep_their_order_and_their_rate(kind, units, frames, duration):
    times = em.arrival_times(KEY, kind, 4, 12, duration)
    assert times.shape == (4, 12) and (times >= 0).all() and (np.diff(times) >= 0).all()
    some = em.arrival_times(KEY, kind, units, frames, duration)
    np.testing.assert_array_equal(some, times[:units, :frames])
    if kind.pattern == "closed":
        np.testing.assert_allclose(times, np.arange(12) * np.full((4, 1), duration))
        return
    due = np.arange(12) // kind.together * kind.together * kind.period_s
    late = times - due
    assert (late >= -1e-9).all() and (late <= kind.jitter_s * (1 + 1e-6) + 1e-9).all()
    assert all(len(set(times[0, kind.together * n :][: kind.together])) == 1 for n in range(2))


@FEW
@given(kind=KINDS, frames=st.integers(1, 9), spent=st.floats(0, 3))
def test_every_frame_is_handed_over_once_and_never_early(kind, frames, spent):
    now = [5.0]

    def spend(seconds):
        assert seconds > 0
        now[0] += seconds

    made, taken = [["a", "b", "c"], ["d"]], []
    for arrival in em.emulate(KEY, made, kind, frames, lambda: now[0], spend):
        assert now[0] - 5 >= arrival.due_s - 1e-9
        assert arrival.late_s == pytest.approx(now[0] - 5 - arrival.due_s, abs=1e-9)
        assert arrival.frame == made[arrival.unit][arrival.number % len(made[arrival.unit])]
        taken.append((arrival.unit, arrival.number))
        now[0] += spent
    assert sorted(taken) == [(unit, number) for unit in range(2) for number in range(frames)]
    for unit in range(2):
        assert [n for u, n in taken if u == unit] == list(range(frames))


@pytest.mark.parametrize("wrong", [
    {"pattern": "often"}, {"period_s": 0.0}, {"period_s": np.inf}, {"period_s": np.nan},
    {"burst": 0}, {"jitter_s": -1e-9}, {"jitter_s": 2e-3}, {"jitter_s": np.nan}])
def test_arrivals_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): em.Arrivals(**wrong)


def test_no_unit_no_frame_and_no_time_below_0():
    for arguments in ((0, 1), (1, 0), (-1, 5)):
        with pytest.raises(ValueError, match="at least 1"):
            em.arrival_times(KEY, em.Arrivals(), *arguments)
    with pytest.raises(ValueError, match="less than 0"):
        em.arrival_times(KEY, em.Arrivals("closed"), 1, 3, -1.0)
    with pytest.raises(ValueError, match="without a frame"):
        em.emulate(KEY, [[1], []], em.Arrivals(), 1)


@st.composite
def recordings(draw):
    "Recordings of frames that hold anything."
    frame = replace(FRAME, schedule="P" + "U" * draw(st.integers(1, 3)),
                    fft_size=draw(st.sampled_from([98, 128])))
    count, rng = draw(st.integers(1, 3)), np.random.default_rng(draw(st.integers(0, 99)))
    iq = rng.integers(-128, 128, (count, len(frame.schedule), 4, frame.fft_size, 2), np.int8)
    bits = rng.integers(0, 2, (count, 2, frame.data_symbols, frame_code(frame).k), np.uint8)
    noise = rng.random(count).astype(np.float32)
    return em.Recording(frame, iq, bits if draw(st.booleans()) else None,
                        noise if draw(st.booleans()) else None)


def same(found: em.Recording, wanted: em.Recording) -> None:
    assert (found.frame, found.scale) == (wanted.frame, wanted.scale)
    for name in ("iq", "bits", "noise"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@FEW
@given(kept=recordings(), packed=st.booleans())
def test_a_recording_comes_back_as_it_was(kept, packed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        em.write_recording(path, kept)
        if packed:
            with np.load(path) as arrays:
                np.savez_compressed(path, **dict(arrays))
        assert em.recorded_format(path) == kept.frame
        same(em.read_recording(path), kept)
        same(em.read_recording(path, kept.frame), kept)
        assert [p.name for p in Path(folder).iterdir()] == ["a.npz"]


@FEW
@given(kept=recordings(), factor=st.sampled_from([2.0**-30, 1 / 128, 1.0, 2.0**30]),
       one=st.booleans())
def test_complex_captures_come_back_as_bytes(kept, factor, one):
    iq = np.maximum(kept.iq[:1] if one else kept.iq, -127)
    z = (iq.astype(np.float32) * np.float32(factor)).view(np.complex64)[..., 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        np.savez(path, iq=z[0] if one else z)
        found = em.read_recording(path, kept.frame, 1 / factor)
        np.testing.assert_array_equal(found.iq, iq)
        usual = em.read_recording(path, kept.frame)
        rms = np.sqrt(np.mean(np.square(iq, dtype=float)))
        np.testing.assert_allclose(usual.scale, 30 / rms / factor, rtol=1e-5)


@settings(FEW, max_examples=150)
@given(data=st.data())
def test_a_damaged_recording_is_read_or_refused_by_name(data, shelf):
    whole = (shelf / "noise.npz").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "head"]))
    if how == "cut": content = whole[:at]
    elif how == "head": content = whole[: at % 300] + data.draw(st.binary(min_size=1, max_size=9))
    else: content = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))])
    content += whole[len(content):] if how != "cut" else b""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.npz"
        path.write_bytes(content)
        try:
            found = em.read_recording(path)
        except ValueError as refused:
            assert str(refused).startswith(f"{path}: ")
        else:
            assert found.iq.dtype == np.int8 and found.iq.shape[1:] == (3, 4, 128, 2)


def test_a_recording_that_packs_a_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {
        "descr": "|i1", "fortran_order": False, "shape": (2**20, 3, 4, 128, 2)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("iq.npy", head.getvalue() + bytes(10**6))
    with pytest.raises(ValueError, match="bomb.npz: iq.npy declares"):
        em.read_recording(path, FRAME)


def test_a_recording_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    kept = em.Recording(FRAME, np.zeros((1, 3, 4, 128, 2), np.int8))
    path = tmp_path / "a.npz"
    em.write_recording(path, kept)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="a.npz was not written"):
        em.write_recording(path, kept)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_frame_format_of_a_file_is_one_of_the_library():
    assert em.FORMAT_FIELDS == tuple(asdict(FrameFormat()))
