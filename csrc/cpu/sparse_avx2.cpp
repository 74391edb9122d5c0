#include "../sparse/problem.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "begin_avx2.h"

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ISA avx2
#define PA_EGRU_AVX2
#include "../sparse/rows.h"

#include "end_isa.h"

const sparse::Kernels* sparse::find_avx2(bool fp64) { return fp64 ? avx2::kernels<double>() : avx2::kernels<float>(); }
#else
const sparse::Kernels* sparse::find_avx2(bool) { return nullptr; }
#endif
