// Elementary functions that compilers vectorise on every target: no libm calls, no branches, no tables.
// exp: 2 ulp in float, 1 ulp in double over the normal range; 0 below it, infinity above it, NaN kept.
#pragma once

// PA_HD: qualifier of every function of a step header. A GPU driver defines it as __host__ __device__.
#ifndef PA_HD
#define PA_HD inline __attribute__((always_inline))
#endif

// Surrogates are not compared bit for bit, so their exp may use a fused multiply-add where the target has one.
#ifdef PA_FMA
PA_HD float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
PA_HD double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
#define PA_FMA(a, b, c) ((a) * (b) + (c))
#endif
PA_HD float exp_up_to(float x, float bound) {
  const float magic = 12582912.0f;     // 1.5 * 2^23: adding it leaves round(x) in the low mantissa bits
  float xc = x < -88.1f ? -88.1f : x;  // rounds to 2^-127, whose bits are those of zero
  xc = xc > bound ? bound : xc;
  const float t = PA_FMA(xc, 1.44269504088896341f, magic);
  const float n = t - magic;
  const float r = PA_FMA(n, 2.12194440e-4f, PA_FMA(n, -0.693359375f, xc));
  float y = 1.9875691500e-4f;
  y = PA_FMA(y, r, 1.3981999507e-3f);
  y = PA_FMA(y, r, 8.3334519073e-3f);
  y = PA_FMA(y, r, 4.1665795894e-2f);
  y = PA_FMA(y, r, 1.6666665459e-1f);
  y = PA_FMA(y, r, 5.0000001201e-1f);
  y = PA_FMA(y * r, r, r) + 1.0f;
  int bits;
  memcpy(&bits, &t, sizeof bits);
  bits = (bits - 0x4B400000 + 127) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return y * scale;
}

PA_HD double exp_up_to(double x, double bound) {
  const double magic = 6755399441055744.0;  // 1.5 * 2^52
  double xc = x < -709.1 ? -709.1 : x;
  xc = xc > bound ? bound : xc;
  const double t = PA_FMA(xc, 1.4426950408889634074, magic);
  const double n = t - magic;
  const double r = PA_FMA(n, -1.42860682030941723212e-6, PA_FMA(n, -6.93145751953125e-1, xc));
  double y = 1.6059043836821614599e-10;  // 1/13!
  y = PA_FMA(y, r, 2.0876756987868098979e-9);
  y = PA_FMA(y, r, 2.5052108385441718775e-8);
  y = PA_FMA(y, r, 2.7557319223985890653e-7);
  y = PA_FMA(y, r, 2.7557319223985890653e-6);
  y = PA_FMA(y, r, 2.4801587301587301587e-5);
  y = PA_FMA(y, r, 1.9841269841269841270e-4);
  y = PA_FMA(y, r, 1.3888888888888888889e-3);
  y = PA_FMA(y, r, 8.3333333333333333333e-3);
  y = PA_FMA(y, r, 4.1666666666666666667e-2);
  y = PA_FMA(y, r, 1.6666666666666666667e-1);
  y = PA_FMA(y, r, 0.5);
  y = PA_FMA(y * r, r, r) + 1.0;
  long long bits;
  memcpy(&bits, &t, sizeof bits);
  bits = static_cast<long long>(static_cast<unsigned long long>(bits - 0x4338000000000000LL + 1023) << 52);
  double scale;
  memcpy(&scale, &bits, sizeof scale);
  return y * scale;
}

// The bounds round to 2^128 and 2^1024, whose bits are those of infinity.
PA_HD float exp_(float x) { return exp_up_to(x, 89.0f); }
PA_HD double exp_(double x) { return exp_up_to(x, 709.8); }

PA_HD float copysign_(float x, float sign) { return __builtin_copysignf(x, sign); }
PA_HD double copysign_(double x, double sign) { return __builtin_copysign(x, sign); }

