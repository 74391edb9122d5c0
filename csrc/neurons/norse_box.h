// Norse LIBox, LIFBox and IAF: no synaptic current.
// Source: norse/torch/functional/{lif_box,leaky_integrator_box,iaf,reset}.py @ 1.1.0.
//
//   w   = v + k_mem ((x + v_leak) - v)      LIBox: v + k_mem ((v_leak - v) + x);  IAF: v + x
//   z   = 1[w - th > 0];  v <- (1 - z) w + z v_reset      subtracting: (1 - z) w + z (w - th);  LIBox: v <- w
//
// Backward as NorseLif's, with g_x = k_mem g_w (IAF: g_w) and g_v <- g_w - k_mem g_w (IAF: g_w). Everything before a
// step follows from `kept` of the step before.
#pragma once
#include "norse.h"

template <class R, int Kind>
struct NorseBox {
  using Real = R;
  using Surrogate = FastSigmoid;
  static constexpr bool kIaf = Kind == kNorseIaf, kSubtract = Kind == kNorseLifBoxSubtract;
  enum State { V };
  enum Param { KMem, VLeak, Threshold, VReset, kParams };
  static constexpr int kStates = 1;
  static constexpr int kDecays = kParams;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = Kind == kNorseLiBox ? kNoSpike : kSingleSpike;
  static constexpr bool replays(int) { return false; }
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R target(R w, const R* p) { return kSubtract ? w - p[Threshold] : p[VReset]; }

  PA_HD static R settle(R w, const R* p, const Flags&, R& out, R& unclamped) {
    unclamped = w;
    out = w;
    if (kSpike == kNoSpike) return w;
    out = norse_fires_(w, p[Threshold]);
    return norse_reset_(w, out, target(w, p));
  }

  PA_HD static R drive(R v, R x, const R* p) { return Kind == kNorseLiBox ? (p[VLeak] - v) + x : (x + p[VLeak]) - v; }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    kept = kIaf ? s[V] + x : s[V] + p[KMem] * drive(s[V], x, p);
    R out, unclamped;
    s[V] = settle(kept, p, f, out, unclamped);
    return out;
  }

  PA_HD static void replay(R* s, R, R kept, const R* p, const Flags& f) {
    R out, unclamped;
    s[V] = settle(kept, p, f, out, unclamped);
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    R g_w, g_fire = R(0);
    if (kSpike == kNoSpike) {
      g_w = g_kept + g_out + g[V];
    } else {
      const R z = norse_fires_(w, p[Threshold]);
      g_w = g_kept + norse_reset_back_<false>(w, z, target(w, p), sg, g[V], g_out, g_fire);
      if (kSubtract) g_w += z * g[V];
      gp[kSubtract ? Threshold : VReset] = kSubtract ? -(z * g[V]) : z * g[V];
    }
    gp[Threshold] = (kSubtract ? gp[Threshold] : R(0)) - g_fire;
    if (kIaf) return g[V] = g_w;
    const R g_d = p[KMem] * g_w;
    gp[KMem] = g_w * drive(before[V], x, p);
    gp[VLeak] = g_d;
    g[V] = g_w - g_d;
    return g_d;
  }
};
