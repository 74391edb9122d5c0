// For every processor. On x86, where anything made since 2013 takes another set, it is kept small.
#if defined(__x86_64__)
#define PA_ONE_BACKWARD true
#else
#define PA_ONE_BACKWARD false
#endif
#define PA_FP64 true
#define PA_ISA baseline
#include "instantiate.h"

const Kernels* find_baseline(const Variant& v) { return baseline::find(v); }
