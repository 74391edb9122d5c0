// EGRU on the CPU: tiles over the batch, threads, sums over tiles in a fixed order.
#pragma once
#include "../egru/problem.h"

namespace egru {

// Where the gradients of parameters go; nullptr: not wanted.
struct Gradients {
  void *kernel, *recurrent, *bias, *recurrent_bias, *thr;
};

void run_forward(bool fp64, Problem p, int threads, double* counts);
void run_backward(bool fp64, Problem p, int threads, const Gradients& to);

}  // namespace egru
