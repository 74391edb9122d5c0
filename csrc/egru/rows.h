// Workspaces, and rows of a problem: what both time loops read and write.
#pragma once
#include "vector.h"

namespace egru {
namespace PA_ISA {

// Hands out parts of a workspace.
class Arena {
 public:
  explicit Arena(void* at) : start_(reinterpret_cast<uintptr_t>(at)), at_(start_) {}
  template <class T>
  T* take(int64_t count) {
    T* found = reinterpret_cast<T*>(at_);
    at_ += static_cast<uintptr_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
    return found;
  }
  int64_t used() const { return static_cast<int64_t>(at_ - start_); }

 private:
  uintptr_t start_, at_;
};

template <class R>
inline void fill(R* to, int64_t n, R value) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}
template <class R>
inline void copy(R* to, const void* from, int64_t n) {
  if (from)
    memcpy(to, from, static_cast<size_t>(n) * sizeof(R));
  else
    fill(to, n, R(0));
}
template <class R>
inline R* row(void* base, int64_t index, int64_t size) {
  return base ? static_cast<R*>(base) + index * size : nullptr;
}
template <class R>
inline const R* row(const void* base, int64_t index, int64_t size) {
  return base ? static_cast<const R*>(base) + index * size : nullptr;
}

// What both directions need of a zoneout mask and of a few input features.
template <class R>
inline const R* mask_row(const Problem& p, int64_t at, R* space) {
  if (!p.mask) return space;  // holds `keep`
  const uint8_t* from = p.mask + at * p.hidden;
  for (int64_t j = 0; j < p.hidden; ++j) space[j] = static_cast<R>(from[j]);
  return space;
}
template <class R>
inline const R* drive_row(const Problem& p, int64_t at, R* space) {
  const int64_t n = 3 * p.hidden;
  if (p.drive) return row<R>(p.drive, at, n);
  const R *x = row<R>(p.x, at, p.features), *kernel = static_cast<const R*>(p.kernel);
  fill(space, n, R(0));
  for (int64_t i = 0; i < p.features; ++i) {
    const R v = x[i], *w = kernel + i * n;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) space[j] = PA_FMA(v, w[j], space[j]);
  }
  return space;
}

}  // namespace PA_ISA
}  // namespace egru
