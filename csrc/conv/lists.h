// Where an image spikes: the lists both directions walk.
#pragma once
#include "../egru/rows.h"
#include "problem.h"

namespace conv {
namespace PA_ISA {

// Spikes of one image in the order of its pixels: those of pixel i stand from start[i] to start[i + 1]. A code is
// column * in + channel, so that what a row of a kernel covers is one run of entries.
struct Lists {
  int32_t *start, *code, *count, *slots;
  float* value;
  Lists(egru::PA_ISA::Arena& a, const Problem& p) {
    const int64_t most = p.in * p.pixels() + 64;
    start = a.take<int32_t>(p.pixels() + 1);
    count = a.take<int32_t>(p.pixels());
    code = a.take<int32_t>(most);
    slots = a.take<int32_t>(p.last_in ? 0 : most);
    value = a.take<float>(p.graded ? most : 0);
  }
};

// Bits `from` to `from + 64` of a mask; needs one word beyond.
inline uint64_t bits(const uint64_t* mask, int64_t from) {
  const int64_t shift = from % 64;
  const uint64_t *at = mask + from / 64, low = at[0] >> shift;
  return shift ? low | at[1] << (64 - shift) : low;
}

template <class Take>
inline void each_bit(const uint64_t* mask, int64_t from, int64_t count, const Take& take) {
  for (int64_t i = 0; i < count; i += 64) {
    uint64_t word = bits(mask, from + i);
    if (count - i < 64) word &= (uint64_t(1) << (count - i)) - 1;
    for (; word; word &= word - 1) take(i + __builtin_ctzll(word));
  }
}

inline void list_spikes(const Problem& p, int64_t image, const Lists& to) {
  const uint64_t* mask = p.mask + image * p.words();
  const float* x = p.x + (p.graded ? image * p.in * p.pixels() : 0);
  const int64_t in = p.in, width = p.width, pixels = p.pixels();
  int32_t found = 0;
  if (p.last_in) {
    for (int64_t i = 0; i < pixels; ++i) {
      to.start[i] = found;
      const int32_t base = static_cast<int32_t>(i % width * in);
      each_bit(mask, i * in, in, [&](int64_t c) {
        if (p.graded) to.value[found] = x[i * in + c];
        to.code[found++] = base + static_cast<int32_t>(c);
      });
    }
    to.start[pixels] = found;
    return;
  }
  memset(to.count, 0, static_cast<size_t>(pixels) * sizeof(int32_t));
  for (int64_t c = 0; c < in; ++c)
    each_bit(mask, c * pixels, pixels, [&](int64_t i) { to.slots[i * in + to.count[i]++] = static_cast<int32_t>(c); });
  for (int64_t i = 0; i < pixels; ++i) {
    to.start[i] = found;
    const int32_t base = static_cast<int32_t>(i % width * in), n = to.count[i], *from = to.slots + i * in;
    if (p.graded)
      for (int32_t e = 0; e < n; ++e) to.value[found + e] = x[from[e] * pixels + i];
    for (int32_t e = 0; e < n; ++e) to.code[found + e] = base + from[e];
    found += n;
  }
  to.start[pixels] = found;
}

// Sets a bit for each value that is not 0 (NaN included); whether all others are 1.
inline bool scan(const float* x, int64_t count, uint64_t* mask) {
  int64_t i = 0;
  bool binary = true;
#if defined(PA_EGRU_AVX512)
  __mmask16 odd = 0;
  for (; i + 64 <= count; i += 64) {
    uint64_t word = 0;
    for (int k = 0; k < 4; ++k) {
      const __m512 v = _mm512_loadu_ps(x + i + 16 * k);
      const __mmask16 on = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      odd |= _mm512_mask_cmp_ps_mask(on, v, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ);
      word |= uint64_t(on) << (16 * k);
    }
    mask[i / 64] = word;
  }
  binary = odd == 0;
#elif defined(PA_EGRU_AVX2)
  __m256 odd = _mm256_setzero_ps();
  for (; i + 64 <= count; i += 64) {
    uint64_t word = 0;
    for (int k = 0; k < 8; ++k) {
      const __m256 v = _mm256_loadu_ps(x + i + 8 * k), on = _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ);
      odd = _mm256_or_ps(odd, _mm256_and_ps(on, _mm256_cmp_ps(v, _mm256_set1_ps(1.0f), _CMP_NEQ_UQ)));
      word |= uint64_t(uint32_t(_mm256_movemask_ps(on))) << (8 * k);
    }
    mask[i / 64] = word;
  }
  binary = _mm256_movemask_ps(odd) == 0;
#endif
  for (; i < count; i += 64) {
    uint64_t word = 0;
    for (int64_t k = 0; k < std::min<int64_t>(64, count - i); ++k) {
      word |= uint64_t(x[i + k] != 0.0f) << k;
      binary &= x[i + k] == 0.0f || x[i + k] == 1.0f;
    }
    mask[i / 64] = word;
  }
  return binary;
}

}  // namespace PA_ISA
}  // namespace conv
