// Norse LSNN: the input acts one step later, the threshold adapts. Source: norse/torch/functional/lsnn.py @ 1.1.0.
//
//   w   = v + k_mem ((v_leak - v) + i)
//   th  = b + k_ada (v_th - b)                k_ada = dt tau_adapt_inv
//   z   = 1[w - th > 0];  v <- (1 - z) w + z v_reset;  b <- th + z beta
//   i  <- ((i + k_syn i) + x) + rec
//
// Backward, detached: z is a constant in reset and b.
//   g_z += beta g_b + (v_reset - w) g_v;  g_w = g_kept + (1 - z) g_v + g_z sg;  g_th = g_b - g_z sg
//   g_x  = g_i;  g_d = k_mem g_w;  g_v <- g_w - g_d;  g_i <- g_i + k_syn g_i + g_d;  g_b <- g_th - k_ada g_th
#pragma once
#include "norse.h"

template <class R, bool Detached>
struct NorseLsnn {
  using Real = R;
  using Surrogate = FastSigmoid;
  enum State { V, I, B };
  enum Param { KMem, KSyn, KAda, VLeak, Threshold, VReset, Beta, Recurrent, kParams };
  static constexpr int kStates = 3;
  static constexpr int kDecays = Recurrent;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int) { return true; }  // b cannot be rebuilt from `kept` alone
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = true;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R* s, const R* p, const Flags&) { return s[B] + p[KAda] * (p[Threshold] - s[B]); }
  PA_HD static R settle(R w, const R*, const Flags&, R&, R&) { return w; }

  PA_HD static R advance(R* s, R x, R w, const R* p, const Flags& f) {
    const R th = threshold(s, p, f), z = norse_fires_(w, th), i = s[I] + p[KSyn] * s[I] + x;
    s[V] = norse_reset_(w, z, p[VReset]);
    s[I] = Detached ? i + p[Recurrent] : i;
    s[B] = th + z * p[Beta];
    return z;
  }

  PA_HD static R drive(const R* s, const R* p) { return (p[VLeak] - s[V]) + s[I]; }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    kept = s[V] + p[KMem] * drive(s, p);
    return advance(s, x, kept, p, f);
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) { advance(s, x, kept, p, f); }

  template <bool>
  PA_HD static R backward(const R* before, R, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags& f, R* gp) {
    const R z = norse_fires_(w, threshold(before, p, f)), g_x = g[I];
    R g_fire;
    const R g_z = Detached ? g_out : g_out + p[Beta] * g[B];
    const R g_w = g_kept + norse_reset_back_<Detached>(w, z, p[VReset], sg, g[V], g_z, g_fire);
    const R g_d = p[KMem] * g_w, g_th = g[B] - g_fire;
    gp[KMem] = g_w * drive(before, p);
    gp[KSyn] = g[I] * before[I];
    gp[KAda] = g_th * (p[Threshold] - before[B]);
    gp[VLeak] = g_d;
    gp[Threshold] = p[KAda] * g_th;
    gp[VReset] = z * g[V];
    gp[Beta] = z * g[B];
    g[V] = g_w - g_d;
    g[I] = (g_x + p[KSyn] * g_x) + g_d;
    g[B] = g_th - p[KAda] * g_th;
    return g_x;
  }
};
