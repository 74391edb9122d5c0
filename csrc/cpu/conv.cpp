#include "conv.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <string>

#include "blocks.h"
#include "dispatch.h"

namespace conv {
namespace {

constexpr int64_t kMostParts = 16;                     // of the images, each with a sum of its own
constexpr int64_t kPartialBytes = int64_t(256) << 20;  // most that those sums take together
constexpr int64_t kSamples = 64, kSampleLength = 512;

const Kernels& find() {
  const std::string name = isa();
  return *(name == "avx512" ? find_avx512() : name == "avx2" ? find_avx2() : find_baseline());
}

// Packed weights: panels of output channels, [out / panel][down][across][in][panel], zero beyond the last channel.
template <class Visit>
void each_weight(const Problem& p, int64_t panel, const Visit& visit) {
  const int64_t taps = p.kernel[0] * p.kernel[1];
  for (int64_t o = 0; o < p.out; ++o)
    for (int64_t c = 0; c < p.in; ++c)
      for (int64_t t = 0; t < taps; ++t)
        visit((o * p.in + c) * taps + t, ((o / panel * taps + t) * p.in + c) * panel + o % panel);
}

}  // namespace

double density(const float* x, int64_t count, const float* weight, int64_t weights) {
  float zero = 0;
  for (int64_t i = 0; i < weights; ++i) zero += weight[i] * 0.0f;
  if (zero != 0.0f) return std::numeric_limits<double>::quiet_NaN();
  const int64_t samples = std::min(kSamples, std::max<int64_t>(count / kSampleLength, 1));
  int64_t seen = 0, on = 0;
  for (int64_t s = 0; s < samples; ++s) {
    const int64_t from = count / samples * s, to = std::min(from + kSampleLength, count);
    for (int64_t i = from; i < to; ++i) on += x[i] != 0.0f;
    seen += to - from;
  }
  return seen ? static_cast<double>(on) / static_cast<double>(seen) : 0.0;
}

bool run_forward(Problem p, const float* weight, const float* bias, int threads) {
  const Kernels& k = find();
  const int64_t padded = up(p.out, k.panel), item = sizeof(float);
  p.graded = true;  // room for values: whether they are needed is known only once they are seen
  const int64_t each_bytes = up(k.workspace_bytes(p), 4096);
  threads = in_forked_child() ? 1 : static_cast<int>(std::clamp<int64_t>(threads, 1, p.images));
  const int64_t packed_bytes = (p.taps() + 1) * padded * item;
  const Block packed(packed_bytes), workspaces(each_bytes * threads);
  auto* weights = reinterpret_cast<float*>(packed.data());
  std::memset(weights, 0, static_cast<size_t>(packed_bytes));
  each_weight(p, k.panel, [&](int64_t from, int64_t to) { weights[to] = weight[from]; });
  float* biases = weights + p.taps() * padded;
  if (bias) std::copy(bias, bias + p.out, biases);
  p.packed = weights;
  p.bias = biases;
  const int64_t size = p.in * p.pixels();
  std::atomic<bool> binary{true};
  each(p.images, threads, [&](int64_t i, int thread) {
    uint64_t* mask = p.mask + i * p.words();
    mask[p.words() - 1] = 0;
    Problem mine = p;
    mine.graded = !k.scan(p.x + i * size, size, mask);
    if (mine.graded) binary = false;
    k.forward(mine, i, workspaces.data() + each_bytes * thread);
  });
  return binary;
}

void run_backward(Problem p, float* g_weight, float* g_bias, int threads) {
  const Kernels& k = find();
  const int64_t padded = up(p.out, k.panel), stride = up((p.taps() + 1) * padded, 16), item = sizeof(float);
  const int64_t most = std::clamp<int64_t>(kPartialBytes / (stride * item), 1, kMostParts);
  const int64_t parts = std::min(most, p.images), each_bytes = up(k.workspace_bytes(p), 4096);
  threads = in_forked_child() ? 1 : static_cast<int>(std::clamp<int64_t>(threads, 1, parts));
  const Block sums(parts * stride * item), workspaces(each_bytes * threads);
  auto* all = reinterpret_cast<float*>(sums.data());
  each(parts, threads, [&](int64_t part, int thread) {
    float* mine = all + part * stride;
    std::fill(mine, mine + stride, 0.0f);
    for (int64_t i = p.images * part / parts; i < p.images * (part + 1) / parts; ++i)
      k.backward(p, i, workspaces.data() + each_bytes * thread, mine, mine + p.taps() * padded);
  });
  constexpr int64_t slice = 4096;
  each((stride + slice - 1) / slice, threads, [&](int64_t s, int) {
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t j = s * slice; j < std::min((s + 1) * slice, stride); ++j) all[j] += all[part * stride + j];
  });
  each_weight(p, k.panel, [&](int64_t to, int64_t from) { g_weight[to] = all[from]; });
  std::copy(all + p.taps() * padded, all + p.taps() * padded + p.out, g_bias);
}

}  // namespace conv
