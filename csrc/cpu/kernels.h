// The kernels of one instruction set, and how the dispatcher finds them.
#pragma once
#include <cstddef>

#include "../problem.h"
#include "../variant.h"

struct TileIndex {
  int64_t first_outer, first_inner;
  int outers, width;
};

// One step of dense rows, columns from `begin` to `end`.
using SingleKernel = void (*)(const Problem&, int64_t begin, int64_t end);

struct Kernels {
  void (*forward)(const Problem&, const TileIndex&, void* workspace);
  void (*backward)(const Problem&, const TileIndex&, void* workspace, void* scratch, int sums);
  SingleKernel single_forward, single_backward;  // backward without sums; nullptr: by the two above
  int states, params, decays;
  bool spikes;     // out is spikes, which the hosts keep in fp32
  bool replay[3];  // by Sums: backward needs scratch for the states before each step
  size_t workspace_bytes, element_bytes;
};

constexpr int kTileColumns = 512;

// nullptr: no such variant
const Kernels* find_baseline(const Variant&);
const Kernels* find_avx2(const Variant&);
const Kernels* find_avx512(const Variant&);
