// snnTorch LeakyParallel with a diagonal recurrent matrix: a ReLU network of neurons that hear only themselves.
// Source: snntorch/_neurons/leakyparallel.py @ 1.0.0, torch.nn.RNN.
//
//   h  <- max((weight*h + bias) + x, 0)      x holds the input's own matrix and bias; h is kept
//   out = graded * 1[h > threshold]          no reset
//
// Backward: z = graded*g_out*sg;  g = (g_h + g_kept + z) * 1[h > 0];  g_threshold = -z;  g_weight = h_before*g;
//   g_bias = g_x = g;  g_h <- weight*g
#pragma once
#include "snntorch.h"

template <class R>
struct SnnParallel {
  using Real = R;
  using Surrogate = Atan;
  enum State { H };
  enum Param { Weight, Bias, Threshold, Graded, kParams };
  static constexpr int kStates = 1;
  static constexpr int kDecays = kParams;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int) { return false; }
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R h, const R*, const Flags&, R&, R&) { return h; }

  PA_HD static R forward(R* s, R x, const R* p, const Flags&, R& kept) {
    const R m = p[Weight] * s[H] + p[Bias] + x;
    kept = s[H] = m < R(0) ? R(0) : m;
    return snn_fires_(kept, p[Threshold]) * p[Graded];
  }

  template <bool>
  PA_HD static R backward(const R* before, R, R h, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R z = p[Graded] * g_out * sg;
    const R g_m = h > R(0) ? g[H] + g_kept + z : R(0);
    gp[Graded] = snn_fires_(h, p[Threshold]) * g_out;
    gp[Threshold] = -z;
    gp[Weight] = before[H] * g_m;
    gp[Bias] = g_m;
    g[H] = p[Weight] * g_m;
    return g_m;
  }
};
