// The gradient of the recurrent weights, and the table of kernels. Included in one source per instruction set.
#pragma once
#include "../sums/outer.h"
#include "products.h"

namespace recurrent {
namespace PA_ISA {

// Rows that are summed together. Their columns of the gradient and, transposed, some columns of spikes lie side by
// side.
constexpr int64_t kChunk = 128;

struct OuterSpace {
  int64_t width;               // columns, whole vectors
  float *sum, *g, *z, *value;  // [units + tile][width] [kChunk][width] [tile][kChunk] [units][kChunk]
  double* bias;                // [width]
  int32_t *entry, *counts, *active;
  char* end;
  OuterSpace(void* at, int64_t units, int64_t columns) : width(round_up(columns, V::width * kPanel)) {
    char* next = static_cast<char*>(at);
    const auto take = [&](auto*& to, int64_t count) {
      to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(next);
      next += round_up(count * static_cast<int64_t>(sizeof *to), 64);
    };
    take(sum, (units + V::tile_rows) * width);
    take(g, (kChunk + kAhead) * width);
    take(z, V::tile_rows * kChunk);
    take(value, units * kChunk);
    take(bias, width);
    take(entry, units * kChunk);
    take(counts, units);
    take(active, Lists::room(units));
    end = next;
  }
};

inline int64_t outer_bytes(int64_t units, int64_t columns) {
  return reinterpret_cast<intptr_t>(OuterSpace(nullptr, units, columns).end);
}

// sum += z^T g by all units: tiles of units times panels of columns.
inline void add_dense(const OuterSpace& s, const float* const* spikes, int64_t rows, int64_t units) {
  for (int64_t k = 0; k < units; k += V::tile_rows) {
    const int64_t here = std::min<int64_t>(V::tile_rows, units - k);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < V::tile_rows; ++i) s.z[i * kChunk + r] = i < here ? spikes[r][k + i] : 0.0f;
    for (int64_t n = 0; n < s.width; n += kPanel * V::width) {
      float* to = s.sum + k * s.width + n;
      dense_tile<float, V::tile_rows, kPanel>(s.z, kChunk, s.g + n, s.width, rows, {to, s.width, V::width},
                                              {to, s.width, V::width});
    }
  }
}

inline int64_t count(const float* v, int64_t n) {
  int found = 0;
#pragma omp simd reduction(+ : found)
  for (int64_t i = 0; i < n; ++i) found += v[i] != 0.0f;
  return found;
}

// sum += z^T g by active units, listed for each unit.
inline void add_active(const OuterSpace& s, const float* const* spikes, int64_t rows, int64_t units) {
  memset(s.counts, 0, static_cast<size_t>(units) * sizeof(int32_t));
  for (int64_t r = 0; r < rows; ++r) {
    const int active = nonzero(spikes[r], units, s.active);
    for (int e = 0; e < active; ++e) {
      const int64_t k = s.active[e], free = k * kChunk + s.counts[k]++;
      s.entry[free] = static_cast<int32_t>(r);
      s.value[free] = spikes[r][k];
    }
  }
  add_outer(s.value, s.entry, s.counts, kChunk, units, s.g, s.width, s.sum);
}

inline void add_chunk(const Outer& p, const OuterSpace& s, const float* const* spikes, int64_t rows) {
  int64_t active = 0;
  for (int64_t r = 0; r < rows; ++r) active += count(spikes[r], p.units);
  const bool many = static_cast<double>(active) > p.dense_above * static_cast<double>(rows * p.units);
  if (many || !finite(s.g, rows * s.width))
    add_dense(s, spikes, rows, p.units);
  else
    add_active(s, spikes, rows, p.units);
}

inline void outer(const Outer& p, int64_t first, int64_t last, void* scratch) {
  const OuterSpace s(scratch, p.units, last - first);
  memset(scratch, 0, static_cast<size_t>(s.end - static_cast<char*>(scratch)));
  const int64_t own = last - first, rows = p.steps * p.samples;
  const float* spikes[kChunk];
  int64_t held = 0;
  for (int64_t at = 0; at < rows; ++at) {
    const int64_t t = at / p.samples, sample = at % p.samples;
    if (t > 0 || p.first) {
      const float* g = p.gradient.data + t * p.gradient.of_time + sample * p.gradient.of_sample + first;
      memcpy(s.g + held * s.width, g, static_cast<size_t>(own) * sizeof(float));
      spikes[held++] =
          t > 0 ? p.spikes.data + (t - 1) * p.spikes.of_time + sample * p.spikes.of_sample : p.first + sample * p.units;
    }
    if (held < kChunk && (at + 1 < rows || held == 0)) continue;
    for (int64_t r = 0; p.bias && r < held; ++r)
      for (int64_t j = 0; j < own; ++j) s.bias[j] += static_cast<double>(s.g[r * s.width + j]);
    if (p.weight) add_chunk(p, s, spikes, held);
    held = 0;
  }
  for (int64_t j = 0; p.bias && j < own; ++j) p.bias[first + j] = static_cast<float>(s.bias[j]);
  if (!p.weight) return;
  constexpr int64_t line = 16;  // of both at a time
  for (int64_t k = 0; k < p.units; k += line)
    for (int64_t j = 0; j < own; ++j)
      for (int64_t i = k; i < std::min(p.units, k + line); ++i)
        p.weight[(first + j) * p.units + i] = s.sum[i * s.width + j];
}

inline const Kernels* kernels() {
  static const Kernels k{padded,   square_elements, pack,  finite,           forward,
                         backward, outer_bytes,     outer, V::width * kPanel};
  return &k;
}

}  // namespace PA_ISA
}  // namespace recurrent
