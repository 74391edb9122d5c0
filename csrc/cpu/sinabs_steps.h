// The steps of sinabs, by spike and reset.
#pragma once
#include "../neurons/sinabs_alif.h"
#include "../neurons/sinabs_lif.h"
#include "entry.h"

// What few take: an instruction set may leave it to an older one.
template <class Step>
const Kernels* rare() {
  if constexpr (PA_RARE) return &Entry<Step, false, false>::kernels;
  return nullptr;
}

template <template <class, bool, int, int> class Step, class R, bool Synapse, int Spike>
const Kernels* sinabs_reset(int reset) {
  switch (reset) {
    case kSubtractThreshold:
      return &Entry<Step<R, Synapse, Spike, kSubtractThreshold>, false>::kernels;
    case kSubtract:
      return rare<Step<R, Synapse, Spike, kSubtract>>();
    case kResetTo:
      if constexpr (Step<R, Synapse, Spike, kResetTo>::kThresholdVaries)
        return rare<Step<R, Synapse, Spike, kResetTo>>();
      else
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
