// snnTorch DeltaLeaky: a membrane that spikes where it changed by more than a threshold. No reset.
// Source: snntorch/_neurons/deltaleaky.py @ 1.0.0. beta is not clamped.
//
//   q   = beta*u + x;  a = |q - u|;  a is kept
//   out = 1[a > threshold];  u <- q
//
// Backward, g_q = gradient of u after the step, with q from x and u again:
//   z   = g_out*sg;  g_threshold = -z;  g_d = sign(q - u)*(z + g_kept), sign(0) = 0;  g_q += g_d
//   g_x = g_q;  g_beta = u*g_q;  g_u <- beta*g_q - g_d
#pragma once
#include "snntorch.h"

template <class R>
struct SnnDelta {
  using Real = R;
  using Surrogate = Atan;
  enum State { U };
  enum Param { Beta, Threshold, kParams };
  static constexpr int kStates = 1;
  static constexpr int kDecays = kParams;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int) { return true; }
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R a, const R*, const Flags&, R&, R&) { return a; }

  PA_HD static R forward(R* s, R x, const R* p, const Flags&, R& kept) {
    const R q = p[Beta] * s[U] + x, d = q - s[U];
    kept = d < R(0) ? -d : d;
    s[U] = q;
    return snn_fires_(kept, p[Threshold]);
  }

  PA_HD static void replay(R* s, R x, R, const R* p, const Flags&) { s[U] = p[Beta] * s[U] + x; }

  template <bool>
  PA_HD static R backward(const R* before, R x, R, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R u = before[U], d = p[Beta] * u + x - u, z = g_out * sg, g_a = z + g_kept;
    const R g_d = d > R(0) ? g_a : d < R(0) ? -g_a : R(0);
    const R g_q = g[U] + g_d;
    gp[Beta] = u * g_q;
    gp[Threshold] = -z;
    g[U] = p[Beta] * g_q - g_d;
    return g_q;
  }
};
