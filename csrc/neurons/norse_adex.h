// Norse LIFAdEx: LIFEx with an adaptation current. Source: norse/torch/functional/lif_adex.py @ 1.1.0.
//
//   j   = (i + x) + rec
//   d   = (((v_leak - v) + delta_t exp((v - th) / delta_t)) + j) - a;  w = v + k_mem d
//   i  <- j + k_syn j;  a' = a + k_ada (a_current (v - v_leak) - a)      k_ada = dt tau_ada_inv
//   z   = 1[w - th > 0];  v <- (1 - z) w + z v_reset;  a <- a' + z a_spike
//
// Backward as NorseLif's (not detached), and with g_a = gradient of a after the step:
//   g_z += a_spike g_a;  g_v += k_ada a_current g_a;  g_a <- g_a - k_ada g_a - g_d
#pragma once
#include "norse.h"

template <class R>
struct NorseAdEx {
  using Real = R;
  using Surrogate = FastSigmoid;
  static constexpr bool kDetached = false;
  enum State { V, I, A };
  enum Param { KMem, KSyn, KAda, VLeak, Threshold, VReset, DeltaT, ACurrent, ASpike, RhoReset, Recurrent, kParams };
  static constexpr int kStates = 3;
  static constexpr int kDecays = RhoReset;  // which is NorseRefrac's
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
    return norse_reset_(w, out, p[VReset]);
  }

  PA_HD static R drive(const R* s, R j, const R* p) {
    const R e = norse_exponential_(s[V], p[Threshold], p[DeltaT]);
    return ((p[VLeak] - s[V]) + p[DeltaT] * e) + j - s[A];
  }
  PA_HD static R adaptation(const R* s, const R* p) { return p[ACurrent] * (s[V] - p[VLeak]) - s[A]; }

  // The states after the step, from w
  PA_HD static R advance(R* s, R j, R w, const R* p, const Flags& f) {
    R out, unclamped;
    const R a = s[A] + p[KAda] * adaptation(s, p);
    s[V] = settle(w, p, f, out, unclamped);
    s[I] = j + p[KSyn] * j;
    s[A] = a + out * p[ASpike];
    return out;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R j = s[I] + x + p[Recurrent];
    kept = s[V] + p[KMem] * drive(s, j, p);
    return advance(s, j, kept, p, f);
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    advance(s, s[I] + x + p[Recurrent], kept, p, f);
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R v = before[V], j = before[I] + x + p[Recurrent], z = norse_fires_(w, p[Threshold]);
    R g_fire;
    const R g_z = g_out + p[ASpike] * g[A];
    const R g_w = g_kept + norse_reset_back_<false>(w, z, p[VReset], sg, g[V], g_z, g_fire);
    const R g_d = p[KMem] * g_w, at = (v - p[Threshold]) / p[DeltaT], e = exp_(at) * g_d;
    const R g_ada = p[KAda] * g[A], g_current = p[ACurrent] * g_ada;
    gp[KMem] = g_w * drive(before, j, p);
    gp[KSyn] = g[I] * j;
    gp[KAda] = g[A] * adaptation(before, p);
    gp[VLeak] = g_d - g_current;
    gp[Threshold] = -g_fire - e;
    gp[VReset] = z * g[V];
    gp[DeltaT] = e - at * e;
    gp[ACurrent] = g_ada * (v - p[VLeak]);
    gp[ASpike] = z * g[A];
    g[V] = g_w - g_d + e + g_current;
    g[I] = g_d + (g[I] + p[KSyn] * g[I]);
    g[A] = g[A] - g_ada - g_d;
    return g[I];
  }
};
