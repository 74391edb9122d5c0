// Norse Izhikevich. Source: norse/torch/functional/izhikevich.py @ 1.1.0.
//
//   d   = ((((sq v^2 + mn v) + bias) - u) + x) + rec;  w = v + k d       k = tau_inv dt
//   u'  = u + k_a (b v - u)                                              k_a = tau_inv dt a
//   z   = 1[w - th > 0];  v <- (1 - z) w + z c;  u <- (1 - z) u' + z (u' + d_u)
//
// Backward, with g_v and g_u = gradients after the step:
//   g_z += (c - w) g_v + d_u g_u;  g_w = g_kept + (1 - z) g_v + g_z sg;  g_d = k g_w;  g_x = g_d
//   g_v <- g_w + (2 sq v + mn) g_d + k_a b g_u;  g_u <- g_u - k_a g_u - g_d
#pragma once
#include "norse.h"

template <class R>
struct NorseIzhikevich {
  using Real = R;
  using Surrogate = FastSigmoid;
  enum State { V, U };
  enum Param { Sq, Mn, Bias, K, Ka, B, C, D, Threshold, Recurrent, kParams };
  static constexpr int kStates = 2;
  static constexpr int kDecays = Recurrent;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int sums) { return sums != kNoSums; }
  static constexpr bool kReadsBefore = true;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R w, const R* p, const Flags&, R& out, R& unclamped) {
    unclamped = w;
    out = norse_fires_(w, p[Threshold]);
    return norse_reset_(w, out, p[C]);
  }

  PA_HD static R drive(const R* s, R x, const R* p) {
    return p[Sq] * (s[V] * s[V]) + p[Mn] * s[V] + p[Bias] - s[U] + x + p[Recurrent];
  }
  PA_HD static R recovery(const R* s, const R* p) { return p[B] * s[V] - s[U]; }

  PA_HD static R advance(R* s, R w, const R* p, const Flags& f) {
    R out, unclamped;
    const R u = s[U] + p[Ka] * recovery(s, p);
    s[V] = settle(w, p, f, out, unclamped);
    s[U] = norse_reset_(u, out, u + p[D]);
    return out;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    kept = s[V] + p[K] * drive(s, x, p);
    return advance(s, kept, p, f);
  }

  PA_HD static void replay(R* s, R, R kept, const R* p, const Flags& f) { advance(s, kept, p, f); }

  template <bool>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R v = before[V], z = norse_fires_(w, p[Threshold]), g_u = g[U];
    R g_fire;
    const R g_w = g_kept + norse_reset_back_<false>(w, z, p[C], sg, g[V], g_out + p[D] * g_u, g_fire);
    const R g_d = p[K] * g_w, g_rec = p[Ka] * g_u;
    gp[Sq] = g_d * (v * v);
    gp[Mn] = g_d * v;
    gp[Bias] = g_d;
    gp[K] = g_w * drive(before, x, p);
    gp[Ka] = g_u * recovery(before, p);
    gp[B] = g_rec * v;
    gp[C] = z * g[V];
    gp[D] = z * g_u;
    gp[Threshold] = -g_fire;
    g[V] = g_w + g_d * (R(2) * p[Sq] * v + p[Mn]) + g_rec * p[B];
    g[U] = g_u - g_rec - g_d;
    return g_d;
  }
};
