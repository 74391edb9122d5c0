// The second pass of a sum over columns or blocks: the same order at every call.
#pragma once

// [rows, n] -> [rows]: one block per row
template <class T>
PA_HD void reduce_rows(const ReduceCall& c) {
  const int64_t row = blockIdx.x;
  const double* from = c.from[blockIdx.y] + row * c.n;
  double mine = 0.0;
  for (int64_t i = threadIdx.x; i < c.n; i += blockDim.x) mine += from[i];
  const double sum = block_sum(mine) / c.divisor;
  if (threadIdx.x == 0) static_cast<T*>(c.to[blockIdx.y])[row] = static_cast<T>(sum);
}

// [rows, n] -> [n]: one thread per column
template <class T>
PA_HD void reduce_columns(const ReduceCall& c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= c.n) return;
  const double* from = c.from[blockIdx.y] + i;
  double sum = 0.0;
  for (int64_t row = 0; row < c.rows; ++row) sum += from[row * c.n];
  static_cast<T*>(c.to[blockIdx.y])[i] = static_cast<T>(sum / c.divisor);
}
