"""COST 2100 channels and data sets: properties, the reference's channels, a killed writer."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat

import mimo_jax.propagation
from conftest import vectors
from mimo_jax.propagation.cost2100 import SCENARIOS, count_law, draw_channels, tile_of_channels
from mimo_jax.data.csi_sets import (
    MatFile, create_mat, generate, mat_header, split_sizes, write_rows,
)
from mimo_jax.propagation.angular_delay import (
    angle_profile, delay_profile, from_image, over_frequency, rho, strongest, to_image,
)
from mimo_jax.propagation.images import from_layout, to_layout
from mimo_jax.propagation.paths import Grid, Paths, angular_delay, angular_frequency, carrier_phase
from mimo_jax.units import db, nmse

STORED = np.load(Path(mimo_jax.propagation.__file__).with_name("cost2100_reference.npz"))


def gaussian(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def random_paths(seed, n=12, most_s=3e-6):
    rng = np.random.default_rng(seed)
    gain, delay, cosine = gaussian(rng, n), rng.uniform(0, most_s, n), rng.uniform(-1, 1, n)
    return Paths(jnp.asarray(gain), jnp.float32(delay), jnp.float32(cosine))


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 9), st.integers(2, 40), st.floats(0.1, 1.0), st.integers(0, 2**31))
def test_the_closed_form_is_the_transform(antennas, points, spacing, seed):
    grid, paths = Grid(antennas, points, points, 20e6, spacing), random_paths(seed)
    whole = np.asarray(angular_frequency(paths, points, grid))
    error = np.abs(np.fft.ifft(whole) - np.asarray(angular_delay(paths, grid))).max()
    assert error < 3e-4 * np.abs(paths.gain).sum() * np.sqrt(antennas)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([285e6, 3.5e9, 5.3e9, 28e9]))
def test_the_carrier_turns_as_in_double_precision(seed, carrier_hz):
    legs = np.random.default_rng(seed).uniform(0, 800, (3, 50)).astype(np.float32)
    exact = -2 * np.pi * (legs.astype(np.float64).sum(0) * carrier_hz / 3e8 % 1)
    found = np.asarray(carrier_phase(jnp.asarray(legs), carrier_hz), np.float64)
    assert np.abs(np.angle(np.exp(1j * (found - exact)))).max() < 3e-4  # 24 bits of a turn, 3 legs


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 2**31))
def test_layout_and_transform_are_undone(angles, delays, seed):
    rng = np.random.default_rng(seed)
    h = jnp.asarray(gaussian(rng, 3, angles, delays))
    x, scale = to_layout(h)
    assert 0 <= x.min() and x.max() <= 1
    np.testing.assert_allclose(from_layout(x, scale, angles), h, atol=2e-6 * np.abs(h).max())
    back = to_image(from_image(h, delays + 5), delays)
    np.testing.assert_allclose(back, h, atol=1e-5 * np.abs(h).max())  # float32


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_gives_finite_channels(name):
    scenario, keys = SCENARIOS[name], jax.random.split(jax.random.key(5), 100)
    law = count_law(scenario)
    h = np.asarray(tile_of_channels(keys, scenario, len(law) - 1))
    assert h.shape == (100, 32, 32) and np.isfinite(h).all()
    assert (np.abs(h).max((1, 2)) > 0).all()
    assert law[0] == 0 and abs(law.sum() - 1) < 1e-6


@pytest.mark.parametrize("name", ["indoor", "outdoor"])
def test_the_stored_statistics_are_met(name):
    n, n_reference = (4000, 3000) if name == "indoor" else (1500, 3500)
    h = jnp.asarray(draw_channels(jax.random.key(11), SCENARIOS[name], n))
    power = np.abs(np.asarray(h)) ** 2
    share = power / np.sum(power, (1, 2), keepdims=True)
    for axis, profile, each in (
        ("delay", delay_profile, share.sum(1)), ("angle", angle_profile, share.sum(2)),
    ):
        error = 100 * each.std(0) * np.sqrt(1 / n + 1 / n_reference) + 1e-3
        gap = np.abs(100 * np.asarray(profile(h)) - STORED[f"{name}/{axis}"])
        assert (gap / error).max() < 4.5  # 4.5 standard errors: 1 in 2,000 for 64 values
    found = strongest(h, (1, 4, 16, 64, 128))
    # 0.015: 4 standard errors of the share of the strongest pixel, the most variable of them
    np.testing.assert_allclose(found, STORED[f"{name}/strongest"], atol=0.015)


@pytest.mark.parametrize("env", ["in", "out"])
def test_a_channel_of_the_reference_implementation_reads_as_ours(env):
    "The image, back over frequency, is the channel; exchanged axes or a conjugate are not."
    reference = vectors("cost2100_channels")
    image = from_layout(jnp.asarray(reference[f"{env}_HT"], jnp.float32))
    real, imag = jnp.moveaxis(jnp.asarray(reference[f"{env}_HF"], jnp.float32), -1, 0)
    truth = jax.lax.complex(real, imag).reshape(-1, 32, 125)
    assert rho(image, truth) > 0.98  # the cut to 32 delays costs 0.3 % indoors, 2 % outdoors
    assert rho(image.swapaxes(1, 2), truth) < 0.9 and rho(image.conj(), truth) < 0.9


def test_a_perfect_estimate_scores_as_one():
    h = jnp.asarray(draw_channels(jax.random.key(1), SCENARIOS["indoor"], 50))
    np.testing.assert_allclose(rho(h, over_frequency(h)), 1, rtol=1e-5)
    np.testing.assert_allclose(db(nmse(h, 0.9 * h)), -20, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 9), st.booleans(),
    st.sampled_from(["HT", "scale", "HF_all", "a"]), st.integers(0, 2**31),
)
def test_matlab_files_are_read_by_scipy(tmp_path_factory, rows, columns, is_complex, key, seed):
    rng = np.random.default_rng(seed)
    values = gaussian(rng, rows, columns)
    values = values if is_complex else values.real
    file = MatFile(tmp_path_factory.mktemp("mat") / "x.mat", key, rows, columns, is_complex)
    create_mat(file)
    cut = rng.integers(0, rows + 1)
    write_rows(file, int(cut), values[cut:])
    write_rows(file, 0, values[:cut])
    np.testing.assert_array_equal(loadmat(file.path)[key], values)


def test_a_set_too_large_for_the_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="over the 2 GiB"):
        generate("indoor", 600_000, 0, tmp_path / "big")
    assert not (tmp_path / "big").exists()
    with pytest.raises(ValueError, match="2 GiB"):
        mat_header(MatFile(tmp_path / "x.mat", "HT", 2**18, 2048))


def test_killed_and_called_again_gives_the_same_set(tmp_path):
    folder = str(tmp_path / "killed")
    call = "from mimo_jax.data.csi_sets import generate;"
    call += f"generate('indoor', 750, 3, {folder!r}, chunk=50)"
    process = subprocess.Popen([sys.executable, "-c", call])  # compiles as this process does
    manifest = tmp_path / "killed" / "manifest_in.json"
    for _ in range(1200):
        if manifest.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not json.loads(manifest.read_text())["complete"]
    done = generate("indoor", 750, 3, tmp_path / "killed", chunk=300)
    generate("indoor", 750, 3, tmp_path / "whole", chunk=400)
    assert done["complete"] and done["done"] == split_sizes(750)
    assert not list((tmp_path / "killed").glob("*.part"))

    def array(path): return next(v for k, v in loadmat(path).items() if k[0] != "_")

    for path in sorted((tmp_path / "whole").glob("*.mat")):
        killed = array(tmp_path / "killed" / path.name)
        np.testing.assert_array_equal(array(path), killed, err_msg=path.name)
