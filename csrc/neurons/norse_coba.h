// Norse CobaLIF: a membrane between conductances. Source: norse/torch/functional/coba_lif.py @ 1.1.0.
// The products are the caller's: x is what arrives at the excitatory conductance; what arrives at the inhibitory one is
// added to g_i before the step.
//
//   e0   = g_e + x;  g_e <- e0 + k_e e0;  g_i <- g_i + k_i g_i               k_e = -dt tau_syn_exc_inv, ..
//   d    = (g_l (v_rest - v) + g_e (e_exc - v)) + g_i (e_inh - v);  w = v + k_mem d          k_mem = dt c_m_inv
//   z    = 1[w - th > 0];  v <- (1 - z) w + z v_reset
//
// Backward, with g_w as NorseLif's (not detached) and g_d = k_mem g_w:
//   g_v <- g_w - (g_l + g_e + g_i) g_d
//   g_ge += (e_exc - v) g_d;  g_x = g_ge <- g_ge + k_e g_ge;  g_gi likewise
#pragma once
#include "norse.h"

template <class R>
struct NorseCoba {
  using Real = R;
  using Surrogate = FastSigmoid;
  enum State { V, E, I };
  enum Param { KE, KI, KMem, GLeak, EExc, EInh, VRest, Threshold, VReset, kParams };
  static constexpr int kStates = 3;
  static constexpr int kDecays = kParams;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int) { return true; }
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R w, const R*, const Flags&, R&, R&) { return w; }

  PA_HD static void conduct(R* s, R x, const R* p) {
    const R e = s[E] + x;
    s[E] = e + p[KE] * e;
    s[I] = s[I] + p[KI] * s[I];
  }
  // with the conductances of after the step
  PA_HD static R drive(R v, R e, R i, const R* p) {
    return p[GLeak] * (p[VRest] - v) + e * (p[EExc] - v) + i * (p[EInh] - v);
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags&, R& kept) {
    conduct(s, x, p);
    kept = s[V] + p[KMem] * drive(s[V], s[E], s[I], p);
    const R z = norse_fires_(kept, p[Threshold]);
    s[V] = norse_reset_(kept, z, p[VReset]);
    return z;
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags&) {
    conduct(s, x, p);
    s[V] = norse_reset_(kept, norse_fires_(kept, p[Threshold]), p[VReset]);
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R v = before[V], e0 = before[E] + x, e = e0 + p[KE] * e0, i = before[I] + p[KI] * before[I];
    const R z = norse_fires_(w, p[Threshold]);
    R g_fire;
    const R g_w = g_kept + norse_reset_back_<false>(w, z, p[VReset], sg, g[V], g_out, g_fire), g_d = p[KMem] * g_w;
    const R g_e = g[E] + (p[EExc] - v) * g_d, g_i = g[I] + (p[EInh] - v) * g_d;
    gp[KE] = g_e * e0;
    gp[KI] = g_i * before[I];
    gp[KMem] = g_w * drive(v, e, i, p);
    gp[GLeak] = g_d * (p[VRest] - v);
    gp[EExc] = g_d * e;
    gp[EInh] = g_d * i;
    gp[VRest] = g_d * p[GLeak];
    gp[Threshold] = -g_fire;
    gp[VReset] = z * g[V];
    g[V] = g_w - (p[GLeak] + e + i) * g_d;
    g[E] = g_e + p[KE] * g_e;
    g[I] = g_i + p[KI] * g_i;
    return g[E];
  }
};
