// The backward kernel's body; see backward.h.
#pragma once

// Surrogate: its functor, or Precomputed. Bounded: whether the membrane has a lower bound. Seldom: gradients come of
// what few networks ask for, the kept membrane and records. How: see Replay; there is scratch for kFromKept and
// kFromInput, and there are at most Room steps for kOnChip. V > 1 wants one value of each parameter and no constant
// input.
template <class Step, class Surrogate, class X, class O, unsigned Mask, bool Bounded, bool Seldom, int How, int V,
          int U, int Room>
PA_HD void backward_columns(const BackwardCall<Step>& c) {
  using R = typename Step::Real;
  using Reading = Reads<Step, Mask, How>;
  constexpr int S = Step::kStates, P = Step::kParams;
  constexpr int kStored = Reading::kReplays ? U : 1;
  constexpr bool kSpikes = Step::kSpike != kNoSpike, kGiven = kSpikes && Surrogate::kKind == kPrecomputed;
  static_assert(How == kFromKept || How == kFromInput || !Reading::kReplays, "a step that is replayed needs scratch");
  const Flags f = flags_of(c);
  const Lane where = lane<V>(c.outer, c.inner);
  const int64_t time = c.time;
  const In<X> x = in<X>(c.x, where);
  const In<R> dspike = in<R>(c.dspike, where), g_kept = in<R>(c.g_kept, where);
  In<R> kept = in<R>(c.kept, where);
  const In<O> g_out = in<O>(c.g_out, where);
  R q[P], g[V][S], before[kStored][V][S] = {}, sg_param[kMaxSurrogateParams], a = R(0), b = R(0), mean = R(0);
  load_params<Step, Bounded>(c, where, q);
  load_states<S, V>(c.g_last, where, g);
  R begin[V][S];
  if (Reading::kBefore) load_states<S, V>(c.first, where, begin);
  Sum<R> sum[P] = {}, input = {};
#pragma unroll
  for (int k = 0; k < kMaxSurrogateParams; ++k) sg_param[k] = static_cast<R>(c.surrogate_param[k]);
  if (c.g_mean) {
    const double given = static_cast<double>(*static_cast<const O*>(c.g_mean));
    mean = static_cast<R>(given / static_cast<double>(c.outer * c.time * c.inner));
  }
  if (kSpikes && !Step::kThresholdVaries) Surrogate::prepare(Step::threshold(before[0][0], q, f), sg_param, a, b);
  if constexpr (How == kOnChip) kept = leave_membranes<Step, V, Room>(c, where, time, x, q);
  if constexpr (Reading::kReplays) {
    leave_states<Step, Reading::kKept, U, X, V>(c, where, x, kept, q);
  }

  const bool dense = c.g_x && !c.constant_x && where.active;
  const int64_t chunks = (time + U - 1) / U;
  Chunk<R, V, U> next_kept = {}, next_dspike = {};
  Chunk<O, V, U> next_g = {};
  Chunk<X, V, U> next_x = {};
  const auto fetch = [&](int64_t chunk) {
    if (chunk < 0) return;
    const int count = count_of<U>(chunk * U, time);
    if (How == kOnChip)
      next_kept.read_own(kept, chunk * U, count);
    else if (Reading::kKept)
      next_kept.read(kept, chunk * U, count);
    next_g.read(g_out, chunk * U, count);
    if (kGiven) next_dspike.read(dspike, chunk * U, count);
    if (Reading::kInput) next_x.read(x, chunk * U, count);
  };
  X* const to = static_cast<X*>(c.g_x) + where.outer * time * c.inner + where.inner;
  fetch(chunks - 1);
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    Chunk<R, V, U> now_kept = next_kept;
    const Chunk<R, V, U> now_dspike = next_dspike;
    const Chunk<O, V, U> now_g = next_g;
    const Chunk<X, V, U> now_x = next_x;
    fetch(chunk - 1);
    const int64_t first = chunk * U;
    const int count = count_of<U>(first, time);
    if constexpr (Reading::kReplays) {
      R s[V][S];
      fetch_states<Step, V>(c, where, chunk, s);
      replay_chunk<Step, Reading::kKept, U>(now_x, now_kept, 0, q, f, s, before);
    }
#pragma unroll
    for (int u = U - 1; u >= 0; --u) {
      const bool real = u < count;  // see forward_columns
      Pack<R, V> to_kept = {};
      if (Seldom && real) {
        if (g_kept.there) to_kept = load<V>(g_kept.base + (first + u) * g_kept.time);
#pragma unroll
        for (int k = 0; k < S; ++k) {
          const In<R> record = in<R>(c.g_record[k], where);
          if (!record.there) continue;
          const Pack<R, V> more = load<V>(record.base + (first + u) * record.time);
#pragma unroll
          for (int v = 0; v < V; ++v) g[v][k] += more.v[v];
        }
      }
      Pack<X, V> to_x;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        R* s = before[Reading::kReplays ? u : 0][v];
        const R w = now_kept.row[u].v[v];
        R sg = kGiven ? now_dspike.row[u].v[v] : R(0), i = R(0), to_out, gp[P];
        if constexpr (Reading::kBefore) {
          R out, unclamped;
          s[0] = Step::settle(u ? now_kept.row[u ? u - 1 : 0].v[v] : next_kept.row[U - 1].v[v], q, f, out, unclamped);
          if (u == 0 && chunk == 0) s[0] = begin[v][0];
        }
        if (kSpikes && !kGiven) {
          const R th = Step::threshold(s, q, f);
          if (Step::kThresholdVaries) Surrogate::prepare(th, sg_param, a, b);
          sg = Surrogate::eval(w, th, sg_param, a, b);
        }
        if (Reading::kInput) convert(now_x.row[u].v[v], i);
        convert(now_g.row[u].v[v], to_out);
#pragma unroll
        for (int k = 0; k < P; ++k) gp[k] = R(0);
        R to_state[S];
        copy(g[v], to_state);
        const R y = Step::template backward<Bounded>(s, i, w, sg, to_out + mean, to_kept.v[v], to_state, q, f, gp);
        if (real) copy(to_state, g[v]);
#pragma unroll
        for (int k = 0; k < P; ++k)
          if (Mask >> k & 1u) sum[k].part += real ? gp[k] : R(-0.0);
        if (V == 1) input.part += real ? y : R(-0.0);
        convert(y, to_x.v[v]);
      }
      store(to_x, to, (first + u) * c.inner, real && dense);
    }
    if (V > 1 || first % kFlush == 0) {
#pragma unroll
      for (int k = 0; k < P; ++k)
        if (Mask >> k & 1u) sum[k].flush();
      input.flush();
    }
  }
  store_states<S, V>(g, where, c.g_first, where.column);
  if (V == 1 && c.constant_x && c.g_x && where.active) {
    Pack<X, 1> p;
    convert(static_cast<R>(input.total), p.v[0]);
    store(p, c.g_x, where.column);
  }
#pragma unroll
  for (int k = 0; k < P; ++k) {
    if (!(Mask >> k & 1u)) continue;
    if (c.by_column) {
      if (where.active) c.g_param[k][where.column] = sum[k].total;
      continue;
    }
    const double all = block_sum(where.active ? sum[k].total : 0.0);
    if (threadIdx.x == 0) c.g_param[k][blockIdx.x] = all;
  }
}
