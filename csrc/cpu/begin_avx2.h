// From here to end_isa.h functions are compiled for AVX2 and FMA. Comes after all standard headers, so that none of
// their inline functions is.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