// exp(x) - 1 for 0 <= x <= 40, the range tanh needs: 2^n (e^r - 1) + (2^n - 1), without cancellation since n >= 0.
PA_HD float expm1_positive(float x) {
  const float magic = 12582912.0f;
  const float t = PA_FMA(x, 1.44269504088896341f, magic);
  const float n = t - magic;
  const float r = PA_FMA(n, 2.12194440e-4f, PA_FMA(n, -0.693359375f, x));
  float y = 1.9875691500e-4f;
  y = PA_FMA(y, r, 1.3981999507e-3f);
  y = PA_FMA(y, r, 8.3334519073e-3f);
  y = PA_FMA(y, r, 4.1665795894e-2f);
  y = PA_FMA(y, r, 1.6666665459e-1f);
  y = PA_FMA(y, r, 5.0000001201e-1f);
  y = PA_FMA(y * r, r, r);
  int bits;
  memcpy(&bits, &t, sizeof bits);
  bits = (bits - 0x4B400000 + 127) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return PA_FMA(y, scale, scale - 1.0f);
}

PA_HD double expm1_positive(double x) {
  const double magic = 6755399441055744.0;
  const double t = PA_FMA(x, 1.4426950408889634074, magic);
  const double n = t - magic;
  const double r = PA_FMA(n, -1.42860682030941723212e-6, PA_FMA(n, -6.93145751953125e-1, x));
  double y = 1.6059043836821614599e-10;
  y = PA_FMA(y, r, 2.0876756987868098979e-9);
  y = PA_FMA(y, r, 2.5052108385441718775e-8);
  y = PA_FMA(y, r, 2.7557319223985890653e-7);
  y = PA_FMA(y, r, 2.7557319223985890653e-6);
  y = PA_FMA(y, r, 2.4801587301587301587e-5);
  y = PA_FMA(y, r, 1.9841269841269841270e-4);
  y = PA_FMA(y, r, 1.3888888888888888889e-3);
  y = PA_FMA(y, r, 8.3333333333333333333e-3);
  y = PA_FMA(y, r, 4.1666666666666666667e-2);
  y = PA_FMA(y, r, 1.6666666666666666667e-1);
  y = PA_FMA(y, r, 0.5);
  y = PA_FMA(y * r, r, r);
  long long bits;
  memcpy(&bits, &t, sizeof bits);
  bits = static_cast<long long>(static_cast<unsigned long long>(bits - 0x4338000000000000LL + 1023) << 52);
  double scale;
  memcpy(&scale, &bits, sizeof scale);
  return PA_FMA(y, scale, scale - 1.0);
}

// tanh: 3 ulp in both types; +-1 beyond +-20, NaN kept.
template <class R>
PA_HD R tanh_(R x) {
  const R twice = R(2) * (x < R(0) ? -x : x);
  const R e = expm1_positive(twice > R(40) ? R(40) : twice);
  return copysign_(e / (e + R(2)), x);
}

PA_HD float sigmoid_bound(float) { return 43.0f; }
PA_HD double sigmoid_bound(double) { return 354.0; }

// 1 / (1 + exp(-x)) of two values with one division: 5 ulp in both types; below -43 in float (-354 in double) it stays
// at the value there, 2e-19 (2e-154), so that the product of the two denominators is finite. NaN reaches both.
template <class R>
PA_HD void sigmoids_(R x, R y, R& at_x, R& at_y) {
  const R bound = sigmoid_bound(R());
  const R a = R(1) + exp_up_to(-x, bound), b = R(1) + exp_up_to(-y, bound);
  const R inverse = R(1) / (a * b);
  at_x = b * inverse;
  at_y = a * inverse;
}

PA_HD float abs_(float x) { return __builtin_fabsf(x); }
PA_HD double abs_(double x) { return __builtin_fabs(x); }
PA_HD float trunc_(float x) { return __builtin_truncf(x); }
PA_HD double trunc_(double x) { return __builtin_trunc(x); }
PA_HD float floor_(float x) { return __builtin_floorf(x); }
PA_HD double floor_(double x) { return __builtin_floor(x); }
PA_HD float sqrt_(float x) { return __builtin_sqrtf(x); }
PA_HD double sqrt_(double x) { return __builtin_sqrt(x); }
