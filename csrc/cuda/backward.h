// One thread takes V neighbouring columns back through all time steps, U steps at a time. What a step needs and `kept`
// does not determine is had by running forward again: once through all steps, leaving the states before every chunk
// behind, and once more within each chunk. So scratch is 1/U of the data, and what is needed of a chunk stays in
// registers.
#pragma once

// In place of a functor: d spike / d v comes as a tensor.
struct Precomputed {
  static constexpr int kKind = kPrecomputed;
  template <class R>
  PA_HD static void prepare(R, const R*, R&, R&) {}
  template <class R>
  PA_HD static R eval(R, R, const R*, R, R) {
    return R(0);
  }
};

// What runs forward again: nothing; a step, with the membrane before the reset given; the whole step, from the input;
// all steps once, from the input, which leaves their membranes in shared memory.
enum Replay { kNoReplay = 0, kFromKept = 1, kFromInput = 2, kOnChip = 3 };

// Mask: bit k stands for the gradient of the step's k-th parameter.
template <class Step, unsigned Mask, int How>
struct Reads {
  static constexpr int kWanted = Mask == 0 ? kNoSums : Mask >> Step::kDecays ? kAllSums : kDecaySums;
  static constexpr int kSums = kWanted > Step::kMostSums ? int(Step::kMostSums) : kWanted;
  static constexpr bool kKept = How != kFromInput;
  static constexpr bool kReplays = Step::replays(kSums) || !kKept;
  // the state before the step is rebuilt from `kept` of the step before
  static constexpr bool kBefore = !kReplays && (kSums != kNoSums || Step::kReadsBefore);
  static constexpr bool kInput = kReplays || kSums != kNoSums;
};

// U steps of W, the `from`-th and those after it, from states s; `kept` is read, or written.
template <class Step, bool Kept, int U, class X, int V, int W, class R = typename Step::Real>
PA_HD void replay_chunk(const Chunk<X, V, W>& x, Chunk<R, V, W>& kept, int from, const R* q, const Flags& f,
                        R (&s)[V][Step::kStates], R (*before)[V][Step::kStates] = nullptr) {
#pragma unroll
  for (int u = 0; u < U; ++u) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int k = 0; before && k < Step::kStates; ++k) before[u][v][k] = s[v][k];
      R i;
      convert(x.row[from + u].v[v], i);
      if constexpr (Kept)
        Step::replay(s[v], i, kept.row[from + u].v[v], q, f);
      else
        Step::forward(s[v], i, q, f, kept.row[from + u].v[v]);
    }
  }
}

// Leaves the states before each chunk but the first in scratch. Two chunks are under way where only the input is read.
template <class Step, bool Kept, int U, class X, int V, class R = typename Step::Real>
PA_HD void leave_states(const BackwardCall<Step>& c, const Lane& where, const In<X>& x, const In<R>& kept, const R* q) {
  constexpr int W = Kept ? U : 2 * U;
  const Flags f = flags_of(c);
  const int64_t columns = c.outer * c.inner, time = (c.time - 1) / U * U;
  R s[V][Step::kStates];
  load_states<Step::kStates, V>(c.first, where, s);
  Chunk<X, V, W> next_x = {};
  Chunk<R, V, W> next_kept = {};
  int count = count_of<W>(0, time);
  next_x.read(x, 0, count, Again());
  if (Kept) next_kept.read(kept, 0, count);
  int64_t at = where.column;
  for (int64_t first = 0; first < time; first += W) {
    const Chunk<X, V, W> now_x = next_x;
    Chunk<R, V, W> now_kept = next_kept;
    const int now = count;
    count = count_of<W>(first + W, time);
    next_x.read(x, first + W, count, Again());
    if (Kept) next_kept.read(kept, first + W, count);
#pragma unroll
    for (int from = 0; from < W; from += U) {
      if (from >= now) continue;
      replay_chunk<Step, Kept, U>(now_x, now_kept, from, q, f, s);
#pragma unroll
      for (int k = 0; k < Step::kStates; ++k) {
        Pack<R, V> p;
#pragma unroll
        for (int v = 0; v < V; ++v) p.v[v] = s[v][k];
        store(p, c.scratch, at, where.active);
        at += columns;
      }
    }
  }
}

// The membranes before the reset of all steps, of which there are at most Room: each thread reads what it wrote itself.
template <class Step, int V, int Room, class X, class R = typename Step::Real>
PA_HD In<R> leave_membranes(const BackwardCall<Step>& c, const Lane& where, int64_t time, const In<X>& x, const R* q) {
  constexpr int U = 16 / V;
  __shared__ Pack<R, V> all[Room][kBlock];
  Pack<R, V>* mine = &all[0][threadIdx.x];
  const Flags f = flags_of(c);
  R s[V][Step::kStates];
  load_states<Step::kStates, V>(c.first, where, s);
  Chunk<X, V, U> next = {};
  next.read(x, 0, count_of<U>(0, time));
  for (int64_t first = 0; first < time; first += U) {
    const Chunk<X, V, U> now = next;
    const int count = count_of<U>(first, time);
    next.read(x, first + U, count_of<U>(first + U, time));
#pragma unroll
    for (int u = 0; u < U; ++u) {
      Pack<R, V> kept;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        R i;
        convert(now.row[u].v[v], i);
        Step::forward(s[v], i, q, f, kept.v[v]);
      }
      if (u < count) *mine = kept;
      mine += kBlock;
    }
  }
  return {all[0][threadIdx.x].v, int64_t(kBlock) * V, true};
}

template <class Step, int V, class R = typename Step::Real>
PA_HD void fetch_states(const BackwardCall<Step>& c, const Lane& where, int64_t chunk, R (&s)[V][Step::kStates]) {
  if (chunk == 0) return load_states<Step::kStates, V>(c.first, where, s);
  const int64_t columns = c.outer * c.inner;
  const R* from = static_cast<const R*>(c.scratch) + (chunk - 1) * Step::kStates * columns + where.column;
#pragma unroll
  for (int k = 0; k < Step::kStates; ++k) {
    // not by load_if, which may be moved before the stores of leave_states
    Pack<R, V> p = {};
    if (where.active) p = *reinterpret_cast<const Pack<R, V>*>(from + k * columns);
#pragma unroll
    for (int v = 0; v < V; ++v) s[v][k] = p.v[v];
  }
}

// Sums over time: in working precision for kFlush steps, then in double.
template <class R>
struct Sum {
  R part;
  double total;
  PA_HD void flush() {
    total += static_cast<double>(part);
    part = R(0);
  }
};
