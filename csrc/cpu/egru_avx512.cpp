#include "../egru/problem.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "stream.h"

#include "begin_avx512.h"

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ISA avx512
#define PA_EGRU_AVX512
#include "../egru/tile_back.h"

#include "end_isa.h"

const egru::Kernels* egru::find_avx512(bool fp64) {
  return fp64 ? avx512::kernels<double>() : avx512::kernels<float>();
}
#else
const egru::Kernels* egru::find_avx512(bool) { return nullptr; }
#endif
