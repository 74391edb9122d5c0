#include "../conv/problem.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "stream.h"

#include "begin_avx2.h"

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ISA avx2
#define PA_EGRU_AVX2
#include "../conv/tile.h"

#include "end_isa.h"

const conv::Kernels* conv::find_avx2() { return avx2::kernels(); }
#else
const conv::Kernels* conv::find_avx2() { return nullptr; }
#endif
