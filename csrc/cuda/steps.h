// From the numbers by which Python names a variant to the step of its header: one line per neuron.
#pragma once
#include "../problem.h"
#include "../variant.h"
// clang-format off: the steps name surrogates
#include "../math.h"
#include "../surrogates.h"
#include "../neurons/sinabs_alif.h"
#include "../neurons/sinabs_lif.h"
#include "../neurons/snntorch_alpha.h"
#include "../neurons/snntorch_synaptic.h"
// clang-format on

// A, B, C: the options of Variant
template <int Neuron, class R, int A, int B, int C>
struct StepOf;

template <class R, int A, int B, int C>
struct StepOf<kSinabsLif, R, A, B, C> : SinabsLif<R, A != 0, B, C> {};
template <class R, int A, int B, int C>
struct StepOf<kSinabsAlif, R, A, B, C> : SinabsAlif<R, A != 0, B, C> {};
template <class R, int A, int B, int C>
struct StepOf<kSnnLeaky, R, A, B, C> : SnnLeaky<R, A, B != 0, false> {};
template <class R, int A, int B, int C>
struct StepOf<kSnnLapicque, R, A, B, C> : SnnLeaky<R, A, B != 0, true> {};
template <class R, int A, int B, int C>
struct StepOf<kSnnSynaptic, R, A, B, C> : SnnSynaptic<R, A, B != 0> {};
template <class R, int A, int B, int C>
struct StepOf<kSnnAlpha, R, A, B, C> : SnnAlpha<R, A, B != 0> {};
