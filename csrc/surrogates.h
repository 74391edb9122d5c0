// Surrogate gradients d spike / d v as functors, one table. `prepare` does what depends on the threshold alone.
// Formulas: sinabs/activation/surrogate_gradient_fn.py @ 3.1.3 (v: membrane before the reset, th: threshold, d = v -
// th).
#pragma once

enum SurrogateKind {
  kPrecomputed = 0,
  kSingleExponential = 1,
  kPeriodicExponential = 2,
  kHeaviside = 3,
  kGaussian = 4,
  kMultiGaussian = 5,
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
