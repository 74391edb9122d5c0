// A tile through all time steps, backward.
#pragma once
#include "columns.h"
#include "surrogate_rows.h"

// States before each step of the tile, [time][state][kWidth-row], by running forward again from `kept`.
template <class Step>
void replay_tile(const Problem& p, const Tile& tile, Workspace<typename Step::Real>& ws, typename Step::Real* scratch) {
  using R = typename Step::Real;
  const int n = tile.columns();
  const Flags f = p.flags;
  for (int k = 0; k < Step::kStates; ++k) load_columns(p, p.first[k], tile, ws.state[k].v);
  for (int64_t t = 0; t < p.time; ++t) {
    prefetch_row<R>(p.x, tile, p, t + 2);
    prefetch_row<R>(p.kept, tile, p, t + 2);
    const R* x = read_row<R>(p.x, tile, t, ws.x.v);
    const R* kept = read_row<R>(p.kept, tile, t, ws.kept.v);
    R* to = scratch + t * Step::kStates * n;
#pragma omp simd
    for (int j = 0; j < n; ++j) replay_column<Step>(ws, j, n, f, x, kept, to);
  }
}

// One step backward, loop by loop: any surrogate, with or without a lower bound.
template <class Step, int Sums, class R = typename Step::Real>
void backward_by_loops(const Problem& p, const Tile& tile, Workspace<R>& ws, int64_t t, BackwardRows<R> r, const R* q) {
  const int n = tile.columns();
  const Flags f = p.flags;
  if constexpr (reads_before<Step, Sums>()) {
    if (t == 0) {
      load_columns(p, p.first[0], tile, ws.before[0].v);
    } else {
#pragma omp simd
      for (int j = 0; j < n; ++j) settle_column<Step>(ws, j, f, r.kept_before);
    }
  }
  if (Step::kSpike != kNoSpike && p.surrogate == kPrecomputed) r.sg = read_row<R>(p.dspike, tile, t, ws.sg.v);
  if (Step::kSpike != kNoSpike && p.surrogate != kPrecomputed) {
    if (Step::kThresholdVaries) {
#pragma omp simd
      for (int j = 0; j < n; ++j) threshold_column<Step>(ws, j, f, r.before);
      prepare_surrogate(p.surrogate, q, n, ws);
    }
    surrogate_row(p.surrogate, r.kept, q, n, ws);
  }
#pragma omp simd
  for (int j = 0; j < n; ++j) backward_column<Step, Sums>(ws, j, f, r);
}

