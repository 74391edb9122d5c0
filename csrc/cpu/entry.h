// The table of one step: its kernels, and what the dispatcher has to know of it.
#pragma once
#include "backward.h"
#include "forward.h"
#include "single.h"

inline Tile tile_of(const TileIndex& i) { return {i.first_outer, i.first_inner, i.outers, i.width}; }

// Single: hosts call this neuron step by step. BySums: a backward kernel for each kind of sums, instead of one for all.
template <class Step, bool Single = true, bool BySums = true>
struct Entry {
  using R = typename Step::Real;
  // fp64 is for checking, and the baseline of x86 for processors older than 2013
  static constexpr bool kBySums = BySums && sizeof(R) == sizeof(float) && !PA_ONE_BACKWARD;
  static constexpr bool kSingle = Single && sizeof(R) == sizeof(float) && !PA_ONE_BACKWARD;
  static void forward(const Problem& p, const TileIndex& i, void* workspace) {
    forward_tile<Step>(p, tile_of(i), *static_cast<Workspace<R>*>(workspace));
  }
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
