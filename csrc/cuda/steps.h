// From the numbers by which Python names a variant to the step of its header: one line per neuron.
#pragma once
#include "../problem.h"
#include "../variant.h"
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
#include "../neurons/snntorch_delta.h"
#include "../neurons/snntorch_parallel.h"
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
template <class R, int A, int B, int C>
struct StepOf<kSnnParallel, R, A, B, C> : SnnParallel<R> {};
template <class R, int A, int B, int C>
struct StepOf<kSnnDelta, R, A, B, C> : SnnDelta<R> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseLif, R, A, B, C> : NorseLif<R, A> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseBox, R, A, B, C> : NorseBox<R, A> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseAdEx, R, A, B, C> : NorseAdEx<R> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseLsnn, R, A, B, C> : NorseLsnn<R, A != 0> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseIzhikevich, R, A, B, C> : NorseIzhikevich<R> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseRefrac, R, A, B, C> : NorseRefrac<R, NorseLif<R, kNorseLifDetached>, A != 0> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseAdExRefrac, R, A, B, C> : NorseRefrac<R, NorseAdEx<R>, false> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseMcRefrac, R, A, B, C> : NorseMcRefrac<R> {};
template <class R, int A, int B, int C>
struct StepOf<kNorseCoba, R, A, B, C> : NorseCoba<R> {};
