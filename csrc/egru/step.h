// One step of one sample, all units: the equations stand in plugin_accel/layers/egru_reference.py.
namespace egru {
namespace PA_ISA {

// Rows of `hidden` values; gates of `q` are `padded` apart, of `a` and `dp` `hidden`.
template <class R>
struct ForwardRows {
  const R *q, *a, *bias_g, *thr, *m;  // q holds all biases of z and r, and the recurrent one of g
  R *y, *h, *trace;                   // states, updated in place
  R *z, *r, *g, *qg, *c, *o, *y_out, *h_out, *trace_out;
};

// Returns the number of silent units whose surrogate is zero.
template <class R>
inline R forward_row(const ForwardRows<R>& s, int64_t n, int64_t padded, R support) {
  R quiet = 0;
#pragma omp simd reduction(+ : quiet)
  for (int64_t j = 0; j < n; ++j) {
    const R z = sigmoid_(s.a[j] + s.q[j]);
    const R r = sigmoid_(s.a[n + j] + s.q[padded + j]);
    const R qg = s.q[2 * padded + j];
    const R g = tanh_(PA_FMA(r, qg, s.a[2 * n + j] + s.bias_g[j]));
    const R h = s.h[j];
    R c = PA_FMA(z, h - g, g);
    c = PA_FMA(s.m[j], c - h, h);
    const R thr = s.thr[j], v = c - thr;
    const R o = v > R(0) ? R(1) : R(0), y = o * c;
    const R trace = PA_FMA(R(0.1), y - s.trace[j], s.trace[j]);
    quiet += (R(1) - o) * (support * abs_(v) >= R(1) ? R(1) : R(0));
    s.z[j] = z;
    s.r[j] = r;
    s.g[j] = g;
    s.qg[j] = qg;
    s.c[j] = c;
    s.o[j] = o;
    s.y[j] = y;
    s.h[j] = c - o * thr;
    s.trace[j] = trace;
    s.y_out[j] = y;
    s.h_out[j] = c - o * thr;
    s.trace_out[j] = trace;
  }
  return quiet;
}

template <class R>
struct BackwardRows {
  const R *z, *r, *g, *qg, *c, *thr, *m, *h_before;
  const R *g_y, *g_h, *g_o, *g_trace;
  R *dy, *dh, *dtrace;      // carried; dy is read only
  R *dz, *dr, *dg, *dqg;    // gradients of the gates' inputs; of q_g last
  R *sum_z, *sum_r, *sum_g, *sum_qg, *sum_thr;
};

template <class R>
inline void backward_row(const BackwardRows<R>& s, int64_t n, R dampening, R support) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const R c = s.c[j], thr = s.thr[j], z = s.z[j], r = s.r[j], g = s.g[j], v = c - thr;
    const R o = v > R(0) ? R(1) : R(0);
    const R trace = s.g_trace[j] + s.dtrace[j];
    const R y = s.g_y[j] + s.dy[j] + R(0.1) * trace;
    const R h = s.g_h[j] + s.dh[j];
    const R width = R(1) - support * abs_(v);
    const R slope = dampening * (width < R(0) ? R(0) : width);
    const R through = slope * (s.g_o[j] + c * y - thr * h);
    const R all = o * y + h + through;
    const R m = s.m[j], dc = m * all;
    s.dtrace[j] = R(0.9) * trace;
    s.dh[j] = (R(1) - m) * all + z * dc;
    const R dg = (R(1) - z) * dc * (R(1) - g * g);
    const R dz = (s.h_before[j] - g) * dc * z * (R(1) - z);
    const R dr = dg * s.qg[j] * r * (R(1) - r);
    const R dqg = r * dg;
    s.dz[j] = dz;
    s.dr[j] = dr;
    s.dg[j] = dg;
    s.dqg[j] = dqg;
    s.sum_z[j] += dz;
    s.sum_r[j] += dr;
    s.sum_g[j] += dg;
    s.sum_qg[j] += dqg;
    s.sum_thr[j] -= through + o * h;
  }
}

}  // namespace PA_ISA
}  // namespace egru
