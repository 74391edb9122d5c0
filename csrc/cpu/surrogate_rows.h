// Surrogates over a row: the functor that a number names.
#pragma once
#include "tile.h"

template <class F, class R>
void fill_surrogate(const R* th, const R* q, int n, R* a, R* b) {
#pragma omp simd
  for (int j = 0; j < n; ++j) F::prepare(th[j], q, a[j], b[j]);
}

template <class F, class R>
void eval_surrogate(const R* w, const R* th, const R* q, const R* a, const R* b, int n, R* sg) {
#pragma omp simd
  for (int j = 0; j < n; ++j) sg[j] = F::eval(w[j], th[j], q, a[j], b[j]);
}

// Calls `f` with the functor that `kind` names.
template <class Call>
void with_surrogate(int kind, const Call& f) {
  switch (kind) {
    case kSingleExponential:
      return f(SingleExponential{});
    case kPeriodicExponential:
      return f(PeriodicExponential{});
    case kHeaviside:
      return f(Heaviside{});
    case kGaussian:
      return f(Gaussian{});
    case kMultiGaussian:
      return f(MultiGaussian{});
    case kConstant:
      return f(Constant{});
    case kTriangular:
      return f(Triangular{});
    case kFastSigmoid:
      return f(FastSigmoid{});
    case kAtan:
      return f(Atan{});
    case kAboveThreshold:
      return f(AboveThreshold{});
    case kSigmoid:
      return f(Sigmoid{});
    case kSpikeRateEscape:
      return f(SpikeRateEscape{});
    case kTriangle:
      return f(Triangle{});
    case kTanh:
      return f(Tanh{});
    case kCircle:
      return f(Circle{});
    case kErfc:
      return f(Erfc{});
  }
}

// Out of line, so that the surrogates are compiled once per dtype and not once per step.
template <class R>
__attribute__((noinline)) void prepare_surrogate(int kind, const R* q, int n, SpikeRows<R>& ws) {
  with_surrogate(kind, [&](auto f) { fill_surrogate<decltype(f)>(ws.th.v, q, n, ws.sg_a.v, ws.sg_b.v); });
}

template <class R>
__attribute__((noinline)) void surrogate_row(int kind, const R* w, const R* q, int n, SpikeRows<R>& ws) {
  with_surrogate(kind, [&](auto f) { eval_surrogate<decltype(f)>(w, ws.th.v, q, ws.sg_a.v, ws.sg_b.v, n, ws.sg.v); });
}
