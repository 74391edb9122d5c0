// Instantiates every step for one instruction set. Included once by each kernels_*.cpp, inside its own namespace and
// under its own target pragma, after all standard headers: no inline function of the standard library is ever compiled
// for a newer processor than the one at hand.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "stream.h"

namespace PA_ISA {

// clang-format off: the steps name surrogates
#include "../math.h"
#include "../surrogates.h"
#include "../neurons/sinabs_alif.h"
#include "../neurons/sinabs_lif.h"
// clang-format on
#include "tile.h"

inline Tile tile_of(const TileIndex& i) { return {i.first_outer, i.first_inner, i.outers, i.width}; }

template <class Step>
struct Entry {
  using R = typename Step::Real;
  static void forward(const Problem& p, const TileIndex& i, void* workspace) {
    forward_tile<Step>(p, tile_of(i), *static_cast<Workspace<R>*>(workspace));
  }
  // fp64 is for checking, and the baseline of x86 for processors older than 2013: one kernel serves all sums there
  static void backward(const Problem& p, const TileIndex& i, void* workspace, void* scratch, int sums) {
    auto& ws = *static_cast<Workspace<R>*>(workspace);
    R* room = static_cast<R*>(scratch);
    if constexpr (sizeof(R) == sizeof(float) && !PA_ONE_BACKWARD) {
      if (sums == kNoSums) return backward_tile<Step, kNoSums>(p, tile_of(i), ws, room);
      if (sums == kDecaySums) return backward_tile<Step, kDecaySums>(p, tile_of(i), ws, room);
    }
    backward_tile<Step, kAllSums>(p, tile_of(i), ws, room);
  }
  static constexpr Kernels kernels = {forward,       backward,      Step::kStates,        Step::kParams,
                                      Step::kDecays, Step::kReplay, sizeof(Workspace<R>), sizeof(R)};
};

template <template <class, bool, int, int> class Step, class R, bool Synapse, int Spike>
const Kernels* with_reset(const Variant& v) {
  switch (v.reset) {
    case kSubtractThreshold:
      return &Entry<Step<R, Synapse, Spike, kSubtractThreshold>>::kernels;
    case kSubtract:
      return &Entry<Step<R, Synapse, Spike, kSubtract>>::kernels;
    case kResetTo:
      return &Entry<Step<R, Synapse, Spike, kResetTo>>::kernels;
  }
  return nullptr;
}

template <template <class, bool, int, int> class Step, class R, bool Synapse>
const Kernels* with_spike(const Variant& v) {
  if (v.spike == kSingleSpike) return with_reset<Step, R, Synapse, kSingleSpike>(v);
  if (v.spike == kMultiSpike) return with_reset<Step, R, Synapse, kMultiSpike>(v);
  return nullptr;
}

template <class R>
const Kernels* with_neuron(const Variant& v) {
  if (v.neuron == kSinabsAlif)
    return v.synapse ? with_spike<SinabsAlif, R, true>(v) : with_spike<SinabsAlif, R, false>(v);
  if (v.neuron != kSinabsLif) return nullptr;
  if (v.spike == kNoSpike)  // ExpLeak: never a synapse
    return v.synapse ? nullptr : &Entry<SinabsLif<R, false, kNoSpike, kSubtractThreshold>>::kernels;
  return v.synapse ? with_spike<SinabsLif, R, true>(v) : with_spike<SinabsLif, R, false>(v);
}

inline const Kernels* find(const Variant& v) {
#if PA_FP64
  if (v.fp64) return with_neuron<double>(v);
#endif
  return v.fp64 ? nullptr : with_neuron<float>(v);
}

}  // namespace PA_ISA
