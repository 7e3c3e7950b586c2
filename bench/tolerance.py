"""Sweeps over error rates, and updates of training, on this processor against PyTorch, side by side
in one run; prints one JSON object.

    python bench/tolerance.py [--peer /path/to/python] [--rounds 3] [--output FILE]

`--peer` is a Python that has torch, by default this one; a side that cannot run is left out.
A sweep: VGG11 of 16 features, 1,000 images of 32 x 32, cut after a layer; 11 error rates, bursts
and single losses, 5 repetitions. Theirs is what a fault injector does: a hook behind the layer, and
the whole network again for every repetition. Ours computes the maps once and the rest in one
program. An update: 50 images, forward, backward, Adam. Sides run in turns, in processes of their
own, on 2 threads.
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

from split import T_95, ratio, tell

CUTS = ("conv1", "conv2", "conv6", "conv8")
NETWORKS = ("vgg11", "resnet18")
IMAGES, WIDTH, CLASSES, PACKET, REPEATS, BATCH, UPDATES = 1000, 16, 20, 944, 5, 50, 40
RATES = [n / 10 for n in range(11)]
VGG = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0)  # features over the width; 0: pooling


def our_sweep(after):
    "A function that sweeps."
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mimo_jax.tolerance.link import Burst, Random
    from mimo_jax.tolerance.networks import ImageSizes, cut, vgg11
    from mimo_jax.tolerance.profile import sweep

    network = vgg11(ImageSizes(WIDTH, CLASSES), nnx.Rngs(0))
    network.eval()
    first, rest = cut(network, after)
    images = jax.random.normal(jax.random.key(0), (IMAGES, 32, 32, 3))
    labels, front = jnp.zeros(IMAGES, int), nnx.jit(lambda model, x: model(x))

    def run():
        maps = jnp.concatenate([front(first, images[i : i + 100]) for i in range(0, IMAGES, 100)])
        return sweep(jax.random.key(1), rest, maps, labels, RATES,
                     (Burst(PACKET), Random(PACKET)), REPEATS).block_until_ready()

    return run


def our_updates(name):
    "A function that makes UPDATES updates."
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mimo_jax.tolerance.networks import IMAGE_NETWORKS, ClassifierLoss, ImageSizes
    from mimo_jax.tolerance.networks import LabeledImages, train_classifier

    network = IMAGE_NETWORKS[name](ImageSizes(WIDTH, CLASSES), nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (IMAGES, 32, 32, 3))
    data = LabeledImages(images, jnp.arange(IMAGES) % CLASSES)

    def run():
        model = train_classifier(network, data, UPDATES, jax.random.key(1), ClassifierLoss(BATCH))
        jax.block_until_ready(nnx.state(model))

    return run


def torch_vgg(nn):
    "VGG11 with batch norm, and its convolutions by name."
    layers, inputs, names = [], 3, {}
    for factor in VGG:
        if not factor:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, factor * WIDTH, 3, padding=1),
                   nn.BatchNorm2d(factor * WIDTH), nn.ReLU()]
        inputs, names[f"conv{len(names) + 1}"] = factor * WIDTH, layers[-3]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, inputs), nn.ReLU(),
                            nn.Linear(inputs, CLASSES))
    return network, names


def torch_resnet(nn):
    "ResNet18 with the stem for small images."
    class Block(nn.Module):
        def __init__(self, a, b, stride):
            super().__init__()
            self.main = nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False),
                                      nn.BatchNorm2d(b), nn.ReLU(),
                                      nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b))
            self.short = nn.Identity() if stride == 1 and a == b else nn.Sequential(
                nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

        def forward(self, x):
            return (self.main(x) + self.short(x)).relu()

    layers = [nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    inputs = WIDTH
    for stage in range(4):
        for block in range(2):
            outputs = WIDTH * 2**stage
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def torch_sweep(after):
    "A function that sweeps with a hook."
    import torch

    torch.set_num_threads(2)
    network, names = torch_vgg(torch.nn)
    network.eval()
    images, state = torch.randn(IMAGES, 3, 32, 32), {}

    def hook(module, inputs, output):
        flat = output.flatten(1)
        if state["mode"] == "random":
            lost = torch.rand(flat.shape) < state["rate"]
        else:
            packets = -(-flat.shape[1] * 4 // PACKET)
            lost = torch.rand(len(flat), packets) < state["rate"]
            lost = lost.repeat_interleave(PACKET // 4, 1)[:, : flat.shape[1]]
        return flat.masked_fill(lost, 0).view_as(output)

    names[after].register_forward_hook(hook)

    def run():
        with torch.no_grad():
            for mode in ("burst", "random"):
                for rate in RATES:
                    for _ in range(REPEATS):
                        state.update(mode=mode, rate=rate)
                        for i in range(0, IMAGES, 100):
                            network(images[i : i + 100]).argmax(1)

    return run


def torch_updates(name):
    "A function that makes UPDATES updates."
    import torch

    torch.set_num_threads(2)
    network = torch_vgg(torch.nn)[0] if name == "vgg11" else torch_resnet(torch.nn)
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.arange(IMAGES) % CLASSES

    def run():
        for _ in range(UPDATES):
            rows = torch.randint(IMAGES, (BATCH,))
            adam.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            adam.step()

    return run


SIDES = {"mimo_jax": (our_sweep, our_updates), "pytorch": (torch_sweep, torch_updates)}


def side(name, task):
    "One side's seconds, on the clock and of the processor, as one JSON object."
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    sweep, updates = SIDES[name]
    run = sweep(task) if task in CUTS else updates(task)
    run()
    clocks = time.perf_counter(), time.process_time()
    run()
    after = time.perf_counter(), time.process_time()
    wall, cpu = (last - first for first, last in zip(clocks, after, strict=True))
    print(json.dumps({"wall_s": wall, "cpu_s": cpu}))


def in_turns(task, peer, rounds):
    "Each side's times in every round; none of a side that cannot run, which says why."
    found = {name: [] for name in SIDES}
    for name in rounds * list(SIDES):
        command = [peer if name == "pytorch" else sys.executable, __file__, "--side", name, task]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name} left out: {done.stderr.strip()[-200:]}", file=sys.stderr)
        else:
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--rounds", type=int, default=3, choices=T_95, help="of both sides")
    parser.add_argument("--output", type=pathlib.Path, help="write the JSON here, too")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(*arguments.side)
    from mimo_jax.experiment import provenance

    report = provenance() | {"date": f"{datetime.date.today()}", "threads": 2,
                             "load_before": os.getloadavg()[0], "tasks": {}}
    for task in (*CUTS, *NETWORKS):
        times = in_turns(task, arguments.peer, arguments.rounds)
        found = {name: {kind: [round(t[kind], 3) for t in each] for kind in ("wall_s", "cpu_s")}
                 for name, each in times.items()}
        if all(len(each) == arguments.rounds for each in times.values()):
            found["pytorch / mimo_jax: ratio, low, high"] = {
                kind: ratio(times, kind, arguments.rounds) for kind in ("wall_s", "cpu_s")}
        report["tasks"][("sweep after " if task in CUTS else "training ") + task] = found
    tell(report, arguments.output)


if __name__ == "__main__":
    main()
