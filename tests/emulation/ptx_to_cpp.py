"""PTX, as nvcc writes it, to C++ that a CPU runs one GPU thread at a time.

Every kernel becomes a function of (parameter buffers, thread), every instruction one statement, so
that what is run is what nvcc's front end made of the kernel: its index types, its fused
multiply-adds, its vector accesses, its parameter layout. Loads and stores go through emulator.h,
which checks alignment and races. No shared memory, barriers, shuffles or atomics: an instruction
that is not known here stops the translation.
"""

from __future__ import annotations

import re

import ptx
from ptx import BITS, Function, Unknown, operands

CTYPE = {
    "pred": "bool",
    **{f"{k}{n}": f"uint{n}_t" for k in "bu" for n in (8, 16, 32, 64)},
    **{f"s{n}": f"int{n}_t" for n in (8, 16, 32, 64)},
    "f32": "float",
    "f64": "double",
    "f16": "Half",
    "bf16": "Brain",
}
SPECIAL = ("tid", "ctaid", "ntid", "nctaid")  # registers that say which thread this is
COMPARE = {
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}

COMBINE = {"and": "&", "or": "|", "xor": "^"}


class Writer:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.registers: dict[str, str] = {}
        self.lines: list[str] = []
        self.addresses = {each.name for each in buffers(function)}
        self.used = set(re.findall(r"%[A-Za-z]+\d+", " ".join(function.body)))

    def write(self) -> list[str]:
        for statement in self.function.body:
            self.one(statement)
        return self.lines

    # --- operands ---------------------------------------------------------------------------------

    def value(self, text: str, kind: str) -> str:
        text = text.strip()
        if text.startswith("%"):
            if (dot := text[1:].split("."))[0] in SPECIAL:
                if dot[1] != "x":  # the shim refuses grids of more dimensions
                    return "0u" if dot[0] in ("tid", "ctaid") else "1u"
                return f"t.{dot[0]}"
            return f"as<{CTYPE[kind]}>({self.reg(text)})"
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
            return f"bits<float>(0x{match[1]}u)"
        if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
            return f"bits<double>(0x{match[1]}ull)"
        if re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+U?", text):
            number = text.rstrip("U")
            if number.lstrip("-").isdigit() and abs(int(number)) >= 2**31:
                number = (
                    "INT64_MIN"
                    if int(number) == -(2**63)
                    else number + ("ull" if int(number) > 0 else "ll")
                )
            return f"({CTYPE[kind]})({number})"
        if text in self.addresses:
            return f"(uint64_t)(uintptr_t){name_of(text)}"
        raise Unknown(f"operand {text!r}")

    def reg(self, text: str) -> str:
        name = name_of(text)
        if name not in self.registers:
            raise Unknown(f"register {text!r}")
        return name

    def set(self, target: str, expression: str) -> None:
        if target == "_":
            return
        name = self.reg(target)
        self.lines.append(f"{name} = to<{CTYPE[self.registers[name]]}>({expression});")

    def address(self, text: str) -> str:
        match = re.fullmatch(r"\[([^\]+]+)(?:\+(-?\d+))?\]", text.replace(" ", ""))
        if not match:
            raise Unknown(f"address {text!r}")
        return f"({self.value(match[1], 'u64')} + ({match[2] or 0}))"

    # --- instructions -----------------------------------------------------------------------------

    def one(self, statement: str) -> None:
        if statement in ("{", "}"):
            self.lines.append(statement)
        elif statement.endswith(":"):
            self.lines.append(f"{name_of(statement[:-1])}:;")
        elif statement.startswith(".reg"):
            _, kind, names = statement.split(None, 2)
            for name in (n.strip() for n in names.split(",")):
                match = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
                plain = [f"{match[1]}{i}" for i in range(int(match[2]))] if match else [name]
                for each in plain:
                    self.registers[name_of(each)] = kind[1:]
                cnames = [name_of(each) for each in plain if each in self.used or not match]
                if cnames:
                    self.lines.append(f"{CTYPE[kind[1:]]} {', '.join(cnames)};")
        elif statement.startswith(".param"):
            (own,) = ptx.parameters(statement)
            self.addresses.add(own.name)
            self.lines.append(
                f"alignas({own.alignment}) unsigned char {name_of(own.name)}[{own.size}];"
            )
        elif statement.startswith((".pragma", ".loc", ".file")):
            pass
        else:
            guard = ""
            if match := re.match(r"@(!?)(%\w+)\s+(.*)", statement):
                guard = f"if ({match[1]}{self.reg(match[2])}) "
                statement = match[3]
            before = len(self.lines)
            self.instruction(statement)
            if guard:
                made = self.lines[before:]
                self.lines[before:] = [f"{guard}{{ {' '.join(made)} }}"]

    def instruction(self, statement: str) -> None:
        opcode, _, rest = statement.partition(" ")
        base, *mods = opcode.split(".")
        args = operands(rest)
        types = [m for m in mods if m in CTYPE]
        handler = getattr(self, f"op_{base}", None)
        if handler is None:
            raise Unknown(f"instruction {statement!r}")
        handler(args, mods, types)

    def op_ret(self, args, mods, types):
        self.lines.append("return;")

    def op_exit(self, args, mods, types):
        self.lines.append("return;")

    def op_trap(self, args, mods, types):
        self.lines.append('fault("trap", 0, t);')

    def op_bra(self, args, mods, types):
        self.lines.append(f"goto {name_of(args[0])};")

    def op_call(self, args, mods, types):
        result, name, params = args
        passed = [
            name_of(p.strip())
            for p in (result + "," + params).replace("(", "").replace(")", "").split(",")
        ]
        self.lines.append(f"{name_of(name)}(t, {', '.join(passed)});")

    def op_mov(self, args, mods, types):
        kind = types[0]
        if args[1].startswith("{"):
            parts = operands(args[1][1:-1])
            width = BITS[kind] // len(parts)
            value = " | ".join(
                f"((uint{BITS[kind]}_t){self.value(p, f'u{width}')} << {width * i})"
                for i, p in enumerate(parts)
            )
            return self.set(args[0], value)
        if args[0].startswith("{"):
            parts = operands(args[0][1:-1])
            width = BITS[kind] // len(parts)
            self.lines.append(f"{{ const auto whole = {self.value(args[1], f'u{BITS[kind]}')};")
            for i, part in enumerate(parts):
                self.set(part, f"(uint{width}_t)(whole >> {width * i})")
            self.lines.append("}")
            return
        self.set(args[0], self.value(args[1], kind))

    def op_cvta(self, args, mods, types):
        self.set(args[0], self.value(args[1], "u64"))

    def memory(self, mods, types):
        lanes = 4 if "v4" in mods else 2 if "v2" in mods else 1
        space = next(
            (m for m in mods if m in ("param", "global", "const", "local", "shared")), "generic"
        )
        if space in ("const", "local", "shared"):
            raise Unknown(f"{space} memory")
        return lanes, space, types[-1]

    def op_ld(self, args, mods, types):
        lanes, space, kind = self.memory(mods, types)
        targets = operands(args[0][1:-1]) if lanes > 1 else [args[0]]
        size = BITS[kind] // 8
        call = "load_param" if space == "param" else "load"
        self.lines.append(
            f"{{ const uint64_t at = {self.address(args[1])}; aligned(at, {size * lanes}, t);"
        )
        for i in range(lanes):
            self.lines.append(f"const auto lane{i} = {call}<{CTYPE[kind]}>(at + {size * i}, t);")
        for i, target in enumerate(targets):
            self.set(target, f"lane{i}")
        self.lines.append("}")

    def op_st(self, args, mods, types):
        lanes, space, kind = self.memory(mods, types)
        sources = operands(args[1][1:-1]) if lanes > 1 else [args[1]]
        size = BITS[kind] // 8
        call = "store_param" if space == "param" else "store"
        self.lines.append(
            f"{{ const uint64_t at = {self.address(args[0])}; aligned(at, {size * lanes}, t);"
        )
        for i, source in enumerate(sources):
            self.lines.append(
                f"{call}<{CTYPE[kind]}>(at + {size * i}, {self.value(source, kind)}, t);"
            )
        self.lines.append("}")

    def op_setp(self, args, mods, types):
        kind, compare = types[0], mods[0]
        targets = args[0].split("|")
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        if kind in ("f32", "f64"):
            text = f"cmp_{compare}({a}, {b})"
        else:
            text = f"({a} {COMPARE[compare]} {b})"
        if len(args) > 3:
            symbol = next(COMBINE[m] for m in mods if m in COMBINE)
            text = f"({text} {symbol} {self.value(args[3], 'pred')})"
        if len(targets) > 1:
            raise Unknown("setp with two targets")
        self.set(targets[0], text)

    def op_selp(self, args, mods, types):
        kind = types[0]
        chosen, a, b = (self.value(args[i], k) for i, k in ((3, "pred"), (1, kind), (2, kind)))
        self.set(args[0], f"({chosen} ? {a} : {b})")

    def binary(self, args, types, symbol):
        kind = types[0]
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        if kind[0] in "su" and symbol in "+-*":  # wraps
            wide = f"uint{max(32, BITS[kind])}_t"
            return self.set(args[0], f"({CTYPE[kind]})(({wide}){a} {symbol} ({wide}){b})")
        self.set(args[0], f"({a} {symbol} {b})")

    def op_add(self, args, mods, types):
        self.binary(args, types, "+")

    def op_sub(self, args, mods, types):
        self.binary(args, types, "-")

    def op_and(self, args, mods, types):
        self.binary(args, types, "&")

    def op_or(self, args, mods, types):
        self.binary(args, types, "|")

    def op_xor(self, args, mods, types):
        self.binary(args, types, "^")

    def op_not(self, args, mods, types):
        value = self.value(args[1], types[0])
        self.set(args[0], f"!{value}" if types[0] == "pred" else f"({CTYPE[types[0]]})(~{value})")

    def op_neg(self, args, mods, types):
        kind, value = types[0], self.value(args[1], types[0])
        self.set(
            args[0], f"(-{value})" if kind[0] in "fb" else f"({CTYPE[kind]})(0 - (uint64_t){value})"
        )

    def op_abs(self, args, mods, types):
        kind, value = types[0], self.value(args[1], types[0])
        self.set(
            args[0],
            f"std::fabs({value})"
            if kind[0] == "f"
            else f"({value} < 0 ? ({CTYPE[kind]})(0 - (uint64_t){value}) : {value})",
        )

    def op_mul(self, args, mods, types):
        kind = types[0]
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        if kind in ("f32", "f64"):
            return self.set(args[0], f"({a} * {b})")
        bits = BITS[kind]
        if "wide" in mods:
            wide = CTYPE[f"{kind[0]}{2 * bits}"]
            return self.set(args[0], f"({wide})(({wide}){a} * ({wide}){b})")
        if "hi" in mods:
            wide = "__int128" if kind[0] == "s" else "unsigned __int128"
            return self.set(args[0], f"({CTYPE[kind]})((({wide}){a} * ({wide}){b}) >> {bits})")
        wide = f"uint{max(32, bits)}_t"
        self.set(args[0], f"({CTYPE[kind]})(({wide}){a} * ({wide}){b})")

    def op_mad(self, args, mods, types):
        kind = types[0]
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        bits = BITS[kind]
        if "lo" in mods:
            wide = f"uint{max(32, bits)}_t"
            c = self.value(args[3], kind)
            return self.set(args[0], f"({CTYPE[kind]})(({wide}){a} * ({wide}){b} + ({wide}){c})")
        if "wide" in mods:
            wide, c = CTYPE[f"{kind[0]}{2 * bits}"], self.value(args[3], f"{kind[0]}{2 * bits}")
            return self.set(args[0], f"({wide})(({wide}){a} * ({wide}){b} + ({wide}){c})")
        raise Unknown("mad.hi")

    def op_fma(self, args, mods, types):
        kind = types[0]
        self.set(args[0], f"std::fma({', '.join(self.value(a, kind) for a in args[1:4])})")

    def op_div(self, args, mods, types):
        kind = types[0]
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        self.set(args[0], f"({a} / {b})" if kind[0] == "f" else f"quotient({a}, {b}, t)")

    def op_rem(self, args, mods, types):
        kind = types[0]
        self.set(
            args[0], f"remainder_({self.value(args[1], kind)}, {self.value(args[2], kind)}, t)"
        )

    def extreme(self, args, mods, types, name):
        kind = types[0]
        a, b = self.value(args[1], kind), self.value(args[2], kind)
        if kind[0] == "f":
            name = f"nan_{name}" if "NaN" in mods else f"f{name}"
            return self.set(args[0], f"std_{name}({a}, {b})")
        self.set(args[0], f"std::{name}<{CTYPE[kind]}>({a}, {b})")

    def op_min(self, args, mods, types):
        self.extreme(args, mods, types, "min")

    def op_max(self, args, mods, types):
        self.extreme(args, mods, types, "max")

    def op_shl(self, args, mods, types):
        kind = f"u{BITS[types[0]]}"
        self.set(args[0], f"shift_left({self.value(args[1], kind)}, {self.value(args[2], 'u32')})")

    def op_shr(self, args, mods, types):
        kind = types[0] if types[0][0] == "s" else f"u{BITS[types[0]]}"
        self.set(args[0], f"shift_right({self.value(args[1], kind)}, {self.value(args[2], 'u32')})")

    def op_shf(self, args, mods, types):
        a, b, c = self.value(args[1], "u32"), self.value(args[2], "u32"), self.value(args[3], "u32")
        self.set(args[0], f"funnel_{mods[0]}_{mods[1]}({a}, {b}, {c})")

    def op_prmt(self, args, mods, types):
        self.set(args[0], f"permute({', '.join(self.value(a, 'u32') for a in args[1:4])})")

    def op_lop3(self, args, mods, types):
        self.set(args[0], f"lop3({', '.join(self.value(a, 'u32') for a in args[1:5])})")

    def op_sqrt(self, args, mods, types):
        self.set(args[0], f"std::sqrt({self.value(args[1], types[0])})")

    def op_rsqrt(self, args, mods, types):
        kind = CTYPE[types[0]]
        self.set(args[0], f"({kind})(1.0 / std::sqrt((double){self.value(args[1], types[0])}))")

    def op_rcp(self, args, mods, types):
        value = self.value(args[1], types[0])
        if "ftz" in mods and types[0] == "f64":  # an approximation: the upper 32 bits count
            return self.set(args[0], f"upper_half(1.0 / {value})")
        self.set(args[0], f"({CTYPE[types[0]]})(1 / {value})")

    def op_ex2(self, args, mods, types):
        self.set(args[0], f"std::exp2({self.value(args[1], types[0])})")

    def op_lg2(self, args, mods, types):
        self.set(args[0], f"std::log2({self.value(args[1], types[0])})")

    def op_cvt(self, args, mods, types):
        to, source = types
        rounding = next(
            (m for m in mods if m in ("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")), ""
        )
        value = self.value(args[1], source)
        floating = ("f32", "f64", "f16", "bf16")
        if to in floating and source in floating:
            if rounding.endswith("i"):
                value = f"round_{rounding}({value})"
            elif rounding not in ("", "rn"):
                raise Unknown(f"cvt {mods}")
            return self.set(args[0], f"convert<{CTYPE[to]}>({value})")
        if to in floating:
            return self.set(args[0], f"convert<{CTYPE[to]}>({value})")
        if source in floating:
            return self.set(args[0], f"saturate<{CTYPE[to]}>(round_{rounding}({value}))")
        self.set(args[0], f"({CTYPE[to]})({value})")


