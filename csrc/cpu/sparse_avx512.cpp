#include "../sparse/problem.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("fma,bmi,popcnt,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ISA avx512
#define PA_EGRU_AVX512
#include "../sparse/rows.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sparse::Kernels* sparse::find_avx512(bool fp64) {
  return fp64 ? avx512::kernels<double>() : avx512::kernels<float>();
}
#else
const sparse::Kernels* sparse::find_avx512(bool) { return nullptr; }
#endif
