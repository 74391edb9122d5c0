// Norse LI, LIF and LIFEx. Source: norse/torch/functional/{lif,leaky_integrator,lif_ex}.py @ 1.1.0.
//
//   j   = (i + x) + rec              rec: recurrent input, a parameter per column
//   d   = (v_leak - v) + j           LIFEx: ((v_leak - v) + delta_t exp((v - th) / delta_t)) + j
//   w   = v + k_mem d                k_mem = dt tau_mem_inv; w is kept for backward
//   i  <- j + k_syn j                k_syn = -dt tau_syn_inv
//   z   = 1[w - th > 0];  v <- (1 - z) w + z v_reset          LI: v <- w, which is the output
//
// Backward, g_v and g_i = gradients of v and i after the step, sg = d z / d w:
//   g_z += (v_reset - w) g_v         unless detached;  g_w = g_kept + (1 - z) g_v + g_z sg;  g_th = -g_z sg
//   g_d  = k_mem g_w;  g_x = g_d + g_i + k_syn g_i;  g_i <- g_x
//   g_v <- g_w - g_d                 LIFEx: + exp(..) g_d
#pragma once
#include "norse.h"

template <class R, int Kind>
struct NorseLif {
  using Real = R;
  using Surrogate = FastSigmoid;  // SuperSpike, the host's default: the one that is fused into the step
  static constexpr bool kEx = Kind == kNorseLifEx, kDetached = Kind == kNorseLifDetached;
  enum State { V, I };
  enum Param { KMem, KSyn, VLeak, Threshold, VReset, DeltaT, RhoReset = DeltaT, Recurrent, kParams };
  static constexpr int kStates = 2;
  static constexpr int kDecays = kEx ? 6 : 5;  // the recurrent input's gradient is the input's
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = Kind == kNorseLi ? kNoSpike : kSingleSpike;
  static constexpr bool replays(int sums) { return sums != kNoSums; }  // the current is not in `kept`
  static constexpr bool kReadsBefore = kEx;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }

  // v after the step
  PA_HD static R settle(R w, const R* p, const Flags&, R& out, R& unclamped) {
    unclamped = w;
    out = w;
    if (kSpike == kNoSpike) return w;
    out = norse_fires_(w, p[Threshold]);
    return norse_reset_(w, out, p[VReset]);
  }

  PA_HD static R jump(const R* s, R x, const R* p) {
    const R j = s[I] + x;
    return kEx || kDetached ? j + p[Recurrent] : j;
  }
  PA_HD static R drive(R v, R j, const R* p) {
    R d = p[VLeak] - v;
    if (kEx) d = d + p[DeltaT] * norse_exponential_(v, p[Threshold], p[DeltaT]);
    return d + j;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R j = jump(s, x, p);
    kept = s[V] + p[KMem] * drive(s[V], j, p);
    s[I] = j + p[KSyn] * j;
    R out, unclamped;
    s[V] = settle(kept, p, f, out, unclamped);
    return out;
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    const R j = jump(s, x, p);
    R out, unclamped;
    s[I] = j + p[KSyn] * j;
    s[V] = settle(kept, p, f, out, unclamped);
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R v = before[V], j = jump(before, x, p);
    R g_w, g_fire = R(0);
    if (kSpike == kNoSpike) {
      g_w = g_kept + g_out + g[V];
    } else {
      const R z = norse_fires_(w, p[Threshold]);
      g_w = g_kept + norse_reset_back_<kDetached>(w, z, p[VReset], sg, g[V], g_out, g_fire);
      gp[VReset] = z * g[V];
    }
    const R g_d = p[KMem] * g_w;
    gp[KMem] = g_w * drive(v, j, p);
    gp[KSyn] = g[I] * j;
    gp[VLeak] = g_d;
    gp[Threshold] = -g_fire;
    g[V] = g_w - g_d;
    if (kEx) {
      const R at = (v - p[Threshold]) / p[DeltaT], e = exp_(at) * g_d;
      g[V] += e;
      gp[Threshold] -= e;
      gp[DeltaT] = e - at * e;
    }
    g[I] = g_d + (g[I] + p[KSyn] * g[I]);
    return g[I];
  }
};
