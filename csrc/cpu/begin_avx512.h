// From here to end_isa.h functions are compiled for AVX-512. Comes after all standard headers, so that none of their
// inline functions is.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
