// EGRU: one step of one layer for all units of all samples, one thread each. The products are made between the steps.
#pragma once
#include "../egru/problem.h"
#include "../egru/unit.h"

constexpr int kBlock = 128;  // threads of a block

// What a step is told; `step` first, since it alone differs from step to step. [T, B, ...] unless said otherwise.
struct EgruForwardCall {
  int64_t step, batch, hidden;
  double keep;
  const void *drive, *q;                  // [T,B,3H]: x W + b; [B,3H]: y R + b_r of this step
  const void *thr, *support;              // [H], [1]
  const uint8_t* mask;                    // [T,B,H], or nullptr
  const int64_t* lengths;                 // [B], or nullptr: all T
  void *y, *h, *trace;                    // [B,H], states: in place
  void *out, *h_out, *o_out, *trace_out;  // the last three: nullptr if not recorded
  void* saved;                            // [T,B,5,H], or nullptr
  int64_t* counts;                        // [B,H,2]: events, silent steps without surrogate
};

// Gates lie in the order q_g | z | r | g, so that both products read three of them in a row.
struct EgruBackwardCall {
  int64_t step, steps, batch, hidden;
  double keep;
  const void *thr, *dampening, *support;
  const uint8_t* mask;
  const int64_t* lengths;
  const void *saved, *h0, *y0;
  const void *g_y, *g_h, *g_o, *g_trace, *g_y_n;  // incoming; nullptr: zero
  const void* dy;                                 // [B,H]: what the step after sends back, made by a product
  void *dh, *dtrace;                              // [B,H], in place
  void* gates;                                    // [T,B,4H]: gradients of the gates' inputs
  void* before;                                   // [T,B,H]: output before the step, or nullptr
  double* g_thr;                                  // [B,H], in place, or nullptr
};

struct EgruUnit {
  int64_t sample, unit, one;  // one: [B,H]
  int64_t all;                // [T,B,H]
  bool active;
};

PA_HD EgruUnit egru_unit(int64_t step, int64_t batch, int64_t hidden) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, n = batch * hidden;
  if (i >= n) return {0, 0, 0, 0, false};
  const int64_t sample = n <= 0x7fffffff ? static_cast<uint32_t>(i) / static_cast<uint32_t>(hidden) : i / hidden;
  return {sample, i - sample * hidden, i, step * n + i, true};
}

template <class R>
PA_HD R at(const void* from, int64_t i) {
  return static_cast<const R*>(from)[i];
}

template <class R>
PA_HD R at_or_zero(const void* from, int64_t i) {
  return from ? static_cast<const R*>(from)[i] : R(0);
}

template <class R>
PA_HD void put(void* to, int64_t i, R value) {
  if (to) static_cast<R*>(to)[i] = value;
}

template <class R, class Call>
PA_HD R egru_mask(const Call& c, int64_t i) {
  return c.mask ? (c.mask[i] ? R(1) : R(0)) : static_cast<R>(c.keep);
}

template <class R>
PA_HD void egru_forward(const EgruForwardCall& c) {
  const EgruUnit u = egru_unit(c.step, c.batch, c.hidden);
  if (!u.active) return;
  const int64_t n = c.hidden, row = c.step * c.batch + u.sample;
  if (c.lengths && c.step >= c.lengths[u.sample]) {
    put(c.out, u.all, R(0));
    put(c.h_out, u.all, R(0));
    put(c.o_out, u.all, R(0));
    put(c.trace_out, u.all, R(0));
    for (int k = 0; k < egru::kSaved; ++k) put(c.saved, (row * egru::kSaved + k) * n + u.unit, R(0));
    return;
  }
  const int64_t a = row * 3 * n + u.unit, q = u.sample * 3 * n + u.unit;
  const R q_g = at<R>(c.q, q + 2 * n), thr = at<R>(c.thr, u.unit);
  R s[egru::kSaved], o, y, after, trace = at<R>(c.trace, u.one);
  s[3] = q_g;
  egru::forward_unit(at<R>(c.drive, a) + at<R>(c.q, q), at<R>(c.drive, a + n) + at<R>(c.q, q + n),
                     at<R>(c.drive, a + 2 * n), q_g, at<R>(c.h, u.one), thr, egru_mask<R>(c, u.all), s[0], s[1], s[2],
                     s[4], o, y, after, trace);
  put(c.y, u.one, y);
  put(c.h, u.one, after);
  put(c.trace, u.one, trace);
  put(c.out, u.all, y);
  put(c.h_out, u.all, after);
  put(c.o_out, u.all, o);
  put(c.trace_out, u.all, trace);
#pragma unroll
  for (int k = 0; k < egru::kSaved; ++k) put(c.saved, (row * egru::kSaved + k) * n + u.unit, s[k]);
  c.counts[2 * u.one] += o != R(0);
  c.counts[2 * u.one + 1] += egru::silent(s[4] - thr, at<R>(c.support, 0)) != R(0);
}

template <class R>
PA_HD void egru_backward(const EgruBackwardCall& c) {
  const EgruUnit u = egru_unit(c.step, c.batch, c.hidden);
  if (!u.active) return;
  const int64_t n = c.hidden, row = c.step * c.batch + u.sample, gate = row * 4 * n + u.unit;
  const int64_t last = (c.lengths ? c.lengths[u.sample] : c.steps) - 1;
  const R thr = at<R>(c.thr, u.unit);
  R y_before, h_before;
  if (c.step == 0) {
    y_before = at<R>(c.y0, u.one);
    h_before = at<R>(c.h0, u.one);
  } else {
    const R c_before = at<R>(c.saved, ((row - c.batch) * egru::kSaved + 4) * n + u.unit);
    const R o = c_before - thr > R(0) ? R(1) : R(0);
    y_before = o * c_before;
    h_before = c_before - o * thr;
  }
  if (c.step > last) {
    for (int k = 0; k < 4; ++k) put(c.gates, gate + k * n, R(0));
    put(c.before, u.all, R(0));
    return;
  }
  R s[egru::kSaved];
#pragma unroll
  for (int k = 0; k < egru::kSaved; ++k) s[k] = at<R>(c.saved, (row * egru::kSaved + k) * n + u.unit);
  const R dy = c.step == last ? at_or_zero<R>(c.g_y_n, u.one) : at<R>(c.dy, u.one);
  R dh = at<R>(c.dh, u.one), dtrace = at<R>(c.dtrace, u.one), dz, dr, dg, dqg, dthr;
  egru::backward_unit(s[0], s[1], s[2], s[3], s[4], thr, egru_mask<R>(c, u.all), h_before,
                      at_or_zero<R>(c.g_y, u.all) + dy, at_or_zero<R>(c.g_h, u.all), at_or_zero<R>(c.g_o, u.all),
                      at_or_zero<R>(c.g_trace, u.all), at<R>(c.dampening, 0), at<R>(c.support, 0), dh, dtrace, dz, dr,
                      dg, dqg, dthr);
  put(c.dh, u.one, dh);
  put(c.dtrace, u.one, dtrace);
  put(c.gates, gate, dqg);
  put(c.gates, gate + n, dz);
  put(c.gates, gate + 2 * n, dr);
  put(c.gates, gate + 3 * n, dg);
  put(c.before, u.all, y_before);
  if (c.g_thr) c.g_thr[u.one] -= static_cast<double>(dthr);
}
