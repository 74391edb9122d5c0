#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

#include "denormals.h"
#include "pool.h"

using pool::Block;

namespace {

using Finder = const Kernels* (*)(const Variant&);
struct Isa {
  const char* name;
  Finder find;
};

const std::vector<Isa>& isas() {
  static const std::vector<Isa> list = [] {
    std::vector<Isa> usable{{"baseline", find_baseline}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) usable.push_back({"avx2", find_avx2});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      usable.push_back({"avx512", find_avx512});
#endif
    return usable;
  }();
  return list;
}

std::atomic<int>& chosen() {
  static std::atomic<int> index{static_cast<int>(isas().size()) - 1};
  return index;
}

// After a fork the OpenMP pool's threads are gone and a parallel region would wait for them for ever.
std::atomic<bool>& forked() {
  static std::atomic<bool> flag{false};
  return flag;
}

const bool watching_forks = [] {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, [] { forked() = true; });
#endif
  return true;
}();

constexpr int64_t kNarrow = 64;             // layers narrower than this share a tile with other samples
constexpr int64_t kParallelWork = 1 << 16;  // neuron steps below which a second thread costs more than it brings
constexpr size_t kScratchBytes = 384 << 10;

// Size of the last-level cache, or what is common.
size_t cache_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (size > 0) return static_cast<size_t>(size);
#endif
  return size_t(32) << 20;
}

// Size of the caches that each processor has for itself, or what is common.
size_t own_cache_bytes(int threads) {
  size_t each = size_t(1) << 20;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) each = static_cast<size_t>(size);
#endif
  return std::min(cache_bytes(), each * static_cast<size_t>(std::max(threads, 1)));
}

thread_local bool amid_others = false;

bool exceeds(size_t cache, const Problem& p, int streams, size_t element_bytes) {
  return static_cast<size_t>(p.outer * p.time * p.inner) * element_bytes * static_cast<size_t>(streams) > cache;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
  int64_t inner_blocks, outer_groups, width, outers;
  int threads;
  int64_t tiles() const { return inner_blocks * outer_groups; }
  TileIndex at(int64_t i, const Problem& p) const {
    const int64_t group = i / inner_blocks, block = i % inner_blocks;
    return {group * outers, block * width, static_cast<int>(std::min(outers, p.outer - group * outers)),
            static_cast<int>(std::min(width, p.inner - block * width))};
  }
};

Plan plan(const Problem& p, int threads, int64_t limit) {
  const int64_t columns = p.outer * p.inner;
  Plan plan{};
  plan.threads = columns * p.time < kParallelWork || forked() ? 1 : std::max(threads, 1);
  if (plan.threads > 1)
    limit = std::min(limit, std::max<int64_t>(16, ceil_div(ceil_div(columns, plan.threads), 16) * 16));
  plan.outers = p.inner < kNarrow ? std::clamp<int64_t>(limit / std::max<int64_t>(p.inner, 1), 1, p.outer) : 1;
  const int64_t most = std::min(limit, p.inner);
  plan.inner_blocks = ceil_div(p.inner, most);
  plan.width = std::min(most, ceil_div(ceil_div(p.inner, plan.inner_blocks), 16) * 16);
  plan.inner_blocks = ceil_div(p.inner, plan.width);
  plan.outer_groups = ceil_div(p.outer, plan.outers);
  plan.threads = static_cast<int>(std::min<int64_t>(plan.threads, plan.tiles()));
  return plan;
}

// Calls body(tile, thread) for every tile. A tile's result does not depend on which thread runs it.
template <class Body>
void each_tile(const Plan& plan, const Body& body) {
  const int64_t tiles = plan.tiles();
#if defined(_OPENMP)
  if (plan.threads > 1) {
#pragma omp parallel for num_threads(plan.threads) schedule(static)
    for (int64_t i = 0; i < tiles; ++i) body(i, omp_get_thread_num());
    return;
  }
#endif
  for (int64_t i = 0; i < tiles; ++i) body(i, 0);
}

