// Runs a CUDA kernel on the host, block by block: the threads of a block are fibers that give way at __syncthreads().
// It stands in for csrc/cuda/device.h.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define PA_HD inline
#define PA_GPU
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time, in one thread

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};
inline Dim blockIdx, threadIdx, blockDim, gridDim;

namespace emulation {

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fiber>* fibers;
inline unsigned current;
inline int waiting;  // fibers at the barrier
inline void (*body)(const void*);
inline const void* argument;

inline void enter() {
  body(argument);
  (*fibers)[current].done = true;
  swapcontext(&(*fibers)[current].context, &scheduler);
}

inline void run_block(unsigned threads) {
  constexpr size_t kStack = 1 << 16;
  std::vector<Fiber> all(threads);
  fibers = &all;
  for (Fiber& f : all) {
    getcontext(&f.context);
    f.stack.reset(new char[kStack]);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
  for (unsigned left = threads; left > 0;) {
    waiting = 0;
    unsigned alive = left;
    for (current = 0; current < threads; ++current) {
      if (all[current].done) continue;
      threadIdx.x = current;
      swapcontext(&scheduler, &all[current].context);
      if (all[current].done) --left;
    }
    // A barrier that only some of the threads reach hangs a GPU.
    if (waiting != 0 && static_cast<unsigned>(waiting) != alive) abort();
  }
}

inline void launch(void (*kernel)(const void*), int64_t grid_x, int64_t grid_y, unsigned block, const void* call) {
  body = kernel;
  argument = call;
  gridDim = {static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), 1};
  blockDim = {block, 1, 1};
  for (unsigned y = 0; y < gridDim.y; ++y)
    for (unsigned x = 0; x < gridDim.x; ++x) {
      blockIdx = {x, y, 0};
      run_block(block);
    }
}

}  // namespace emulation

inline void __syncthreads() {
  ++emulation::waiting;
  swapcontext(&(*emulation::fibers)[emulation::current].context, &emulation::scheduler);
}

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct Again {};
struct Last {};

template <class Word, class When>
inline void load_if(const void* from, Word& w, bool when, When) {
  if (when) memcpy(&w, from, sizeof w);
}

template <class Word>
inline void store_if(void* to, const Word& w, bool when) {
  if (when) memcpy(to, &w, sizeof w);
}

template <class R>
inline R over_(R a, R b) {
  return a / b;
}

inline float float_of_half(uint16_t bits) {
  _Float16 h;
  memcpy(&h, &bits, sizeof h);
  return static_cast<float>(h);
}

inline uint16_t half_of_float(float x) {
  const _Float16 h = static_cast<_Float16>(x);
  uint16_t bits;
  memcpy(&bits, &h, sizeof bits);
  return bits;
}
