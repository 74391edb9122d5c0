// What NVRTC names otherwise than the compilers of the host do. The tests put a header in its place that makes the
// driver run on the host.
#pragma once
#include <cstdint>

#define PA_HD __device__ __forceinline__

#define __builtin_fabsf fabsf
#define __builtin_fabs fabs
#define __builtin_truncf truncf
#define __builtin_trunc trunc
#define __builtin_copysignf copysignf
#define __builtin_copysign copysign
#define __builtin_floorf floorf
#define __builtin_floor floor
#define __builtin_sqrtf sqrtf
#define __builtin_sqrt sqrt
#define __builtin_nanf nanf
#define __builtin_inff() __builtin_bit_cast(float, 0x7f800000)

PA_HD float float_of_half(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

PA_HD uint16_t half_of_float(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
