// Cuts a call into tiles, spreads them over threads, and sums parameter gradients in a fixed order.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

// How a parameter's gradient leaves: one value, per neuron, per sample, or per column.
struct ParamGradient {
  void* to;  // nullptr: not wanted
  bool by_outer, by_inner;
};

std::vector<std::string> usable_isas();
std::string isa();
void set_isa(const std::string& name);  // throws std::invalid_argument
bool openmp();
bool in_forked_child();  // where OpenMP's threads are gone

const Kernels& find(const Variant&);  // throws std::invalid_argument

// mean: where the mean of `out` over everything goes (working precision), or nullptr
void run_forward(const Variant&, Problem, int threads, void* mean);
void run_backward(const Variant&, Problem, int threads, const ParamGradient* gradients);

// The same for one time step of dense rows; gradients of parameters by the general kernel.
void run_single_forward(const Variant&, const Problem&, int threads);
void run_single_backward(const Variant&, const Problem&, int threads, const ParamGradient* gradients);
