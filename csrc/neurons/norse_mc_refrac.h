// Norse LIFMCRefrac: compartments that drive each other and are held while a counter runs down.
// Source: norse/torch/functional/lif_mc_refrac.py @ 1.1.0. The products are the caller's: x is what the other
// compartments give, and what arrives at the synapses is added to i after the step.
//
//   m    = 1[rho > 0]                      with the surrogate s(rho) = 1 / (slope |rho| + 1)^2
//   d    = (v_leak - v) + i;  w = v + (((1 - m) k_mem) d + x)
//   z    = 1[w - th > 0];  v <- (1 - z) w + z v_reset;  i <- i + k_syn i
//   rho <- (1 - z) relu(rho - m) + z rho_reset
//
// Backward as NorseLif's and NorseRefrac's, with g_x = g_w and g_d = (1 - m) k_mem g_w.
#pragma once
#include "norse.h"

template <class R>
struct NorseMcRefrac {
  using Real = R;
  using Surrogate = FastSigmoid;
  enum State { V, I, Rho };
  enum Param { KMem, KSyn, VLeak, Threshold, VReset, RhoReset, Slope, kParams };
  static constexpr int kStates = 3;
  static constexpr int kDecays = Slope;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int) { return true; }
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R w, const R*, const Flags&, R&, R&) { return w; }
  PA_HD static R drive(const R* s, const R* p) { return (p[VLeak] - s[V]) + s[I]; }
  PA_HD static R stays(const R* s) { return R(1) - norse_fires_(s[Rho], R(0)); }

  PA_HD static R advance(R* s, R w, const R* p) {
    const R z = norse_fires_(w, p[Threshold]), m = norse_fires_(s[Rho], R(0));
    s[V] = norse_reset_(w, z, p[VReset]);
    s[I] = s[I] + p[KSyn] * s[I];
    s[Rho] = norse_reset_(norse_relu_(s[Rho] - m), z, p[RhoReset]);
    return z;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags&, R& kept) {
    kept = s[V] + (stays(s) * p[KMem] * drive(s, p) + x);
    return advance(s, kept, p);
  }

  PA_HD static void replay(R* s, R, R kept, const R* p, const Flags&) { advance(s, kept, p); }

  template <bool>
  PA_HD static R backward(const R* before, R, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R rho = before[Rho], m = norse_fires_(rho, R(0)), z = norse_fires_(w, p[Threshold]), g_rho = g[Rho];
    const R left = norse_relu_(rho - m), d = drive(before, p);
    R g_fire;
    const R g_z = g_out + (p[RhoReset] - left) * g_rho;
    const R g_w = g_kept + norse_reset_back_<false>(w, z, p[VReset], sg, g[V], g_z, g_fire);
    const R g_left = rho - m > R(0) ? (R(1) - z) * g_rho : R(0);
    const R g_d = (R(1) - m) * p[KMem] * g_w, n = p[Slope] * abs_(rho) + R(1);
    gp[KMem] = (R(1) - m) * d * g_w;
    gp[KSyn] = g[I] * before[I];
    gp[VLeak] = g_d;
    gp[Threshold] = -g_fire;
    gp[VReset] = z * g[V];
    gp[RhoReset] = z * g_rho;
    g[V] = g_w - g_d;
    g[I] = (g[I] + p[KSyn] * g[I]) + g_d;
    g[Rho] = g_left - (p[KMem] * d * g_w + g_left) / (n * n);
    return g_w;
  }
};
