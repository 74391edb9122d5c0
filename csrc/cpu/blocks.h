// Memory and threads for whole calls: what the drivers of products share.
#pragma once
#include <algorithm>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "pool.h"

// Recycled memory for the length of a call.
class Block {
 public:
  explicit Block(int64_t bytes)
      : size_(static_cast<size_t>(std::max<int64_t>(bytes, 1))), data_(static_cast<char*>(pool::take(size_))) {}
  ~Block() { pool::give(data_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  char* data_;
};

inline int64_t up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

// body(item, thread) for each item.
template <class Body>
void each(int64_t count, int threads, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) body(i, omp_get_thread_num());
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) body(i, 0);
}
