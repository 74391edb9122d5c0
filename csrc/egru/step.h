// One step of one sample, all units: the equations stand in plugin_accel/layers/egru_reference.py.
#pragma once
#include "../math.h"

namespace egru {
namespace PA_ISA {

// Rows of `hidden` values; gates of `q` are `padded` apart, of `a` and `dp` `hidden`.
template <class R>
struct ForwardRows {
  const R *q, *a, *bias_g, *thr, *m;  // q holds all biases of z and r, and the recurrent one of g
  R *y, *h, *trace;                   // states, updated in place
  R *z, *r, *g, *qg, *c, *o, *y_out, *h_out, *trace_out;
};

// Returns the number of silent units whose surrogate is zero. Lean: of the sequences y alone is written, as inference
// asks; the other stores cost more than a product does.
template <class R, bool Lean>
inline R forward_row(const ForwardRows<R>& s, int64_t n, int64_t padded, R support) {
  // Locals: through the struct the compiler would have to read every pointer anew.
  const R *const q_z = s.q, *const q_r = q_z + padded, *const q_g = q_r + padded;
  const R *const a_z = s.a, *const a_r = a_z + n, *const a_g = a_r + n;
  const R *const bias_g = s.bias_g, *const threshold = s.thr, *const mask = s.m;
  R *const y_ = s.y, *const h_ = s.h, *const trace_ = s.trace;
  R *const z_ = s.z, *const r_ = s.r, *const g_ = s.g, *const qg_ = s.qg, *const c_ = s.c;
  R *const o_ = s.o, *const y_out = s.y_out, *const h_out = s.h_out, *const trace_out = s.trace_out;
  R quiet = 0;
#pragma omp simd reduction(+ : quiet)
  for (int64_t j = 0; j < n; ++j) {
    R z, r;
    sigmoids_(a_z[j] + q_z[j], a_r[j] + q_r[j], z, r);
    const R g = tanh_(PA_FMA(r, q_g[j], a_g[j] + bias_g[j]));
    const R h = h_[j], thr = threshold[j];
    R c = PA_FMA(z, h - g, g);
    c = PA_FMA(mask[j], c - h, h);
    const R v = c - thr;
    const R o = v > R(0) ? R(1) : R(0), y = o * c, after = c - o * thr;
    const R trace = PA_FMA(R(0.1), y - trace_[j], trace_[j]);
    quiet += (R(1) - o) * (support * abs_(v) >= R(1) ? R(1) : R(0));
    y_[j] = y_out[j] = y;
    h_[j] = after;
    trace_[j] = trace;
    if constexpr (!Lean) {
      z_[j] = z;
      r_[j] = r;
      g_[j] = g;
      qg_[j] = q_g[j];
      c_[j] = c;
      o_[j] = o;
      h_out[j] = after;
      trace_out[j] = trace;
    }
  }
  return quiet;
}

template <class R>
struct BackwardRows {
  const R *z, *r, *g, *qg, *c, *thr, *m, *h_before;
  const R *g_y, *g_h, *g_o, *g_trace;
  R *dy, *dh, *dtrace;    // carried; dy is read only
  R *dz, *dr, *dg, *dqg;  // gradients of the gates' inputs; of q_g last
  R *sum_z, *sum_r, *sum_g, *sum_qg, *sum_thr;
};

template <class R>
inline void backward_row(const BackwardRows<R>& s, int64_t n, R dampening, R support) {
  const R *const z_ = s.z, *const r_ = s.r, *const g_ = s.g, *const qg_ = s.qg, *const c_ = s.c;
  const R *const threshold = s.thr, *const mask = s.m, *const h_before = s.h_before;
  const R *const g_y = s.g_y, *const g_h = s.g_h, *const g_o = s.g_o, *const g_trace = s.g_trace, *const dy = s.dy;
  R *const dh = s.dh, *const dtrace = s.dtrace, *const dz_ = s.dz, *const dr_ = s.dr, *const dg_ = s.dg;
  R *const dqg_ = s.dqg, *const sum_z = s.sum_z, *const sum_r = s.sum_r, *const sum_g = s.sum_g;
  R *const sum_qg = s.sum_qg, *const sum_thr = s.sum_thr;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const R c = c_[j], thr = threshold[j], z = z_[j], r = r_[j], g = g_[j], v = c - thr;
    const R o = v > R(0) ? R(1) : R(0);
    const R trace = g_trace[j] + dtrace[j];
    const R y = g_y[j] + dy[j] + R(0.1) * trace;
    const R h = g_h[j] + dh[j];
    const R width = R(1) - support * abs_(v);
    const R slope = dampening * (width < R(0) ? R(0) : width);
    const R through = slope * (g_o[j] + c * y - thr * h);
    const R all = o * y + h + through;
    const R m = mask[j], dc = m * all;
    dtrace[j] = R(0.9) * trace;
    dh[j] = (R(1) - m) * all + z * dc;
    const R dg = (R(1) - z) * dc * (R(1) - g * g);
    const R dz = (h_before[j] - g) * dc * z * (R(1) - z);
    const R dr = dg * qg_[j] * r * (R(1) - r);
    const R dqg = r * dg;
    dz_[j] = dz;
    dr_[j] = dr;
    dg_[j] = dg;
    dqg_[j] = dqg;
    sum_z[j] += dz;
    sum_r[j] += dr;
    sum_g[j] += dg;
    sum_qg[j] += dqg;
    sum_thr[j] -= through + o * h;
  }
}

}  // namespace PA_ISA
}  // namespace egru
