// Which steps there are, and which gradients of parameters a backward kernel sums: what every driver names them by.
#pragma once

enum NeuronKind {
  kSinabsLif,
  kSinabsAlif,
  kSnnLeaky,
  kSnnLapicque,
  kSnnSynaptic,
  kSnnAlpha,
  kSnnParallel,
  kNorseLif,
  kNorseBox,
  kNorseAdEx,
  kNorseLsnn,
  kNorseIzhikevich,
  kNorseRefrac,
  kNorseAdExRefrac,
  kNorseMcRefrac,
  kNorseCoba,
  kSnnDelta
};

// What is decided at compile time for one neuron. options, by family:
//   sinabs    synapse (0, 1), SpikeKind, ResetKind
//   snnTorch  SnnReset, delay (0, 1), unused
//   Norse     NorseLifKind, NorseBoxKind, or detached (0, 1) of LSNN and LIFRefrac; unused
struct Variant {
  int neuron;
  bool fp64;
  int options[3];
};

// Which parameters' gradients a backward kernel sums: none, the decays (a step's first parameters), all.
enum Sums { kNoSums = 0, kDecaySums = 1, kAllSums = 2 };
