// One image, forward and back: a row of packed weights is added for each spike and place of the kernel.
#pragma once
#include "../sums/rows.h"
#include "../sums/transpose.h"
#include "places.h"

namespace conv {
namespace PA_ISA {

using sums::PA_ISA::transpose;

inline void copy_rows(const float* from, int64_t ld_from, float* to, int64_t ld_to, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    memcpy(to + i * ld_to, from + i * ld_from, static_cast<size_t>(columns) * sizeof(float));
}

template <bool Graded>
void forward_places(const Problem& p, const Space& s, int64_t first, int64_t count, const float* weights,
                    const float* bias, float* out, int64_t ldo) {
  for (int64_t i = 0; i < count; ++i, out += ldo) {
    const int32_t entries = collect<Graded>(p, s, first + i);
    V sum[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sum[j] = V::load(bias + j * V::width);
    sums::PA_ISA::add_rows<Graded>(sum, entries, s.value, [&](int64_t e) { return weights + s.reach[e] * kPanel; });
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sum[j].store(out + j * V::width);
  }
}

inline void forward(const Problem& p, int64_t image, void* workspace) {
  Arena arena(workspace);
  const Space s(arena, p);
  list_spikes(p, image, s.lists);
  const auto run = p.graded ? forward_places<true> : forward_places<false>;
  for (int64_t c = 0; c < p.out; c += kPanel) {
    const int64_t wide = std::min(kPanel, p.out - c);
    const float *weights = p.packed + c * p.taps(), *bias = p.bias + c;
    for (int64_t first = 0; first < p.places(); first += kPlaces) {
      const int64_t count = std::min(kPlaces, p.places() - first);
      if (p.last_out && wide == kPanel) {
        run(p, s, first, count, weights, bias, p.y + (image * p.places() + first) * p.out + c, p.out);
        continue;
      }
      run(p, s, first, count, weights, bias, s.tile, kPanel);
      if (p.last_out)
        copy_rows(s.tile, kPanel, p.y + (image * p.places() + first) * p.out + c, p.out, count, wide);
      else
        transpose(s.tile, kPanel, count, wide, p.y + (image * p.out + c) * p.places() + first, p.places());
    }
  }
}

template <bool Graded>
void backward_places(const Problem& p, const Space& s, int64_t first, int64_t count, const float* g_y, int64_t ldg,
                     float* g_weight, float* g_bias) {
  V total[kVectors];  // of these places alone: one long chain of sums would lose digits
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) total[j] = V::all(0.0f);
  for (int64_t i = 0; i < count; ++i, g_y += ldg) {
    const int32_t entries = collect<Graded>(p, s, first + i);
    V g[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      g[j] = V::load(g_y + j * V::width);
      total[j].add(V::all(1.0f), g[j]);
    }
    for (int32_t e = 0; e < entries; ++e) {
      float* w = g_weight + s.reach[e] * kPanel;
      const V value = V::all(Graded ? s.value[e] : 1.0f);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        V sum = V::load(w + j * V::width);
        sum.add(value, g[j]);
        sum.store(w + j * V::width);
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) {
    total[j].add(V::all(1.0f), V::load(g_bias + j * V::width));
    total[j].store(g_bias + j * V::width);
  }
}

inline void backward(const Problem& p, int64_t image, void* workspace, float* g_weight, float* g_bias) {
  Arena arena(workspace);
  const Space s(arena, p);
  list_spikes(p, image, s.lists);
  const auto run = p.graded ? backward_places<true> : backward_places<false>;
  for (int64_t c = 0; c < p.out; c += kPanel) {
    const int64_t wide = std::min(kPanel, p.out - c);
    float *to = g_weight + c * p.taps(), *bias = g_bias + c;
    if (wide < kPanel) memset(s.tile, 0, kPlaces * kPanel * sizeof(float));
    for (int64_t first = 0; first < p.places(); first += kPlaces) {
      const int64_t count = std::min(kPlaces, p.places() - first);
      const float* last = p.g_y + (image * p.places() + first) * p.out + c;
      if (p.last_out && wide == kPanel) {
        run(p, s, first, count, last, p.out, to, bias);
        continue;
      }
      if (p.last_out)
        copy_rows(last, p.out, s.tile, kPanel, count, wide);
      else
        transpose(p.g_y + (image * p.out + c) * p.places() + first, p.places(), wide, count, s.tile, kPanel);
      run(p, s, first, count, s.tile, kPanel, to, bias);
    }
  }
}

inline int64_t workspace_bytes(const Problem& p) {
  Arena arena(nullptr);
  Space(arena, p);
  return arena.used();
}

inline const Kernels* kernels() {
  static const Kernels k{static_cast<int>(kPanel), scan, workspace_bytes, forward, backward};
  return &k;
}

}  // namespace PA_ISA
}  // namespace conv
