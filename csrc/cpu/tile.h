// What the CPU loop driver works on: one tile of columns, taken through all time steps by forward.h and backward.h.
// A tile is `outers` consecutive samples times `width` consecutive inner columns. With one sample, rows are read and
// written in place; with several (narrow layers) they are gathered into and scattered from small row buffers, so
// that the vector loop always has columns to fill it.
#pragma once
#include "rows.h"

constexpr int kWidth = kTileColumns;  // states, parameters and rows of one tile stay in L1
constexpr int kFlush = 32;            // steps summed in working precision before they are added to the double sums

struct Tile {
  int64_t first_outer, first_inner;
  int outers, width;
  int columns() const { return outers * width; }
  int64_t column(const Problem& p, int o) const { return (first_outer + o) * p.inner + first_inner; }
};

// One cache line longer than a tile is wide: rows whose starts lie a power of two apart would share few cache sets.
template <class R>
struct alignas(64) Row {
  R v[kWidth + 64 / sizeof(R)];
};
template <class R>
struct SpikeRows {
  Row<R> th, sg, sg_a, sg_b;  // what surrogate_rows.h reads and writes
};
template <class R>
struct Workspace : SpikeRows<R> {
  Row<R> state[kMaxStates], before[kMaxStates], param[kMaxParams], g[kMaxStates], sum[kMaxParams];
  Row<R> x, kept, out, record, g_out, g_kept, g_x, g_record, total;
  Row<double> sums[kMaxParams], totals;
};

template <class R>
__attribute__((noinline)) void gather(const R* base, int64_t outer, int64_t inner, const Tile& tile, R* to) {
  // Rows of one run and of one value are what parameters and states mostly are: loops that the compiler turns into
  // copies.
  for (int o = 0; o < tile.outers; ++o, base += outer, to += tile.width) {
    if (inner == 1)
      for (int j = 0; j < tile.width; ++j) to[j] = base[j];
    else if (inner == 0)
      for (int j = 0; j < tile.width; ++j) to[j] = base[0];
    else
      for (int j = 0; j < tile.width; ++j) to[j] = base[j * inner];
  }
}

template <class R>
__attribute__((noinline)) void scatter(const R* from, R* base, int64_t outer, const Tile& tile) {
  for (int o = 0; o < tile.outers; ++o)
    for (int j = 0; j < tile.width; ++j) base[o * outer + j] = from[o * tile.width + j];
}

template <class R>
R* address(const Stream& s, const Tile& tile, int64_t t) {
  return static_cast<R*>(s.data) + tile.first_outer * s.outer + t * s.time + tile.first_inner * s.inner;
}

// A row to read: in place where it is one run, else copied to `buffer`; an absent stream reads as `buffer` unchanged.
template <class R>
const R* read_row(const Stream& s, const Tile& tile, int64_t t, R* buffer) {
  if (!s.data) return buffer;
  const R* base = address<R>(s, tile, t);
  if (tile.outers == 1 && s.inner == 1) return base;
  gather(base, s.outer, s.inner, tile, buffer);
  return buffer;
}

// Asks for the row of a step to come: rows lie too far apart for the hardware to foresee the next.
template <class R>
void prefetch_row(const Stream& s, const Tile& tile, const Problem& p, int64_t t) {
  if (!s.data || tile.outers > 1 || s.inner != 1 || t < 0 || t >= p.time) return;
  const char* base = reinterpret_cast<const char*>(address<R>(s, tile, t));
  const int64_t bytes = static_cast<int64_t>(sizeof(R)) * tile.width;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(base + i);
}

// A single step has no rows to come in this tile: asks for what lies behind its row, which is the next tile's.
template <class R>
__attribute__((noinline)) void prefetch_after(const Stream& s, const Tile& tile, int64_t t) {
  if (!s.data || tile.outers > 1 || s.inner != 1) return;
  const int64_t bytes = static_cast<int64_t>(sizeof(R)) * tile.width;
  const char* base = reinterpret_cast<const char*>(address<R>(s, tile, t)) + bytes;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(base + i);
}

// A row to write: in place where it is one run, else `buffer`, which close_row then takes to its place.
template <class R>
R* open_row(const Problem& p, const Stream& s, const Tile& tile, int64_t t, R* buffer) {
  return s.data && tile.outers == 1 && !p.stream ? address<R>(s, tile, t) : buffer;
}

template <class R>
void close_row(const Problem& p, const Stream& s, const Tile& tile, int64_t t, const R* row) {
  if (!s.data) return;
  if (tile.outers > 1)
    scatter(row, address<R>(s, tile, t), s.outer, tile);
  else if (p.stream)
    stream_copy(address<R>(s, tile, t), row, sizeof(R) * static_cast<size_t>(tile.width));
}

template <class R>
__attribute__((noinline)) void load_columns(const Problem& p, const void* from, const Tile& tile, R* to) {
  if (from)
    gather(static_cast<const R*>(from) + tile.column(p, 0), p.inner, int64_t(1), tile, to);
  else
    for (int j = 0; j < tile.columns(); ++j) to[j] = R(0);
}

template <class R>
__attribute__((noinline)) void store_columns(const Problem& p, const R* from, const Tile& tile, void* to) {
  if (to) scatter(from, static_cast<R*>(to) + tile.column(p, 0), p.inner, tile);
}

template <class R>
__attribute__((noinline)) void load_params(const Problem& p, int count, int min_v, const Tile& tile, Workspace<R>& ws) {
  for (int k = 0; k < count; ++k) {
    const Param& q = p.param[k];
    R* row = ws.param[k].v;
    if (!q.data) {
      // -0.0: adding it changes nothing, not even the sign of a zero
      for (int j = 0; j < tile.columns(); ++j) row[j] = k == min_v ? R(kUnbounded) : R(-0.0);
      continue;
    }
    const R* base = static_cast<const R*>(q.data) + tile.first_outer * q.outer + tile.first_inner * q.inner;
    gather(base, q.outer, q.inner, tile, row);
    if (k == min_v)  // a bound of minus infinity makes the host's membrane NaN; here it must not mean "no bound"
      for (int j = 0; j < tile.columns(); ++j) row[j] = row[j] == R(kUnbounded) ? R(__builtin_nanf("")) : row[j];
  }
}
