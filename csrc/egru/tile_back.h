// The time loop of one tile, backward. dR is summed from active units alone: the gates' gradients of some steps are
// kept beside lists of who was active, and each row of dR is then read and written once for all of them.
#pragma once
#include "tile.h"

namespace egru {
namespace PA_ISA {

constexpr int kChunk = 16;  // steps between two additions to dR

template <class R>
struct BackwardSpace {
  int64_t n, padded, ldq, tall, room;
  R *dy, *dy_next, *dh, *dtrace, *ring, *zeros, *mask, *drive, *h_before, *y_before, *dg, *value;
  R *sums, *sum_qg, *sum_thr, *kernel;  // sums: z, r, g
  int32_t *active, *entry, *entries;
  BackwardSpace(Arena& a, const Problem& p, int rows)
      : n(p.hidden),
        padded(round_up(n, Vec<R>::width)),
        ldq(round_up(3 * n, Vec<R>::width)),
        tall(round_up(rows, Vec<R>::tile_rows)),
        room(kChunk * rows) {
    dy = a.take<R>(tall * padded);
    dy_next = a.take<R>(tall * padded);
    dh = a.take<R>(tall * n);
    dtrace = a.take<R>(tall * n);
    ring = a.take<R>(kChunk * tall * ldq);
    zeros = a.take<R>(n);
    mask = a.take<R>(n);
    h_before = a.take<R>(n);
    y_before = a.take<R>(n);
    dg = a.take<R>(n);
    sums = a.take<R>(3 * n);
    sum_qg = a.take<R>(n);
    sum_thr = a.take<R>(n);
    kernel = a.take<R>(p.drive ? 0 : p.features * 3 * n);
    active = a.take<int32_t>(n + 16);
    entries = a.take<int32_t>(n);
    entry = a.take<int32_t>(n * room);
    value = a.take<R>(n * room);
  }
};

// Where g_rows of a tile holds what.
struct Sums {
  double *kernel, *bias, *recurrent_bias, *thr;
  static int64_t size(const Problem& p) { return ((p.drive ? 0 : p.features) + 2) * 3 * p.hidden + p.hidden; }
  Sums(const Problem& p, int64_t tile) {
    kernel = p.g_rows + tile * size(p);
    bias = kernel + (p.drive ? 0 : p.features) * 3 * p.hidden;
    recurrent_bias = bias + 3 * p.hidden;
    thr = recurrent_bias + 3 * p.hidden;
  }
};

template <class R>
inline void drain(R* from, double* to, int64_t count, double* also = nullptr) {
  for (int64_t j = 0; j < count; ++j) {
    to[j] += static_cast<double>(from[j]);
    if (also) also[j] += static_cast<double>(from[j]);
    from[j] = R(0);
  }
}

// Adds what a chunk of steps has gathered to the tile's sums.
template <class R>
void settle(const Problem& p, const BackwardSpace<R>& s, const Sums& to, R* g_recurrent) {
  const int64_t n = s.n;
  if (g_recurrent) {
    add_outer(s.value, s.entry, s.entries, s.room, n, s.ring, s.ldq, g_recurrent);
    fill(s.entries, n, 0);
  }
  drain(s.sums, to.bias, 2 * n, to.recurrent_bias);
  drain(s.sums + 2 * n, to.bias + 2 * n, n);
  drain(s.sum_qg, to.recurrent_bias + 2 * n, n);
  drain(s.sum_thr, to.thr, n);
  if (!p.drive) drain(s.kernel, to.kernel, p.features * 3 * n);
}

// Gradients with respect to a few input features and their weights; dq holds z and r.
template <class R>
inline void few_features(const Problem& p, const BackwardSpace<R>& s, int64_t at, const R* dq) {
  const int64_t n = s.n;
  const R *x = row<R>(p.x, at, p.features), *kernel = static_cast<const R*>(p.kernel);
  R* g_x = row<R>(p.g_x, at, p.features);
  for (int64_t i = 0; i < p.features; ++i) {
    const R v = x[i];
    R *to = s.kernel + i * 3 * n, *last = to + 2 * n;
#pragma omp simd
    for (int64_t j = 0; j < 2 * n; ++j) to[j] += v * dq[j];
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) last[j] += v * s.dg[j];
    if (!g_x) continue;
    const R *w = kernel + i * 3 * n, *w_last = w + 2 * n;
    R sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < 2 * n; ++j) sum += w[j] * dq[j];
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; ++j) sum += w_last[j] * s.dg[j];
    g_x[i] = sum;
  }
}

// Output and state before step t, from what forward saved.
template <class R>
inline void before(const Problem& p, const BackwardSpace<R>& s, int64_t t, int64_t sample) {
  const int64_t n = s.n;
  if (t == 0) {
    copy(s.y_before, row<R>(p.y0, sample, n), n);
    copy(s.h_before, row<R>(p.h0, sample, n), n);
    return;
  }
  const R *c = row<R>(p.saved, (t - 1) * p.batch + sample, kSaved * n) + 4 * n, *thr = static_cast<const R*>(p.thr);
  R *y = s.y_before, *h = s.h_before;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const R o = c[j] - thr[j] > R(0) ? R(1) : R(0);
    y[j] = o * c[j];
    h[j] = c[j] - o * thr[j];
  }
}

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