def name_of(text: str) -> str:
    return re.sub(r"[^\w]", "_", text.strip().replace("%", "r_").replace("$", "L"))


def buffers(function: Function) -> list[ptx.Parameter]:
    """What its C++ is handed: the result's memory, then the parameters'."""
    return [*([function.result] if function.result else []), *function.parameters]


def signature(function: Function) -> str:
    passed = "".join(f", unsigned char* {name_of(each.name)}" for each in buffers(function))
    return f"static void {name_of(function.name)}(const Thread& t{passed})"


def translate(text: str) -> str:
    """C++ of every kernel in ``text``, PTX; it registers them where runtime.cpp looks.

    Raises:
        Unknown: an instruction that is not translated.
    """
    found = ptx.functions(text)
    lines = ['#include "emulator.h"', "namespace {", *(signature(each) + ";" for each in found)]
    table = []
    for function in found:
        lines += [signature(function) + " {", *Writer(function).write(), "}"]
        if not function.is_entry:
            continue
        name, count = name_of(function.name), len(function.parameters)
        unpacked = "".join(f", p[{i}]" for i in range(count))
        lines.append(
            f"void run_{name}(const Thread& t, unsigned char* const* p) {{ {name}(t{unpacked}); }}"
        )
        sizes = ", ".join(f"{{{each.size}, {each.alignment}}}" for each in function.parameters)
        table.append(
            f'{{"{function.name}", run_{name}, {function.max_threads}, {count}, {{{sizes}}}}},'
        )
    lines += ["const Kernel kernels[] = {", *table, "};", "}"]
    return "\n".join([*lines, f"ZF_EMULATED(kernels, {len(table)})", ""])
