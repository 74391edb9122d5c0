// Cuts a call into tiles, spreads them over threads, and sums parameter gradients in a fixed order.
#pragma once
#include <cstdint>
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

// Whether this thread's forward calls are those of a network whose other layers use the caches in between: what one
// writes is gone from them when backward reads it, and what it writes to was not there before. Gives what was.
bool set_amid_others(bool on);

// What `FlushDenormals` does, for this thread's OpenMP threads until they are given their modes back.
std::vector<uint64_t> flush_denormals(int threads);
void set_float_modes(std::vector<uint64_t> modes);

const Kernels& find(const Variant&);  // throws std::invalid_argument

// The sums over time that gradients of parameters are made of: how many, and of what kind.
struct WantedSums {
  int count, level;
};
WantedSums wanted_sums(const Kernels&, const ParamGradient* gradients);
// Points p.g_param at its parts of `sums`, [count][outer, inner].
void place_sums(const Kernels&, const ParamGradient* gradients, double* sums, Problem& p);
// Sums p.g_param over columns, in an order that is the same for every thread count.
void hand_gradients(const Kernels&, const Problem& p, const ParamGradient* gradients);

// mean: where the mean of `out` over everything goes (working precision), or nullptr
void run_forward(const Variant&, Problem, int threads, void* mean);
void run_backward(const Variant&, Problem, int threads, const ParamGradient* gradients);

// The same for one time step of dense rows; gradients of parameters by the general kernel.
void run_single_forward(const Variant&, const Problem&, int threads);
void run_single_backward(const Variant&, const Problem&, int threads, const ParamGradient* gradients);
