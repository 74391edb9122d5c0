#include "../conv/problem.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "stream.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ISA avx2
#define PA_EGRU_AVX2
#include "../conv/tile.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const conv::Kernels* conv::find_avx2() { return avx2::kernels(); }
#else
const conv::Kernels* conv::find_avx2() { return nullptr; }
#endif
