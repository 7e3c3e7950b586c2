"""CsiNet on this processor: a training step against PyTorch's, and LiteRT files against jitted JAX, side by side in one run; prints one JSON object.

    python bench/csinet.py [--peer /path/to/python] [--batch 200] [--steps 5] [--output FILE]

`--peer` is a Python that has torch; by default this one, and what it lacks is left out. Sides run in processes of their own, with one thread, in
turns, on the same sizes: CsiNet at 1/4, Adam, mean square error, batch norm of the batch. ONNX Runtime is timed where this Python has jax2onnx
and onnxruntime.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


def ours(batch, native=False):
    "A function that makes one training step."
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from mimo_jax.csi.csinet import Architecture, CsiNet
    from mimo_jax.csi.training import State, Training, _epoch

    model, plan, adam = CsiNet(Architecture(), rngs=nnx.Rngs(0)), Training(batch=batch, frozen=False), optax.adam(1e-3)
    model.set_attributes(native=native, raise_if_not_found=False)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    images, key = jax.random.uniform(jax.random.key(0), (batch, 32, 32, 2)), jax.random.key(1)
    state = State(params, rest, adam.init(params), None)

    def step():
        nonlocal state
        state, loss = _epoch(graph, adam, plan, state, images, key)
        return float(jnp.sum(loss))

    return step


def theirs(batch):
    "The same step in PyTorch."
    import torch
    from torch import nn

    torch.set_num_threads(1)

    def block():
        widths, layers = [2, 8, 16, 2], []
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b)] + ([nn.LeakyReLU(0.3)] if i < 2 else [])
        return nn.Sequential(*layers)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.LeakyReLU(0.3))
            self.compress, self.expand = nn.Linear(2048, 512), nn.Linear(512, 2048)
            self.refine, self.last = nn.ModuleList([block(), block()]), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            y = self.expand(self.compress(self.first(x).flatten(1))).view(x.shape)
            for refine in self.refine:
                y = nn.functional.leaky_relu(y + refine(y), 0.3)
            return torch.sigmoid(self.last(y))

    net, images = Net(), torch.rand(batch, 2, 32, 32)
    adam = torch.optim.Adam(net.parameters(), 1e-3)

    def step():
        adam.zero_grad()
        loss = nn.functional.mse_loss(net(images), images)
        loss.backward()
        adam.step()
        return float(loss.detach())

    return step


SIDES = {"mimo_jax": ours, "mimo_jax, XLA's convolution": lambda batch: ours(batch, native=True), "pytorch": theirs}


def side(name, batch, steps):
    "One side's milliseconds of CPU per image, as one JSON object."
    step = SIDES[name](batch)
    step(), step()
    times = []
    for _ in range(steps):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start) / batch)
    print(json.dumps({"cpu_ms_per_image": round(statistics.median(times), 4)}))


def run_side(name, batch, steps, peer):
    "One side in a process of its own; the last line of the error if it cannot run."
    python = peer if name == "pytorch" else sys.executable
    command = [python, __file__, "--side", name, "--batch", str(batch), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    return {"absent": done.stderr.strip().splitlines()[-1]} if done.returncode else json.loads(done.stdout.strip().splitlines()[-1])


def inference():
    "Microseconds (p10) of one image through the whole network, by runtime and file."
    import jax
    import numpy as np
    from flax import nnx

    from mimo_jax.csi import deployment as d
    from mimo_jax.csi.csinet import Architecture, CsiNet

    model = CsiNet(Architecture(), rngs=nnx.Rngs(0))
    model.eval()
    file, x = d.export_network(model), np.random.default_rng(0).uniform(0.3, 0.7, (1, 32, 32, 2)).astype(np.float32)
    jitted = jax.jit(model)
    found = {f"LiteRT {p}": d.latency(d.invoke(d.quantise(file, p))).p10_us for p in d.PRECISIONS}
    found |= {"jitted JAX": d.latency(lambda: jitted(x).block_until_ready()).p10_us}
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as missing:
        return {name: round(us, 1) for name, us in found.items()} | {"ONNX Runtime": f"absent: {missing}"}
    content = jax2onnx.to_onnx(model, [(1, 32, 32, 2)]).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    feed = {session.get_inputs()[0].name: x}
    return {name: round(us, 1) for name, us in (found | {"ONNX Runtime": d.latency(lambda: session.run(None, feed)).p10_us}).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(arguments.side, arguments.batch, arguments.steps)
    steps = {name: run_side(name, arguments.batch, arguments.steps, arguments.peer) for name in SIDES}
    mine = steps["mimo_jax"].get("cpu_ms_per_image")
    ratios = {f"{name} / mimo_jax": round(s["cpu_ms_per_image"] / mine, 2) for name, s in steps.items() if mine and "absent" not in s}
    report = json.dumps({"batch": arguments.batch, "training": steps, "ratios": ratios, "inference_p10_us": inference()}, indent=1)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(report)
    print(report)


if __name__ == "__main__":
    main()
