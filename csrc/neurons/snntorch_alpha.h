// snnTorch Alpha: the difference of two decaying currents.
// Source: snntorch/_neurons/alpha.py @ 1.0.0. a = clamp(alpha, 0, 1), b = clamp(beta, 0, 1).
//
//   r   = 1[u > threshold]                   the reset signal, all that the old membrane is for: no gradient
//   e'  = a*e + x;  h' = b*h - x;  m = tau*(e' + h')
//   subtract: e <- e' - threshold*r;  q = m - (-h)*r;  h <- h' - (b*h - x)*r
//   zero:     e <- e' - e'*r;         q = m - m*r;     h <- h' - h'*r
//   u  <- q, which is kept;  out = graded * 1[q > threshold]
//
// Backward, g* = gradients of what the step hands on, s = graded*g_out, sg = d spike / d q:
//   g_q = g_u + g_kept + s*sg;  g_threshold = -s*sg - r*g_e (subtract);  g_h' = g_h*(1-r)
//   g_m = g_q, g_e' = g_e; both times 1-r (zero)
//   g_tau = (e' + h')*g_m;  g_e' += tau*g_m;  g_h' += tau*g_m;  g_x = g_e' - g_h';  g_alpha = e*g_e';  g_beta = h*g_h'
//   g_e <- a*g_e';  g_h <- b*g_h' (+ r*g_q, subtract);  g_u <- 0
#pragma once
#include "snntorch.h"

template <class R, int Reset, bool>
struct SnnAlpha {
  using Real = R;
  using Surrogate = Atan;
  enum State { U, E, H };
  enum Param { Alpha, Beta, Tau, Threshold, Graded, kParams };
  static constexpr int kStates = 3;
  static constexpr int kDecays = kParams;
  static constexpr int kMostSums = kDecaySums;
  static constexpr int kSpike = kSingleSpike;
  static constexpr bool replays(int sums) { return sums != kNoSums; }  // the currents are not in `kept`
  static constexpr bool kReadsBefore = Reset != kSnnNone;
  static constexpr bool kThresholdVaries = false;
  static constexpr int MinV = -1;

  PA_HD static R threshold(const R*, const R* p, const Flags&) { return p[Threshold]; }
  PA_HD static R settle(R q, const R*, const Flags&, R&, R&) { return q; }

  // The currents before the reset
  PA_HD static void drive(const R* s, R x, const R* p, R& e, R& h) {
    e = snn_clamp_(p[Alpha]) * s[E] + x;
    h = snn_clamp_(p[Beta]) * s[H] - x;
  }

  PA_HD static void settle_currents(R* s, R e, R h, R r, const R* p, const Flags& f) {
    if (Reset == kSnnSubtract) e = e - snn_drop_(r, p[Threshold], f);
    if (Reset == kSnnZeroAfter) e = e - e * r;
    if (Reset != kSnnNone) h = h - h * r;
    s[E] = e;
    s[H] = h;
  }

  PA_HD static R forward(R* s, R x, const R* p, const Flags& f, R& kept) {
    const R th = p[Threshold], r = snn_fires_(s[U], th);
    R e, h;
    drive(s, x, p, e, h);
    R q = p[Tau] * (e + h);
    if (Reset == kSnnSubtract) q = q - (-s[H]) * r;
    if (Reset == kSnnZeroAfter) q = q - q * r;
    settle_currents(s, e, h, r, p, f);
    kept = s[U] = q;
    return snn_fires_(q, th) * p[Graded];
  }

  PA_HD static void replay(R* s, R x, R kept, const R* p, const Flags& f) {
    R e, h;
    drive(s, x, p, e, h);
    settle_currents(s, e, h, snn_fires_(s[U], p[Threshold]), p, f);
    s[U] = kept;
  }

  template <bool>
  PA_HD static R backward(const R* before, R x, R q, R sg, R g_out, R g_kept, R* g, const R* p, const Flags&, R* gp) {
    const R th = p[Threshold], r = snn_fires_(before[U], th), stays = R(1) - r;
    const R z = p[Graded] * g_out * sg, g_q = g[U] + g_kept + z;
    gp[Graded] = snn_fires_(q, th) * g_out;
    gp[Threshold] = Reset == kSnnSubtract ? -z - r * g[E] : -z;
    const R g_m = Reset == kSnnZeroAfter ? stays * g_q : g_q;
    const R g_e = (Reset == kSnnZeroAfter ? stays * g[E] : g[E]) + p[Tau] * g_m;
    const R g_h = (Reset == kSnnNone ? g[H] : stays * g[H]) + p[Tau] * g_m;
    R e, h;
    drive(before, x, p, e, h);
    gp[Tau] = (e + h) * g_m;
    gp[Alpha] = before[E] * g_e * snn_inside_(p[Alpha]);
    gp[Beta] = before[H] * g_h * snn_inside_(p[Beta]);
    g[U] = R(0);
    g[E] = snn_clamp_(p[Alpha]) * g_e;
    g[H] = snn_clamp_(p[Beta]) * g_h;
    if (Reset == kSnnSubtract) g[H] += r * g_q;
    return g_e - g_h;
  }
};
