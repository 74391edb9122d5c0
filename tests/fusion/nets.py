"""Random feed-forward spiking nets with their loops, written as source code, as a user would write them.

Weights, inputs and decays lie on a coarse grid of binary fractions, so that every product and sum of a linear layer is
exact in fp32 and a batch of steps gives bit for bit what single steps give.
"""

from __future__ import annotations

import linecache
import random
from dataclasses import dataclass, field

import snntorch as snn
import torch
from torch import nn

HEADER = "import torch\nimport snntorch as snn\nimport torch.nn.functional as F\nfrom torch import nn\n\n"


@dataclass
class Spec:
    """What was drawn, and the source of it."""

    seed: int
    source: str = ""
    steps: int = 4
    static: bool = False
    batch_first: bool = False
    image: bool = False
    train: bool = True
    grad: bool = True
    input_grad: bool = False
    words: list[str] = field(default_factory=list)


def _neuron(draw: random.Random, width: int, hidden: bool, last: bool) -> tuple[str, str, int]:
    """(constructor, class, number of states)."""
    options = [f"beta={draw.choice([0.5, 0.75])}"] if draw.random() < 0.8 else [f"beta=torch.full(({width},), 0.5)"]
    kind = draw.choices(["Leaky", "Synaptic", "Lapicque", "RLeaky", "SLSTM"], [8, 3, 1, 2, 1])[0]
    if kind == "Synaptic":
        options.insert(0, "alpha=0.5")
    if kind == "Lapicque":
        options = ["beta=0.5"]
    if kind == "RLeaky":
        options = ["beta=0.5", f"linear_features={width}"] if draw.random() < 0.5 else ["beta=0.5", "all_to_all=False"]
    if kind == "SLSTM":
        options = [f"{width}", f"{width}", "threshold=0.1"]
    elif draw.random() < 0.3:
        options.append(f"reset_mechanism={draw.choice(['zero', 'none', 'subtract'])!r}")
    if kind == "Leaky":
        if draw.random() < 0.3:
            options.append("learn_beta=True")
        if draw.random() < 0.2:
            options.append("learn_threshold=True")
        if draw.random() < 0.15:
            options.append("reset_delay=False")
    if kind != "SLSTM" and draw.random() < 0.3:
        options.append("spike_grad=snn.surrogate.fast_sigmoid(slope=5)")
    if hidden:
        options.append("init_hidden=True")
        if last:
            options.append("output=True")
    states = {"Leaky": 1, "Lapicque": 1, "Synaptic": 2, "RLeaky": 2, "SLSTM": 2}[kind]
    return f"snn.{kind}({', '.join(options)})", kind, states


