// For every processor. On x86, where anything made since 2013 takes another set, it is kept small and quick to compile.
#include "kernels.h"

#include <cstdint>
#include <cstring>

#include "stream.h"

#if defined(__x86_64__)
#define PA_ONE_BACKWARD true
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")
#endif
#else
#define PA_ONE_BACKWARD false
#endif
#define PA_RARE true
#define PA_FP64 true
#define PA_ISA baseline
#include "instantiate.h"

const Kernels* find_baseline(const Variant& v) { return baseline::find(v); }
