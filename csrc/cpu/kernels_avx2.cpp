#include "kernels.h"

#if defined(__x86_64__)
#include <cstdint>
#include <cstring>

#include "stream.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define PA_ISA avx2
#include "instantiate.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels* find_avx2(const Variant& v) { return avx2::find(v); }
#else
const Kernels* find_avx2(const Variant&) { return nullptr; }
#endif
