// What the snnTorch steps share: firing, the reset signal, clamped decays, with snnTorch's order of operations.
// Source: snntorch/_neurons/{neurons,leaky,lapicque,synaptic,alpha,rleaky,rsynaptic}.py @ 1.0.0.
#pragma once

// The host's numbers; ZeroAfter is zero as all but Leaky do it: the new membrane is dropped, input included.
enum SnnReset { kSnnSubtract = 0, kSnnZero = 1, kSnnNone = 2, kSnnZeroAfter = 3 };

// 1[v - th > 0]; NaN does not fire
template <class R>
PA_HD R snn_fires_(R v, R th) {
  return v - th > R(0) ? R(1) : R(0);
}

// clamp(decay, 0, 1) with NaN kept, and whether its gradient passes
template <class R>
PA_HD R snn_clamp_(R decay) {
  return decay < R(0) ? R(0) : decay > R(1) ? R(1) : decay;
}
template <class R>
PA_HD R snn_inside_(R decay) {
  return decay >= R(0) ? (decay <= R(1) ? R(1) : R(0)) : R(0);
}

// spike * th: spikes are fp32 always, so that in fp64 a threshold shared by all neurons is rounded to fp32
PA_HD float snn_drop_(float spike, float th, const Flags&) { return spike * th; }
PA_HD double snn_drop_(double spike, double th, const Flags& f) {
  return spike * (f.narrow ? static_cast<double>(static_cast<float>(th)) : th);
}

// Without a delay the reset follows the spike at once, less the reset r that the step began with:
//   d = s / graded - r;  u = q - d th (subtract) or q - d q (zero)
// With r = 1 and no spike the reset is undone, a quirk of the host.
template <class R, int Reset>
PA_HD R snn_settle_(R q, R r, R th, R graded, const Flags& f, R& d) {
  d = snn_fires_(q, th) * graded / graded - r;
  return Reset == kSnnSubtract ? q - snn_drop_(d, th, f) : q - d * q;
}
