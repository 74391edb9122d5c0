// Instantiates every step for one instruction set. Included once by each kernels_*.cpp, inside its own namespace and
// under its own target pragma, after all standard headers: no inline function of the standard library is ever compiled
// for a newer processor than the one at hand.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "stream.h"

namespace PA_ISA {

// clang-format off: the steps name surrogates
#include "../math.h"
#include "../surrogates.h"
#include "../neurons/norse_adex.h"
#include "../neurons/norse_box.h"
#include "../neurons/norse_coba.h"
#include "../neurons/norse_izhikevich.h"
#include "../neurons/norse_lsnn.h"
#include "../neurons/norse_mc_refrac.h"
#include "../neurons/norse_refrac.h"
#include "../neurons/sinabs_alif.h"
#include "../neurons/sinabs_lif.h"
#include "../neurons/snntorch_alpha.h"
#include "../neurons/snntorch_parallel.h"
#include "../neurons/snntorch_synaptic.h"
// clang-format on
#include "backward.h"
#include "forward.h"
#include "single.h"

inline Tile tile_of(const TileIndex& i) { return {i.first_outer, i.first_inner, i.outers, i.width}; }

// Single: hosts call this neuron step by step.
template <class Step, bool Single = true>
struct Entry {
  using R = typename Step::Real;
  static constexpr bool kSingle = Single && sizeof(R) == sizeof(float) && !PA_ONE_BACKWARD;
  static void forward(const Problem& p, const TileIndex& i, void* workspace) {
    forward_tile<Step>(p, tile_of(i), *static_cast<Workspace<R>*>(workspace));
  }
  // fp64 is for checking, and the baseline of x86 for processors older than 2013: one kernel serves all sums there
  static void backward(const Problem& p, const TileIndex& i, void* workspace, void* scratch, int sums) {
    auto& ws = *static_cast<Workspace<R>*>(workspace);
    R* room = static_cast<R*>(scratch);
    if constexpr (kBySums) {
      if (sums == kNoSums) return backward_tile<Step, kNoSums>(p, tile_of(i), ws, room);
      if (Step::kMostSums != kDecaySums && sums == kDecaySums)
        return backward_tile<Step, kDecaySums>(p, tile_of(i), ws, room);
    }
    backward_tile<Step, Step::kMostSums>(p, tile_of(i), ws, room);
  }
  static constexpr bool kBySums = sizeof(R) == sizeof(float) && !PA_ONE_BACKWARD;
  static constexpr bool replays(int sums) { return Step::replays(kBySums ? sums : int{Step::kMostSums}); }
  static constexpr SingleKernel single_forward_of() {
    if constexpr (kSingle) return single_forward<Step>;
    return nullptr;
  }
  static constexpr SingleKernel single_backward_of() {
    if constexpr (kSingle) return single_backward<Step>;
    return nullptr;
  }
  static constexpr Kernels kernels = {forward,
                                      backward,
                                      single_forward_of(),
                                      single_backward_of(),
                                      Step::kStates,
                                      Step::kParams,
                                      Step::kDecays,
                                      Step::kSpike != kNoSpike,
                                      {replays(kNoSums), replays(kDecaySums), replays(kAllSums)},
                                      sizeof(Workspace<R>),
                                      sizeof(R)};
};

// sinabs: spike and reset

template <template <class, bool, int, int> class Step, class R, bool Synapse, int Spike>
const Kernels* sinabs_reset(int reset) {
  switch (reset) {
    case kSubtractThreshold:
      return &Entry<Step<R, Synapse, Spike, kSubtractThreshold>, false>::kernels;
    case kSubtract:
      return &Entry<Step<R, Synapse, Spike, kSubtract>, false>::kernels;
    case kResetTo:
      return &Entry<Step<R, Synapse, Spike, kResetTo>, false>::kernels;
  }
  return nullptr;
}

template <template <class, bool, int, int> class Step, class R, bool Synapse>
const Kernels* sinabs_spike(int spike, int reset) {
  if (spike == kSingleSpike) return sinabs_reset<Step, R, Synapse, kSingleSpike>(reset);
  if (spike == kMultiSpike) return sinabs_reset<Step, R, Synapse, kMultiSpike>(reset);
  return nullptr;
}

template <class R>
const Kernels* sinabs(const Variant& v) {
  const bool synapse = v.options[0] != 0;
  const int spike = v.options[1], reset = v.options[2];
  if (v.neuron == kSinabsAlif)
    return synapse ? sinabs_spike<SinabsAlif, R, true>(spike, reset) : sinabs_spike<SinabsAlif, R, false>(spike, reset);
  if (spike == kNoSpike)  // ExpLeak: never a synapse
    return synapse ? nullptr : &Entry<SinabsLif<R, false, kNoSpike, kSubtractThreshold>, false>::kernels;
  return synapse ? sinabs_spike<SinabsLif, R, true>(spike, reset) : sinabs_spike<SinabsLif, R, false>(spike, reset);
}

// snnTorch: reset and delay

template <class R, int Reset, bool Delay>
using SnnLeakyStep = SnnLeaky<R, Reset, Delay, false>;
template <class R, int Reset, bool Delay>
using SnnLapicqueStep = SnnLeaky<R, Reset, Delay, true>;

template <template <class, int, bool> class Step, class R>
const Kernels* snn_delayed(int reset) {
  switch (reset) {
    case kSnnSubtract:
      return &Entry<Step<R, kSnnSubtract, true>>::kernels;
    case kSnnZeroAfter:
      return &Entry<Step<R, kSnnZeroAfter, true>>::kernels;
    case kSnnNone:
      return &Entry<Step<R, kSnnNone, true>>::kernels;
  }
  return nullptr;
}

template <template <class, int, bool> class Step, class R>
const Kernels* snn_either(int reset, bool delay) {
  if (delay) return snn_delayed<Step, R>(reset);
  if (reset == kSnnSubtract) return &Entry<Step<R, kSnnSubtract, false>>::kernels;
  return reset == kSnnZeroAfter ? &Entry<Step<R, kSnnZeroAfter, false>>::kernels : nullptr;
}

template <class R>
const Kernels* snn(const Variant& v) {
  const int reset = v.options[0];
  const bool delay = v.options[1] != 0;
  switch (v.neuron) {
    case kSnnLeaky:
      if (reset != kSnnZero) return snn_either<SnnLeakyStep, R>(reset, delay);
      return delay ? &Entry<SnnLeakyStep<R, kSnnZero, true>>::kernels
                   : &Entry<SnnLeakyStep<R, kSnnZero, false>>::kernels;
    case kSnnLapicque:
      return delay ? snn_delayed<SnnLapicqueStep, R>(reset) : nullptr;
    case kSnnSynaptic:
      return snn_either<SnnSynaptic, R>(reset, delay);
    case kSnnParallel:
      return &Entry<SnnParallel<R>, false>::kernels;
    case kSnnAlpha:
      return delay ? snn_delayed<SnnAlpha, R>(reset) : nullptr;
  }
  return nullptr;
}

// Norse: the kind of each header

template <class R>
const Kernels* norse(const Variant& v) {
  const int kind = v.options[0];
  switch (v.neuron) {
    case kNorseLif:
      if (kind == kNorseLi) return &Entry<NorseLif<R, kNorseLi>>::kernels;
      if (kind == kNorseLifPlain) return &Entry<NorseLif<R, kNorseLifPlain>>::kernels;
      if (kind == kNorseLifDetached) return &Entry<NorseLif<R, kNorseLifDetached>>::kernels;
      return &Entry<NorseLif<R, kNorseLifEx>>::kernels;
    case kNorseBox:
      if (kind == kNorseLiBox) return &Entry<NorseBox<R, kNorseLiBox>>::kernels;
      if (kind == kNorseLifBox) return &Entry<NorseBox<R, kNorseLifBox>>::kernels;
      if (kind == kNorseLifBoxSubtract) return &Entry<NorseBox<R, kNorseLifBoxSubtract>>::kernels;
      return &Entry<NorseBox<R, kNorseIaf>>::kernels;
    case kNorseAdEx:
      return &Entry<NorseAdEx<R>>::kernels;
    case kNorseLsnn:
      return kind ? &Entry<NorseLsnn<R, true>>::kernels : &Entry<NorseLsnn<R, false>>::kernels;
    case kNorseIzhikevich:
      return &Entry<NorseIzhikevich<R>>::kernels;
    case kNorseRefrac:
      return kind ? &Entry<NorseRefrac<R, NorseLif<R, kNorseLifDetached>, true>>::kernels
                  : &Entry<NorseRefrac<R, NorseLif<R, kNorseLifDetached>, false>>::kernels;
    case kNorseAdExRefrac:
      return &Entry<NorseRefrac<R, NorseAdEx<R>, false>>::kernels;
    case kNorseMcRefrac:
      return &Entry<NorseMcRefrac<R>>::kernels;
    case kNorseCoba:
      return &Entry<NorseCoba<R>>::kernels;
  }
  return nullptr;
}

template <class R>
const Kernels* family(const Variant& v) {
  if (v.neuron >= kNorseLif) return norse<R>(v);
  return v.neuron == kSinabsLif || v.neuron == kSinabsAlif ? sinabs<R>(v) : snn<R>(v);
}

inline const Kernels* find(const Variant& v) {
#if PA_FP64
  if (v.fp64) return family<double>(v);
#endif
  return v.fp64 ? nullptr : family<float>(v);
}

}  // namespace PA_ISA
