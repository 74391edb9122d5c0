// Norse LIFRefrac and LIFAdExRefrac: a neuron whose output and membrane are held while a counter runs down.
// Source: norse/torch/functional/{lif_refrac,lif_adex_refrac}.py @ 1.1.0, compute_refractory_update.
//
//   w, y, u, .. <- the step of NorseLif or NorseAdEx: membrane, spike, membrane after the reset; the other states
//   m    = 1[rho > 0]                      with the surrogate s(rho) = 1 / (slope |rho| + 1)^2, as y has
//   v   <- (1 - m) u + m v;  z = (1 - m) y
//   rho <- (1 - z) relu(rho - m) + z rho_reset
//
// Backward, with g_rho = gradient of rho after the step and n = 1[rho - m > 0]:
//   g_z += (rho_reset - relu(rho - m)) g_rho
//   g_m  = (v - u) g_v - y g_z - (1 - z) n g_rho;  g_rho <- (1 - z) n g_rho + g_m s(rho)
//   the inner step's with g_y = (1 - m) g_z and g_u = (1 - m) g_v, then g_v += m g_v of after the step
#pragma once
#include "norse_adex.h"
#include "norse_lif.h"

// Inner: the step that is held. Where it is detached and this is not, the reset's gradient is added here.
template <class R, class Inner, bool Detached>
struct NorseRefrac {
  using Real = R;
  using Surrogate = FastSigmoid;
  static constexpr int V = Inner::V, Rho = Inner::kStates, kStates = Rho + 1;
  static constexpr int Threshold = Inner::Threshold, VReset = Inner::VReset, RhoReset = Inner::RhoReset;
  static constexpr int Slope = Inner::kParams, kParams = Slope + 1;
  static constexpr int kDecays = Inner::Recurrent;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int) { return true; }
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R w, const R*, const Flags&, R&, R&) { return w; }

  // v and rho after the step
  PA_HD static R hold(R* s, R v, R w, const R* p) {
    const R y = norse_fires_(w, p[Threshold]), m = norse_fires_(s[Rho], R(0)), z = (R(1) - m) * y;
    s[V] = norse_reset_(norse_reset_(w, y, p[VReset]), m, v);
    s[Rho] = norse_reset_(norse_relu_(s[Rho] - m), z, p[RhoReset]);
    return z;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R v = s[V];
    Inner::forward(s, x, p, f, kept);
    return hold(s, v, kept, p);
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    const R v = s[V];
    Inner::replay(s, x, kept, p, f);
    hold(s, v, kept, p);
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags& f, R* gp) {
    const R v = before[V], rho = before[Rho], g_v = g[V], g_rho = g[Rho];
    const R y = norse_fires_(w, p[Threshold]), m = norse_fires_(rho, R(0)), z = (R(1) - m) * y;
    const R left = norse_relu_(rho - m), u = norse_reset_(w, y, p[VReset]);
    const R g_z = g_out + (p[RhoReset] - left) * g_rho;
    const R g_left = rho - m > R(0) ? (R(1) - z) * g_rho : R(0);
    const R n = p[Slope] * abs_(rho) + R(1);
    const R g_m = (v - u) * g_v - y * g_z - g_left, stays = R(1) - m;
    gp[RhoReset] = z * g_rho;
    g[Rho] = g_left + g_m / (n * n);
    g[V] = stays * g_v;
    R g_y = stays * g_z;
    if (Inner::kDetached && !Detached) g_y += (p[VReset] - w) * g[V];
    const R g_x = Inner::template backward<false>(before, x, w, sg, g_y, g_kept, g, p, f, gp);
    g[V] += m * g_v;
    return g_x;
  }
};
