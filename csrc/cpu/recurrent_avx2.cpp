#include "../recurrent/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "begin_avx2.h"

#define PA_ISA avx2
#define PA_EGRU_AVX2
#include "../recurrent/outer.h"

#include "end_isa.h"

const recurrent::Kernels* recurrent::find_avx2() { return avx2::kernels(); }
#else
const recurrent::Kernels* recurrent::find_avx2() { return nullptr; }
#endif
