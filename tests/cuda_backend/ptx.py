"""What NVRTC makes of a kernel, before an assembler sees it: PTX, its instructions, and what must not be among them."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from functools import lru_cache

from plugin_accel.backends import cuda_compile, cuda_source

WORDS = 16
"""Of 64 bits, of an encoded instruction: see `Instruction` in ptx_machine.h."""

SPECIAL = ("%tid.x", "%ctaid.x", "%ctaid.y", "%ntid.x", "%nctaid.x")
PARAM = "kernel's argument"
_RUNTIME = (*SPECIAL, PARAM)

SHARED_BASE = 1024
"""Where shared memory starts: an offset that got lost lies before it."""


@lru_cache(maxsize=512)
def ptx(text: str, arch: str, **changed: object) -> str:
    """The PTX of a kernel's source for an architecture, by the options of the product but for those `changed`."""
    from cuda.bindings import nvrtc
    from cuda.core import ProgramOptions

    options = ProgramOptions(
        name="kernel",
        arch=arch,
        **{"include_path": cuda_source.include_paths(), **cuda_compile._OPTIONS, **changed},
    ).as_bytes("nvrtc", "ptx")
    _, program = nvrtc.nvrtcCreateProgram((cuda_compile._DEVICE + text).encode(), b"kernel", 0, [], [])
    (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    found = nvrtc.nvrtcGetProgramLogSize if int(code) else nvrtc.nvrtcGetPTXSize
    held = b" " * found(program)[1]
    (nvrtc.nvrtcGetProgramLog if int(code) else nvrtc.nvrtcGetPTX)(program, held)
    nvrtc.nvrtcDestroyProgram(program)
    made: str = held.rstrip(b"\0").decode()
    if int(code):
        raise ValueError(made)
    return made


@dataclass
class Program:
    """An entry of a PTX module, its registers and constants numbered as slots."""

    name: str
    param: int = 0
    """Bytes of its argument."""
    most: int = 1024
    """Threads of a block."""
    shared: int = 0
    """Bytes of shared memory."""
    slots: dict[str, int] = field(default_factory=lambda: {name: i for i, name in enumerate(_RUNTIME)})
    values: list[int] = field(default_factory=lambda: [0] * len(_RUNTIME))
    """What the slots hold at first."""
    opcodes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """The instructions as they stand in the module."""
    code: array[int] = field(default_factory=lambda: array("q"))
    """The encoded instructions; numbers of opcodes are indices into `names`."""
    names: dict[str, int] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)

    def slot(self, operand: str) -> int:
        """Number of a register or constant."""
        found = self.slots.get(operand)
        if found is None:
            found = self.slots[operand] = len(self.values)
            self.values.append(
                _POISON if operand[0] in "%_" and operand not in self.symbols else self._constant(operand)
            )
        return found

    def _constant(self, operand: str) -> int:
        if operand in self.symbols:
            return self.symbols[operand]
        if operand[:2] in ("0f", "0d"):
            return int(operand[2:], 16)
        try:
            return int(operand, 0) & (1 << 64) - 1
        except ValueError:
            raise ValueError(f"{self.name}: expected a number or a symbol, got {operand!r}") from None


_POISON = 0x7FF5A5A5FFA5A5A5  # a NaN in fp32 and in fp64, an address of nothing
_ENTRY = re.compile(r"^\.visible \.entry (\w+)\((.*?)\)\n(.*?)^\{\n(.*?)^\}", re.M | re.S)
_SHARED = re.compile(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)(?:\s+(.*))?")
_OPERAND = re.compile(r"\[[^]]*\]|[^\s,{}]+")


def programs(module: str) -> list[Program]:
    """The entries of a module.

    Raises:
        ValueError: it holds something that the kernels here have no use for.
    """
    shared = "".join(line + "\n" for line in module.split("\n") if line.startswith(".shared "))  # of several entries
    return [_program(name, p, d, shared + body) for name, p, d, body in _ENTRY.findall(module)]


