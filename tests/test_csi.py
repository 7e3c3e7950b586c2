"""Chapter 2's files, formats and properties; what it computes is on its pages."""
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mimo_jax import checkpoint
from mimo_jax.cli import csi
from mimo_jax.csi import checkpoints, clustering, deployment, pruning, quantization, training
from mimo_jax.csi.answers import GRID, METHODS, PACKED, SWEPT, TABLES, answers
from mimo_jax.csi.csinet import RATIOS, CsiArchitecture, CsiNet
from mimo_jax.csi.families import FAMILIES, network
from mimo_jax.ledger import AGREES, NOT_RUN, claims, verdict
from mimo_jax.training import Training


@pytest.fixture(scope="module")
def images():
    return 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (16, 8, 8, 2))


def small(family="csinet", seed=0, code=16):
    model = network(family, CsiArchitecture(code, angles=8, delays=8), nnx.Rngs(seed))
    model.eval()
    return model


@given(sparsity=st.floats(0, 0.97), shape=st.sampled_from(pruning.SHAPES), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_masks_drop_what_they_were_told(sparsity, shape, seed):
    kept = np.asarray(pruning.mask(jax.random.normal(jax.random.key(seed), (64, 256)), sparsity,
                                   shape))
    unit = {"unstructured": 64 * 256, "blocks": 64 * 64, "n_of_32": 32, "grouped": 64}[shape]
    assert abs(kept.mean() - (1 - sparsity)) <= 0.5 / unit + 1e-9


def test_zero_weights_tie_without_harm():
    assert float(pruning.mask(jnp.zeros((64, 64)), 0.5).mean()) == 0.5


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_activations_keep_zero_and_stay_within_half_a_step(seed, scale):
    x = scale * jax.random.normal(jax.random.key(seed), (3, 50)).at[:, 0].set(0.0)
    rounded = quantization.int8_activations(x)
    step = (jnp.max(x, 1, keepdims=True) - jnp.min(x, 1, keepdims=True)) / 255
    assert float(jnp.max(jnp.abs(rounded[:, 0]))) == 0
    # 0.5 steps of rounding, and 0.5 more for the rounded zero point
    assert bool(jnp.all(jnp.abs(rounded - x) <= 1.01 * step))


@given(code=st.integers(2, 40), family=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_a_rotated_codeword_changes_nothing(code, family, seed):
    model, some = small(family, seed,
                        code), 0.5 + 0.1 * jax.random.normal(jax.random.key(seed), (4, 8, 8, 2))
    rotated = clustering.rotate_codeword(model)
    np.testing.assert_allclose(rotated(some), model(some), atol=2e-6)
    np.testing.assert_allclose(jnp.linalg.norm(rotated.encode(some)),
                               jnp.linalg.norm(model.encode(some)), rtol=1e-5)


def test_gathered_codewords_are_not_rotated(images):
    model = small(code=128)
    model.compress.kernel[...] = model.compress.kernel[...] * pruning.mask(model.compress.kernel[
        ...], 0.5, "grouped")
    model.compress = pruning.to_grouped(model.compress)
    assert not clustering.can_rotate(model)
    with pytest.raises(ValueError, match="gather"):
        clustering.rotate_codeword(model)


def test_gptq_rounds_to_levels_and_better_than_each_weight_alone(images):
    rngs = np.random.default_rng(0)
    basis = rngs.standard_normal((128, 12)).astype(np.float32)
    mixed = rngs.standard_normal((400, 12)).astype(np.float32) @ basis.T  # correlated inputs
    some = 0.5 + 0.05 * jnp.asarray(mixed).reshape(-1, 8, 8, 2)
    model = small()
    fed, alone = quantization.gptq_round(model, some), nnx.clone(model)
    alone.compress.kernel[...] = quantization.int8_weights(alone.compress.kernel[...])
    kernel = fed.compress.kernel[...]
    np.testing.assert_allclose(quantization.int8_weights(kernel), kernel, atol=1e-7)
    spread = [float(jnp.std(m.encode(some) - model.encode(some), 0).mean()) for m in (fed, alone)]
    assert spread[0] < 0.5 * spread[1]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_preparing_for_int8_keeps_zeros_and_shared_values(images, share):
    model = small()
    for name in pruning.PRUNED:
        layer = getattr(model, name)
        layer.kernel[...] = layer.kernel[...] * pruning.mask(layer.kernel[...], share)
    if not share:
        model, _ = clustering.cluster_weights(model, 8)
    prepared = quantization.prepare_int8(model, images)
    for name in pruning.PRUNED:
        before, after = (np.asarray(getattr(m, name).kernel[...]) for m in (model, prepared))
        assert (after[before == 0] == 0).all() if share else len(np.unique(after)) <= 8
    assert quantization.prepare_int8(prepared, images) is prepared


@pytest.mark.skipif(not deployment.deployable(),
                    reason="needs the extra 'convert': pip install 'mimo_jax[convert]'")
@pytest.mark.parametrize("precision", ["int8_dense", "int8_large", "int8"])
def test_a_file_computes_as_its_fake_quantization(images, precision):
    fake = quantization.at_precision(small(), precision, images)
    plain = quantization.remove_fake_quantization(fake)
    file = deployment.quantize_file(deployment.export_network(plain), precision)
    found, said, exact = deployment.Runner(file)(np.asarray(images)), fake(images), plain(images)
    assert float(jnp.std(found - said)) < 0.25 * float(jnp.std(said - exact)) + 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_survives_its_file(family, tmp_path, images):
    model = small(family, seed=3)
    checkpoints.save_network(tmp_path / "n.safetensors", model, [{"command": "train"}])
    again, history = checkpoints.load_network(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(again(images), model(images))
    assert history == [{"command": "train"}] and type(again) is type(model)


def test_grouped_layers_survive_too(tmp_path, images):
    model = pruning.start_banded(small(), images, 4)
    checkpoints.save_network(tmp_path / "n.safetensors", model)
    again, _ = checkpoints.load_network(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(again(images), model(images))


@pytest.mark.parametrize("damage", [
    lambda b: b[:1000], lambda b: b"x" * 8 + b[8:], lambda b: b"", lambda b: b[
        :-200], lambda b: b + b"0",
])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "n.safetensors"
    checkpoints.save_network(path, small())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="n.safetensors"):
        checkpoints.load_network(path)


def test_a_foreign_zip_of_arrays_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="a.npz is no checkpoint"):
        checkpoints.load_network(tmp_path / "a.npz")


class _Marked:
    "A storage that torch would keep outside its pickle."

    def __init__(self, array, key, kind):
        self.array, self.key, self.kind = array, key, kind


def torch_file(path, tensors):
    "What torch.save writes for a dictionary of tensors, without torch."
    module, storage = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def rebuild(*arguments): ...

    rebuild.__module__ = "torch._utils"
    rebuild.__qualname__ = rebuild.__name__ = "_rebuild_tensor_v2"
    module._rebuild_tensor_v2 = rebuild
    storage.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    class Tensor:
        def __init__(self, marked): self.marked = marked

        def __reduce__(self):
            a = self.marked.array
            return rebuild, (self.marked, 0, a.shape, tuple(s // 4 for s in a.strides), False,
                             OrderedDict())

    class Writer(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", storage.FloatStorage, obj.key, "cpu",
                    obj.array.size) if isinstance(obj, _Marked) else None

    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": storage, "torch._utils": module}
    try:
        marked = {name: _Marked(np.ascontiguousarray(a, np.float32), str(i), None) for i,
                  (name, a) in enumerate(tensors.items())}
        out = io.BytesIO()
        Writer(out, 2).dump({"state_dict": OrderedDict((n, Tensor(m)) for n, m in marked.items()),
                             "epoch": 3})
    finally:
        for name, old in saved.items():
            sys.modules.pop(name) if old is None else sys.modules.update({name: old})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", out.getvalue())
        for m in marked.values():
            archive.writestr(f"x/data/{m.key}", m.array.tobytes())


@pytest.mark.parametrize("family", ["crnet", "clnet"])
def test_torch_checkpoints_load_without_torch(family, tmp_path):
    model, tensors = network(family, CsiArchitecture(32), nnx.Rngs(5)), {}
    model(jax.random.uniform(jax.random.key(1), (4, 32, 32, 2)))  # moves the running moments
    model.eval()
    # parts first, as PyTorch flattens
    back = np.arange(2048).reshape(32, 32, 2).transpose(2, 0, 1).ravel()
    for i, layer in enumerate(model.layers()):
        if isinstance(layer, nnx.BatchNorm):
            fields = zip(("weight", "bias", "running_mean", "running_var"), checkpoints.NORM,
                         strict=True)
            tensors |= {f"{i}.{theirs}": np.asarray(getattr(layer, ours)[...]) for theirs,
                        ours in fields}
            continue
        kernel = np.asarray(layer.kernel[...])
        if layer is model.compress:
            kernel = kernel[back]
        if layer is model.expand:
            kernel = kernel[:, back]
        tensors[f"{i}.weight"] = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        if layer.bias is not None:
            bias = np.asarray(layer.bias[...])
            tensors[f"{i}.bias"] = bias[back] if layer is model.expand else bias
    torch_file(tmp_path / "n.pth", tensors)
    loaded, x = checkpoints.load_torch(family,
                                       tmp_path / "n.pth"), jax.random.uniform(jax.random.key(2), (
                                           2, 32, 32, 2))
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)
    with pytest.raises(ValueError, match="n.pth has"):
        checkpoints.load_torch("clnet" if family == "crnet" else "crnet", tmp_path / "n.pth")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_files_say_what_networks_say(family, precision, images):
    pytest.importorskip("litert_converter"), pytest.importorskip("ai_edge_quantizer")
    file = deployment.checked_file(small(family), precision, images)
    assert deployment.Runner(file)(np.asarray(images)).shape == images.shape


def test_a_file_that_lies_is_refused(images):
    pytest.importorskip("litert_converter")
    file = deployment.export_network(small(seed=1))
    with pytest.raises(RuntimeError, match="lie.tflite gives other numbers"):
        deployment.check_file(file, images, small(seed=2)(images), source="lie.tflite")


def test_a_cut_file_is_refused():
    pytest.importorskip("litert_converter")
    file = deployment.export_network(small())
    with pytest.raises((RuntimeError, ValueError), match="cut.tflite"):
        deployment.Runner(file[: len(file) // 8], source="cut.tflite")


def test_a_missing_engine_says_how_to_get_it():
    with pytest.raises(ImportError, match="mimo_jax\\[convert\\]"):
        deployment._engine("litert_converter_that_is_not", "convert")


@pytest.mark.parametrize("arguments, said", [
    (["train", "--out", "x.npz", "--ratio", "1/5"],
     "1/5"), (["train", "--out", "x.npz", "--family", "crnet"], "random"),
    (["compress", "no.npz", "y.npz"], "no.npz"), (["export", "no.npz", "y.tflite"],
                                                  "no.npz"), (["bench", "no.tflite"], "no.tflite"),
    (["evaluate", "no.npz"], "no.npz"), (["compress", "no.npz", "y.npz", "--method", "magic"],
                                         "magic"),
    (["train", "--out", "x.npz", "--environment", "moon"], "moon"),
])
def test_bad_input_is_refused_by_name(arguments, said):
    few = [] if arguments[0] == "bench" else ["--samples", "16"]
    result = CliRunner().invoke(csi.app, [*arguments, *few])
    assert isinstance(result.exception, (ValueError, FileNotFoundError, SystemExit))
    assert result.exit_code and said in str(result.exception) + result.output


def test_training_in_half_the_bytes_learns_as_well(images):
    plan, key = Training(epochs=3, batch=4, learning_rate=3e-3), jax.random.key(0)
    single, half = (
        training.train_network(small(), plan, images, images, key, bfloat16=b).scores
        for b in (False, True)
    )
    assert half[-1] < half[0]
    assert abs(single[-1] - half[-1]) < 2  # dB; 12 updates of noise, 8 bits of mantissa


def test_patience_stops(images):
    plan = Training(epochs=50, batch=16, learning_rate=1e-9, frozen_norms=True, patience=2)
    found = training.train_network(small(), plan, images, images, jax.random.key(0))
    assert len(found.scores) < 50


def test_per_delay_norms_count_as_the_original():
    model = CsiNet(CsiArchitecture(norm="delay"), rngs=nnx.Rngs(0))
    norms = [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)]
    assert len(norms) == 7 and all(n.mean.shape == (32,) for n in norms)


ROWS = {claim.id: claim for claim in claims("csi")}
NEEDS_OUTDOOR = "official outdoor set"


def printed_cell(ratio, model, environment, scatter):
    "An entry with the paper's printed values, which scatter over blocks of images and rounds."
    table = next(t for t, models in TABLES.items() if model in models)

    def cell(quantity):
        return float(ROWS[f"csi.table{table}.r{ratio[2:]}.{model}.{quantity}"].paper_value)

    error, rho = cell(f"{environment}_nmse"), cell(f"{environment}_rho")
    return printed_entry(error, rho, cell("size"), cell("time"), scatter)


def printed_entry(error, rho, size, time, scatter):
    random = np.random.default_rng(int(1e6 * size * scatter))
    blocks, rounds = (np.exp(scatter * random.normal(size=n)) for n in (20, 5))
    return {"nmse_blocks": list(10 ** (error / 10) * blocks), "rho_blocks": list(rho * blocks),
            "raw_mib": size, "gzip_mib": size, "p10_us": list(time * rounds)}


def printed_run(environments=("indoor",), scatter=0.0):
    "What a run of the paper's own models would store; fig. 2 as its text describes it."
    run = {}
    for environment in environments:
        for ratio in RATIOS:
            point = {"stored": None}
            for model in ("original", "quantized", *PACKED):
                for method in METHODS:
                    entry = printed_cell(ratio, model, environment, scatter)
                    point[model + method] = entry
            run[f"{environment}/{ratio}"] = point
    for percent in GRID:
        error = -17.36 + {70: 2, 80: 4, 90: 9}.get(percent, 0)
        shrunk, sooner = 1 - percent / 200, 1 - percent / 2000
        run[f"sweep/{percent}"] = {
            level: printed_entry(error, 0.9, 8 * shrunk / 2**i, 100 * sooner * (0.8, 1)[i < 2],
                                 scatter) for i, level in enumerate(SWEPT)}
        run[f"sweep/{percent}"]["reference"] = printed_entry(0, 0, 1, 100, scatter)
    return run


def test_the_papers_tables_agree_with_its_own_text():
    answered = answers(printed_run(("indoor", "outdoor")))
    judged = {name: verdict(ROWS[name], answer) for name, answer in answered.items()}
    missed = {name: answered[name] for name, found in judged.items() if found != AGREES}
    # a limit that the paper's largest change defines is met to the last binary digit
    assert all(abs(answer.value) < 1e-9 for answer in missed.values()), missed
    assert len(missed) < 10


@pytest.mark.parametrize("environments", [("indoor",), ("indoor", "outdoor")])
def test_every_testable_row_is_answered_with_an_interval(environments):
    answered = answers(printed_run(environments, scatter=0.01))
    outdoor = "outdoor" in environments
    expected = {name for name, claim in ROWS.items() if not claim.untestable
                or outdoor and NEEDS_OUTDOOR in claim.untestable}
    assert set(answered) == expected
    for name, answer in answered.items():
        assert ROWS[name].kind == "formula" or None not in answer[:3], name
        assert answer.low <= answer.value <= answer.high, name
    wide = [name for name, answer in answered.items() if answer.low < answer.high]
    assert all(".size" in name or ".times." in name or "fig2" in name for name in
               answered.keys() - set(wide))


def test_a_missing_point_takes_only_its_own_answers_away():
    run = printed_run(("indoor", "outdoor"), scatter=0.01)
    whole = answers(run)
    for name in run:
        fewer = answers({other: point for other, point in run.items() if other != name})
        assert fewer.keys() < whole.keys()
        assert all(fewer[claim] == whole[claim] for claim in fewer)
    assert answers({}) == {}


def test_a_run_without_files_or_rounds_says_so():
    for lost in ({"raw_mib": None, "gzip_mib": None, "p10_us": None}, {"p10_us": [1.0]}):
        run = {name: {model: entry and entry | lost for model, entry in point.items()}
               for name, point in printed_run(scatter=0.01).items()}
        answered = answers(run)
        unknown = {name for name, answer in answered.items() if answer.value is None}
        assert {verdict(ROWS[name], answered[name]) for name in unknown} == {NOT_RUN}
        assert all("convert" in answered[name].reason for name in unknown)
        assert any("time" in name for name in unknown)
        assert not any("nmse" in name or "rho" in name for name in unknown)


def test_no_row_of_the_paper_flatters():
    "Bounds only where the paper has them (nowhere), and outdoors nothing that was calibrated."
    assert {claim.relation for claim in ROWS.values()} == {"equals", "holds"}
    assert all(NEEDS_OUTDOOR in claim.untestable for claim in ROWS.values()
               if "outdoor" in claim.id)
    ours = {name for name in ROWS if name.replace(".quantized", ".quantized_plain") in ROWS}
    assert all("rounding to nearest" in ROWS[name].stand_in for name in ours
               if ".r4.quantized." in name)


def keras_file(path, kernel):
    "A Keras file of one dense layer; `kernel` makes its dataset in a group."
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        layer = file.create_group("dense")
        layer.attrs["weight_names"] = [b"kernel:0"]
        kernel(layer)


def test_what_a_keras_file_only_declares_is_not_allocated(tmp_path):
    import h5py

    def declared(layer):
        layer.create_dataset("kernel:0", (2048, 10**9), "f4", chunks=(256, 256))

    def external(layer):
        layer.create_dataset("kernel:0", (4, 4), "f4",
                             external=[(str(tmp_path / "other.bin"), 0, 64)])

    def linked(layer):
        layer["kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")

    (tmp_path / "other.bin").write_bytes(bytes(64))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.zeros((4, 4), np.float32)
    for kernel, said in ((declared, "declares"), (external, "not stored"), (linked, "not stored")):
        keras_file(tmp_path / "weights.h5", kernel)
        with pytest.raises(ValueError, match=f"weights.h5 is not a file of Keras.*{said}"):
            checkpoints.load_keras(tmp_path / "weights.h5")


def test_what_a_checkpoint_only_declares_is_not_allocated(tmp_path):
    path = tmp_path / "net.safetensors"
    checkpoints.save_network(path, small())
    facts, arrays = checkpoint.read(path)
    huge = facts["architecture"] | {"codeword": 10**12}
    checkpoint.save(path, arrays, facts | {"architecture": huge})
    with pytest.raises(ValueError, match="net.safetensors"):
        checkpoints.load_network(path)
