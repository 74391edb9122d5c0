// The CPU loop driver: one tile of columns through all time steps, forward or backward.
// A tile is `outers` consecutive samples times `width` consecutive inner columns. With one sample, rows are read and
// written in place; with several (narrow layers) they are gathered into and scattered from small row buffers, so
// that the vector loop always has columns to fill it.
#pragma once

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
struct Workspace {
  Row<R> state[kMaxStates], before[kMaxStates], param[kMaxParams], g[kMaxStates], sum[kMaxParams];
  Row<R> x, kept, out, record, sg, th, sg_a, sg_b, g_out, g_kept, g_x, g_record, total;
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

template <class R>
__attribute__((noinline)) void add_flushed(R* part, double* total, int n) {
  for (int j = 0; j < n; ++j) {
    total[j] += static_cast<double>(part[j]);
    part[j] = R(0);
  }
}

template <class R>
__attribute__((noinline)) void zero(R* row, int n) {
  for (int j = 0; j < n; ++j) row[j] = R(0);
}

template <class R>
__attribute__((noinline)) void clear(R* part, double* total, int n) {
  for (int j = 0; j < n; ++j) {
    part[j] = R(0);
    total[j] = 0.0;
  }
}

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
      for (int j = 0; j < n; ++j) record[j] = ws.state[k].v[j];
      close_row(p, p.record[k], tile, t, record);
    }
    if (p.column_sum && (t % kFlush == kFlush - 1 || t == p.time - 1)) add_flushed(ws.total.v, ws.totals.v, n);
  }
  for (int k = 0; k < Step::kStates; ++k) store_columns(p, ws.state[k].v, tile, p.last[k]);
  if (p.stream) stream_fence();
  if (p.column_sum) scatter(ws.totals.v, p.column_sum + tile.column(p, 0), p.inner, tile);
}

template <class F, class R>
void fill_surrogate(const R* th, const R* q, int n, R* a, R* b) {
#pragma omp simd
  for (int j = 0; j < n; ++j) F::prepare(th[j], q, a[j], b[j]);
}

template <class F, class R>
void eval_surrogate(const R* w, const R* th, const R* q, const R* a, const R* b, int n, R* sg) {
#pragma omp simd
  for (int j = 0; j < n; ++j) sg[j] = F::eval(w[j], th[j], q, a[j], b[j]);
}

// Calls `f` with the functor that `kind` names.
template <class Call>
void with_surrogate(int kind, const Call& f) {
  switch (kind) {
    case kSingleExponential:
      return f(SingleExponential{});
    case kPeriodicExponential:
      return f(PeriodicExponential{});
    case kHeaviside:
      return f(Heaviside{});
    case kGaussian:
      return f(Gaussian{});
    case kMultiGaussian:
      return f(MultiGaussian{});
    case kConstant:
      return f(Constant{});
    case kTriangular:
      return f(Triangular{});
    case kFastSigmoid:
      return f(FastSigmoid{});
    case kAtan:
      return f(Atan{});
    case kAboveThreshold:
      return f(AboveThreshold{});
    case kSigmoid:
      return f(Sigmoid{});
    case kSpikeRateEscape:
      return f(SpikeRateEscape{});
    case kTriangle:
      return f(Triangle{});
    case kTanh:
      return f(Tanh{});
    case kCircle:
      return f(Circle{});
    case kErfc:
      return f(Erfc{});
  }
}

// Out of line, so that the surrogates are compiled once per dtype and not once per step.
template <class R>
__attribute__((noinline)) void prepare_surrogate(int kind, const R* q, int n, Workspace<R>& ws) {
  with_surrogate(kind, [&](auto f) { fill_surrogate<decltype(f)>(ws.th.v, q, n, ws.sg_a.v, ws.sg_b.v); });
}

template <class R>
__attribute__((noinline)) void surrogate_row(int kind, const R* w, const R* q, int n, Workspace<R>& ws) {
  with_surrogate(kind, [&](auto f) { eval_surrogate<decltype(f)>(w, ws.th.v, q, ws.sg_a.v, ws.sg_b.v, n, ws.sg.v); });
}

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
  // fp64 is for checking: there the loops do
  constexpr bool can_fuse = sizeof(R) == sizeof(float);
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
      for (int j = 0; j < n; ++j) ws.g[k].v[j] += g[j];
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
      for (int j = 0; j < n; ++j) ws.total.v[j] += r.g_x[j];
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