// Calls body(item) for every item, each in a thread of its own, the same for the same number of items.
template <class Body>
void each_thread(std::vector<uint64_t>& items, const Body& body) {
#if defined(_OPENMP)
  if (items.size() > 1) {
#pragma omp parallel num_threads(static_cast<int>(items.size()))
    body(items[static_cast<size_t>(omp_get_thread_num())]);
    return;
  }
#endif
  body(items[0]);
}

// Sum in an order that is the same for every thread count: eight running sums.
double ordered_sum(const double* v, int64_t n) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) s[k] += v[i + k];
  for (; i < n; ++i) s[i % 8] += v[i];
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

template <class R>
void reduce(const Problem& p, const double* v, const ParamGradient& g) {
  R* to = static_cast<R*>(g.to);
  if (g.by_outer && g.by_inner) {
    for (int64_t c = 0; c < p.outer * p.inner; ++c) to[c] = static_cast<R>(v[c]);
  } else if (g.by_outer) {
    for (int64_t o = 0; o < p.outer; ++o) to[o] = static_cast<R>(ordered_sum(v + o * p.inner, p.inner));
  } else if (g.by_inner) {
    std::vector<double> sum(static_cast<size_t>(p.inner), 0.0);
    for (int64_t o = 0; o < p.outer; ++o)
      for (int64_t j = 0; j < p.inner; ++j) sum[static_cast<size_t>(j)] += v[o * p.inner + j];
    for (int64_t j = 0; j < p.inner; ++j) to[j] = static_cast<R>(sum[static_cast<size_t>(j)]);
  } else {
    to[0] = static_cast<R>(ordered_sum(v, p.outer * p.inner));
  }
}

}  // namespace

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Isa& i : isas()) names.emplace_back(i.name);
  return names;
}

std::string isa() { return isas()[static_cast<size_t>(chosen().load())].name; }

void set_isa(const std::string& name) {
  for (size_t k = 0; k < isas().size(); ++k)
    if (name == isas()[k].name) {
      chosen() = static_cast<int>(k);
      return;
    }
  throw std::invalid_argument("instruction set: expected one of isas(), got '" + name + "'");
}

bool openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

bool in_forked_child() { return forked(); }

bool set_amid_others(bool on) { return std::exchange(amid_others, on); }

std::vector<uint64_t> flush_denormals(int threads) {
  std::vector<uint64_t> before(static_cast<size_t>(forked() ? 1 : std::max(threads, 1)));
  each_thread(before, [](uint64_t& mode) {
    mode = float_mode();
    set_float_mode(mode | kFlushMode);
  });
  return before;
}

void set_float_modes(std::vector<uint64_t> modes) {
  each_thread(modes, [](uint64_t& mode) { set_float_mode(mode); });
}

const Kernels& find(const Variant& v) {
  for (int i = chosen().load(); i >= 0; --i)  // a set leaves out what an older one does as well
    if (const Kernels* k = isas()[static_cast<size_t>(i)].find(v)) return *k;
  throw std::invalid_argument("neuron variant: expected one of the compiled steps; check its options");
}

WantedSums wanted_sums(const Kernels& k, const ParamGradient* gradients) {
  WantedSums wanted{0, kNoSums};
  for (int i = 0; i < k.params; ++i) {
    if (!gradients[i].to) continue;
    ++wanted.count;
    wanted.level = std::max<int>(wanted.level, i < k.decays ? kDecaySums : kAllSums);
  }
  return wanted;
}

void place_sums(const Kernels& k, const ParamGradient* gradients, double* sums, Problem& p) {
  for (int i = 0; i < kMaxParams; ++i) {
    const bool want = i < k.params && gradients[i].to;
    p.g_param[i] = want ? sums : nullptr;
    if (want) sums += p.outer * p.inner;
  }
}

void hand_gradients(const Kernels& k, const Problem& p, const ParamGradient* gradients) {
  for (int i = 0; i < k.params; ++i) {
    if (!gradients[i].to) continue;
    if (k.element_bytes == sizeof(double))
      reduce<double>(p, p.g_param[i], gradients[i]);
    else
      reduce<float>(p, p.g_param[i], gradients[i]);
  }
}

