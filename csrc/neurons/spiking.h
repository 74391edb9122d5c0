// What the spiking steps share: spike generation, reset and lower bound, with sinabs's order of operations.
// Source: sinabs/activation/{spike_generation,reset_mechanism}.py @ 3.1.3.
#pragma once

constexpr float kUnbounded = -__builtin_inff();

// sinabs keeps spikes in fp32 when the membrane is fp64, and with them what is computed from spikes alone.
PA_HD float narrow_(float x) { return x; }
PA_HD double narrow_(double x) { return static_cast<double>(static_cast<float>(x)); }

// single: 1[w - th >= 0]; multi: 1[w > 0] * trunc(w / th), at most max_spikes. Signed zeros and NaN as the host's.
template <class R, int Spike>
PA_HD R spike_(R w, R th, const Flags& f) {
  if (Spike == kSingleSpike) return w - th >= R(0) ? R(1) : R(0);
  const R n = (w > R(0) ? R(1) : R(0)) * trunc_(w / th);
  const R bound = static_cast<R>(f.max_spikes);
  return bound < n ? bound : n;
}

// subtract: w - out*value; reset to a value: w*1[out == 0] + value (added to silent neurons too: a quirk of the host)
template <class R, int Reset>
PA_HD R reset_(R w, R out, R value) {
  if (Reset == kResetTo) return w * (out == R(0) ? R(1) : R(0)) + value;
  return w - narrow_(out * value);
}

// relu(v - low) + low; it rounds unclamped values too, as the host does. A `low` of kUnbounded stands for no bound; it
// is a value and not a flag, because a loop with a flag in it is not vectorised.
template <class R>
PA_HD bool bounded_(R low) {
  return low != R(kUnbounded);
}

template <class R>
PA_HD R bound_below_(R v, R low) {
  const R above = v - low;
  const R bound = (above < R(0) ? R(0) : above) + low;
  return bounded_(low) ? bound : v;
}
