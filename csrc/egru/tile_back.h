// The time loop of one tile, backward. dR is summed from active units alone: the gates' gradients of some steps are
// kept beside lists of who was active, and each row of dR is then read and written once for all of them.
#pragma once
#include "back_parts.h"
#include "pack.h"
#include "products.h"
#include "tile.h"

namespace egru {
namespace PA_ISA {

// Has what the next step reads brought near while the product keeps the core busy.
template <class R>
inline void fetch(const Problem& p, const Tile& tile, int64_t t) {
  const int64_t at = t * p.batch + tile.first;
  const auto lines = [](const void* from, int64_t bytes) {
    for (int64_t i = 0; from && i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, 0, 2);
  };
  const int64_t bytes = tile.rows * p.hidden * static_cast<int64_t>(sizeof(R));
  lines(row<R>(p.saved, at, kSaved * p.hidden), kSaved * bytes);
  for (const void* g : {p.g_y, p.g_h, p.g_o, p.g_trace}) lines(row<R>(g, at, p.hidden), bytes);
}

template <class R>
void backward(const Problem& p, const Tile& tile, void* workspace) {
  Arena arena(workspace);
  const BackwardSpace<R> s(arena, p, tile.rows);
  memset(workspace, 0, static_cast<size_t>(arena.used()));
  const int64_t n = s.n;
  const Sums to(p, tile.index);
  fill(to.kernel, Sums::size(p), 0.0);
  R* g_recurrent = row<R>(p.g_recurrent, tile.index, n * s.ldq);
  if (g_recurrent) fill(g_recurrent, n * s.ldq, R(0));
  for (int i = 0; i < tile.rows; ++i) copy(s.dy + i * s.padded, row<R>(p.g_y_n, tile.first + i, n), n);
  copy(s.dh, row<R>(p.g_h_n, tile.first, n), tile.rows * n);
  copy(s.dtrace, row<R>(p.g_trace_n, tile.first, n), tile.rows * n);
  fill(s.mask, n, static_cast<R>(p.keep));
  R *dy = s.dy, *dy_next = s.dy_next;
  int slot = 0;
  const auto or_zeros = [&](const void* g, int64_t at) { return g ? row<R>(g, at, n) : s.zeros; };
  for (int64_t t = p.steps - 1; t >= 0; --t) {
    R* dq = s.ring + slot * s.tall * s.ldq;
    for (int i = 0; i < tile.rows; ++i) {
      const int64_t sample = tile.first + i, at = t * p.batch + sample;
      R *mine = dq + i * s.ldq, *g_drive = row<R>(p.g_drive, at, 3 * n);
      if (p.lengths && t >= p.lengths[sample]) {
        fill(mine, 3 * n, R(0));
        if (g_drive) fill(g_drive, 3 * n, R(0));
        if (p.g_x && !p.drive) fill(row<R>(p.g_x, at, p.features), p.features, R(0));
        continue;
      }
      before(p, s, t, sample);
      const R* saved = row<R>(p.saved, at, kSaved * n);
      R* dg = g_drive ? g_drive + 2 * n : s.dg;
      const BackwardRows<R> rows{saved,
                                 saved + n,
                                 saved + 2 * n,
                                 saved + 3 * n,
                                 saved + 4 * n,
                                 static_cast<const R*>(p.thr),
                                 mask_row(p, at, s.mask),
                                 s.h_before,
                                 or_zeros(p.g_y, at),
                                 or_zeros(p.g_h, at),
                                 or_zeros(p.g_o, at),
                                 or_zeros(p.g_trace, at),
                                 dy + i * s.padded,
                                 s.dh + i * n,
                                 s.dtrace + i * n,
                                 mine,
                                 mine + n,
                                 dg,
                                 mine + 2 * n,
                                 s.sums,
                                 s.sums + n,
                                 s.sums + 2 * n,
                                 s.sum_qg,
                                 s.sum_thr};
      backward_row(rows, n, static_cast<R>(p.dampening), static_cast<R>(p.support));
      if (g_drive) copy(g_drive, mine, 2 * n);
      if (!p.drive) few_features(p, s, at, mine);
      if (!g_recurrent) continue;
      const int active = nonzero(s.y_before, n, s.active);
      const int32_t which = static_cast<int32_t>(slot * s.tall + i);
      for (int e = 0; e < active; ++e) {
        const int64_t k = s.active[e], free = k * s.room + s.entries[k]++;
        s.entry[free] = which;
        s.value[free] = s.y_before[k];
      }
    }
    if (t > 0) fetch<R>(p, tile, t - 1);
    if (t > 0 || p.g_y0) {
      for (int64_t i = 0; i < s.tall; i += Vec<R>::tile_rows)
        dense_back(dq + i * s.ldq, s.ldq, static_cast<const R*>(p.packed), n, dy_next + i * s.padded, s.padded);
      if (p.lengths)
        for (int i = 0; i < tile.rows; ++i)
          if (t >= p.lengths[tile.first + i]) copy(dy_next + i * s.padded, dy + i * s.padded, n);
      std::swap(dy, dy_next);
    }
    if (++slot == kChunk || t == 0) {
      settle(p, s, to, g_recurrent);
      slot = 0;
    }
  }
  for (int i = 0; p.g_y0 && i < tile.rows; ++i) copy(row<R>(p.g_y0, tile.first + i, n), dy + i * s.padded, n);
  if (p.g_h0) copy(row<R>(p.g_h0, tile.first, n), s.dh, tile.rows * n);
  if (p.g_trace0) copy(row<R>(p.g_trace0, tile.first, n), s.dtrace, tile.rows * n);
}

template <class R>
int64_t workspace_bytes(const Problem& p, int rows, bool back) {
  Arena arena(nullptr);
  if (back)
    BackwardSpace<R>(arena, p, rows);
  else
    ForwardSpace<R>(arena, p, rows);
  return arena.used();
}

template <class R>
const Kernels* kernels() {
  static const Kernels k{packed_bytes<R>, pack<R>, workspace_bytes<R>, forward<R>, backward<R>, Vec<R>::width};
  return &k;
}

}  // namespace PA_ISA
}  // namespace egru
