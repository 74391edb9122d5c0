// The steps of snnTorch, by reset and delay.
#pragma once
#include "../neurons/snntorch_alpha.h"
#include "../neurons/snntorch_delta.h"
#include "../neurons/snntorch_parallel.h"
#include "../neurons/snntorch_synaptic.h"
#include "entry.h"

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
    case kSnnDelta:
      return &Entry<SnnDelta<R>, true, false>::kernels;
    case kSnnParallel:
      return &Entry<SnnParallel<R>, false>::kernels;
    case kSnnAlpha:
      return delay ? snn_delayed<SnnAlpha, R>(reset) : nullptr;
  }
  return nullptr;
}
