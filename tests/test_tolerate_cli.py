"""`mimo-jax tolerate`: a module of the user's own, profiles in a file, and errors of one line."""

import json
import sys

import numpy as np
import pytest

from mimo_jax.cli import main as cli

MODULE = '''
from flax import nnx


class Pair(nnx.Module):
    def __init__(self):
        self.front = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
        self.back = nnx.Linear(8, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.back(nnx.relu(self.front(x)))


def network():
    return Pair()


def nothing():
    return 7
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A folder with a module and images, labeled as the module labels them."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owned.py").write_text(MODULE)
    sys.modules.pop("owned", None)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((100, 6)).astype(np.float32)
    monkeypatch.syspath_prepend(str(tmp_path))
    import owned  # type: ignore

    labels = np.asarray(owned.network()(images)).argmax(-1)
    np.savez("my.npz", images=images, labels=labels)
    np.savez("bare.npz", pictures=images)
    np.savez("odd.npz", images=images, labels=labels[:-1])
    np.savez("nan.npz", images=np.full_like(images, np.nan), labels=labels)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "my.npz").read_bytes()[:300])
    (tmp_path / "net.pth").write_bytes(b"not a network")
    return tmp_path


def ask(capsys, *words):
    code = cli._run(["tolerate", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


OWN = ("--model", "owned:network", "--data", "my.npz")


def test_a_users_own_module_is_profiled_and_kept(mine, capsys):
    code, out, error = ask(capsys, "profile", *OWN, "--layer", "front", "--rate", 0.5, "--rate", 1,
                           "--out", "profile.json", "--json")
    assert code == 0, error
    found = json.loads(out)["profiles"]["front"]["accuracies"]
    assert found[0] == 1.0 and found[0] > found[1] > found[2]
    kept = json.loads((mine / "profile.json").read_text())
    assert kept["profiles"]["front"]["accuracies"] == pytest.approx(found)


@pytest.mark.parametrize("words, said", [
    (("profile", *OWN, "--layer", "middle"), "the model has back, front"),
    (("transmit", "--layer", "conv9", "--images", 20), "choose from conv1, bn1"),
    (("transmit", *OWN, "--layer", "front", "--rate", 2), "less than or equal to 1"),
    (("compare", *OWN, "--layer", "front"), "must be a mimo_jax.tolerance.networks.Layered"),
    (("profile", "--model", "owned:nothing", "--data", "my.npz"), "returned int"),
    (("profile", "--model", "owned:absent", "--data", "my.npz"), "owned:absent"),
    (("profile", "--model", "nowhere:network", "--data", "my.npz"), "nowhere:network"),
    (("profile", "--model", "net.pth"), "net.pth"),
    (("profile", "--model", "absent.pth"), "absent.pth"),
    (("profile", "--data", "bare.npz"), "needs arrays named images and labels"),
    (("profile", "--data", "odd.npz"), "one integer for each of 100 images"),
    (("profile", "--data", "nan.npz"), "NaN or infinity"),
    (("profile", "--data", "damaged.npz"), "damaged.npz"),
    (("profile", "--data", "my.npz"), "at least 32 x 32"),
], ids=lambda value: "")
def test_bad_input_is_one_line_and_exit_code_2(mine, capsys, words, said):
    code, out, error = ask(capsys, *words)
    complaint = [line for line in error.splitlines() if line.startswith("mimo-jax:")]
    assert code == 2 and not out and said in error and len(complaint) == 1, error
    assert "Traceback" not in error