def draw_net(seed: int) -> Spec:
    """Draws a net and its loop."""
    draw = random.Random(seed)
    spec = Spec(seed)
    spec.steps = draw.randint(2, 5)
    spec.static = draw.random() < 0.4
    spec.batch_first = not spec.static and draw.random() < 0.3
    spec.image = draw.random() < 0.2
    spec.train = draw.random() < 0.75
    spec.grad = draw.random() < 0.85
    spec.input_grad = draw.random() < 0.3
    depth = draw.randint(1, 3)
    init, before, body, after, collected = [], [], [], [], []
    width, flat = (8, not spec.image) if not spec.image else (2, False)
    hidden_net = draw.random() < 0.35
    for layer in range(1, depth + 1):
        last = layer == depth
        name = f"{layer}"
        previous = width
        if not flat and (last or draw.random() < 0.3):
            body.append("cur = cur.flatten(1)" if draw.random() < 0.5 else "cur = cur.view(cur.size(0), -1)")
            width, flat = width * 16, True
        if flat:
            new = draw.choice([width, 6]) if width <= 8 else 6
            init.append(f"self.fc{name} = nn.Linear({width}, {new}, bias={draw.random() < 0.7})")
            body.append(f"cur = self.fc{name}(cur)")
        else:
            new = draw.choice([2, 3])
            init.append(f"self.fc{name} = nn.Conv2d({width}, {new}, 3, padding=1)")
            body.append(f"cur = self.fc{name}(cur)")
        if draw.random() < 0.25:
            norm = draw.choice(["BatchNorm", "LayerNorm"]) if flat else draw.choice(["BatchNorm", "GroupNorm"])
            made = {
                "BatchNorm": f"nn.BatchNorm{'1d' if flat else '2d'}({new})",
                "LayerNorm": f"nn.LayerNorm({new})",
                "GroupNorm": f"nn.GroupNorm(1, {new})",
            }[norm]
            init.append(f"self.norm{name} = {made}")
            body.append(f"cur = self.norm{name}(cur)")
        if flat and previous == new and draw.random() < 0.5 and layer > 1:
            body.append(f"cur = cur + spk{layer - 1}")
        if draw.random() < 0.15:
            body.append(draw.choice(["cur = 2 * cur", "cur = F.relu(cur)", "cur += 0.25", "cur = cur.clamp(-2, 2)"]))
        neuron, kind, states = _neuron(draw, new if flat else 1, hidden_net, last)
        if not flat and ("linear_features" in neuron or kind == "SLSTM" or "torch.full" in neuron):
            neuron, kind, states = "snn.Leaky(0.5" + (", init_hidden=True" if hidden_net else "") + ")", "Leaky", 1
        init.append(f"self.lif{name} = {neuron}")
        names = {1: ["mem"], 2: ["syn", "mem"]}[states]
        if kind == "RLeaky":
            names = ["spk", "mem"]
        names = [f"{state}{name}" for state in names]
        if hidden_net:
            outs = f"spk{name}, *states{name}" if last and "output=True" in neuron else f"spk{name}"
            body.append(f"{outs} = self.lif{name}(cur)")
            reset = {"Leaky": "mem", "Lapicque": "mem", "Synaptic": "mem", "RLeaky": "mem", "SLSTM": "mem"}[kind]
            before.append(f"self.lif{name}.reset_{reset}()")
            if last and "output=True" in neuron:
                collected.append(f"states{name}[-1]")
        else:
            starts = {
                "Leaky": "init_leaky",
                "Lapicque": "init_lapicque",
                "Synaptic": "init_synaptic",
                "RLeaky": "init_rleaky",
                "SLSTM": "init_slstm",
            }
            target = ", ".join(names)
            before.append(f"{target} = self.lif{name}.{draw.choice([starts[kind], 'reset_mem'])}()")
            results_of = target if kind == "RLeaky" else f"spk{name}, {target}"
            body.append(f"{results_of} = self.lif{name}(cur, {target})")
            collected.append(names[-1])
        collected.append(f"spk{name}")
        body.append(f"cur = spk{name}")
        if not flat and draw.random() < 0.3:
            body.append("cur = F.max_pool2d(F.interpolate(cur, scale_factor=2), 2)")
        if not last and draw.random() < 0.2:
            init.append(f"self.drop{name} = nn.Dropout(0.5)")
            body.append(f"cur = self.drop{name}(cur)")
        if flat and draw.random() < 0.15:
            before.append(
                f"adapt{name} = torch.zeros(x.size({1 if not spec.static and not spec.batch_first else 0}), {new})"
            )
            body += [f"adapt{name} = 0.5 * adapt{name} + spk{name}", f"cur = cur - 0.5 * adapt{name}"]
            collected.append(f"adapt{name}")
        width = new
    collected.append("cur")
    results = []
    for index in range(draw.randint(1, 3)):
        value = draw.choice(collected)
        form = draw.choice(
            [
                "stack",
                "stack",
                "stack1",
                "list",
                "sum",
                "mean",
                "acc",
                "iacc",
                "last",
                "loss",
                "every",
                "accs",
                "list sum",
            ]
        )
        spec.words.append(form)
        rec = f"rec{index}"
        if form in ("stack", "stack1", "list", "sum", "mean", "every", "list sum"):
            before.append(f"{rec} = []")
            body.append(f"if step % 2 == 0: {rec}.append({value})" if form == "every" else f"{rec}.append({value})")
            stacked = f"torch.stack({rec})"
            made = {
                "stack1": f"torch.stack({rec}, dim=1)",
                "list": rec,
                "sum": f"{stacked}.sum(0)",
                "mean": f"{stacked}.mean(dim=0)",
                "list sum": f"sum({rec})",
            }
            results.append(made.get(form, stacked))
        elif form in ("acc", "iacc"):
            before.append(f"{rec} = 0" if form == "acc" else f"{rec} = None")
            body.append(
                f"{rec} = {rec} + {value}"
                if form == "acc"
                else f"{rec} = {value}.clone() if {rec} is None else {rec}.add_({value})"
            )
            results.append(rec)
        elif form == "accs":
            before += [f"{rec} = {draw.choice(['0', '0.5', 'torch.zeros(())'])}", f"{rec}s = []"]
            body += [f"{rec} = {value} + {rec}", f"{rec}s.append({rec})"]
            results += [f"torch.stack({rec}s)", rec] if draw.random() < 0.5 else [f"torch.stack({rec}s)"]
        elif form == "last":
            results.append(value)
        else:
            before.append(f"{rec} = torch.zeros(())")
            body.append(f"{rec} = {rec} + ({value} ** 2).mean()")
            results.append(rec)
    spec.source = _source(spec, draw, init, before, body, after, results)
    return spec


