// Rows of a tile, out of line: each is compiled once per dtype and not once per step.
#pragma once

template <class R>
__attribute__((noinline)) void add_flushed(R* part, double* total, int n) {
  for (int j = 0; j < n; ++j) {
    total[j] += static_cast<double>(part[j]);
    part[j] = R(0);
  }
}

template <class R>
__attribute__((noinline)) void copy_row(const R* from, R* to, int n) {
  for (int j = 0; j < n; ++j) to[j] = from[j];
}

template <class R>
__attribute__((noinline)) void add_row(const R* from, R* to, int n) {
  for (int j = 0; j < n; ++j) to[j] += from[j];
}

template <class R>
__attribute__((noinline)) void zero(R* row, int n) {
  for (int j = 0; j < n; ++j) row[j] = R(0);
}

template <class R>
__attribute__((noinline)) void clear(R* part, double* total, int n) {
  for (int j = 0; j < n; ++j) {
    part[j] = R(0);
    total[j] = 0.0;
  }
}
