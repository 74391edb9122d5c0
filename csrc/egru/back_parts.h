// What one tile keeps while it goes backward, and the sums it gathers.
#pragma once
#include "../sums/outer.h"
#include "rows.h"

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
    sums::PA_ISA::add_outer(s.value, s.entry, s.entries, s.room, n, s.ring, s.ldq, g_recurrent);
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

}  // namespace PA_ISA
}  // namespace egru
