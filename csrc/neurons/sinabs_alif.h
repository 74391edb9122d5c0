// sinabs ALIF: a LIF whose threshold rises with each spike and decays back.
// Source: sinabs/layers/functional/alif.py @ 3.1.3, alif_forward_single.
//
//   i  <- alpha_syn * (i + x)     with a synapse, else i = x
//   i  <- gain * i                gain = 1 - alpha_mem with norm_input, else 1; stored scaled, unlike LIF's
//   w   = alpha_mem * v + i       w is kept for backward
//   th  = b0 + adapt_scale * b
//   out = spike(w, th)
//   v  <- reset(w, out)           by th unless a value is given; b is not zeroed
//   b  <- alpha_adapt * b + gain_adapt * out      gain_adapt = 1 - alpha_adapt
//   v  <- relu(v - min_v) + min_v if clamped
//
// Backward as for LIF, and with g_b = gradient of b after the step:
//   g_out += gain_adapt * g_b;  g_th = -out * g_v (subtracting th);  g_b <- alpha_adapt * g_b + adapt_scale * g_th
//   g_i   += g_w;  g_i *= gain;  g_x = alpha_syn * g_i;  g_i <- g_x
#pragma once
#include "spiking.h"

template <class R, bool Synapse, int Spike, int Reset>
struct SinabsAlif {
  using Real = R;
  using Surrogate = SingleExponential;  // the host's default: the one that is fused into the step
  enum State { V, B, I };
  enum Param { AlphaMem, Gain, AlphaSyn, AlphaAdapt, GainAdapt, B0, AdaptScale, ResetValue, MinV, kParams };
  static constexpr int kStates = Synapse ? 3 : 2;
  static constexpr int kDecays = 5;  // parameters that come first: those that train most often
  static constexpr int kMostSums = kAllSums;
  static constexpr int kSpike = Spike;
  static constexpr bool replays(int) { return true; }  // b and i cannot be rebuilt from `kept` alone
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = true;

  PA_HD static R threshold(const R* s, const R* p, const Flags&) {
    return narrow_(p[B0] + narrow_(p[AdaptScale] * s[B]));
  }
  PA_HD static R value(R th, const R* p) { return Reset == kSubtractThreshold ? th : p[ResetValue]; }

  // v and b after the step, from the membrane before the reset and the b before the step
  PA_HD static R settle(R* s, R w, const R* p, const Flags& f, R& out, R& unclamped) {
    const R th = threshold(s, p, f);
    out = spike_<R, Spike>(w, th, f);
    unclamped = reset_<R, Reset>(w, out, value(th, p));
    s[V] = bound_below_(unclamped, p[MinV]);
    s[B] = narrow_(narrow_(p[AlphaAdapt] * s[B]) + narrow_(p[GainAdapt] * out));
    return th;
  }

  PA_HD static R current(R* s, R x, const R* p) {
    R i = x;
    if (Synapse) i = p[AlphaSyn] * (s[I] + x);
    i = p[Gain] * i;
    if (Synapse) s[I] = i;
    return i;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R i = current(s, x, p);
    kept = p[AlphaMem] * s[V] + i;
    R out, unclamped;
    settle(s, kept, p, f, out, unclamped);
    return out;
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    R out, unclamped;
    current(s, x, p);
    settle(s, kept, p, f, out, unclamped);
  }

  // Bounded: whether the membrane has a lower bound
  template <bool Bounded>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags& f, R* gp) {
    R s[3] = {before[V], before[B], R(0)}, out, unclamped;
    const R th = settle(s, w, p, f, out, unclamped);
    R g_v = g[V];
    const bool above = !Bounded || !bounded_(p[MinV]) | !(unclamped - p[MinV] <= R(0));
    gp[MinV] = above ? R(0) : g_v;
    g_v = above ? g_v : R(0);
    gp[AlphaAdapt] = g[B] * before[B];
    gp[GainAdapt] = g[B] * out;
    g_out += p[GainAdapt] * g[B];
    R g_w = g_kept, g_th = R(0);
    if (Reset == kResetTo) {
      gp[ResetValue] = g_v;
      g_w += g_v * (out == R(0) ? R(1) : R(0));
    } else {
      (Reset == kSubtractThreshold ? g_th : gp[ResetValue]) = -(out * g_v);
      g_out -= value(th, p) * g_v;
      g_w += g_v;
    }
    g_w += g_out * sg;
    gp[B0] = g_th;
    gp[AdaptScale] = g_th * before[B];
    g[B] = p[AlphaAdapt] * g[B] + p[AdaptScale] * g_th;

    R i = x, g_i = g_w;
    if (Synapse) {
      i = p[AlphaSyn] * (before[I] + x);
      g_i += g[I];
    }
    gp[AlphaMem] = g_w * before[V];
    gp[Gain] = g_i * i;
    g_i = p[Gain] * g_i;
    R g_x = g_i;
    if (Synapse) {
      g_x = p[AlphaSyn] * g_i;
      gp[AlphaSyn] = g_i * (before[I] + x);
      g[I] = g_x;
    }
    g[V] = p[AlphaMem] * g_w;
    return g_x;
  }
};
