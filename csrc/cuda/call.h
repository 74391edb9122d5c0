// What a kernel is told, as Python packs it: fields of eight bytes, in this order.
#pragma once

constexpr int kBlock = 128;     // threads of a block at most; a power of two
constexpr int64_t kFlush = 32;  // steps summed in working precision before they are added to the double sums

// Everything that is written is dense: [outer, time, inner], [outer, inner].
template <class Step>
struct ForwardCall {
  int64_t outer, time, inner;
  double max_spikes;
  int64_t clamp, narrow;
  Param param[Step::kParams];
  Stream x;
  const void* first[Step::kStates];
  void *out, *kept;  // kept, records: nullptr where not wanted
  void* record[Step::kStates];
  void* last[Step::kStates];
  double* sum;  // of out, one per block; nullptr: not wanted
};

template <class Step>
struct BackwardCall {
  int64_t outer, time, inner;
  double max_spikes;
  int64_t clamp, narrow;
  Param param[Step::kParams];
  Stream x, kept;
  const void* first[Step::kStates];
  double surrogate_param[kMaxSurrogateParams];
  Stream dspike, g_out, g_kept;
  Stream g_record[Step::kStates];
  const void* g_last[Step::kStates];
  const void* g_mean;  // gradient of the mean of out, of the dtype of out
  int64_t constant_x;  // g_x is [outer, inner]: the sum over time
  void* g_x;
  void* g_first[Step::kStates];
  int64_t by_column;               // sums of the parameters' gradients: one per column, else one per block
  double* g_param[Step::kParams];  // of those wanted
  void* scratch;                   // [chunks, states, outer, inner] of a step that is replayed
};

constexpr int kMaxReductions = 16;

// Sums of [rows, n]: over n (reduce_rows) or over the rows (reduce_columns), each gridDim.y times.
struct ReduceCall {
  int64_t rows, n;
  double divisor;
  const double* from[kMaxReductions];
  void* to[kMaxReductions];
};

template <class Call>
PA_HD Flags flags_of(const Call& c) {
  return {c.max_spikes, c.clamp != 0, c.narrow != 0};
}

// Bounded: whether the membrane has a lower bound. One that is known to have none costs no step a comparison.
template <class Step, bool Bounded, class R = typename Step::Real, class Call>
PA_HD void load_params(const Call& c, const Lane& lane, R* to) {
#pragma unroll
  for (int k = 0; k < Step::kParams; ++k) {
    const Param& p = c.param[k];
    if (!p.data || (k == Step::MinV && !Bounded)) {
      // -0.0: adding it changes nothing, not even the sign of a zero
      to[k] = k == Step::MinV ? R(kUnbounded) : R(-0.0);
      continue;
    }
    to[k] = static_cast<const R*>(p.data)[lane.outer * p.outer + lane.inner * p.inner];
    // a bound of minus infinity makes the host's membrane NaN; here it must not mean "no bound"
    if (k == Step::MinV && to[k] == R(kUnbounded)) to[k] = R(__builtin_nanf(""));
  }
}

// States or their gradients of the thread's columns; zeros where absent.
template <int S, int V, class R>
PA_HD void load_states(const void* const* from, const Lane& lane, R (&to)[V][S]) {
#pragma unroll
  for (int k = 0; k < S; ++k) {
    Pack<R, V> p = {};
    if (from[k]) p = load<V>(static_cast<const R*>(from[k]) + lane.column);
#pragma unroll
    for (int v = 0; v < V; ++v) to[v][k] = p.v[v];
  }
}

template <int S, int V, class R>
PA_HD void store_states(const R (&from)[V][S], const Lane& lane, void* const* to, int64_t at) {
#pragma unroll
  for (int k = 0; k < S; ++k) {
    if (!lane.active || !to[k]) continue;
    Pack<R, V> p;
#pragma unroll
    for (int v = 0; v < V; ++v) p.v[v] = from[v][k];
    store(p, to[k], at);
  }
}

// The sum over a block, in an order that depends on its size alone; valid in thread 0.
PA_HD double block_sum(double mine) {
  __shared__ double part[kBlock];
  const int i = static_cast<int>(threadIdx.x);
  part[i] = mine;
  __syncthreads();
  for (int n = static_cast<int>(blockDim.x) / 2; n > 0; n /= 2) {
    if (i < n) part[i] += part[i + n];
    __syncthreads();
  }
  const double sum = part[0];
  __syncthreads();  // the next sum uses the same memory
  return sum;
}
