// A neuron that hears its own spikes through a weight matrix, over a whole sequence, in fp32.
#pragma once
#include "../recurrent/kernels.h"
#include "dispatch.h"

namespace recurrent {

// Beside the sequence, which is viewed as [samples, time, units] like any other: `first` and `last` of the problem are
// the states of the sequence, its records [time, samples, units] dense.
struct Call {
  Problem p;
  int slot;                    // parameter that takes the recurrent input; -1: it is added to the input
  const float *weight, *bias;  // [units, units] (to, from); [units] or nullptr
  const float* spikes;         // [samples, units] of the step before the first; nullptr: the first step hears nothing
  float* heard;                // [time, samples, units] or nullptr: recurrent input, or the whole input without a slot
  // backward
  float* g_spikes;  // of `spikes`; nullptr: not wanted
  float *g_weight, *g_bias;
};

// Shares of active units above which a product is dense: with the weights, and for their gradient.
struct DenseAbove {
  double product, outer;
};
DenseAbove dense_above();
void set_dense_above(DenseAbove);

// Gives the number of spikes that the recurrent input came from.
int64_t run_forward(const Variant&, const Call&, int threads);
void run_backward(const Variant&, const Call&, int threads, const ParamGradient* gradients);

}  // namespace recurrent
