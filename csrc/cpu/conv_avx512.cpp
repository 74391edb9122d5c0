#include "../conv/problem.h"

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
#include "../conv/tile.h"

#include "end_isa.h"

const conv::Kernels* conv::find_avx512() { return avx512::kernels(); }
#else
const conv::Kernels* conv::find_avx512() { return nullptr; }
#endif
