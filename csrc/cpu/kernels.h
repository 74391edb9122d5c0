// The kernels of one instruction set, and how the dispatcher finds them.
#pragma once
#include <cstddef>

#include "../problem.h"

enum NeuronKind {
  kSinabsLif,
  kSinabsAlif,
  kSnnLeaky,
  kSnnLapicque,
  kSnnSynaptic,
  kSnnAlpha,
  kSnnParallel,
  kNorseLif,
  kNorseBox,
  kNorseAdEx,
  kNorseLsnn,
  kNorseIzhikevich,
  kNorseRefrac
};

// What is decided at compile time for one neuron. options, by family:
//   sinabs    synapse (0, 1), SpikeKind, ResetKind
//   snnTorch  SnnReset, delay (0, 1), unused
//   Norse     NorseLifKind, NorseBoxKind, or detached (0, 1) of LSNN and LIFRefrac; unused
struct Variant {
  int neuron;
  bool fp64;
  int options[3];
};

struct TileIndex {
  int64_t first_outer, first_inner;
  int outers, width;
};

struct Kernels {
  void (*forward)(const Problem&, const TileIndex&, void* workspace);
  void (*backward)(const Problem&, const TileIndex&, void* workspace, void* scratch, int sums);
  int states, params, decays;
  bool spikes;     // out is spikes, which the hosts keep in fp32
  bool replay[3];  // by Sums: backward needs scratch for the states before each step
  size_t workspace_bytes, element_bytes;
};

constexpr int kTileColumns = 512;

// Which parameters' gradients a backward kernel sums: none, the decays (a step's first parameters), all.
enum Sums { kNoSums = 0, kDecaySums = 1, kAllSums = 2 };

// nullptr: no such variant
const Kernels* find_baseline(const Variant&);
const Kernels* find_avx2(const Variant&);
const Kernels* find_avx512(const Variant&);
