// Vectors of the instruction set at hand: load, store, broadcast, sum, a * b + c. Included in one source per
// instruction set, inside its target pragma, after all standard headers and with PA_ISA naming its namespace.
#pragma once
#include "../math.h"
#include "problem.h"

namespace egru {
namespace PA_ISA {

PA_HD int64_t round_up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

template <class R>
struct Vec;

#if defined(PA_EGRU_AVX512)
template <>
struct Vec<float> {
  static constexpr int width = 16, tile_rows = 8, outer_columns = 8;
  __m512 v;
  static PA_HD Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static PA_HD Vec all(float s) { return {_mm512_set1_ps(s)}; }
  PA_HD void store(float* p) const { _mm512_storeu_ps(p, v); }
  PA_HD void add(Vec a, Vec b) { v = _mm512_fmadd_ps(a.v, b.v, v); }
  PA_HD void add(Vec a) { v = _mm512_add_ps(v, a.v); }
};
template <>
struct Vec<double> {
  static constexpr int width = 8, tile_rows = 8, outer_columns = 8;
  __m512d v;
  static PA_HD Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static PA_HD Vec all(double s) { return {_mm512_set1_pd(s)}; }
  PA_HD void store(double* p) const { _mm512_storeu_pd(p, v); }
  PA_HD void add(Vec a, Vec b) { v = _mm512_fmadd_pd(a.v, b.v, v); }
  PA_HD void add(Vec a) { v = _mm512_add_pd(v, a.v); }
};
#elif defined(PA_EGRU_AVX2)
template <>
struct Vec<float> {
  static constexpr int width = 8, tile_rows = 4, outer_columns = 4;
  __m256 v;
  static PA_HD Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static PA_HD Vec all(float s) { return {_mm256_set1_ps(s)}; }
  PA_HD void store(float* p) const { _mm256_storeu_ps(p, v); }
  PA_HD void add(Vec a, Vec b) { v = _mm256_fmadd_ps(a.v, b.v, v); }
  PA_HD void add(Vec a) { v = _mm256_add_ps(v, a.v); }
};
template <>
struct Vec<double> {
  static constexpr int width = 4, tile_rows = 4, outer_columns = 4;
  __m256d v;
  static PA_HD Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static PA_HD Vec all(double s) { return {_mm256_set1_pd(s)}; }
  PA_HD void store(double* p) const { _mm256_storeu_pd(p, v); }
  PA_HD void add(Vec a, Vec b) { v = _mm256_fmadd_pd(a.v, b.v, v); }
  PA_HD void add(Vec a) { v = _mm256_add_pd(v, a.v); }
};
#else
// Any target: the compiler's own vectors of 16 bytes.
template <class R>
struct Vec {
  static constexpr int width = 16 / sizeof(R), tile_rows = 4, outer_columns = 4;
  typedef R Lanes __attribute__((vector_size(16)));
  Lanes v;
  static PA_HD Vec load(const R* p) {
    Vec made;
    memcpy(&made.v, p, sizeof made.v);
    return made;
  }
  static PA_HD Vec all(R s) { return {s - Lanes{}}; }
  PA_HD void store(R* p) const { memcpy(p, &v, sizeof v); }
  PA_HD void add(Vec a, Vec b) { v += a.v * b.v; }
  PA_HD void add(Vec a) { v += a.v; }
};
#endif

// Positions of the non-zero values (NaN included), in order; `to` has room for a vector more.
template <class R>
inline int nonzero(const R* v, int64_t n, int32_t* to) {
  int found = 0;
  int64_t i = 0;
#if defined(PA_EGRU_AVX512)
  __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  if constexpr (sizeof(R) == 4) {
    for (; i + 16 <= n; i += 16, at = _mm512_add_epi32(at, _mm512_set1_epi32(16))) {
      const __mmask16 m = _mm512_cmp_ps_mask(_mm512_loadu_ps(v + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
      _mm512_storeu_si512(to + found, _mm512_maskz_compress_epi32(m, at));
      found += __builtin_popcount(m);
    }
  }
#endif
  for (; i < n; ++i) {
    to[found] = static_cast<int32_t>(i);
    found += v[i] != R(0);
  }
  return found;
}

}  // namespace PA_ISA
}  // namespace egru
