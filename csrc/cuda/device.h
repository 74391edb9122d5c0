// What NVRTC names otherwise than the compilers of the host do. The tests put a header in its place that makes the
// driver run on the host.
#pragma once
#include <cstdint>

#define PA_HD __device__ __forceinline__
#define PA_GPU

struct Again {};  // see load_if
struct Last {};

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

// Predicated accesses of whole words: the compiler would branch around each store, and part a word into its members.
// load_if is for what the kernel does not write. Last: it will not be read again, and leaves the caches before the
// rest.
#define PA_WHEN "{ .reg .pred %%when;\n setp.ne.u32 %%when, %"
#define PA_ACCESSES(Last, cs)                                                                                  \
  PA_HD void load_if(const void* from, uint16_t& w, bool when, Last) {                                         \
    asm(PA_WHEN "2, 0;\n @%%when ld.global" cs ".b16 %0, [%1]; }" : "+h"(w) : "l"(from), "r"(unsigned(when))); \
  }                                                                                                            \
  PA_HD void load_if(const void* from, unsigned& w, bool when, Last) {                                         \
    asm(PA_WHEN "2, 0;\n @%%when ld.global" cs ".b32 %0, [%1]; }" : "+r"(w) : "l"(from), "r"(unsigned(when))); \
  }                                                                                                            \
  PA_HD void load_if(const void* from, uint2& w, bool when, Last) {                                            \
    asm(PA_WHEN "3, 0;\n @%%when ld.global" cs ".v2.b32 {%0, %1}, [%2]; }"                                     \
        : "+r"(w.x), "+r"(w.y)                                                                                 \
        : "l"(from), "r"(unsigned(when)));                                                                     \
  }                                                                                                            \
  PA_HD void load_if(const void* from, uint4& w, bool when, Last) {                                            \
    asm(PA_WHEN "5, 0;\n @%%when ld.global" cs ".v4.b32 {%0, %1, %2, %3}, [%4]; }"                             \
        : "+r"(w.x), "+r"(w.y), "+r"(w.z), "+r"(w.w)                                                           \
        : "l"(from), "r"(unsigned(when)));                                                                     \
  }
PA_ACCESSES(Again, "")
PA_ACCESSES(Last, ".cs")
#undef PA_ACCESSES

PA_HD void store_if(void* to, uint16_t w, bool when) {
  asm volatile(PA_WHEN "2, 0;\n @%%when st.global.b16 [%0], %1; }" ::"l"(to), "h"(w), "r"(unsigned(when)) : "memory");
}
PA_HD void store_if(void* to, unsigned w, bool when) {
  asm volatile(PA_WHEN "2, 0;\n @%%when st.global.b32 [%0], %1; }" ::"l"(to), "r"(w), "r"(unsigned(when)) : "memory");
}
PA_HD void store_if(void* to, uint2 w, bool when) {
  asm volatile(PA_WHEN "3, 0;\n @%%when st.global.v2.b32 [%0], {%1, %2}; }" ::"l"(to), "r"(w.x), "r"(w.y),
               "r"(unsigned(when))
               : "memory");
}
PA_HD void store_if(void* to, uint4 w, bool when) {
  asm volatile(PA_WHEN "5, 0;\n @%%when st.global.v4.b32 [%0], {%1, %2, %3, %4}; }" ::"l"(to), "r"(w.x), "r"(w.y),
               "r"(w.z), "r"(w.w), "r"(unsigned(when))
               : "memory");
}

// a / b for b >= 1, rounded as IEEE's up to b = 2^64, by the steps that the compiler takes for any b; theirs end in a
// branch, which parts a step from its neighbours. Beyond, 2 ulp.
PA_HD float over_(float a, float b) {
  float q, rough;
  asm("{ .reg .f32 %%over_r, %%over_e, %%over_q;\n"
      " rcp.approx.ftz.f32 %%over_r, %3;\n"
      " mul.rn.f32 %1, %2, %%over_r;\n"
      " fma.rn.f32 %%over_e, %4, %%over_r, 0f3F800000;\n"
      " fma.rn.f32 %%over_r, %%over_r, %%over_e, %%over_r;\n"
      " mul.rn.f32 %%over_q, %2, %%over_r;\n"
      " fma.rn.f32 %%over_e, %4, %%over_q, %2;\n"
      " fma.rn.f32 %%over_q, %%over_r, %%over_e, %%over_q;\n"
      " mov.f32 %0, %%over_q; }"
      : "=f"(q), "=&f"(rough)
      : "f"(a), "f"(b), "f"(-b));
  return b > 0x1p64f ? rough : q;
}
PA_HD double over_(double a, double b) { return a / b; }

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
