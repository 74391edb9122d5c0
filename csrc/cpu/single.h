// One time step of dense rows, read and written where they lie: what tile.h does for a sequence (rows gathered, states
// kept at hand, sums) would take longer than the step itself.
#pragma once
#include "columns.h"
#include "surrogate_rows.h"

// Where the rows of one block of columns lie, the absent ones among them at a row of zeros or one to be forgotten.
template <class R>
struct SingleRows {
  const R *x, *kept, *g_out, *param[kMaxParams], *first[kMaxStates], *g_last[kMaxStates];
  R *keep, *out, *g_x, *last[kMaxStates], *g_first[kMaxStates];
};

template <class R>
struct SingleWorkspace : SpikeRows<R> {
  Row<R> param[kMaxParams], zero, unused;
};

template <class Step, class R = typename Step::Real>
PA_HD void single_forward_column(const SingleRows<R> r, int j, const Flags& f) {
  R s[Step::kStates], q[Step::kParams], w;
  PA_EACH(k, Step::kStates) s[k] = r.first[k][j];
  PA_EACH(k, Step::kParams) q[k] = r.param[k][j];
  r.out[j] = Step::forward(s, r.x[j], q, f, w);
  r.keep[j] = w;
  PA_EACH(k, Step::kStates) r.last[k][j] = s[k];
}

template <class Step, class R = typename Step::Real>
PA_HD void single_threshold_column(const SingleRows<R> r, int j, const Flags& f, R* th) {
  R s[Step::kStates], q[Step::kParams];
  PA_EACH(k, Step::kStates) s[k] = r.first[k][j];
  PA_EACH(k, Step::kParams) q[k] = r.param[k][j];
  th[j] = Step::threshold(s, q, f);
}

template <class Step, class R = typename Step::Real>
PA_HD void single_backward_column(const SingleRows<R> r, int j, const Flags& f, const R* sg) {
  R s[Step::kStates], q[Step::kParams], g[Step::kStates], gq[Step::kParams];
  PA_EACH(k, Step::kStates) s[k] = r.first[k][j];
  PA_EACH(k, Step::kStates) g[k] = r.g_last[k][j];
  PA_EACH(k, Step::kParams) q[k] = r.param[k][j];
  PA_EACH(k, Step::kParams) gq[k] = R(0);
  r.g_x[j] = Step::template backward<true>(s, r.x[j], r.kept[j], sg[j], r.g_out[j], R(0), g, q, f, gq);
  PA_EACH(k, Step::kStates) r.g_first[k][j] = g[k];
}

// Calls body(rows, n) for each block of the columns from `begin` to `end`; no block spans two samples where a
// parameter has one value per neuron.
template <class Step, class Body, class R = typename Step::Real>
void each_block(const Problem& p, int64_t begin, int64_t end, SingleWorkspace<R>& ws, const Body& body) {
  zero(ws.zero.v, kWidth);
  bool by_inner = false;
  for (int k = 0; k < Step::kParams; ++k) {
    const Param& q = p.param[k];
    by_inner = by_inner || (q.data && q.inner && !q.outer);
    if (q.data && q.inner) continue;
    // -0.0: adding it changes nothing, not even the sign of a zero
    const R value = q.data ? *static_cast<const R*>(q.data) : k == Step::MinV ? R(kUnbounded) : R(-0.0);
    for (int j = 0; j < kWidth; ++j) ws.param[k].v[j] = value;
  }
  for (int64_t c = begin; c < end;) {
    const int64_t inner = c % p.inner, left = by_inner ? std::min(end - c, p.inner - inner) : end - c;
    const int n = static_cast<int>(std::min<int64_t>(left, kWidth));
    const auto in = [&](const void* data) { return data ? static_cast<const R*>(data) + c : ws.zero.v; };
    const auto into = [&](void* data) { return data ? static_cast<R*>(data) + c : ws.unused.v; };
    SingleRows<R> r;
    r.x = in(p.x.data), r.kept = in(p.kept.data), r.g_out = in(p.g_out.data);
    r.keep = into(p.kept.data), r.out = into(p.out.data), r.g_x = into(p.g_x.data);
    for (int k = 0; k < Step::kStates; ++k) {
      r.first[k] = in(p.first[k]), r.g_last[k] = in(p.g_last[k]);
      r.last[k] = into(p.last[k]), r.g_first[k] = into(p.g_first[k]);
    }
    for (int k = 0; k < Step::kParams; ++k) {
      const Param& q = p.param[k];
      r.param[k] = q.data && q.inner ? static_cast<const R*>(q.data) + (q.outer ? c : inner) : ws.param[k].v;
    }
    body(r, n);
    c += n;
  }
}

template <class Step>
void single_forward(const Problem& p, int64_t begin, int64_t end) {
  using R = typename Step::Real;
  SingleWorkspace<R> ws;
  const Flags f = p.flags;
  each_block<Step>(p, begin, end, ws, [&](const SingleRows<R> r, int n) {
#pragma omp simd
    for (int j = 0; j < n; ++j) single_forward_column<Step>(r, j, f);
  });
}

template <class Step>
void single_backward(const Problem& p, int64_t begin, int64_t end) {
  using R = typename Step::Real;
  SingleWorkspace<R> ws;
  const Flags f = p.flags;
  R q[kMaxSurrogateParams];
  for (int k = 0; k < kMaxSurrogateParams; ++k) q[k] = static_cast<R>(p.surrogate_param[k]);
  constexpr bool varies = Step::kThresholdVaries;
  int known = 0;  // columns for which one threshold of all of them is prepared
  each_block<Step>(p, begin, end, ws, [&](const SingleRows<R> r, int n) {
    if (Step::kSpike != kNoSpike) {
      if (known < n) {
        R* th = ws.th.v;
#pragma omp simd
        for (int j = 0; j < n; ++j) single_threshold_column<Step>(r, j, f, th);
        prepare_surrogate(p.surrogate, q, n, ws);
        known = varies || p.param[Step::Threshold].inner ? 0 : n;
      }
      surrogate_row(p.surrogate, r.kept, q, n, ws);
    }
    const R* sg = Step::kSpike == kNoSpike ? ws.zero.v : ws.sg.v;
#pragma omp simd
    for (int j = 0; j < n; ++j) single_backward_column<Step>(r, j, f, sg);
  });
}
