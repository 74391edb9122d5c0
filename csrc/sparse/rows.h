// From a row of floats to bits, and from bits to indices.
#pragma once
#include "panels.h"

namespace sparse {
namespace PA_ISA {

constexpr int64_t kFloatsAhead = 1024;  // the hardware looks no further than to the end of a page

template <class R>
bool scan(const void* row, int64_t inputs, uint64_t* mask) {
  const R* x = static_cast<const R*>(row);
  bool other = false;
  int64_t k = 0;
#if defined(PA_EGRU_AVX512)
  if constexpr (sizeof(R) == 4) {
    uint64_t odd = 0;
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
    for (; k + 64 <= inputs; k += 64) {
      uint64_t bits = 0, ones = 0;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512 v = _mm512_loadu_ps(x + k + 16 * j);
        __builtin_prefetch(x + k + 16 * j + kFloatsAhead);
        bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(v, zero, _CMP_NEQ_UQ)) << (16 * j);
        ones |= static_cast<uint64_t>(_mm512_cmp_ps_mask(v, one, _CMP_EQ_OQ)) << (16 * j);
      }
      odd |= bits ^ ones;
      *mask++ = bits;
    }
    other = odd != 0;
  }
#elif defined(PA_EGRU_AVX2)
  if constexpr (sizeof(R) == 4) {
    uint64_t odd = 0;
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f);
    for (; k + 64 <= inputs; k += 64) {
      uint64_t bits = 0, ones = 0;
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        const __m256 v = _mm256_loadu_ps(x + k + 8 * j);
        const auto set = _mm256_movemask_ps(_mm256_cmp_ps(v, zero, _CMP_NEQ_UQ));
        const auto one_set = _mm256_movemask_ps(_mm256_cmp_ps(v, one, _CMP_EQ_OQ));
        bits |= static_cast<uint64_t>(set) << (8 * j);
        ones |= static_cast<uint64_t>(one_set) << (8 * j);
      }
      odd |= bits ^ ones;
      *mask++ = bits;
    }
    other = odd != 0;
  }
#endif
  for (; k < inputs; k += 64) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < std::min<int64_t>(64, inputs - k); ++i) {
      bits |= static_cast<uint64_t>(x[k + i] != R(0)) << i;
      other |= x[k + i] != R(0) && x[k + i] != R(1);
    }
    *mask++ = bits;
  }
  return other;
}

inline uint16_t* indices(const uint64_t* mask, int64_t words, uint16_t* to) {
  for (int64_t w = 0; w < words; ++w) {
    uint64_t bits = mask[w];
#if defined(PA_EGRU_AVX512)
    __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    at = _mm512_add_epi32(at, _mm512_set1_epi32(static_cast<int>(w * 64)));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j, bits >>= 16) {
      const __mmask16 set = static_cast<__mmask16>(bits);
      const __m256i narrow = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(set, at));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow);
      to += __builtin_popcount(set);
      at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
    }
#else
    // Eight at a time whether or not there are as many: a branch per word instead of one per bit.
    const int count = __builtin_popcountll(bits);
    for (int e = 0; e < count; e += 8)
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        to[e + j] = static_cast<uint16_t>(w * 64 + (bits ? __builtin_ctzll(bits) : 0));
        bits &= bits - 1;
      }
    to += count;
#endif
  }
  return to;
}

template <class R>
const Kernels* kernels() {
  static const Kernels table{Vec<R>::width, scan<R>,    indices,    pack<R>,  forward<R>,
                             panel<R>,      columns<R>, scatter<R>, unpack<R>};
  return &table;
}

}  // namespace PA_ISA
}  // namespace sparse
