// How one thread reads and writes: V neighbouring columns at once, in the dtype of the data.
#pragma once

// 16-bit data: states and arithmetic are fp32
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

PA_HD void convert(float from, float& to) { to = from; }
PA_HD void convert(double from, double& to) { to = from; }
PA_HD void convert(float from, double& to) { to = static_cast<double>(from); }
PA_HD void convert(double from, float& to) { to = static_cast<float>(from); }
PA_HD void convert(Half from, float& to) { to = float_of_half(from.bits); }
PA_HD void convert(float from, Half& to) { to.bits = half_of_float(from); }
PA_HD void convert(Bfloat from, float& to) {
  const uint32_t bits = static_cast<uint32_t>(from.bits) << 16;
  memcpy(&to, &bits, sizeof to);
}
PA_HD void convert(float from, Bfloat& to) {
  uint32_t bits;
  memcpy(&bits, &from, sizeof bits);
  // to the nearest, ties to even; a NaN stays one
  to.bits = from != from ? uint16_t(0x7fc0) : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

// The columns of one thread: V neighbours of one row. A thread too many computes what the last one does and writes
// nothing: so all threads take every branch together, and counts and strides are computed once for all of them.
struct Lane {
  int64_t outer, inner, column;
  bool active;
};

template <int V>
PA_HD Lane lane(int64_t outer, int64_t inner) {
  const int64_t columns = outer * inner;
  const int64_t mine = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  const bool active = mine < columns;
  const int64_t c = active ? mine : columns - V;
  int64_t row = 0;
  if (outer != 1 && columns <= 0x7fffffff)  // a 64-bit division takes ten times as long
    row = static_cast<uint32_t>(c) / static_cast<uint32_t>(inner);
  else if (outer != 1)
    row = c / inner;
  return {row, c - row * inner, c, active};
}

// What a thread reads of a stream; nothing where the stream is absent.
template <class T>
struct In {
  const T* base;
  int64_t time;
  bool there;
};

template <class T>
PA_HD In<T> in(const Stream& s, const Lane& lane) {
  return {static_cast<const T*>(s.data) + lane.outer * s.outer + lane.inner * s.inner, s.time, s.data != nullptr};
}

template <int Bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using Type = uint16_t;
};
template <>
struct WordOf<4> {
  using Type = unsigned;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

template <int V, class T>
PA_HD Pack<T, V> load(const T* from) {
  Pack<T, V> p;
  typename WordOf<sizeof p>::Type word = {};
  load_if(from, word, true, Again());
  memcpy(&p, &word, sizeof p);
  return p;
}

template <class T, int V>
PA_HD void store(const Pack<T, V>& p, void* to, int64_t at, bool when = true) {
  typename WordOf<sizeof p>::Type word;
  memcpy(&word, &p, sizeof p);
  store_if(static_cast<T*>(to) + at, word, when);
}

template <class R, int S>
PA_HD void copy(const R (&from)[S], R (&to)[S]) {
#pragma unroll
  for (int k = 0; k < S; ++k) to[k] = from[k];
}

// How many of the U steps from `first` there are.
template <int U>
PA_HD int count_of(int64_t first, int64_t time) {
  return first + U <= time ? U : first < time ? static_cast<int>(time - first) : 0;
}

// U steps of a stream, all asked for at once: a step by itself would wait for memory each time. What lies beyond the
// last step keeps the values it had. A few instructions more for each step cost as much as the memory when a layer is
// too small to fill the GPU, hence pointers that advance and 32-bit counts.
template <class T, int V, int U>
struct Chunk {
  Pack<T, V> row[U];

  // Of memory that the thread has written
  PA_HD void read_own(const In<T>& s, int64_t first, int count) {
    const T* from = s.base + first * s.time;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (u < count) row[u] = *reinterpret_cast<const Pack<T, V>*>(from);
      from += s.time;
    }
  }

  template <class When = Last>
  PA_HD void read(const In<T>& s, int64_t first, int count, When when = When()) {
    if (!s.there) return;
    const T* from = s.base + first * s.time;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      typename WordOf<sizeof row[u]>::Type word;
      memcpy(&word, &row[u], sizeof word);
      load_if(from, word, u < count, when);
      memcpy(&row[u], &word, sizeof word);
      from += s.time;
    }
  }
};
