// Surrogate gradients d spike / d v as functors, one table. `prepare` does what depends on the threshold alone.
// v: membrane before the reset, th: threshold, d = v - th.
// Formulas: the first five sinabs/activation/surrogate_gradient_fn.py @ 3.1.3, those up to kSpikeRateEscape
// snntorch/surrogate.py @ 1.0.0, the others norse/torch/functional/threshold.py @ 1.1.0.
#pragma once

#ifndef PA_GPU
// a / b for b >= 1; a GPU has its own
template <class R>
PA_HD R over_(R a, R b) {
  return a / b;
}
#endif

enum SurrogateKind {
  kPrecomputed = 0,
  kSingleExponential = 1,
  kPeriodicExponential = 2,
  kHeaviside = 3,
  kGaussian = 4,
  kMultiGaussian = 5,
  kConstant = 6,
  kTriangular = 7,
  kFastSigmoid = 8,
  kAtan = 9,
  kAboveThreshold = 10,
  kSigmoid = 11,
  kSpikeRateEscape = 12,
  kTriangle = 13,
  kTanh = 14,
  kCircle = 15,
  kErfc = 16,
};

// q: width, scale.  scale / (th*width) * exp(-|d| / (th*width))
struct SingleExponential {
  static constexpr int kKind = kSingleExponential;
  template <class R>
  PA_HD static void prepare(R th, const R* q, R& a, R& b) {
    const R w = th * q[0];
    a = q[1] / w;
    b = R(1) / w;
  }
  template <class R>
  PA_HD static R eval(R v, R th, const R*, R a, R b) {
    return a * exp_(-(abs_(v - th) * b));
  }
};

// q: width, scale.  scale * exp(-|d'| / width); d' = d below th, else v folded into [-th, th] with period th
struct PeriodicExponential {
  static constexpr int kKind = kPeriodicExponential;
  template <class R>
  PA_HD static void prepare(R, const R* q, R& a, R& b) {
    a = q[1];
    b = R(1) / q[0];
  }
  template <class R>
  PA_HD static R eval(R v, R th, const R*, R a, R b) {
    const R n = v / th - R(0.5);
    const R folded = th * (R(2) * (n - floor_(n)) - R(1));
    return a * exp_(-(abs_(v < th ? v - th : folded) * b));
  }
};

// q: window.  1[v >= th - window] / th
struct Heaviside {
  static constexpr int kKind = kHeaviside;
  template <class R>
  PA_HD static void prepare(R th, const R* q, R& a, R& b) {
    a = R(1) / th;
    b = th - q[0];
  }
  template <class R>
  PA_HD static R eval(R v, R, const R*, R a, R b) {
    return v >= b ? a : R(0);
  }
};

// exp(-(d-mu)^2 / (2 sigma^2)) / (sigma sqrt(2 pi)); c: 1/(2 sigma^2), norm: 1/(sigma sqrt(2 pi))
template <class R>
PA_HD R gaussian_(R d, R mu, R c, R norm) {
  return exp_(-((d - mu) * (d - mu) * c)) * norm;
}

constexpr double kInvSqrt2Pi = 0.39894228040143267794;

// q: mu, sigma, scale.  N(d; mu, sigma) * scale
struct Gaussian {
  static constexpr int kKind = kGaussian;
  template <class R>
  PA_HD static void prepare(R, const R* q, R& a, R& b) {
    a = R(1) / (R(2) * q[1] * q[1]);
    b = R(kInvSqrt2Pi) / q[1] * q[2];
  }
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R a, R b) {
    return gaussian_(v - th, q[0], a, b);
  }
};

// q: mu, sigma, h, s, scale.  ((1+h) N(d; mu, sigma) - h N(d; sigma, s*sigma) - h N(d; -sigma, s*sigma)) * scale
struct MultiGaussian {
  static constexpr int kKind = kMultiGaussian;
  template <class R>
  PA_HD static void prepare(R, const R* q, R& a, R& b) {
    a = R(1) / (R(2) * q[1] * q[1]);
    b = R(kInvSqrt2Pi) / q[1] * q[4];
  }
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R a, R b) {
    const R d = v - th, wide = a / (q[3] * q[3]), norm = b / q[3];
    return (R(1) + q[2]) * gaussian_(d, q[0], a, b) - q[2] * gaussian_(d, q[1], wide, norm) -
           q[2] * gaussian_(d, -q[1], wide, norm);
  }
};

