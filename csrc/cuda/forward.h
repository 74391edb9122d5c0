// One thread takes V neighbouring columns through all time steps, with the input of the next U steps on its way.
#pragma once

// X: dtype of the input, O: of the output
template <class Step, class X, class O, int V, int U>
PA_HD void forward_columns(const ForwardCall<Step>& c) {
  using R = typename Step::Real;
  constexpr int S = Step::kStates;
  const Flags f = flags_of(c);
  const Lane where = lane<V>(c.outer, c.inner);
  const int64_t time = where.active ? c.time : 0;
  R s[V][S], q[Step::kParams], part = R(0);
  load_params<Step>(c, where, q);
  load_states<S, V>(c.first, where, s);
  double sum = 0.0;
  const In<X> x = in<X>(c.x, where);
  int64_t at = where.outer * c.time * c.inner + where.inner;
  const bool record = c.record[0] != nullptr;  // all or none
  Chunk<X, V, U> next = {};
  next.read(x, 0, count_of<U>(0, time));
  for (int64_t first = 0; first < time; first += U) {
    const Chunk<X, V, U> now = next;
    const int count = count_of<U>(first, time);
    next.read(x, first + U, count_of<U>(first + U, time));
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (u >= count) continue;
      Pack<O, V> out;
      Pack<R, V> kept;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        R i;
        convert(now.row[u].v[v], i);
        const R y = Step::forward(s[v], i, q, f, kept.v[v]);
        part += y;
        convert(y, out.v[v]);
      }
      store(out, c.out, at);
      if (c.kept) store(kept, c.kept, at);
      if (record) store_states<S, V>(s, where, c.record, at);
      at += c.inner;
    }
    if (V > 1 || (first + U) % kFlush == 0) {
      sum += static_cast<double>(part);
      part = R(0);
    }
  }
  store_states<S, V>(s, where, c.last, where.column);
  if (!c.sum) return;
  sum = block_sum(sum + static_cast<double>(part));
  if (threadIdx.x == 0) c.sum[blockIdx.x] = sum;
}
