"""What is known of torch's functions: which only ask, which change their operand, which work element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CONSTANT",
    "DYNAMIC",
    "ELEMENTWISE",
    "FUNCTIONAL",
    "LIKE",
    "PER_SAMPLE",
    "QUESTIONS",
    "RESHAPES",
    "VALUES",
    "name_of",
    "plain",
]

# They tell what `Meta` holds, or what cannot change while the signature is the same.
QUESTIONS = frozenset(
    [
        "shape",
        "size",
        "dim",
        "ndim",
        "ndimension",
        "dtype",
        "device",
        "layout",
        "numel",
        "nelement",
        "element_size",
        "is_floating_point",
        "is_complex",
        "is_cuda",
        "is_contiguous",
        "stride",
        "__len__",
        "requires_grad",
        "is_sparse",
        "is_quantized",
        "is_meta",
        "is_cpu",
        "is_mps",
        "is_mkldnn",
        "is_nested",
        "storage_offset",
        "__hash__",
        "is_signed",
        "get_device",
        "itemsize",
        "nbytes",
        "is_same_size",
        "is_tensor",
        "is_inference",
        "result_type",
        "can_cast",
        "_set_grad_enabled",
    ]
)

# In-place, and what gives the same as a new tensor.
FUNCTIONAL: dict[str, Callable[..., Tensor]] = {
    "__iadd__": torch.add,
    "add_": torch.add,
    "__isub__": torch.sub,
    "sub_": torch.sub,
    "__imul__": torch.mul,
    "mul_": torch.mul,
    "__itruediv__": torch.div,
    "div_": torch.div,
    "relu_": torch.relu,
    "clamp_": torch.clamp,
}

# The size of what they give depends on values.
DYNAMIC = frozenset(
    ["nonzero", "masked_select", "unique", "unique_consecutive", "argwhere", "bincount", "repeat_interleave"]
)

# What they make is known from their arguments alone.
CONSTANT = frozenset(["zeros", "ones", "full", "eye", "arange", "linspace", "logspace", "scalar_tensor", "tensor"])

# They give Python values and nothing that shares the tensor's memory.
VALUES = frozenset(["item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__complex__", "equal"])

# Of the tensor, only its description matters.
LIKE = frozenset(
    [
        "rand_like",
        "randn_like",
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "randint_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "new_tensor",
    ]
)

# The same of each element, whatever stands beside it; operands broadcast.
ELEMENTWISE = frozenset(
    [
        "add",
        "radd",
        "sub",
        "rsub",
        "subtract",
        "mul",
        "rmul",
        "multiply",
        "div",
        "divide",
        "truediv",
        "rtruediv",
        "true_divide",
        "floor_divide",
        "pow",
        "rpow",
        "neg",
        "negative",
        "pos",
        "abs",
        "absolute",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log1p",
        "sqrt",
        "rsqrt",
        "square",
        "reciprocal",
        "sigmoid",
        "tanh",
        "sin",
        "cos",
        "atan",
        "erf",
        "relu",
        "relu6",
        "gelu",
        "silu",
        "mish",
        "elu",
        "selu",
        "celu",
        "leaky_relu",
        "softplus",
        "softsign",
        "logsigmoid",
        "hardtanh",
        "hardsigmoid",
        "hardswish",
        "threshold",
        "clamp",
        "clip",
        "clamp_min",
        "clamp_max",
        "minimum",
        "maximum",
        "gt",
        "lt",
        "ge",
        "le",
        "eq",
        "ne",
        "greater",
        "less",
        "greater_equal",
        "less_equal",
        "logical_and",
        "logical_or",
        "logical_not",
        "logical_xor",
        "and",
        "or",
        "xor",
        "rand",
        "ror",
        "invert",
        "where",
        "sign",
        "sgn",
        "heaviside",
        "float",
        "double",
        "half",
        "bfloat16",
        "int",
        "long",
        "bool",
        "to",
        "type",
        "clone",
        "detach",
        "floor",
        "ceil",
        "round",
        "trunc",
        "fmod",
        "remainder",
        "nan_to_num",
        "lerp",
        "addcmul",
        "addcdiv",
        "masked_fill",
        "isnan",
        "isinf",
        "isfinite",
    ]
)

# The same values in another shape.
RESHAPES = frozenset(
    ["view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"]
)

# The first operand is a batch of samples, each treated alone; name and number of dimensions with the batch
# (0: the last dimensions are treated, those before are batch).
PER_SAMPLE: dict[str, int] = {
    "linear": 0,
    "layer_norm": 0,
    "conv1d": 3,
    "conv2d": 4,
    "conv3d": 5,
    "conv_transpose1d": 3,
    "conv_transpose2d": 4,
    "conv_transpose3d": 5,
    "max_pool1d": 3,
    "max_pool2d": 4,
    "max_pool3d": 5,
    "avg_pool1d": 3,
    "avg_pool2d": 4,
    "avg_pool3d": 5,
    "adaptive_avg_pool1d": 3,
    "adaptive_avg_pool2d": 4,
    "adaptive_avg_pool3d": 5,
    "adaptive_max_pool1d": 3,
    "adaptive_max_pool2d": 4,
    "adaptive_max_pool3d": 5,
    "lp_pool1d": 3,
    "lp_pool2d": 4,
    "batch_norm": -1,
    "group_norm": -1,
    "pixel_shuffle": 4,
    "pixel_unshuffle": 4,
    "interpolate": -1,
    "embedding": 0,
    "channel_shuffle": -1,
}

_HOMES = (torch, F, Tensor, torch._C._nn, torch.special)


def name_of(function: Any) -> str:
    """The name of what a torch function mode was handed; a property's is that of the attribute."""
    name = getattr(function, "__name__", repr(function))
    owner = getattr(function, "__self__", None)
    if name in ("__get__", "__set__", "__delete__"):
        attribute = getattr(owner, "__name__", "?")
        return str(attribute) if name == "__get__" else f"{attribute} ="
    return str(name)


def plain(function: Any) -> str:
    """The name without underscores of a function of torch itself, ``""`` for any other: ``__radd__`` is ``radd``."""
    name = name_of(function)
    for home in _HOMES:
        if getattr(home, name, None) is function:
            stripped = name.strip("_")
            return "" if name.endswith("_") and not name.endswith("__") else stripped
    # Functions with an overload for `return_indices`, and methods bound by type, are made anew or wrapped.
    module = getattr(function, "__module__", None) or ""
    if module.startswith("torch.") or getattr(function, "__qualname__", "").startswith("boolean_dispatch"):
        return name.strip("_")
    return ""
