#include "egru.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "blocks.h"
#include "dispatch.h"

namespace egru {
namespace {

constexpr int64_t kTileRows = 8, kMostTiles = 64;
constexpr int64_t kPartialBytes = int64_t(256) << 20;  // most that the tiles' own sums of dR take together
constexpr int64_t kParallelWork = 1 << 14;             // units' steps below which a second thread costs too much

const Kernels& find(bool fp64) {
  const std::string name = isa();
  return *(name == "avx512" ? find_avx512(fp64) : name == "avx2" ? find_avx2(fp64) : find_baseline(fp64));
}

// Whether what is written exceeds the last-level cache.
bool exceeds_cache(int64_t bytes) {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t size = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (size > 0) return bytes > size;
#endif
  return bytes > (int64_t(32) << 20);
}

// How the batch is cut: by sizes alone, so that no sum depends on the number of threads.
struct Plan {
  int64_t rows, tiles;
  int threads;
  Plan(const Problem& p, int64_t item, int wanted) {
    const int64_t partial = 3 * p.hidden * p.hidden * item;
    const int64_t most = std::clamp<int64_t>(kPartialBytes / std::max<int64_t>(partial, 1), 2, kMostTiles);
    rows = up(std::max<int64_t>((p.batch + most - 1) / most, 1), kTileRows);
    tiles = (p.batch + rows - 1) / rows;
    const bool small = p.steps * p.batch * p.hidden < kParallelWork;
    threads =
        small || in_forked_child() ? 1 : static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(tiles, 1)));
  }
  Tile at(int64_t i, const Problem& p) const {
    return {i, i * rows, static_cast<int>(std::min(rows, p.batch - i * rows))};
  }
};

template <class R>
void sum_recurrent(const Problem& p, const Plan& plan, int64_t ldq, R* to) {
  const R* parts = static_cast<const R*>(p.g_recurrent);
  each(p.hidden, plan.threads, [&](int64_t k, int) {
    R* row = to + k * 3 * p.hidden;
    std::fill(row, row + 3 * p.hidden, R(0));
    for (int64_t i = 0; i < plan.tiles; ++i) {
      const R* part = parts + (i * p.hidden + k) * ldq;
      for (int64_t j = 0; j < 3 * p.hidden; ++j) row[j] += part[j];
    }
  });
}

template <class R>
void sum_rows(const Problem& p, const Plan& plan, int64_t size, const Gradients& g) {
  const int64_t wide = 3 * p.hidden, features = p.drive ? 0 : p.features;
  for (int64_t i = 1; i < plan.tiles; ++i)
    for (int64_t j = 0; j < size; ++j) p.g_rows[j] += p.g_rows[i * size + j];
  const double* from = p.g_rows;
  const auto hand = [&](void* to, int64_t count) {
    if (to)
      for (int64_t j = 0; j < count; ++j) static_cast<R*>(to)[j] = static_cast<R>(from[j]);
    from += count;
  };
  hand(features ? g.kernel : nullptr, features * wide);
  hand(g.bias, wide);
  hand(g.recurrent_bias, wide);
  hand(g.thr, p.hidden);
}

}  // namespace

void run_forward(bool fp64, Problem p, int threads, double* counts) {
  const Kernels& k = find(fp64);
  const int64_t item = fp64 ? 8 : 4;
  const Plan plan(p, item, threads);
  const int64_t sequences = (p.y != nullptr) + (p.h != nullptr) + (p.o != nullptr) + (p.trace != nullptr);
  p.stream = exceeds_cache(p.steps * p.batch * p.hidden * item * (sequences + (p.saved ? kSaved : 0)));
  const int64_t each_bytes = up(k.workspace_bytes(p, static_cast<int>(plan.rows), false), 4096);
  const Block packed(k.packed_bytes(p.hidden)), workspaces(each_bytes * plan.threads), sums(16 * (plan.tiles + 1));
  if (p.steps > 0) k.pack(p, packed.data(), false);
  p.packed = packed.data();
  p.counts = reinterpret_cast<double*>(sums.data());
  each(plan.tiles, plan.threads,
       [&](int64_t i, int thread) { k.forward(p, plan.at(i, p), workspaces.data() + each_bytes * thread); });
  counts[0] = counts[1] = 0;
  for (int64_t i = 0; i < plan.tiles; ++i)
    for (int j = 0; j < 2; ++j) counts[j] += p.counts[2 * i + j];
}

void run_backward(bool fp64, Problem p, int threads, const Gradients& to) {
  const Kernels& k = find(fp64);
  const int64_t item = fp64 ? 8 : 4;
  const Plan plan(p, item, threads);
  const int64_t ldq = up(3 * p.hidden, k.width);
  const int64_t size = ((p.drive ? 0 : p.features) + 2) * 3 * p.hidden + p.hidden;
  const int64_t each_bytes = up(k.workspace_bytes(p, static_cast<int>(plan.rows), true), 4096);
  const Block packed(k.packed_bytes(p.hidden)), workspaces(each_bytes * plan.threads),
      rows(8 * size * std::max<int64_t>(plan.tiles, 1)),
      recurrent(to.recurrent ? plan.tiles * p.hidden * ldq * item : 0);
  if (p.steps > 0) k.pack(p, packed.data(), true);
  p.packed = packed.data();
  p.g_rows = reinterpret_cast<double*>(rows.data());
  p.g_recurrent = to.recurrent ? recurrent.data() : nullptr;
  if (plan.tiles == 0) std::fill(p.g_rows, p.g_rows + size, 0.0);
  each(plan.tiles, plan.threads,
       [&](int64_t i, int thread) { k.backward(p, plan.at(i, p), workspaces.data() + each_bytes * thread); });
  if (fp64) {
    sum_rows<double>(p, plan, size, to);
    if (to.recurrent) sum_recurrent(p, plan, ldq, static_cast<double*>(to.recurrent));
  } else {
    sum_rows<float>(p, plan, size, to);
    if (to.recurrent) sum_recurrent(p, plan, ldq, static_cast<float*>(to.recurrent));
  }
}

}  // namespace egru
