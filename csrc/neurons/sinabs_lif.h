// sinabs LIF, IAF (alpha_mem = 1, gain = 1) and ExpLeak (no spikes).
// Source: sinabs/layers/functional/lif.py @ 3.1.3, lif_forward_single.
//
//   i  <- alpha_syn * (i + x)     with a synapse, else i = x
//   w   = alpha_mem * v + gain*i  gain = 1 - alpha_mem with norm_input, else 1; w is kept for backward
//   out = spike(w, threshold)     without spikes out = w
//   v  <- reset(w, out)
//   v  <- relu(v - min_v) + min_v if clamped: after spike and reset
//
// Backward, g* = gradients of what the step hands on (g_v includes recordings), sg = d spike / d w:
//   g_v   *= 1[reset(w, out) > min_v];  g_out -= value * g_v (subtract)
//   g_w    = g_kept + g_v * (1 or 1[out == 0]) + g_out * sg
//   g_i   += gain * g_w;  g_x = alpha_syn * g_i;  g_i <- g_x;  g_v <- alpha_mem * g_w
#pragma once
#include "spiking.h"

template <class R, bool Synapse, int Spike, int Reset>
struct SinabsLif {
  using Real = R;
  using Surrogate = SingleExponential;  // the host's default: the one that is fused into the step
  enum State { V, I };
  enum Param { AlphaMem, Gain, AlphaSyn, Threshold, ResetValue, MinV, kParams };
  static constexpr int kStates = Synapse ? 2 : 1;
  static constexpr int kDecays = Synapse ? 3 : 2;  // parameters that come first: those that train most often
  static constexpr int kMostSums = kAllSums;
  static constexpr int kSpike = Spike;
  static constexpr bool replays(int) { return Synapse; }  // the current cannot be rebuilt from `kept`
  static constexpr bool kReadsBefore = false;
  static constexpr bool kThresholdVaries = false;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R value(const R* p) { return Reset == kSubtractThreshold ? p[Threshold] : p[ResetValue]; }

  // v after the step, from the membrane before the reset
  PA_HD static R settle(R w, const R* p, const Flags& f, R& out, R& unclamped) {
    out = w;
    unclamped = w;
    if (Spike != kNoSpike) {
      out = spike_<R, Spike>(w, p[Threshold], f);
      unclamped = reset_<R, Reset>(w, out, value(p));
    }
    return bound_below_(unclamped, p[MinV]);
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    R i = x;
    if (Synapse) i = s[I] = p[AlphaSyn] * (s[I] + x);
    kept = p[AlphaMem] * s[V] + p[Gain] * i;
    R out, unclamped;
    s[V] = settle(kept, p, f, out, unclamped);
    return out;
  }

  // forward once more, with the membrane known
  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    R out, unclamped;
    if (Synapse) s[I] = p[AlphaSyn] * (s[I] + x);
    s[V] = settle(kept, p, f, out, unclamped);
  }

  // Bounded: whether the membrane has a lower bound
  template <bool Bounded>
  PA_HD static R backward(const R* before, R x, R w, R sg, R g_out, R g_kept, R* g, const R* p, const Flags& f, R* gp) {
    R out, unclamped;
    settle(w, p, f, out, unclamped);
    R g_v = g[V];
    const bool above = !Bounded || !bounded_(p[MinV]) | !(unclamped - p[MinV] <= R(0));
    gp[MinV] = above ? R(0) : g_v;
    g_v = above ? g_v : R(0);
    R g_w = g_kept + g_v;
    if (Spike == kNoSpike) {
      g_w += g_out;
    } else if (Reset == kResetTo) {
      gp[ResetValue] = g_v;
      g_w = (g_kept + g_v * (out == R(0) ? R(1) : R(0))) + g_out * sg;
    } else {
      gp[Reset == kSubtractThreshold ? Threshold : ResetValue] = -(out * g_v);
      g_w += (g_out - value(p) * g_v) * sg;
    }
    R i = x, g_i = p[Gain] * g_w, g_x = g_i;
    if (Synapse) {
      i = p[AlphaSyn] * (before[I] + x);
      g_i += g[I];
      g_x = p[AlphaSyn] * g_i;
      gp[AlphaSyn] = g_i * (before[I] + x);
      g[I] = g_x;
    }
    gp[AlphaMem] = g_w * before[V];
    gp[Gain] = g_w * i;
    g[V] = p[AlphaMem] * g_w;
    return g_x;
  }
};
