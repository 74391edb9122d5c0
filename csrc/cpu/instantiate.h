// Instantiates every step for one instruction set. Included once by each kernels_*.cpp, inside its own namespace and
// under its own target pragma, after all standard headers: no inline function of the standard library is ever compiled
// for a newer processor than the one at hand.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "stream.h"

// Passes that look for work in common between statements: a seventh of the compile time, and the loops over columns are
// as fast without them.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-pre", "no-gcse", "no-tree-slp-vectorize", "no-predictive-commoning", "no-code-hoisting", \
                     "no-crossjumping", "no-split-loops", "no-unswitch-loops")
#endif

namespace PA_ISA {

// clang-format off: each names what stands in those before
#include "../math.h"
#include "../surrogates.h"
#include "../neurons/spiking.h"
#include "entry.h"
#include "norse_steps.h"
#include "sinabs_steps.h"
#include "snntorch_steps.h"
// clang-format on

template <class R>
const Kernels* family(const Variant& v) {
  if (v.neuron >= kNorseLif && v.neuron <= kNorseCoba) return norse<R>(v);
  return v.neuron == kSinabsLif || v.neuron == kSinabsAlif ? sinabs<R>(v) : snn<R>(v);
}

inline const Kernels* find(const Variant& v) {
#if PA_FP64
  if (v.fp64) return family<double>(v);
#endif
  return v.fp64 ? nullptr : family<float>(v);
}

}  // namespace PA_ISA
