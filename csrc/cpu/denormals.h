// While an object of the class below lives, its thread takes numbers below the smallest normal one for zero. Processors
// are a hundred times slower on them, and gradients get there: those of a saturated softmax, or through a decay over
// many steps. What is lost is less than 1.2e-38 (fp32) in a sum. Backward only: what a forward gives is the host's to
// the last bit.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
inline uint64_t float_mode() { return _mm_getcsr(); }
inline void set_float_mode(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
constexpr uint64_t kFlushMode = 0x8040;  // results and operands
#elif defined(__aarch64__)
inline uint64_t float_mode() {
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
constexpr uint64_t kFlushMode = uint64_t(1) << 24;
#else
inline uint64_t float_mode() { return 0; }
inline void set_float_mode(uint64_t) {}
constexpr uint64_t kFlushMode = 0;
#endif

class FlushDenormals {
 public:
  explicit FlushDenormals(uint64_t mode = kFlushMode) : before_(float_mode()) { set_float_mode(before_ | mode); }
  ~FlushDenormals() { set_float_mode(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  uint64_t before_;
};
