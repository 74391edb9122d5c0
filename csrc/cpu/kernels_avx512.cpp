#include "kernels.h"

#if defined(__x86_64__)
#include <cstdint>
#include <cstring>

#include "stream.h"

#include "begin_avx512.h"

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ONE_BACKWARD false
// what few take is left to AVX2
#define PA_RARE false
// fp64 is for checking: the baseline kernels do
#define PA_FP64 false
#define PA_ISA avx512
#include "instantiate.h"

#include "end_isa.h"

const Kernels* find_avx512(const Variant& v) { return avx512::find(v); }
#else
const Kernels* find_avx512(const Variant&) { return nullptr; }
#endif
