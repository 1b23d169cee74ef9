"""What is read from a compiled program, on one that can be counted by hand and on a real one."""

import jax
import jax.numpy as jnp
import pytest

from xception_jax.planning.hlo import Program

# 8 x 16 bfloat16 are 256 bytes, 16 x 16 are 512, 16 float32 are 64.
PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (p: bf16[8,16]) -> bf16[8,16] {
  %p = bf16[8,16]{1,0} parameter(0)
  ROOT %n = bf16[8,16]{1,0} negate(%p)
}

%body (carry: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %carry = (s32[], bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%carry), index=1
  %f = bf16[8,16]{1,0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/while/neg"}
  ROOT %t = (s32[], bf16[8,16]{1,0}) tuple(%i, %f)
}

%condition (carry: (s32[], bf16[8,16])) -> pred[] {
  %carry = (s32[], bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %three), direction=LT
}

ENTRY %main.1 (a: bf16[8,16], w: bf16[16,16]) -> f32[16] {
  %a = bf16[8,16]{1,0} parameter(0), metadata={op_name="a (not an operand)"}
  %w = bf16[16,16]{1,0} parameter(1)
  %dot = (bf16[8,16]{1,0:T(8,128)S(1)}, u8[0]{0}) custom-call(%a, /*index=1*/%w), custom_call_target="gemm", CYCLES
  %y = bf16[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%dot), index=0
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,16]{1,0}) tuple(%zero, %y)
  %loop = (s32[], bf16[8,16]{1,0}) while(%start), condition=%condition, body=%body
  %z = bf16[8,16]{1,0} get-tuple-element(%loop), index=1
  %copy-start = (bf16[8,16]{1,0:S(1)}, bf16[8,16]{1,0}, u32[]) copy-start(%z)
  %copy-done = bf16[8,16]{1,0:S(1)} copy-done(%copy-start)
  %sum = f32[16]{0} fusion(%copy-done), kind=kInput, calls=%fused, metadata={op_name="jit(step)/reduce_sum"}
  ROOT %all = f32[16]{0} all-reduce(%sum), to_apply=%fused
}
"""
PROGRAM = PROGRAM.replace(
    "CYCLES", 'metadata={op_name="jit(step)/dot_general"}, backend_config={"estimated_cycles":"9"}'
)


def test_traffic_counts_what_runs_in_main_memory():
    moved = {i.name: (times, size) for i, times, size in Program(PROGRAM).steps()}
    assert moved == {
        "dot": (1, 256 + 512),  # its result stays on the chip
        "f": (3, 256 + 256),
        "copy-start": (1, 256),  # onto the chip: read only
        "sum": (1, 64),
        "all": (1, 64 + 64),
    }
    assert Program(PROGRAM).traffic == 768 + 3 * 512 + 256 + 64 + 128


SLICES = """HloModule jit_step, is_scheduled=true

%fetch (p: f32[64,8], i: s32[]) -> f32[4,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[4,8]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={4,8}
}

%update (whole: f32[64,8], p: f32[64,8], i: s32[]) -> (f32[64,8], f32[8]) {
  %whole = f32[64,8]{1,0} parameter(0)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %p = f32[64,8]{1,0} parameter(1)
  %part = f32[4,8]{1,0} fusion(%p, %i), kind=kLoop, calls=%fetch
  %double = f32[4,8]{1,0} add(%part, %part)
  %row = f32[8]{0} reduce(%part, %zero), dimensions={0}, to_apply=%fetch
  %new = f32[64,8]{1,0} dynamic-update-slice(%whole, %double, %i, %zero)
  ROOT %results = (f32[64,8]{1,0}, f32[8]{0}) tuple(%new, %row)
}

ENTRY %main (a: f32[64,8], b: f32[64,8], i: s32[]) -> (f32[64,8], f32[8]) {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[64,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = (f32[64,8]{1,0}, f32[8]{0}) fusion(%a, %b, %i), kind=kLoop, calls=%update
}
"""


def test_traffic_of_a_slice_is_the_slice_s():
    """Of `b` four rows are read, of `a` four are written in place, beside the position and the row of sums."""
    [(_, _, size)] = Program(SLICES).steps()
    assert size == 4 * 8 * 4 + 4 * 8 * 4 + 4 + 8 * 4


def test_kinds_are_counted():
    program = Program(PROGRAM)
    assert program.kernels() == {"fusion": 4, "gemm": 1, "copy-start": 1, "all-reduce": 1}
    assert program.collectives() == {"all-reduce": (1, 64)}
    assert program.cycles == 9
    largest = program.largest(2)[0]
    assert (largest.size, largest.opcode, largest.op_name) == (256, "fusion", "jit(step)/while/neg")


@pytest.mark.parametrize("length", [1, 5])
def test_loops_of_a_real_program(length):
    """A loop of matrix products, whose operands the compiler cannot keep from memory."""

    def f(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=length)[0]

    compiled = jax.jit(f).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile()
    products = sum(times for i, times, _ in Program(compiled.as_text()).steps() if "dot_general" in i.op_name)
    assert products == length