void run_forward(const Variant& v, Problem p, int threads, void* mean) {
  const Kernels& k = find(v);
  const int64_t columns = p.outer * p.inner;
  const Block sums(mean ? sizeof(double) * static_cast<size_t>(columns) : 0);
  p.column_sum = reinterpret_cast<double*>(sums.data());
  if (columns > 0) {
    const size_t cache = amid_others ? own_cache_bytes(threads) : cache_bytes();
    p.stream = exceeds(cache, p, p.kept.data ? 2 : 1, k.element_bytes);
    const Plan cut = plan(p, threads, kTileColumns);
    const size_t ws_bytes = (k.workspace_bytes + 4095) / 4096 * 4096;
    const Block workspaces(ws_bytes * static_cast<size_t>(cut.threads));
    each_tile(cut, [&](int64_t i, int thread) {
      k.forward(p, cut.at(i, p), workspaces.data() + ws_bytes * static_cast<size_t>(thread));
    });
  }
  if (!mean) return;
  const double average = ordered_sum(p.column_sum, columns) / static_cast<double>(columns * p.time);  // NaN if empty
  if (v.fp64 && !k.spikes)
    *static_cast<double*>(mean) = average;
  else
    *static_cast<float*>(mean) = static_cast<float>(average);
}

void run_backward(const Variant& v, Problem p, int threads, const ParamGradient* gradients) {
  const Kernels& k = find(v);
  const int64_t columns = p.outer * p.inner;
  const WantedSums wanted = wanted_sums(k, gradients);
  const int level = wanted.level;
  const Block sums(sizeof(double) * static_cast<size_t>(columns) * static_cast<size_t>(wanted.count));
  place_sums(k, gradients, reinterpret_cast<double*>(sums.data()), p);
  if (columns > 0) {
    p.stream = exceeds(cache_bytes(), p, 1, k.element_bytes);
    int64_t limit = kTileColumns;
    const size_t column_bytes = static_cast<size_t>(p.time) * static_cast<size_t>(k.states) * k.element_bytes;
    if (k.replay[level] && column_bytes > 0)
      limit = std::clamp<int64_t>(static_cast<int64_t>(kScratchBytes / column_bytes) / 16 * 16, 16, limit);
    const Plan cut = plan(p, threads, limit);
    const size_t ws_bytes = (k.workspace_bytes + 4095) / 4096 * 4096;
    const size_t scratch_bytes =
        k.replay[level] ? (column_bytes * static_cast<size_t>(cut.width * cut.outers) + 4095) / 4096 * 4096 : 0;
    const size_t each = ws_bytes + scratch_bytes;
    const Block memory(each * static_cast<size_t>(cut.threads));
    each_tile(cut, [&](int64_t i, int thread) {
      const FlushDenormals flush;
      char* mine = memory.data() + each * static_cast<size_t>(thread);
      k.backward(p, cut.at(i, p), mine, mine + ws_bytes, level);
    });
  }
  hand_gradients(k, p, gradients);
}

namespace {

// Whether the columns of a step were taken by its own kernel; few neurons with parameters of their own are not.
bool run_single(SingleKernel kernel, const Problem& p, int threads, uint64_t mode = 0) {
  if (!kernel) return false;
  for (const Param& q : p.param)
    if (q.data && q.inner && !q.outer && p.inner < kNarrow && p.outer > 1) return false;
  const int64_t columns = p.outer * p.inner;
  if (columns < kParallelWork || forked()) threads = 1;
  const int64_t each = ceil_div(ceil_div(columns, std::max(threads, 1)), 16) * 16;
  const auto run = [&](int64_t begin, int64_t end) {
    const FlushDenormals flush(mode);
    kernel(p, begin, end);
  };
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < threads; ++i) run(std::min(i * each, columns), std::min((i + 1) * each, columns));
    return true;
  }
#endif
  run(0, columns);
  return true;
}

}  // namespace

void run_single_forward(const Variant& v, const Problem& p, int threads) {
  if (!run_single(find(v).single_forward, p, threads)) run_forward(v, p, threads, nullptr);
}

void run_single_backward(const Variant& v, const Problem& p, int threads, const ParamGradient* gradients) {
  bool wanted = false;
  for (int i = 0; i < kMaxParams; ++i) wanted = wanted || gradients[i].to;
  if (wanted || !run_single(find(v).single_backward, p, threads, kFlushMode)) run_backward(v, p, threads, gradients);
}
