#include "recurrent.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "denormals.h"
#include "pool.h"

namespace recurrent {
namespace {

using pool::Block;

constexpr int64_t kNarrow = 64;             // layers narrower than this share a tile with other samples
constexpr int64_t kParallelWork = 1 << 14;  // neuron steps below which a second thread costs too much

// Measured where the products take equally long: rows of 256 to 1024 units, AVX-512.
std::atomic<double> product_above{0.4}, outer_above{0.3};

const Kernels& find() {
  const std::string name = isa();
  return *(name == "avx512" ? find_avx512() : name == "avx2" ? find_avx2() : find_baseline());
}

size_t pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }
template <class T>
size_t bytes_of(int64_t count) {
  return pages(static_cast<size_t>(count) * sizeof(T));
}

int useful_threads(const Problem& p, int threads, int64_t parts) {
  if (p.outer * p.inner * p.time < kParallelWork || in_forked_child()) return 1;
  return static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(parts, 1)));
}

// Calls body(first, last, part) for equal parts of [0, count), one thread each.
template <class Body>
void each_part(int64_t count, int parts, const Body& body) {
#if defined(_OPENMP)
#pragma omp parallel for num_threads(parts) schedule(static, 1) if (parts > 1)
#endif
  for (int i = 0; i < parts; ++i) body(count * i / parts, count * (i + 1) / parts, i);
}

// How a step is handed to the kernels: samples as they are, or as one run of columns where all that varies lies dense.
struct Walk {
  bool flat;
  int64_t units, width, outers;

  Walk(const Call& c, bool backward) : units(c.p.inner) {
    const Problem& p = c.p;
    const auto dense = [&](const Stream& s) { return !s.data || (s.outer == units && s.inner == 1); };
    flat = dense(p.x) && dense(p.kept) && (backward ? dense(p.g_kept) && dense(p.g_x) : dense(p.out));
    for (int k = 0; k < kMaxStates; ++k) flat = flat && dense(p.g_record[k]);
    for (const Param& q : p.param)
      flat = flat && (!q.data || (q.outer == 0 && q.inner == 0) || (q.outer == units && q.inner == 1));
    outers = units < kNarrow ? kTileColumns / std::max<int64_t>(units, 1) : 1;
    const int64_t blocks = (units + kTileColumns - 1) / kTileColumns;
    width = std::min<int64_t>(((units + blocks - 1) / blocks + 15) / 16 * 16, units);
  }

  // Calls body(tile) for all columns of the samples [first, last).
  template <class Body>
  void each(int64_t first, int64_t last, const Body& body) const {
    if (flat) {
      for (int64_t at = first * units; at < last * units; at += kTileColumns)
        body({0, at, 1, static_cast<int>(std::min<int64_t>(kTileColumns, last * units - at))});
      return;
    }
    for (int64_t o = first; o < last; o += outers)
      for (int64_t at = 0; at < units; at += width)
        body({o, at, static_cast<int>(std::min(outers, last - o)), static_cast<int>(std::min(width, units - at))});
  }

  // The problem of one step; streams are still those of the sequence.
  Problem step(const Problem& p) const {
    Problem q = p;
    q.time = 1;
    q.stream = false;
    if (flat) q.outer = 1, q.inner = p.outer * p.inner;
    return q;
  }
};

Stream at_step(Stream s, int64_t t) {
  if (s.data) s.data = static_cast<float*>(s.data) + t * s.time;
  s.time = 1;  // a single step has no other; 0 would ask for a sum over time
  return s;
}

template <class T>
T* row(T* base, int64_t index, int64_t size) {
  return base ? base + index * size : nullptr;
}

Rows rows_of(const Stream& s, int64_t t, int64_t first, int64_t last) {
  return {static_cast<const float*>(s.data) + t * s.time + first * s.outer, s.outer, last - first};
}

// What one thread works with.
struct Room {
  size_t product, active, counts, workspace, scratch;
  Room(const Kernels& k, const ::Kernels& step, int64_t units, int64_t samples, bool replays)
      : product(bytes_of<float>(k.padded(units) * samples)),
        active(bytes_of<int32_t>(Lists::room(units) * samples)),
        counts(bytes_of<int32_t>(samples)),
        workspace(pages(step.workspace_bytes)),
        scratch(replays ? bytes_of<float>(int64_t(step.states) * kTileColumns) : 0) {}
  size_t bytes() const { return product + active + counts + workspace + scratch; }
  struct Parts {
    float* product;
    Lists lists;
    void *workspace, *scratch;
  };
  Parts at(char* base) const {
    char* const a = base + product;
    return {reinterpret_cast<float*>(base),
            {reinterpret_cast<int32_t*>(a), reinterpret_cast<int32_t*>(a + active)},
            a + active + counts,
            a + active + counts + workspace};
  }
};

