// The time loops of one tile: a few samples, by one thread, with no word to any other.
#pragma once
#include "products.h"
#include "rows.h"
#include "step.h"

namespace egru {
namespace PA_ISA {

// Above this share of active units the dense product of a whole tile costs less than gathering row by row (measured).
constexpr double kDenseShare = 0.4;

template <class R>
struct ForwardSpace {
  R *q, *y, *h, *trace, *first, *bias_g, *mask, *drive, *out;
  int32_t *active, *count;
  ForwardSpace(Arena& a, const Problem& p, int rows) {
    const int64_t padded = round_up(p.hidden, Vec<R>::width), tall = round_up(rows, Vec<R>::tile_rows);
    q = a.take<R>(tall * 3 * padded);
    y = a.take<R>(tall * p.hidden);
    h = a.take<R>(tall * p.hidden);
    trace = a.take<R>(tall * p.hidden);
    first = a.take<R>(3 * padded);
    bias_g = a.take<R>(p.hidden);
    mask = a.take<R>(p.hidden);
    drive = a.take<R>(3 * p.hidden);
    out = a.take<R>((kSaved + 4) * p.hidden);
    active = a.take<int32_t>(tall * (p.hidden + 16));
    count = a.take<int32_t>(tall);
  }
};

template <class R>
void products(const Problem& p, const ForwardSpace<R>& s, int rows) {
  constexpr int many = Vec<R>::tile_rows;
  const int64_t padded = round_up(p.hidden, Vec<R>::width);
  const R* packed = static_cast<const R*>(p.packed);
  for (int first = 0; first < rows; first += many) {
    const int here = std::min(many, rows - first);
    int64_t total = 0;
    for (int i = first; i < first + here; ++i) total += s.count[i];
    if (static_cast<double>(total) > kDenseShare * many * static_cast<double>(p.hidden)) {
      dense_gates(s.y + first * p.hidden, p.hidden, packed, p.hidden, s.first, s.q + first * 3 * padded, 3 * padded);
      continue;
    }
    gather_rows(s.y + first * p.hidden, s.active + first * (p.hidden + 16), p.hidden + 16, s.count + first, here,
                packed, p.hidden, s.first, s.q + first * 3 * padded);
  }
}

template <class R>
void forward(const Problem& p, const Tile& tile, void* workspace) {
  const int64_t n = p.hidden, padded = round_up(n, Vec<R>::width);
  Arena arena(workspace);
  const ForwardSpace<R> s(arena, p, tile.rows);
  const R *bias = static_cast<const R*>(p.bias), *rb = static_cast<const R*>(p.recurrent_bias);
  fill(s.first, 3 * padded, R(0));
  for (int64_t j = 0; j < n; ++j) {
    s.first[j] = bias[j] + rb[j];
    s.first[padded + j] = bias[n + j] + rb[n + j];
    s.first[2 * padded + j] = rb[2 * n + j];
    s.bias_g[j] = bias[2 * n + j];
  }
  fill(s.y, round_up(tile.rows, Vec<R>::tile_rows) * n, R(0));
  copy(s.y, row<R>(p.y0, tile.first, n), tile.rows * n);
  copy(s.h, row<R>(p.h0, tile.first, n), tile.rows * n);
  copy(s.trace, row<R>(p.trace0, tile.first, n), tile.rows * n);
  fill(s.mask, n, static_cast<R>(p.keep));
  for (int i = 0; i < tile.rows; ++i) s.count[i] = nonzero(s.y + i * n, n, s.active + i * (n + 16));
  const bool lean = !p.saved && !p.h && !p.o && !p.trace;
  double events = 0, quiet = 0;
  const size_t bytes = static_cast<size_t>(n) * sizeof(R);
  for (int64_t t = 0; t < p.steps; ++t) {
    products(p, s, tile.rows);
    for (int i = 0; i < tile.rows; ++i) {
      const int64_t sample = tile.first + i, at = t * p.batch + sample;
      R* outs[] = {row<R>(p.y, at, n), row<R>(p.h, at, n), row<R>(p.o, at, n), row<R>(p.trace, at, n)};
      R* saved = row<R>(p.saved, at, kSaved * n);
      if (p.lengths && t >= p.lengths[sample]) {
        for (R* out : outs)
          if (out) memset(out, 0, bytes);
        if (saved) memset(saved, 0, kSaved * bytes);
        continue;
      }
      // What is not wanted, or is to bypass the caches, is written to a row that stays in L1.
      R* to[4];
      for (int k = 0; k < 4; ++k) to[k] = outs[k] && !p.stream ? outs[k] : s.out + k * n;
      R* keep = saved && !p.stream ? saved : s.out + 4 * n;
      const ForwardRows<R> rows{s.q + i * 3 * padded,
                                drive_row(p, at, s.drive),
                                s.bias_g,
                                static_cast<const R*>(p.thr),
                                mask_row(p, at, s.mask),
                                s.y + i * n,
                                s.h + i * n,
                                s.trace + i * n,
                                keep,
                                keep + n,
                                keep + 2 * n,
                                keep + 3 * n,
                                keep + 4 * n,
                                to[2],
                                to[0],
                                to[1],
                                to[3]};
      const R support = static_cast<R>(p.support);
      quiet += static_cast<double>(lean ? forward_row<R, true>(rows, n, padded, support)
                                        : forward_row<R, false>(rows, n, padded, support));
      if (p.stream) {
        for (int k = 0; k < 4; ++k)
          if (outs[k]) stream_copy(outs[k], to[k], bytes);
        if (saved) stream_copy(saved, keep, kSaved * bytes);
      }
      s.count[i] = nonzero(s.y + i * n, n, s.active + i * (n + 16));
      events += s.count[i];
    }
  }
  const size_t all = static_cast<size_t>(tile.rows) * bytes;
  memcpy(row<R>(p.y_n, tile.first, n), s.y, all);
  memcpy(row<R>(p.h_n, tile.first, n), s.h, all);
  memcpy(row<R>(p.trace_n, tile.first, n), s.trace, all);
  p.counts[2 * tile.index] = events;
  p.counts[2 * tile.index + 1] = quiet;
  if (p.stream) stream_fence();
}

}  // namespace PA_ISA
}  // namespace egru
