// Memory and threads for whole calls: what the drivers of products share.
#pragma once
#include <algorithm>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "pool.h"

// Of at least one byte: what is absent is told by its address elsewhere.
struct Block : pool::Block {
  explicit Block(int64_t bytes) : pool::Block(static_cast<size_t>(std::max<int64_t>(bytes, 1))) {}
};

inline int64_t up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

// body(item, thread) for each item.
template <class Body>
void each(int64_t count, int threads, const Body& body) {
  threads = static_cast<int>(std::min<int64_t>(threads, count));
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) body(i, omp_get_thread_num());
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) body(i, 0);
}
