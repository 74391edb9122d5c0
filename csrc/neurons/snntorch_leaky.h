// snnTorch Leaky, RLeaky (recurrent input as a parameter per column) and Lapicque.
// Source: snntorch/_neurons/{leaky,rleaky,lapicque}.py @ 1.0.0. b = clamp(beta, 0, 1).
//
//   r   = 1[u > threshold]                   the reset signal: no gradient
//   m   = (b*u + x) + rec                    Lapicque: ((x*R)*inv)*dt + decay*u
//   q   = m - r*threshold  (subtract) | b*((1-r)*u) + x (zero) | m - r*m (zero after) | m (none); q is kept
//   out = graded * 1[q > threshold]
//   u  <- q                                  with reset_delay, else as snn_settle_ has it
//
// Backward, g_u = gradient of u after the step, sg = d spike / d q:
//   s    = graded * g_out                    the spike's gradient; without delay s -= threshold*g_u (subtract),
//                                            g_threshold -= d*g_u, or s -= q*g_u and g_u <- (1-d)*g_u (zero)
//   g_q  = g_u + g_kept + s*sg;  g_threshold -= s*sg + r*g_q (subtract)
//   g_x  = g_q, (1-r)*g_q (zero after);  g_beta = u*g_x;  g_u <- b*g_x; both times 1-r (zero)
#pragma once
#include "snntorch.h"

template <class R, int Reset, bool Delay, bool Lapicque>
struct SnnLeaky {
  using Real = R;
  using Surrogate = Atan;  // the host's default: the one that is fused into the step
  enum State { U };
  enum Param { Beta, Threshold, Graded, Recurrent, Resistance = Recurrent, Inverse, Dt };
  static constexpr int kParams = Lapicque ? 6 : 4;
  static constexpr int kStates = 1;
  static constexpr int kDecays = 3;  // the others have no gradient, or the input's
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool kZero = Reset == kSnnZero || Reset == kSnnZeroAfter;
  static constexpr bool replays(int sums) { return !Delay && (sums != kNoSums || kZero); }  // u is q with a delay
  static constexpr bool kReadsBefore = kZero;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R decay(const R* p) { return Lapicque ? p[Beta] : snn_clamp_(p[Beta]); }

  PA_HD static R after(R q, R u, const R* p, const Flags& f, R& d) {
    d = R(0);
    if (Delay) return q;
    return snn_settle_<R, Reset>(q, snn_fires_(u, p[Threshold]), p[Threshold], p[Graded], f, d);
  }
  PA_HD static R settle(R q, const R*, const Flags&, R&, R&) { return q; }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R u = s[U], th = p[Threshold], r = snn_fires_(u, th);
    R q, d;
    if (Reset == kSnnZero) {
      q = decay(p) * ((R(1) - r) * u) + x;
    } else {
      q = Lapicque ? x * p[Resistance] * p[Inverse] * p[Dt] + decay(p) * u : decay(p) * u + x + p[Recurrent];
      if (Reset == kSnnSubtract) q = q - snn_drop_(r, th, f);
      if (Reset == kSnnZeroAfter) q = q - r * q;
    }
    kept = q;
    s[U] = after(q, u, p, f, d);
    return snn_fires_(q, th) * p[Graded];
  }

  PA_HD static void replay(R* s, R, R kept, const R* p, const Flags& f) {
    R d;
    s[U] = after(kept, s[U], p, f, d);
  }

  template <bool>
  PA_HD static R backward(const R* before, R, R q, R sg, R g_out, R g_kept, R* g, const R* p, const Flags& f, R* gp) {
    const R u = before[U], th = p[Threshold], r = snn_fires_(u, th), b = decay(p);
    R g_u = g[U], s = p[Graded] * g_out, g_th = R(0), d;
    if (!Delay) {
      after(q, u, p, f, d);
      s -= (Reset == kSnnSubtract ? th : q) * g_u;
      if (Reset == kSnnSubtract) g_th = -(d * g_u);
      if (kZero) g_u = g_u - d * g_u;
    }
    const R z = s * sg;
    R g_q = g_u + g_kept + z;
    g_th -= z;
    gp[Graded] = snn_fires_(q, th) * g_out;
    if (Reset == kSnnSubtract) g_th -= r * g_q;
    gp[Threshold] = g_th;
    if (Reset == kSnnZeroAfter) g_q = g_q - r * g_q;
    const R g_m = Reset == kSnnZero ? (R(1) - r) * g_q : g_q;
    gp[Beta] = u * g_m * snn_inside_(p[Beta]);
    g[U] = b * g_m;
    return Lapicque ? g_q * p[Dt] * p[Inverse] * p[Resistance] : g_q;
  }
};
