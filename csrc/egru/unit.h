// One step of one unit, for every device: the equations stand in plugin_accel/layers/egru_reference.py.
#pragma once
#include "../math.h"

namespace egru {

// in_z, in_r: all that reaches the gates; in_g: what reaches the candidate, without r q_g. m: zoneout's mask, or
// `keep`.
template <class R>
PA_HD void forward_unit(R in_z, R in_r, R in_g, R q_g, R h, R thr, R m, R& z, R& r, R& g, R& c, R& o, R& y, R& after,
                        R& trace) {
  sigmoids_(in_z, in_r, z, r);
  g = tanh_(PA_FMA(r, q_g, in_g));
  c = PA_FMA(z, h - g, g);
  c = PA_FMA(m, c - h, h);
  o = c - thr > R(0) ? R(1) : R(0);
  y = o * c;
  after = c - o * thr;
  trace = PA_FMA(R(0.1), y - trace, trace);
}

// 1 of a unit that sends nothing and whose surrogate is zero; v = c - thr
template <class R>
PA_HD R silent(R v, R support) {
  return (R(1) - (v > R(0) ? R(1) : R(0))) * (support * abs_(v) >= R(1) ? R(1) : R(0));
}

// y, h, trace come in as the gradients of this step's results; dh, dtrace: those from the step after, and then for the
// step before. dz, dr, dg, dqg: of the gates' inputs and of q_g. dthr: minus the threshold's.
template <class R>
PA_HD void backward_unit(R z, R r, R g, R qg, R c, R thr, R m, R h_before, R g_y, R g_h, R g_o, R g_trace, R dampening,
                         R support, R& dh, R& dtrace, R& dz, R& dr, R& dg, R& dqg, R& dthr) {
  const R v = c - thr, o = v > R(0) ? R(1) : R(0);
  const R trace = g_trace + dtrace;
  const R y = g_y + R(0.1) * trace;
  const R h = g_h + dh;
  const R width = R(1) - support * abs_(v);
  const R slope = dampening * (width < R(0) ? R(0) : width);
  const R through = slope * (g_o + c * y - thr * h);
  const R all = o * y + h + through;
  const R dc = m * all;
  dtrace = R(0.9) * trace;
  dh = (R(1) - m) * all + z * dc;
  dg = (R(1) - z) * dc * (R(1) - g * g);
  dz = (h_before - g) * dc * z * (R(1) - z);
  dr = dg * qg * r * (R(1) - r);
  dqg = r * dg;
  dthr = through + o * h;
}

}  // namespace egru