template <class Step, int Sums>
void backward_tile(const Problem& p, const Tile& tile, Workspace<typename Step::Real>& ws,
                   typename Step::Real* scratch) {
  using R = typename Step::Real;
  const int n = tile.columns();
  const Flags f = p.flags;
  constexpr int sums = summed<Step, Sums>();
  constexpr bool replays = Step::replays(Sums), reads = reads_before<Step, Sums>();
  // fp64 is for checking, the baseline of x86 for old processors: there the loops do
  constexpr bool can_fuse = sizeof(R) == sizeof(float) && !PA_ONE_BACKWARD;
  const bool fuse = !f.clamp && (Step::kSpike == kNoSpike || p.surrogate == Step::Surrogate::kKind);
  const bool constant_x = p.g_x.data && p.g_x.time == 0;
  R q[kMaxSurrogateParams];
  for (int k = 0; k < kMaxSurrogateParams; ++k) q[k] = static_cast<R>(p.surrogate_param[k]);
  load_params(p, Step::kParams, Step::MinV, tile, ws);
  if constexpr (replays) replay_tile<Step>(p, tile, ws, scratch);
  for (int k = 0; k < Step::kStates; ++k) load_columns(p, p.g_last[k], tile, ws.g[k].v);
  for (int k = 0; k < sums; ++k) clear(ws.sum[k].v, ws.sums[k].v, n);
  if (constant_x) clear(ws.total.v, ws.totals.v, n);
  if (!p.x.data) zero(ws.x.v, n);
  if (!p.g_out.data) zero(ws.g_out.v, n);
  if (!p.g_kept.data) zero(ws.g_kept.v, n);
  if (Step::kSpike == kNoSpike) zero(ws.sg.v, n);
  if (p.time == 1) {
    prefetch_after<R>(p.kept, tile, 0);
    prefetch_after<R>(p.g_out, tile, 0);
    prefetch_after<R>(p.g_x, tile, 0);
    for (int k = 0; k < Step::kStates; ++k) {
      prefetch_after<R>({const_cast<void*>(p.g_last[k]), p.inner, 0, 1}, tile, 0);
      prefetch_after<R>({p.g_first[k], p.inner, 0, 1}, tile, 0);
    }
  }

  BackwardRows<R> r;
  r.sg = ws.sg.v;
  r.g_mean = static_cast<R>(p.g_mean);
  for (int k = 0; k < kMaxStates; ++k) r.before.row[k] = ws.before[k].v;
  if (Step::kSpike != kNoSpike && p.surrogate != kPrecomputed && !Step::kThresholdVaries) {
#pragma omp simd
    for (int j = 0; j < n; ++j) threshold_column<Step>(ws, j, f, r.before);
    prepare_surrogate(p.surrogate, q, n, ws);
  }
  for (int64_t t = p.time - 1; t >= 0; --t) {
    prefetch_row<R>(p.x, tile, p, t - 2);
    prefetch_row<R>(p.kept, tile, p, t - 3);
    prefetch_row<R>(p.g_out, tile, p, t - 2);
    r.x = read_row<R>(p.x, tile, t, ws.x.v);
    r.kept = read_row<R>(p.kept, tile, t, ws.kept.v);
    r.kept_before = reads && t > 0 ? read_row<R>(p.kept, tile, t - 1, ws.record.v) : nullptr;
    r.g_out = read_row<R>(p.g_out, tile, t, ws.g_out.v);
    r.g_kept = read_row<R>(p.g_kept, tile, t, ws.g_kept.v);
    r.g_x = constant_x ? ws.g_x.v : open_row<R>(p, p.g_x, tile, t, ws.g_x.v);
    if (replays)
      for (int k = 0; k < Step::kStates; ++k) r.before.row[k] = scratch + (t * Step::kStates + k) * n;
    for (int k = 0; k < Step::kStates; ++k) {
      if (!p.g_record[k].data) continue;
      const R* g = read_row<R>(p.g_record[k], tile, t, ws.g_record.v);
      add_row(g, ws.g[k].v, n);
    }

    bool done = false;
    if constexpr (can_fuse) {
      if (fuse && (t > 0 || !reads)) {
#pragma omp simd
        for (int j = 0; j < n; ++j) fused_column<Step, Sums>(ws, j, f, r, q);
        done = true;
      }
    }
    if (!done) backward_by_loops<Step, Sums>(p, tile, ws, t, r, q);

    if (constant_x)
      add_row<R>(r.g_x, ws.total.v, n);
    else
      close_row(p, p.g_x, tile, t, r.g_x);
    if (t % kFlush == 0) {
      for (int k = 0; k < sums; ++k) add_flushed(ws.sum[k].v, ws.sums[k].v, n);
      if (constant_x) add_flushed(ws.total.v, ws.totals.v, n);
    }
  }
  if (constant_x) {
    for (int j = 0; j < n; ++j) ws.g_x.v[j] = static_cast<R>(ws.totals.v[j]);
    scatter(ws.g_x.v, address<R>(p.g_x, tile, 0), p.g_x.outer, tile);
  }
  if (p.stream) stream_fence();
  for (int k = 0; k < Step::kStates; ++k) store_columns(p, ws.g[k].v, tile, p.g_first[k]);
  for (int k = 0; k < sums; ++k)
    if (p.g_param[k]) scatter(ws.sums[k].v, p.g_param[k] + tile.column(p, 0), p.inner, tile);
}