// Surrogates without anything to prepare.
struct Plain {
  template <class R>
  PA_HD static void prepare(R, const R*, R& a, R& b) {
    a = b = R(0);
  }
};

// q: value.  A straight-through estimator, or no gradient at all
struct Constant : Plain {
  static constexpr int kKind = kConstant;
  template <class R>
  PA_HD static R eval(R, R, const R* q, R, R) {
    return q[0];
  }
};

// q: height.  height below th, -height from there on
struct Triangular : Plain {
  static constexpr int kKind = kTriangular;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    return v - th >= R(0) ? -q[0] : q[0];
  }
};

// q: slope, bound (minus infinity: none).  1[d > bound] / (slope |d| + 1)^2
struct FastSigmoid : Plain {
  static constexpr int kKind = kFastSigmoid;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    const R d = v - th, n = q[0] * abs_(d) + R(1);
    return d > q[1] ? over_(R(1), n * n) : R(0);
  }
};

// q: width.  width / 2 / (1 + (pi/2 width d)^2)
struct Atan {
  static constexpr int kKind = kAtan;
  template <class R>
  PA_HD static void prepare(R, const R* q, R& a, R& b) {
    a = q[0] / R(2);
    b = R(1.57079632679489661923) * q[0];
  }
  template <class R>
  PA_HD static R eval(R v, R th, const R*, R a, R b) {
    const R d = b * (v - th);
    return over_(a, R(1) + d * d);
  }
};

// 1[d > 0]
struct AboveThreshold : Plain {
  static constexpr int kKind = kAboveThreshold;
  template <class R>
  PA_HD static R eval(R v, R th, const R*, R, R) {
    return v - th > R(0) ? R(1) : R(0);
  }
};

// q: slope.  e / (e + 1)^2 slope with e = exp(-slope d); 0 where e overflows and the host has NaN
struct Sigmoid : Plain {
  static constexpr int kKind = kSigmoid;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    const R e = exp_(-(q[0] * (v - th))), n = e + R(1);
    return e == R(__builtin_inff()) ? R(0) : e / (n * n) * q[0];
  }
};

// q: steepness, height.  height exp(-steepness |d - 1|)
struct SpikeRateEscape : Plain {
  static constexpr int kKind = kSpikeRateEscape;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    return q[1] * exp_(-(q[0] * abs_(v - th - R(1))));
  }
};

// q: height.  height relu(1 - |d|)
struct Triangle : Plain {
  static constexpr int kKind = kTriangle;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    const R n = R(1) - abs_(v - th);
    return n < R(0) ? R(0) : q[0] * n;
  }
};

// q: slope.  1 - tanh(slope d)^2, as 4 e / (1 + e)^2 with e = exp(-2 |slope d|)
struct Tanh : Plain {
  static constexpr int kKind = kTanh;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    const R e = exp_(-(R(2) * abs_(q[0] * (v - th)))), n = R(1) + e;
    return R(4) * e / (n * n);
  }
};

// q: width.  2 width (1 / (2 sqrt(width^2 + d^2)) - d^2 / (2 (width^2 + d^2)^1.5)), which cancels far from th
struct Circle : Plain {
  static constexpr int kKind = kCircle;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    const R d = v - th, square = q[0] * q[0] + d * d, root = sqrt_(square);
    return (-(d * d / (R(2) * (square * root))) + R(1) / (R(2) * root)) * R(2) * q[0];
  }
};

// q: slope.  2 exp(-(slope d)^2) / sqrt(pi)
struct Erfc : Plain {
  static constexpr int kKind = kErfc;
  template <class R>
  PA_HD static R eval(R v, R th, const R* q, R, R) {
    const R d = q[0] * (v - th);
    return R(2) * exp_(-(d * d)) / R(1.77245385090551602730);
  }
};