// What the samples [first, last) hear at step t, from rows of a product (nullptr: nothing).
void hear(const Call& c, const Stream& x, int64_t first, int64_t last, const float* product, int64_t ld, float* heard) {
  const int64_t n = c.p.inner;
  for (int64_t i = first; i < last; ++i) {
    const float* from = product ? product + (i - first) * ld : nullptr;
    float* to = heard + i * n;
    if (!from)
      std::fill(to, to + n, 0.0f);
    else if (c.bias)
      for (int64_t j = 0; j < n; ++j) to[j] = from[j] + c.bias[j];
    else
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    if (c.slot >= 0) continue;
    const float* own = static_cast<const float*>(x.data) + i * x.outer;
    for (int64_t j = 0; j < n; ++j) to[j] = own[j * x.inner] + to[j];
  }
}

}  // namespace

DenseAbove dense_above() { return {product_above, outer_above}; }
void set_dense_above(DenseAbove share) {
  product_above = share.product;
  outer_above = share.outer;
}

int64_t run_forward(const Variant& v, const Call& c, int threads) {
  const Kernels& k = find();
  const ::Kernels& step = ::find(v);
  const Problem& p = c.p;
  const int64_t n = p.inner, samples = p.outer, ld = k.padded(n);
  const int parts = useful_threads(p, threads, samples);
  const Walk walk(c, false);
  const Room room(k, step, n, (samples + parts - 1) / parts, false);
  const Block packed(bytes_of<float>(k.packed_elements(n))), memory(room.bytes() * static_cast<size_t>(parts)),
      once(c.heard ? 0 : bytes_of<float>(samples * n)), counts(bytes_of<int64_t>(parts));
  float* weight = reinterpret_cast<float*>(packed.data());
  int64_t* active = reinterpret_cast<int64_t*>(counts.data());
  k.pack(c.weight, n, false, weight);
  const double above = k.finite(c.weight, n * n) ? product_above.load() : -1.0;
  each_part(samples, parts, [&](int64_t first, int64_t last, int part) {
    const auto mine = room.at(memory.data() + room.bytes() * static_cast<size_t>(part));
    Problem q = walk.step(p);
    active[part] = 0;
    for (int64_t t = 0; t < p.time; ++t) {
      float* heard = c.heard ? c.heard + t * samples * n : reinterpret_cast<float*>(once.data());
      const bool hears = t > 0 || c.spikes;
      if (hears) {
        const Rows z = t > 0 ? rows_of(p.out, t - 1, first, last) : Rows{c.spikes + first * n, n, last - first};
        active[part] += k.forward(z, n, weight, above, mine.lists, mine.product);
      }
      q.x = at_step(p.x, t);
      hear(c, q.x, first, last, hears ? mine.product : nullptr, ld, heard);
      if (c.slot >= 0)
        q.param[c.slot] = {heard, n, 1};
      else
        q.x = {heard, n, 1, 1};
      q.kept = at_step(p.kept, t);
      q.out = at_step(p.out, t);
      for (int s = 0; s < step.states; ++s) {
        q.record[s] = at_step(p.record[s], t);
        q.first[s] = t > 0 ? p.last[s] : p.first[s];
      }
      walk.each(first, last, [&](const TileIndex& tile) { step.forward(q, tile, mine.workspace); });
    }
  });
  int64_t total = 0;
  for (int i = 0; i < parts; ++i) total += active[i];
  return total;
}

