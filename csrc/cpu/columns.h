// What the driver does for one column of a row: the bodies of its vector loops.
#pragma once
#include "tile.h"

// The bodies of the column loops are functions of their own: arrays declared inside an `omp simd` loop would be
// spread over its lanes and keep it from being vectorised.
#define PA_EACH(k, count) _Pragma("GCC unroll 16") for (int k = 0; k < (count); ++k)

template <class Step, class R = typename Step::Real>
PA_HD void forward_column(Workspace<R>& ws, int j, const Flags& f, const R* x, R* kept, R* out) {
  R s[Step::kStates], q[Step::kParams], w;
  PA_EACH(k, Step::kStates) s[k] = ws.state[k].v[j];
  PA_EACH(k, Step::kParams) q[k] = ws.param[k].v[j];
  const R y = Step::forward(s, x[j], q, f, w);
  PA_EACH(k, Step::kStates) ws.state[k].v[j] = s[k];
  ws.total.v[j] += y;
  kept[j] = w;
  out[j] = y;
}

template <class Step, class R = typename Step::Real>
PA_HD void replay_column(Workspace<R>& ws, int j, int n, const Flags& f, const R* x, const R* kept, R* to) {
  R s[Step::kStates], q[Step::kParams];
  PA_EACH(k, Step::kStates) to[k * n + j] = s[k] = ws.state[k].v[j];
  PA_EACH(k, Step::kParams) q[k] = ws.param[k].v[j];
  Step::replay(s, x[j], kept[j], q, f);
  PA_EACH(k, Step::kStates) ws.state[k].v[j] = s[k];
}

template <class Step, class R = typename Step::Real>
PA_HD void settle_column(Workspace<R>& ws, int j, const Flags& f, const R* w) {
  R q[Step::kParams], out, unclamped;
  PA_EACH(k, Step::kParams) q[k] = ws.param[k].v[j];
  ws.before[0].v[j] = Step::settle(w[j], q, f, out, unclamped);
}

// Passed by value, so that the addresses are known not to change within a loop.
template <class R>
struct Rows {
  const R* row[kMaxStates];
};

template <class Step, class R = typename Step::Real>
PA_HD void threshold_column(Workspace<R>& ws, int j, const Flags& f, Rows<R> before) {
  R s[Step::kStates], q[Step::kParams];
  PA_EACH(k, Step::kStates) s[k] = before.row[k][j];
  PA_EACH(k, Step::kParams) q[k] = ws.param[k].v[j];
  ws.th.v[j] = Step::threshold(s, q, f);
}

// How many parameters' gradients are summed.
template <class Step, int Sums>
constexpr int summed() {
  return Sums == kNoSums ? 0 : Sums == kDecaySums ? Step::kDecays : static_cast<int>(Step::kParams);
}

// Whether the state before the step is rebuilt from `kept` alone, without a replay.
template <class Step, int Sums>
constexpr bool reads_before() {
  return !Step::replays(Sums) && (Sums != kNoSums || Step::kReadsBefore);
}

// What a backward column reads beside the workspace: rows of the step at hand.
template <class R>
struct BackwardRows {
  Rows<R> before;        // states before the step
  const R* kept_before;  // kept of the step before
  const R *x, *kept, *sg, *g_out, *g_kept;
  R g_mean;
  R* g_x;
};

template <class Step, int Sums, bool Bounded, class R = typename Step::Real>
PA_HD void backward_state(Workspace<R>& ws, int j, const Flags& f, const BackwardRows<R>& r, const R* s, R sg) {
  constexpr int sums = summed<Step, Sums>();
  R g[Step::kStates], q[Step::kParams], gq[Step::kParams];
  PA_EACH(k, Step::kStates) g[k] = ws.g[k].v[j];
  PA_EACH(k, Step::kParams) q[k] = ws.param[k].v[j];
  PA_EACH(k, Step::kParams) gq[k] = R(0);
  r.g_x[j] =
      Step::template backward<Bounded>(s, r.x[j], r.kept[j], sg, r.g_out[j] + r.g_mean, r.g_kept[j], g, q, f, gq);
  PA_EACH(k, Step::kStates) ws.g[k].v[j] = g[k];
  PA_EACH(k, sums) ws.sum[k].v[j] += gq[k];
}

template <class Step, int Sums, class R = typename Step::Real>
PA_HD void backward_column(Workspace<R>& ws, int j, const Flags& f, BackwardRows<R> r) {
  R s[Step::kStates];
  PA_EACH(k, Step::kStates) s[k] = r.before.row[k][j];
  backward_state<Step, Sums, true>(ws, j, f, r, s, r.sg[j]);
}

// The same for the surrogate that a step's users take most and no lower bound, in one loop: what its parts wait for
// (divisions, exponentials, memory) then overlaps.
template <class Step, int Sums, class R = typename Step::Real>
PA_HD void fused_column(Workspace<R>& ws, int j, const Flags& f, BackwardRows<R> r, const R* surrogate_param) {
  using F = typename Step::Surrogate;
  R s[Step::kStates] = {}, q[Step::kParams], sg = R(0);
  PA_EACH(k, Step::kParams) q[k] = k == Step::MinV ? R(kUnbounded) : ws.param[k].v[j];
  if constexpr (Step::replays(Sums)) {
    PA_EACH(k, Step::kStates) s[k] = r.before.row[k][j];
  } else if constexpr (reads_before<Step, Sums>()) {
    R out, unclamped;
    s[0] = Step::settle(r.kept_before[j], q, f, out, unclamped);
  }
  if (Step::kSpike != kNoSpike) {
    const R th = Step::threshold(s, q, f);
    R a = ws.sg_a.v[j], b = ws.sg_b.v[j];
    if (Step::kThresholdVaries) F::prepare(th, surrogate_param, a, b);
    sg = F::eval(r.kept[j], th, surrogate_param, a, b);
  }
  backward_state<Step, Sums, false>(ws, j, f, r, s, sg);
}
