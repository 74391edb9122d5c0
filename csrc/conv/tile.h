// One image, forward and back: a row of packed weights is added for each spike and place of the kernel.
#pragma once
#include "lists.h"
#include "transpose.h"

namespace conv {
namespace PA_ISA {

using egru::PA_ISA::Arena;
using V = egru::PA_ISA::Vec<float>;
#ifndef PA_CONV_VECTORS
#define PA_CONV_VECTORS 4
#endif
constexpr int kVectors = PA_CONV_VECTORS;
constexpr int64_t kPanel = kVectors * V::width;
constexpr int64_t kPlaces = 64;  // places of the output on their way between the two orders

struct Space {
  Lists lists;
  float* tile;  // [places][panel]
  Space(Arena& a, const Problem& p) : lists(a, p), tile(a.take<float>(p.places() * kPanel)) {}
};

// Calls act(first entry, one beyond the last, row of the weights that code 0 would take) for each run of spikes that
// reaches one place of the output.
template <class Act>
inline void each_run(const Problem& p, const Lists& lists, int64_t row, int64_t column, const Act& act) {
  const int64_t runs = p.dilation[1] == 1 ? 1 : p.kernel[1], wide = p.dilation[1] == 1 ? p.kernel[1] : 1;
  const int64_t top = row * p.stride[0] - p.pad[0], left = column * p.stride[1] - p.pad[1];
  for (int64_t k = 0; k < p.kernel[0]; ++k) {
    const int64_t i = top + k * p.dilation[0];
    if (i < 0 || i >= p.height) continue;
    const int32_t* start = lists.start + i * p.width;
    for (int64_t s = 0; s < runs; ++s) {
      const int64_t j = left + s * p.dilation[1];
      const int64_t from = std::max<int64_t>(j, 0), to = std::min(j + wide, p.width);
      if (from < to) act(start[from], start[to], (k * p.kernel[1] + s - j) * p.in);
    }
  }
}

template <bool Graded>
void forward_panel(const Problem& p, const Lists& lists, const float* weights, const float* bias, float* out,
                   int64_t ldo) {
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t column = 0; column < p.columns; ++column, out += ldo) {
      V sum[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[j] = V::load(bias + j * V::width);
      each_run(p, lists, row, column, [&](int32_t from, int32_t to, int64_t base) __attribute__((always_inline)) {
        const float* at = weights + base * kPanel;
        for (int32_t e = from; e < to; ++e) {
          const float* w = at + lists.code[e] * kPanel;
          const V s = V::all(Graded ? lists.value[e] : 1.0f);
#pragma GCC unroll 8
          for (int j = 0; j < kVectors; ++j) sum[j].add(s, V::load(w + j * V::width));
        }
      });
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sum[j].store(out + j * V::width);
    }
}

inline void forward(const Problem& p, int64_t image, void* workspace) {
  Arena arena(workspace);
  const Space s(arena, p);
  list_spikes(p, image, s.lists);
  const int64_t places = p.places();
  float* y = p.y + image * p.out * places;
  for (int64_t c = 0; c < p.out; c += kPanel) {
    const float *weights = p.packed + c * p.taps(), *bias = p.bias + c;
    const int64_t wide = std::min(kPanel, p.out - c);
    const bool direct = p.last_out && wide == kPanel;
    float* to = direct ? y + c : s.tile;
    (p.graded ? forward_panel<true> : forward_panel<false>)(p, s.lists, weights, bias, to, direct ? p.out : kPanel);
    if (direct) continue;
    if (p.last_out)
      for (int64_t i = 0; i < places; ++i)
        memcpy(y + i * p.out + c, s.tile + i * kPanel, static_cast<size_t>(wide) * sizeof(float));
    else
      transpose(s.tile, kPanel, places, wide, y + c * places, places);
  }
}

template <bool Graded>
void backward_panel(const Problem& p, const Lists& lists, const float* g_y, int64_t ldg, float* g_weight,
                    float* g_bias) {
  V total[kVectors];
  for (int j = 0; j < kVectors; ++j) total[j] = V::load(g_bias + j * V::width);
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t column = 0; column < p.columns; ++column, g_y += ldg) {
      V g[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        g[j] = V::load(g_y + j * V::width);
        total[j].add(V::all(1.0f), g[j]);
      }
      each_run(p, lists, row, column, [&](int32_t from, int32_t to, int64_t base) __attribute__((always_inline)) {
        float* at = g_weight + base * kPanel;
        for (int32_t e = from; e < to; ++e) {
          float* w = at + lists.code[e] * kPanel;
          const V s = V::all(Graded ? lists.value[e] : 1.0f);
#pragma GCC unroll 8
          for (int j = 0; j < kVectors; ++j) {
            V sum = V::load(w + j * V::width);
            sum.add(s, g[j]);
            sum.store(w + j * V::width);
          }
        }
      });
    }
  for (int j = 0; j < kVectors; ++j) total[j].store(g_bias + j * V::width);
}

inline void backward(const Problem& p, int64_t image, void* workspace, float* g_weight, float* g_bias) {
  Arena arena(workspace);
  const Space s(arena, p);
  list_spikes(p, image, s.lists);
  const int64_t places = p.places();
  const float* g_y = p.g_y + image * p.out * places;
  for (int64_t c = 0; c < p.out; c += kPanel) {
    const int64_t wide = std::min(kPanel, p.out - c);
    const bool direct = p.last_out && wide == kPanel;
    if (wide < kPanel) memset(s.tile, 0, static_cast<size_t>(places * kPanel) * sizeof(float));
    if (!p.last_out)
      transpose(g_y + c * places, places, wide, places, s.tile, kPanel);
    else if (!direct)
      for (int64_t i = 0; i < places; ++i)
        memcpy(s.tile + i * kPanel, g_y + i * p.out + c, static_cast<size_t>(wide) * sizeof(float));
    (p.graded ? backward_panel<true> : backward_panel<false>)(
        p, s.lists, direct ? g_y + c : s.tile, direct ? p.out : kPanel, g_weight + c * p.taps(), g_bias + c);
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