def _source(
    spec: Spec,
    draw: random.Random,
    init: list[str],
    before: list[str],
    body: list[str],
    after: list[str],
    results: list[str],
) -> str:
    if spec.static:
        head, entry = draw.choice(
            [("for step in range(self.steps):", "cur = x"), ("for step in range(num_steps):", "cur = x")]
        )
    elif spec.batch_first:
        head, entry = "for step in range(x.shape[1]):", "cur = x[:, step]"
    else:
        head, entry = draw.choice(
            [("for step in range(x.size(0)):", "cur = x[step]"), ("for step, cur in enumerate(x):", "pass")]
        )
    lines = [HEADER + "class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    lines += [f"        self.steps = {spec.steps}", *(f"        {line}" for line in init)]
    lines += ["", f"    def forward(self, x, num_steps={spec.steps}):", *(f"        {line}" for line in before)]
    lines += [
        f"        {head}",
        *(f"            {line}" for line in [entry, *body]),
        *(f"        {line}" for line in after),
    ]
    shape = ", ".join(results)
    lines.append(f"        return {shape}" if draw.random() < 0.8 else f"        return {{'out': [{shape}]}}")
    return "\n".join(lines) + "\n"


def build(spec: Spec) -> nn.Module:
    """Makes the net, on the grid."""
    name = f"<random net {spec.seed}>"
    linecache.cache[name] = (len(spec.source), None, spec.source.splitlines(True), name)
    space: dict[str, object] = {"__name__": f"random_net_{spec.seed}"}
    exec(compile(spec.source, name, "exec"), space)
    torch.manual_seed(spec.seed)
    net: nn.Module = space["Net"]()  # type: ignore[operator]
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if parameter.dim() > 0 and "norm" not in key:
                parameter.copy_(torch.randint(-6, 9, parameter.shape) / 8)
    return net.train(spec.train)


def data(spec: Spec, call: int) -> torch.Tensor:
    """An input, on the grid."""
    generator = torch.Generator().manual_seed(1000 * spec.seed + call)
    shape = (3, 2, 4, 4) if spec.image else (3, 8)
    if not spec.static:
        shape = (shape[0], spec.steps, *shape[1:]) if spec.batch_first else (spec.steps, *shape)
    x = torch.randint(-2, 6, shape, generator=generator) / 4
    return x.requires_grad_(spec.input_grad)


def forget_instances() -> None:
    """snnTorch keeps every neuron ever made in a list; a test of many nets must not."""
    snn.SpikingNeuron.instances.clear()
