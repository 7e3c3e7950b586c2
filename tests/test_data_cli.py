"""`mimo-jax data`: what people and programs see, and exit codes."""
import json
import pickle

import numpy as np
import pytest
import scipy.io
from typer.testing import CliRunner

from mimo_jax.data import sets
from mimo_jax.cli.data import app
from mimo_jax.units import format_bytes


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `mimo-jax data ...` with an empty home and gives the result; errors of the core come
    through as they are."""
    monkeypatch.setenv("MIMO_JAX_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, words, catch_exceptions=False)


def write_images(folder):
    folder.mkdir(parents=True)
    record = {
        b"data": np.zeros((4, 3072), np.uint8),
        b"fine_labels": [0] * 4,
        b"coarse_labels": [0] * 4,
    }
    for split in ("train", "test"):
        (folder / split).write_bytes(pickle.dumps(record, 2))
    (folder / "meta").write_bytes(
        pickle.dumps({b"fine_label_names": [b"x"], b"coarse_label_names": [b"y"]}, 2)
    )


def test_list_shows_every_set(command, tmp_path):
    people, program = command("list"), json.loads(command("list", "--json").stdout)
    assert [s["name"] for s in program["sets"]] == list(sets.SETS) and program["home"] == str(
        tmp_path / "home"
    )
    for known in program["sets"]:
        assert (
            set(known) == {"name", "state", "path", "n_bytes", "terms", "how"}
            and known["name"] in people.stdout
        )
    write_images(tmp_path / "home" / "cifar-100-python")
    row = next(line for line in command("list").stdout.splitlines() if line.startswith("cifar100"))
    assert (
        "present" in row
        and format_bytes(
            float(sum(f.stat().st_size for f in (tmp_path / "home").rglob("*") if f.is_file()))
        )
        in row
    )


def test_path_prints_a_folder_or_how_to_get_it(command, tmp_path):
    assert command("path").stdout.strip() == str(tmp_path / "home")
    with pytest.raises(FileNotFoundError, match="mimo-jax data fetch cifar100"):
        command("path", "cifar100")
    write_images(tmp_path / "home" / "cifar-100-python")
    assert json.loads(command("path", "cifar100", "--json").stdout) == {
        "name": "cifar100",
        "path": str(tmp_path / "home" / "cifar-100-python"),
    }


def test_verify_fails_when_anything_is_wrong(command, tmp_path):
    write_images(tmp_path / "home" / "cifar-100-python")
    good = command("verify", "cifar100", "--json")
    assert (
        good.exit_code == 0
        and json.loads(good.stdout)["good"]
        and json.loads(good.stdout)["parts"][1]["samples"] == 4
    )
    (tmp_path / "home" / "cifar-100-python" / "test").write_bytes(b"\x80\x02}.")
    bad = command("verify", "cifar100", "--json")
    assert (
        bad.exit_code == 1
        and not json.loads(bad.stdout)["good"]
        and "no entry 'data'" in json.loads(bad.stdout)["parts"][1]["problem"]
    )
    assert command("verify", "cifar100").exit_code == 1


def test_bad_input_is_one_clear_error(command):
    with pytest.raises(ValueError, match="no data set 'imagenet'; known are digits"):
        command("fetch", "imagenet")
    with pytest.raises(ValueError, match="csinet-indoor cannot be fetched"):
        command("fetch", "csinet-indoor")
    assert (
        command("fetch").exit_code == 2 and command("generate", "--samples", "many").exit_code == 2
    )


def test_fetch_of_a_set_that_is_here_needs_no_network(command, tmp_path):
    write_images(tmp_path / "home" / "cifar-100-python")
    assert json.loads(command("fetch", "cifar100", "--json").stdout)["path"].endswith(
        "cifar-100-python"
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    "A folder of 30 channels made by `mimo-jax data generate`, and what the command said."
    folder = tmp_path_factory.mktemp("home") / "cost2100"
    result = CliRunner().invoke(
        app,
        ["generate", "--samples", "30", "--seed", "3", "--out", str(folder), "--json"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    return folder, json.loads(result.stdout)


def test_generated_files_are_the_official_ones(generated, monkeypatch):
    folder, manifest = generated
    monkeypatch.setenv("MIMO_JAX_DATA", str(folder.parent))
    assert (manifest["scenario"], manifest["seed"], manifest["splits"]) == (
        "indoor",
        3,
        {"train": 20, "val": 6, "test": 4},
    )
    assert manifest == json.loads((folder / "manifest_in.json").read_text()) and {
        "jax",
        "numpy",
        "mimo_jax",
    } <= set(manifest["versions"])
    for split, n in manifest["splits"].items():
        HT = scipy.io.loadmat(folder / f"DATA_H{split}in.mat")["HT"]
        assert HT.shape == (n, 2048) and HT.dtype == np.float32
        np.testing.assert_array_equal(sets.csi("indoor", split), HT.reshape(n, 2, 32, 32))
        np.testing.assert_allclose(
            np.hypot(*(HT - 0.5).reshape(n, 2, -1).transpose(1, 0, 2)).max(1), 0.5, rtol=1e-5
        )
    assert sets.csi_frequency("indoor").shape == (4, 32, 125)
    assert (
        sets.status("csinet-indoor").state == "present"
        and "generated, indoor, seed 3" in sets.status("csinet-indoor").terms
    )


def test_a_changed_byte_of_a_generated_file_is_found(generated, monkeypatch):
    folder, manifest = generated
    monkeypatch.setenv("MIMO_JAX_DATA", str(folder.parent))
    assert len(manifest["sha256"]) == 7 and not any(
        row.problem for row in sets.verify("csinet-indoor")
    )
    whole = (folder / "DATA_Hvalin.mat").read_bytes()
    (folder / "DATA_Hvalin.mat").write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    assert [row.part for row in sets.verify("csinet-indoor") if row.problem][
        -1
    ] == "DATA_Hvalin.mat"
    (folder / "DATA_Hvalin.mat").write_bytes(whole)


def test_generate_repeats_itself_and_overwrites_nobody(generated, command, tmp_path):
    folder, manifest = generated
    assert (
        json.loads(
            command(
                "generate", "--samples", "30", "--seed", "3", "--out", str(folder), "--json"
            ).stdout
        )
        == manifest
    )
    with pytest.raises(ValueError, match="another set"):
        command("generate", "--samples", "30", "--seed", "4", "--out", str(folder))
    assert command("generate", "--scenario", "cellar").exit_code == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "DATA_Htrainin.mat").write_text("the authors' own")
    with pytest.raises(
        ValueError, match="DATA_Htrainin.mat, which was not generated: choose another folder"
    ):
        command("generate", "--samples", "30", "--out", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "DATA_Htrainin.mat").read_text() == "the authors' own"
