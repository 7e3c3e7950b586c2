"""CsiNet on this processor: a training step against PyTorch's, and LiteRT files against jitted
JAX, side by side in one run; prints one JSON object.

    python bench/csinet.py [--peer /path/to/python] [--batch 200] [--epochs 5] [--output FILE]

`--peer` is a Python that has torch; by default this one, and what it lacks is left out. Sides run
in processes of their own, bound to one core, in turns, on the same sizes: CsiNet at 1/4, Adam,
mean square error, batch norm of the batch, epochs of shuffled images. ONNX Runtime is timed where
this Python has onnx and onnxruntime.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
              "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


EPOCH = 5  # steps


def ours(batch):
    "A function that trains for one epoch."
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from mimo_jax.csi.csinet import CsiArchitecture, CsiNet
    from mimo_jax.csi.training import squared_error
    from mimo_jax.training import Training, advance, begin, shuffled

    model, plan = CsiNet(CsiArchitecture(), rngs=nnx.Rngs(0)), Training(batch=batch)
    adam = optax.adam(1e-3)
    graph, state = begin(model, plan, adam)
    images = jax.random.uniform(jax.random.key(0), (EPOCH * batch, 32, 32, 2))

    def epoch():
        nonlocal state
        draws = shuffled(jax.random.key(1), images, plan, 1)
        state, loss = advance(graph, adam, plan, squared_error, state, images, draws)
        return float(jnp.sum(loss))

    return epoch


def theirs(batch):
    "The same in PyTorch."
    import torch
    from torch import nn

    torch.set_num_threads(1)

    def block():
        widths, layers = [2, 8, 16, 2], []
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [nn.Conv2d(a, b, 3, padding=1),
                       nn.BatchNorm2d(b)] + ([nn.LeakyReLU(0.3)] if i < 2 else [])
        return nn.Sequential(*layers)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2),
                                       nn.LeakyReLU(0.3))
            self.compress, self.expand = nn.Linear(2048, 512), nn.Linear(512, 2048)
            self.refine, self.last = nn.ModuleList([block(),
                                                    block()]), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            y = self.expand(self.compress(self.first(x).flatten(1))).view(x.shape)
            for refine in self.refine:
                y = nn.functional.leaky_relu(y + refine(y), 0.3)
            return torch.sigmoid(self.last(y))

    net, images = Net(), torch.rand(EPOCH * batch, 2, 32, 32)
    adam = torch.optim.Adam(net.parameters(), 1e-3)

    def epoch():
        for chosen in torch.randperm(len(images)).split(batch):
            adam.zero_grad()
            some = images[chosen]
            loss = nn.functional.mse_loss(net(some), some)
            loss.backward()
            adam.step()
        return float(loss.detach())

    return epoch


SIDES = {"mimo_jax": ours, "pytorch": theirs}


def side(name, batch, epochs):
    "One side's milliseconds of CPU per image, as one JSON object."
    if hasattr(os, "sched_setaffinity"):
        # one core: pools that spin would count their waiting as work
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    epoch = SIDES[name](batch)
    epoch()
    times = []
    for _ in range(epochs):
        start = time.process_time()
        epoch()
        times.append(1e3 * (time.process_time() - start) / (EPOCH * batch))
    print(json.dumps({"cpu_ms_per_image": round(statistics.median(times), 4)}))


def in_turns(batch, epochs, peer, rounds=3):
    """Each side in processes of its own, one after the other, median over the rounds; a side
    that cannot run says why."""
    found = {name: [] for name in SIDES}
    for name in rounds * list(SIDES):
        command = [peer if name == "pytorch" else sys.executable, __file__, "--side", name,
                   "--batch", str(batch), "--epochs", str(epochs)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
        found[name].append(None if done.returncode
                           else json.loads(done.stdout.strip().splitlines()[-1])[
                               "cpu_ms_per_image"])
        if done.returncode:
            print(f"{name} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return {name: statistics.median(times) for name, times in found.items() if None not in times}


def onnx_file(model):
    "CsiNet as an ONNX file; images as ours come in and go out."
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []

    def constant(value, kind=np.float32):
        weights.append(numpy_helper.from_array(np.asarray(value, kind), f"w{len(weights)}"))
        return weights[-1].name

    def op(name, *inputs, **attributes):
        nodes.append(helper.make_node(name, inputs, [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def conv(x, layer):
        return op("Conv", x, constant(np.transpose(layer.kernel[...], (3, 2, 0, 1))),
                  constant(layer.bias[...]), pads=[1, 1, 1, 1])

    def normal(x, n):
        return op("BatchNormalization", x,
                  *(constant(v[...]) for v in (n.scale, n.bias, n.mean, n.var)), epsilon=n.epsilon)

    def dense(x, layer):
        return op("Gemm", x, constant(layer.kernel[...]), constant(layer.bias[...]))

    def leaky(x):
        return op("LeakyRelu", x, alpha=0.3)

    def refine(x, block):
        y = leaky(normal(conv(x, block.convs[0]), block.norms[0]))
        y = leaky(normal(conv(y, block.convs[1]), block.norms[1]))
        return leaky(op("Add", x, normal(conv(y, block.convs[2]), block.norms[2])))

    x = leaky(normal(conv(op("Transpose", "images", perm=[0, 3, 1, 2]), model.first),
                     model.first_norm))
    x = op("Reshape", op("Transpose", x, perm=[0, 2, 3, 1]), constant([1, -1], np.int64))
    x = op("Reshape", dense(dense(x, model.compress), model.expand),
           constant([1, 32, 32, 2], np.int64))
    x = op("Transpose", x, perm=[0, 3, 1, 2])
    for block in model.refine:
        x = refine(x, block)
    last = op("Transpose", op("Sigmoid", conv(x, model.last)), perm=[0, 2, 3, 1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32, 32, 2])
            for name in ("images", last)]
    graph = helper.make_graph(nodes, "csinet", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)],
                             ir_version=10).SerializeToString()


def inference():
    """Microseconds (p10) of one image through the whole network, caches hot and cold, by runtime
    and file."""
    import jax
    import numpy as np
    from flax import nnx

    from mimo_jax.csi import deployment as d
    from mimo_jax.csi.csinet import CsiArchitecture, CsiNet

    model = CsiNet(CsiArchitecture(), rngs=nnx.Rngs(0))
    model.eval()
    file, x = d.export_network(model), np.random.default_rng(0).uniform(0.3, 0.7, (
        1, 32, 32, 2)).astype(np.float32)
    jitted = jax.jit(model)
    calls = {f"LiteRT {p}": d.invoke(d.quantize_file(file, p))
             for p in d.PRECISIONS} | {"jitted JAX": lambda: jitted(x).block_until_ready()}
    absent = {}
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as missing:
        absent = {"ONNX Runtime float32": f"absent: {missing}; pip install 'mimo_jax[peers]'"}
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx_file(model), options,
                                               providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"images": x})[0], jitted(x), atol=1e-5)
        calls["ONNX Runtime float32"] = lambda: session.run(None, {"images": x})
    times = {name: {"hot": d.latency(call).p10_us, "cold": d.latency(call, 60, cold_mib=96).p10_us}
             for name, call in calls.items()}
    return times | absent


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "inference":
        return print(json.dumps(inference()))
    if arguments.side:
        return side(arguments.side, arguments.batch, arguments.epochs)
    from mimo_jax.experiment import provenance
    from mimo_jax.files import write_whole

    training = in_turns(arguments.batch, arguments.epochs, arguments.peer)
    ratios = {f"{name} / mimo_jax": round(ms / training["mimo_jax"], 2) for name,
              ms in training.items()}
    report = provenance() | {"date": f"{datetime.date.today()}", "batch": arguments.batch,
                             "cpu_ms_per_image": training, "ratios": ratios}
    command = [sys.executable, __file__, "--side", "inference"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD,
                          check=True)
    text = json.dumps(report | {"inference_us": json.loads(done.stdout.strip().splitlines()[-1])},
                      indent=1)
    if arguments.output:
        write_whole(arguments.output, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
