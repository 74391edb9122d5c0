// snnTorch Synaptic and RSynaptic (recurrent input as a parameter per column).
// Source: snntorch/_neurons/{synaptic,rsynaptic}.py @ 1.0.0. a = clamp(alpha, 0, 1), b = clamp(beta, 0, 1).
//
//   r   = 1[u > threshold]                   the reset signal: no gradient
//   i  <- (a*i + x) + rec
//   m   = b*u + i
//   q   = m - r*threshold (subtract) | m - m*r (zero after: the current stays) | m (none); q is kept
//   out = graded * 1[q > threshold]
//   u  <- q                                  with reset_delay, else as snn_settle_ has it
//
// Backward: up to g_m as SnnLeaky; then g_i += g_m;  g_x = g_i;  g_alpha = i*g_i;  g_beta = u*g_m;
//   g_i <- a*g_i;  g_u <- b*g_m
#pragma once
#include "snntorch_leaky.h"

template <class R, int Reset, bool Delay>
struct SnnSynaptic {
  using Real = R;
  using Surrogate = Atan;
  using Membrane = SnnLeaky<R, Reset, Delay, false>;
  enum State { U, I };
  enum Param { Beta, Threshold, Graded, Alpha, Recurrent, kParams };
  static constexpr int kStates = 2;
  static constexpr int kDecays = 4;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool kZero = Reset == kSnnZeroAfter;
  // The current is not in `kept`; backward reads it for the decays' gradients alone.
  static constexpr bool replays(int sums) { return sums != kNoSums || (!Delay && kZero); }
  static constexpr bool kReadsBefore = kZero;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R q, const R*, const Flags&, R&, R&) { return q; }

  PA_HD static R current(const R* s, R x, const R* p) { return snn_clamp_(p[Alpha]) * s[I] + x + p[Recurrent]; }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R u = s[U], th = p[Threshold], r = snn_fires_(u, th);
    s[I] = current(s, x, p);
    R q = snn_clamp_(p[Beta]) * u + s[I], d;
    if (Reset == kSnnSubtract) q = q - snn_drop_(r, th, f);
    if (kZero) q = q - q * r;
    kept = q;
    s[U] = Membrane::after(q, u, p, f, d);
    return snn_fires_(q, th) * p[Graded];
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    R d;
    s[I] = current(s, x, p);
    s[U] = Membrane::after(kept, s[U], p, f, d);
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R q, R sg, R g_out, R g_kept, R* g, const R* p, const Flags& f, R* gp) {
    // Zero after is what the membrane of SnnLeaky does with the input's gradient too: g_m.
    const R g_m = Membrane::template backward<false>(before, x, q, sg, g_out, g_kept, g, p, f, gp);
    const R g_i = g[I] + g_m;
    gp[Alpha] = before[I] * g_i * snn_inside_(p[Alpha]);
    g[I] = snn_clamp_(p[Alpha]) * g_i;
    return g_i;
  }
};
