#include "kernels.h"

#if defined(__x86_64__)
#include <cstdint>
#include <cstring>

#include "stream.h"

#include "begin_avx2.h"

#define PA_FMA(a, b, c) fma_(a, b, c)
#define PA_ONE_BACKWARD false
#define PA_RARE true
// fp64 is for checking: the baseline kernels do
#define PA_FP64 false
#define PA_ISA avx2
#include "instantiate.h"

#include "end_isa.h"

const Kernels* find_avx2(const Variant& v) { return avx2::find(v); }
#else
const Kernels* find_avx2(const Variant&) { return nullptr; }
#endif
