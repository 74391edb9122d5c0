// A tile through all time steps, forward.
#pragma once
#include "columns.h"

template <class Step>
void forward_tile(const Problem& p, const Tile& tile, Workspace<typename Step::Real>& ws) {
  using R = typename Step::Real;
  const int n = tile.columns();
  const Flags f = p.flags;
  load_params(p, Step::kParams, Step::MinV, tile, ws);
  for (int k = 0; k < Step::kStates; ++k) load_columns(p, p.first[k], tile, ws.state[k].v);
  if (p.column_sum) clear(ws.total.v, ws.totals.v, n);
  if (p.time == 1) {
    prefetch_after<R>(p.x, tile, 0);
    prefetch_after<R>(p.kept, tile, 0);
    prefetch_after<R>(p.out, tile, 0);
    for (int k = 0; k < Step::kStates; ++k) {
      prefetch_after<R>({const_cast<void*>(p.first[k]), p.inner, 0, 1}, tile, 0);
      prefetch_after<R>({p.last[k], p.inner, 0, 1}, tile, 0);
    }
  }
  for (int64_t t = 0; t < p.time; ++t) {
    prefetch_row<R>(p.x, tile, p, t + 2);
    const R* x = read_row<R>(p.x, tile, t, ws.x.v);
    R* kept = open_row<R>(p, p.kept, tile, t, ws.kept.v);
    R* out = open_row<R>(p, p.out, tile, t, ws.out.v);
#pragma omp simd
    for (int j = 0; j < n; ++j) forward_column<Step>(ws, j, f, x, kept, out);
    close_row(p, p.kept, tile, t, kept);
    close_row(p, p.out, tile, t, out);
    for (int k = 0; k < Step::kStates; ++k) {
      if (!p.record[k].data) continue;
      R* record = open_row<R>(p, p.record[k], tile, t, ws.record.v);
      copy_row(ws.state[k].v, record, n);
      close_row(p, p.record[k], tile, t, record);
    }
    if (p.column_sum && (t % kFlush == kFlush - 1 || t == p.time - 1)) add_flushed(ws.total.v, ws.totals.v, n);
  }
  for (int k = 0; k < Step::kStates; ++k) store_columns(p, ws.state[k].v, tile, p.last[k]);
  if (p.stream) stream_fence();
  if (p.column_sum) scatter(ws.totals.v, p.column_sum + tile.column(p, 0), p.inner, tile);
}
