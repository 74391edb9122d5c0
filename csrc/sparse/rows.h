// From a row of floats to bits, and from bits to indices.
#pragma once
#include "panels.h"

namespace sparse {
namespace PA_ISA {

constexpr int kFewBits = 16;            // of a word, that are found one by one as fast as by vectors
constexpr int64_t kFloatsAhead = 1024;  // the hardware looks no further than to the end of a page

template <class R>
int64_t scan(const void* row, int64_t inputs, uint64_t* mask, bool& graded) {
  const R* x = static_cast<const R*>(row);
  int64_t k = 0, count = 0;
#if defined(PA_EGRU_AVX512)
  if constexpr (sizeof(R) == 4) {
    const __m512i one = _mm512_castps_si512(_mm512_set1_ps(1.0f));
    __m512i odd = _mm512_setzero_si512();
    const auto look = [&](__m512 v) __attribute__((always_inline)) {
      const __mmask16 set = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      odd = _mm512_or_si512(odd, _mm512_maskz_xor_epi32(set, _mm512_castps_si512(v), one));
      return static_cast<uint64_t>(set);
    };
    for (; k < inputs; k += 64) {
      uint64_t bits = 0;
      if (k + 64 <= inputs) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          __builtin_prefetch(x + k + 16 * j + kFloatsAhead);
          bits |= look(_mm512_loadu_ps(x + k + 16 * j)) << (16 * j);
        }
      } else {
        for (int64_t j = 0; k + j < inputs; j += 16) {
          const __mmask16 there = static_cast<__mmask16>((1u << std::min<int64_t>(16, inputs - k - j)) - 1);
          bits |= look(_mm512_maskz_loadu_ps(there, x + k + j)) << j;
        }
      }
      count += __builtin_popcountll(bits);
      *mask++ = bits;
    }
    graded |= _mm512_test_epi32_mask(odd, odd) != 0;
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
      count += __builtin_popcountll(bits);
      *mask++ = bits;
    }
    graded |= odd != 0;
  }
#endif
  for (; k < inputs; k += 64) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < std::min<int64_t>(64, inputs - k); ++i) {
      bits |= static_cast<uint64_t>(x[k + i] != R(0)) << i;
      graded |= x[k + i] != R(0) && x[k + i] != R(1);
    }
    count += __builtin_popcountll(bits);
    *mask++ = bits;
  }
  return count;
}

inline uint16_t* indices(const uint64_t* mask, int64_t words, uint16_t* to) {
  for (int64_t w = 0; w < words; ++w) {
    uint64_t bits = mask[w];
    const int count = __builtin_popcountll(bits);
#if defined(PA_EGRU_AVX512)
    if (count > kFewBits) {
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
      continue;
    }
#endif
    // Eight at a time whether or not there are as many: hardly a branch that goes the other way.
    int e = 0;
    do {
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        to[e + j] = static_cast<uint16_t>(w * 64 + __builtin_ctzll(bits | uint64_t(1) << 63));
        bits &= bits - 1;
      }
    } while ((e += 8) < count);
    to += count;
  }
  return to;
}

// Words are mixed first: one change of all exponents must not add up to nothing.
inline void hash(const uint32_t* from, int64_t words, uint32_t* to) {
  const auto mix = [](uint32_t word, int64_t i) __attribute__((always_inline)) {
    const uint32_t mixed = word * 0x9E3779B1u;
    return (mixed ^ (mixed >> 15)) * (0x85EBCA6Bu + 2 * static_cast<uint32_t>(i));
  };
  for (; words >= kLineWords; words -= kLineWords, from += kLineWords) {
    __builtin_prefetch(from + kFloatsAhead);
    uint32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < kLineWords; ++i) sum += mix(from[i], i);
    *to++ = sum;
  }
  if (words) *to = 0;
  for (int64_t i = 0; i < words; ++i) *to += mix(from[i], i);
}

template <class R>
const Kernels* kernels() {
  static const Kernels table{Vec<R>::width, scan<R>,  indices,    hash,       pack<R>,
                             forward<R>,    panel<R>, columns<R>, scatter<R>, unpack<R>};
  return &table;
}

}  // namespace PA_ISA
}  // namespace sparse
