// Convolutions of spikes on the CPU: images over threads, sums over images in a fixed order.
#pragma once
#include "../conv/problem.h"

namespace conv {

// Share of the values of x that are not 0, from a sample spread over all of them; NaN if not all weights are finite,
// since 0 times infinity is not 0.
double density(const float* x, int64_t count, const float* weight, int64_t weights);
// Fills mask and y; whether all values of x are 0 or 1. weight: [out, in, down, across], dense.
bool run_forward(Problem p, const float* weight, const float* bias, int threads);
// g_weight as weight lies, g_bias [out]; what g_y holds that is not finite reaches g_bias.
void run_backward(Problem p, float* g_weight, float* g_bias, int threads);

}  // namespace conv
