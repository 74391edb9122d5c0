// One thread takes V neighbouring columns through all time steps, with the input of the next U steps on its way.
#pragma once

// X: dtype of the input, O: of the output; Record: whether the states after each step are wanted
template <class Step, class X, class O, bool Bounded, bool Record, int V, int U>
PA_HD void forward_columns(const ForwardCall<Step>& c) {
  using R = typename Step::Real;
  constexpr int S = Step::kStates;
  const Flags f = flags_of(c);
  const Lane where = lane<V>(c.outer, c.inner);
  R s[V][S], q[Step::kParams], part = R(0);
  load_params<Step, Bounded>(c, where, q);
  load_states<S, V>(c.first, where, s);
  double sum = 0.0;
  const In<X> x = in<X>(c.x, where);
  int64_t at = where.outer * c.time * c.inner + where.inner;
  const bool keep = c.kept && where.active;
  Chunk<X, V, U> next = {};
  next.read(x, 0, count_of<U>(0, c.time), Again());  // backward may want it soon
  for (int64_t first = 0; first < c.time; first += U) {
    const Chunk<X, V, U> now = next;
    const int count = count_of<U>(first, c.time);
    R ahead[V][S];
#pragma unroll
    for (int v = 0; v < V; ++v) copy(s[v], ahead[v]);
    next.read(x, first + U, count_of<U>(first + U, c.time), Again());
#pragma unroll
    for (int u = 0; u < U; ++u) {
      // what lies beyond the last step is computed, and left: a branch for each step would part it from its neighbours
      const bool real = u < count;
      Pack<O, V> out;
      Pack<R, V> kept;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        R i;
        convert(now.row[u].v[v], i);
        const R y = Step::forward(ahead[v], i, q, f, kept.v[v]);
        if (real) copy(ahead[v], s[v]);
        part += real ? y : R(-0.0);
        convert(y, out.v[v]);
      }
      store(out, c.out, at + u * c.inner, real && where.active);
      store(kept, c.kept, at + u * c.inner, real && keep);
      if (Record && real) store_states<S, V>(s, where, c.record, at + u * c.inner);
    }
    at += U * c.inner;
    if (V > 1 || (first + U) % kFlush == 0) {
      sum += static_cast<double>(part);
      part = R(0);
    }
  }
  store_states<S, V>(s, where, c.last, where.column);
  if (!c.sum) return;
  sum = block_sum(where.active ? sum + static_cast<double>(part) : 0.0);
  if (threadIdx.x == 0) c.sum[blockIdx.x] = sum;
}
