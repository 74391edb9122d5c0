#include "../recurrent/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "begin_avx512.h"

#define PA_ISA avx512
#define PA_EGRU_AVX512
#include "../recurrent/outer.h"

#include "end_isa.h"

const recurrent::Kernels* recurrent::find_avx512() { return avx512::kernels(); }
#else
const recurrent::Kernels* recurrent::find_avx512() { return nullptr; }
#endif