def _program(name: str, params: str, directives: str, body: str) -> Program:
    made = Program(name)
    size = re.search(rf"\b{name}_param_0\[(\d+)\]", params)
    most = re.search(r"\.maxntid (\d+)", directives)
    assert size, params
    assert most, directives
    made.param, made.most = int(size.group(1)), int(most.group(1))
    labels: dict[str, int] = {}
    text: list[str] = []
    for given in re.sub(r"//[^\n]*", "", body).split("\n"):
        line = given.strip().replace("\t", " ").removesuffix(" }")  # of a block with a register of its own
        shared = _SHARED.fullmatch(line)
        if shared:
            align, symbol, count = int(shared.group(1)), shared.group(2), int(shared.group(3))
            at = -(-made.shared // align) * align
            made.symbols[symbol], made.shared = SHARED_BASE + at, at + count
        elif line.startswith("$") and line.endswith(":"):
            labels[line[:-1]] = len(text)
        elif line and not line.startswith((".reg ", "{ .reg ", ".pragma ")):
            if not line.endswith(";") or line.startswith("."):
                raise ValueError(f"{name}: expected an instruction, got {line!r}")
            text.append(line[:-1].strip())
    for line in text:
        _encode(made, line, labels)
    return made


def _encode(made: Program, line: str, labels: dict[str, int]) -> None:
    """Opcode, guard, whether it is negated, bytes and count of an access, offset or target, operands."""
    found = _INSTRUCTION.fullmatch(line)
    assert found, line
    negated, guard, opcode, text = found.groups(default="")
    made.lines.append(line)
    made.opcodes.append(opcode)
    opcode, size, count = _access(opcode)
    imm, slots = 0, []
    for operand in _OPERAND.findall(text):
        if operand in labels:
            imm = labels[operand]
        elif operand[0] == "[":
            base, _, offset = operand[1:-1].partition("+")
            imm = int(offset or "0", 0)
            slots.append(made.slots[PARAM] if base == f"{made.name}_param_0" else made.slot(base))
        elif operand == f"{made.name}_param_0":
            slots.append(made.slots[PARAM])
        else:
            slots.append(made.slot(operand))
    if "{" in text and opcode.startswith("mov."):
        opcode = f"{'unpack' if text[0] == '{' else 'pack'}{len(slots) - 1}.{opcode.partition('.')[2]}"
    row = [made.names.setdefault(opcode, len(made.names)), made.slot(guard) if guard else -1, bool(negated)]
    row += [size, count, imm, *slots]
    assert len(row) <= WORDS, line
    made.code.extend(row + [0] * (WORDS - len(row)))


def _access(opcode: str) -> tuple[str, int, int]:
    """(what it does, bytes of a value, values) of loads and stores."""
    parts = opcode.split(".")
    if parts[0] not in ("ld", "st"):
        return opcode, 0, 0
    count = int(parts[-2][1]) if re.fullmatch(r"v\d", parts[-2]) else 1
    size = int(parts[-1][1:]) // 8
    kept = [p for p in parts[:-1] if p != "cs" and not re.fullmatch(r"v\d", p)]
    return ".".join([*kept, *(["signed"] if parts[-1][0] == "s" else [])]), size, count


_ROUNDED = re.compile(r"(add|sub|mul|div|rcp|sqrt)\.rn\.f(32|64)")
_ARITHMETIC = re.compile(r"(add|sub|mul|mad|fma|div|rcp|sqrt|rsqrt|ex2|lg2|sin|cos|tanh)\b.*\.b?f(16|32|64)(x2)?")
_FOREIGN = re.compile(
    r"(atom|red|call|ld\.local|st\.local|ld\.volatile|shfl|vote|tex)\b.*|.*\.(ftz|approx|full|sat)\b.*"
)


def forbidden(program: Program) -> list[str]:
    """Instructions by which a kernel would not compute what the `cpu` backend does, or not the same at every call.

    Arithmetic that is not rounded by IEEE at once: fused, approximate or flushed to zero, and what leaves the choice
    to the assembler. Atomics, local memory, calls. But for the division of csrc/cuda/device.h, which says so in the
    names of its registers: it takes the steps of the assembler's own.
    """
    found = []
    for opcode, line in zip(program.opcodes, program.lines, strict=True):
        if "%over_" in line:
            continue
        if _FOREIGN.fullmatch(opcode) or (_ARITHMETIC.fullmatch(opcode) and not _ROUNDED.fullmatch(opcode)):
            found.append(line)
    return found
