"""The compiled library: ``csrc/cpu/bindings.cpp``. Addresses, sizes and strides go in; the callers own the checks."""

def forward(*arguments: object) -> None: ...
def backward(*arguments: object) -> None: ...
def empty(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> object: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def openmp() -> bool: ...
def compiler() -> str: ...
def pool_trim() -> None: ...
def pool_set_limit(limit: int) -> None: ...
def pool_limit() -> int: ...
def pool_kept_bytes() -> int: ...
def pool_used_bytes() -> int: ...

class Step:
    def __init__(
        self,
        kind: tuple[int, ...],
        outer: int,
        inner: int,
        flags: tuple[float, int, int],
        surrogate: tuple[float, ...],
        params: tuple[tuple[int, int] | None, ...],
    ) -> None: ...
    @property
    def kept_elements(self) -> int: ...
    def forward(self, addresses: tuple[int, ...], threads: int) -> None: ...
    def backward(self, addresses: tuple[int, ...], threads: int) -> None: ...

def egru_forward(*arguments: object) -> None: ...
def egru_backward(*arguments: object) -> None: ...
def sparse_sample(fp64: bool, x: int, rows: int, inputs: int, ld: int, wanted: int) -> tuple[int, int, bool]: ...
def sparse_scan(
    fp64: bool, x: int, rows: int, inputs: int, ld: int, mask: int, offsets: int, threads: int
) -> tuple[int, int, bool]: ...
def sparse_fill(
    fp64: bool,
    x: int,
    rows: int,
    inputs: int,
    ld: int,
    mask: int,
    offsets: int,
    index: int,
    values: int,
    threads: int,
) -> None: ...
def sparse_expand(
    fp64: bool, rows: int, inputs: int, mask: int, offsets: int, index: int, values: int, out: int, threads: int
) -> None: ...
def sparse_packed_elements(fp64: bool, inputs: int, outputs: int) -> int: ...
def sparse_pack(fp64: bool, weight: int, inputs: int, outputs: int, packed: int, threads: int) -> bool: ...
def sparse_forward(
    fp64: bool,
    rows: int,
    inputs: int,
    offsets: int,
    index: int,
    values: int,
    packed: int,
    bias: int,
    outputs: int,
    out: int,
    threads: int,
) -> None: ...
def sparse_step(
    fp64: bool,
    x: int,
    rows: int,
    inputs: int,
    ld: int,
    most: int,
    packed: int,
    bias: int,
    outputs: int,
    out: int,
    threads: int,
) -> int: ...
def sparse_weight_gradient(
    fp64: bool,
    rows: int,
    inputs: int,
    offsets: int,
    index: int,
    values: int,
    grad: int,
    ld: int,
    outputs: int,
    g_weight: int,
    g_bias: int,
    threads: int,
) -> bool: ...