void run_backward(const Variant& v, const Call& c, int threads, const ParamGradient* gradients) {
  const Kernels& k = find();
  const ::Kernels& step = ::find(v);
  Problem p = c.p;
  const int64_t n = p.inner, samples = p.outer, columns = samples * n, ld = k.padded(n);
  const int parts = useful_threads(p, threads, samples);
  const WantedSums wanted = wanted_sums(step, gradients);
  const Walk walk(c, true);
  const Room room(k, step, n, (samples + parts - 1) / parts, step.replay[wanted.level]);
  const size_t sum_bytes = bytes_of<double>(columns * wanted.count);
  const Block packed(bytes_of<float>(k.packed_elements(n))), memory(room.bytes() * static_cast<size_t>(parts)),
      total(sum_bytes), one(sum_bytes), states(bytes_of<float>(columns * (1 + step.states)));
  float* weight = reinterpret_cast<float*>(packed.data());
  float* g_out = reinterpret_cast<float*>(states.data());
  k.pack(c.weight, n, true, weight);
  place_sums(step, gradients, reinterpret_cast<double*>(total.data()), p);
  if (sum_bytes) std::memset(total.data(), 0, sum_bytes);
  Problem steps = p;
  place_sums(step, gradients, reinterpret_cast<double*>(one.data()), steps);
  for (int s = 0; s < step.states; ++s)
    if (!p.g_first[s]) p.g_first[s] = g_out + (1 + s) * columns;
  each_part(samples, parts, [&](int64_t first, int64_t last, int part) {
    const FlushDenormals flush;
    const auto mine = room.at(memory.data() + room.bytes() * static_cast<size_t>(part));
    Problem q = walk.step(steps);
    for (int64_t t = p.time - 1; t >= 0; --t) {
      const bool carried = t < p.time - 1;
      for (int64_t i = first; i < last; ++i) {
        const float* from = mine.product + (i - first) * ld;
        const float* own = p.g_out.data ? rows_of(p.g_out, t, i, i + 1).data : nullptr;
        float* to = g_out + i * n;
        if (carried && own)
          for (int64_t j = 0; j < n; ++j) to[j] = from[j] + own[j];
        else if (carried || own)
          std::memcpy(to, carried ? from : own, static_cast<size_t>(n) * sizeof(float));
        else
          std::fill(to, to + n, 0.0f);
      }
      q.g_out = {g_out, n, 1, 1};
      q.x = at_step(p.x, t);
      float* heard = row(c.heard, t, columns);
      if (c.slot >= 0)
        q.param[c.slot] = {heard, n, 1};
      else if (heard)
        q.x = {heard, n, 1, 1};
      q.kept = at_step(p.kept, t);
      q.g_kept = at_step(p.g_kept, t);
      q.g_x = at_step(p.g_x, t);
      for (int s = 0; s < step.states; ++s) {
        q.first[s] = t > 0 ? row(static_cast<const float*>(p.record[s].data), t - 1, columns)
                           : static_cast<const float*>(p.first[s]);
        q.g_record[s] = at_step(p.g_record[s], t);
        q.g_last[s] = carried ? p.g_first[s] : p.g_last[s];
        q.g_first[s] = p.g_first[s];
      }
      walk.each(first, last,
                [&](const TileIndex& tile) { step.backward(q, tile, mine.workspace, mine.scratch, wanted.level); });
      for (int i = 0; i < step.params; ++i)
        for (int64_t j = first * n; p.g_param[i] && j < last * n; ++j) p.g_param[i][j] += steps.g_param[i][j];
      if (t > 0 || c.g_spikes) k.backward(rows_of(p.g_x, t, first, last), n, weight, mine.product);
    }
    for (int64_t i = first; c.g_spikes && i < last; ++i)
      std::memcpy(c.g_spikes + i * n, mine.product + (i - first) * ld, static_cast<size_t>(n) * sizeof(float));
  });
  hand_gradients(step, p, gradients);
  if (!c.g_weight && !c.g_bias) return;
  const Outer outer{p.time,
                    samples,
                    n,
                    {static_cast<const float*>(p.out.data), p.out.time, p.out.outer},
                    {static_cast<const float*>(p.g_x.data), p.g_x.time, p.g_x.outer},
                    c.spikes,
                    c.g_weight,
                    c.g_bias,
                    outer_above};
  const int64_t cuts = (n + k.columns - 1) / k.columns;
  const int slices = useful_threads(p, threads, cuts);
  const size_t each = pages(static_cast<size_t>(k.outer_bytes(n, (cuts / slices + 1) * k.columns)));
  const Block space(each * static_cast<size_t>(slices));
  each_part(cuts, slices, [&](int64_t first, int64_t last, int part) {
    k.outer(outer, first * k.columns, std::min(last * k.columns, n), space.data() + each * static_cast<size_t>(part));
  });
}

}  // namespace recurrent
