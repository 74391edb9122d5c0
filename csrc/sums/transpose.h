// Matrices turned over, in blocks that stay in registers.
#pragma once
#include "../egru/vector.h"

namespace sums {
namespace PA_ISA {

// to[j][i] = from[i][j] for i < rows, j < columns.
inline void transpose(const float* from, int64_t ld_from, int64_t rows, int64_t columns, float* to, int64_t ld_to) {
  int64_t i = 0;
#if defined(PA_EGRU_AVX512)
  for (; i < rows; i += 16) {
    const int64_t height = std::min<int64_t>(16, rows - i);
    for (int64_t j = 0; j < columns; j += 16) {
      const int64_t width = std::min<int64_t>(16, columns - j);
      const __mmask16 loads = static_cast<__mmask16>((1u << width) - 1),
                      stores = static_cast<__mmask16>((1u << height) - 1);
      __m512 v[16], w[16];
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k)
        v[k] = k < height ? _mm512_maskz_loadu_ps(loads, from + (i + k) * ld_from + j) : _mm512_setzero_ps();
      // Pairs of rows that lie 1, 2, 4 and 8 apart exchange the halves of groups of that length.
#pragma GCC unroll 4
      for (int apart = 1; apart < 16; apart *= 2) {
        int low[16], high[16];
        for (int k = 0; k < 16; ++k) {
          low[k] = (k & apart) ? 16 + k - apart : k;
          high[k] = (k & apart) ? 16 + k : k + apart;
        }
        const __m512i take_low = _mm512_loadu_si512(low), take_high = _mm512_loadu_si512(high);
#pragma GCC unroll 16
        for (int k = 0; k < 16; ++k)
          if (!(k & apart)) {
            w[k] = _mm512_permutex2var_ps(v[k], take_low, v[k + apart]);
            w[k + apart] = _mm512_permutex2var_ps(v[k], take_high, v[k + apart]);
          }
#pragma GCC unroll 16
        for (int k = 0; k < 16; ++k) v[k] = w[k];
      }
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k)
        if (k < width) _mm512_mask_storeu_ps(to + (j + k) * ld_to + i, stores, v[k]);
    }
  }
#endif
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * ld_to + i] = from[i * ld_from + j];
}

inline void transpose(const double* from, int64_t ld_from, int64_t rows, int64_t columns, double* to, int64_t ld_to) {
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i) to[j * ld_to + i] = from[i * ld_from + j];
}

}  // namespace PA_ISA
}  // namespace sums
