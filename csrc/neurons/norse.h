// What the Norse steps share: firing and resetting with Norse's order of operations.
// Source: norse/torch/functional/{threshold,heaviside,reset}.py @ 1.1.0.
#pragma once

// The kinds of one header each; see there. A detached step does not differentiate the reset with respect to the spike.
enum NorseLifKind { kNorseLi = 0, kNorseLifPlain = 1, kNorseLifDetached = 2, kNorseLifEx = 3 };
enum NorseBoxKind { kNorseLiBox = 0, kNorseLifBox = 1, kNorseLifBoxSubtract = 2, kNorseIaf = 3 };

// 1[v - th > 0]; NaN does not fire
template <class R>
PA_HD R norse_fires_(R v, R th) {
  return v - th > R(0) ? R(1) : R(0);
}

template <class R>
PA_HD R norse_relu_(R x) {
  return x < R(0) ? R(0) : x;
}

// (1 - z) w + z v_reset
template <class R>
PA_HD R norse_reset_(R w, R z, R v_reset) {
  return (R(1) - z) * w + z * v_reset;
}

// Gradients of spike and reset: g_v that of v after the reset, g_z that of the spike; gives that of w.
template <bool Detached, class R>
PA_HD R norse_reset_back_(R w, R z, R v_reset, R sg, R g_v, R g_z, R& g_fire) {
  if (!Detached) g_z += (v_reset - w) * g_v;
  g_fire = g_z * sg;
  return (R(1) - z) * g_v + g_fire;
}

// The drive of the exponential neurons: (v_leak - v) + delta_t exp((v - th) / delta_t), and the exponential itself
template <class R>
PA_HD R norse_exponential_(R v, R th, R delta_t) {
  return exp_((v - th) / delta_t);
}
