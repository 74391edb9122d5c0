// One call of a neuron over a sequence, as addresses and sizes: all that a driver needs to know.
// Data is viewed as [outer, time, inner]; a column is one (outer, inner) pair, i.e. one neuron of one sample.
#pragma once
#include <cstdint>

constexpr int kMaxStates = 4;
constexpr int kMaxParams = 12;
constexpr int kMaxSurrogateParams = 5;

enum SpikeKind { kNoSpike = 0, kSingleSpike = 1, kMultiSpike = 2 };
enum ResetKind { kSubtractThreshold = 0, kSubtract = 1, kResetTo = 2 };

// Strides count elements. inner is 1, or 0 for a value shared by a whole row. data == nullptr: absent.
struct Stream {
  void* data;
  int64_t outer, time, inner;
};

// A parameter: shared (0, 0), per neuron (0, 1), per sample (1, 0) or per column (inner, 1).
struct Param {
  const void* data;
  int64_t outer, inner;
};

struct Flags {
  double max_spikes;  // MultiSpike's bound, infinity for none
  bool clamp;         // bound the membrane from below
  bool narrow;        // fp64: a spike times a shared parameter is rounded to fp32
};

struct Problem {
  int64_t outer, time, inner;
  Flags flags;
  bool stream;  // write past the caches: what is written exceeds the last-level cache
  Param param[kMaxParams];
  Stream x;                       // input
  Stream kept;                    // membrane before the reset: written by forward, read by backward
  const void* first[kMaxStates];  // [outer, inner] states before the first step
  // forward
  Stream out;
  Stream record[kMaxStates];  // state after each step
  void* last[kMaxStates];     // [outer, inner] states after the last step
  double* column_sum;         // [outer, inner] sum of out over time
  // backward
  int surrogate;
  double surrogate_param[kMaxSurrogateParams];
  Stream dspike;         // precomputed d spike / d v for a surrogate that has no functor
  Stream g_out, g_kept;  // incoming gradients
  Stream g_record[kMaxStates];
  const void* g_last[kMaxStates];
  double g_mean;  // gradient of the mean of out, already divided by its size
  Stream g_x;     // outgoing gradients
  void* g_first[kMaxStates];
  double* g_param[kMaxParams];  // [outer, inner] sums over time
};
