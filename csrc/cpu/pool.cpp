#include "pool.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define PA_POOL_OFF 1  // let the sanitizer see each buffer's own bounds
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PA_POOL_OFF 1
#endif
#endif

namespace pool {
namespace {

constexpr size_t kHuge = size_t(2) << 20;

// Eight size classes to an octave: at most an eighth is wasted.
size_t rounded(size_t bytes) {
  size_t step = 4096;
  while (step * 16 < bytes) step *= 2;
  return bytes == 0 ? step : (bytes + step - 1) / step * step;
}

void* fresh(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, bytes >= kHuge ? kHuge : 64, bytes) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= kHuge) madvise(block, bytes / kHuge * kHuge, MADV_HUGEPAGE);  // a wish: failure costs only speed
#endif
  return block;
}

size_t default_limit() {
#if defined(_SC_PHYS_PAGES)
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
  if (pages > 0 && size > 0) return static_cast<size_t>(pages) / 8 * static_cast<size_t>(size);
#endif
  return size_t(1) << 30;
}

struct Pool {
  std::mutex mutex;
  std::map<size_t, std::vector<void*>> kept;  // by size; the last one given back is the warmest
  std::unordered_map<void*, size_t> used;     // but for what is lent
  size_t kept_bytes = 0, used_bytes = 0, limit = default_limit();

  void* take(size_t bytes, bool noted) {
    bytes = rounded(bytes);
    const std::lock_guard<std::mutex> lock(mutex);
    void* block = nullptr;
    const auto found = kept.find(bytes);
    if (found != kept.end() && !found->second.empty()) {
      block = found->second.back();
      found->second.pop_back();
      kept_bytes -= bytes;
    } else {
      block = fresh(bytes);
      if (!block) {
        free_kept();
        block = fresh(bytes);
      }
      if (!block) throw std::bad_alloc();
    }
    if (noted) used.emplace(block, bytes);
    used_bytes += bytes;
    return block;
  }

  void give(void* block) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = used.find(block);
    const size_t bytes = found->second;
    used.erase(found);
    keep(block, bytes);
  }

  void give(void* block, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    keep(block, rounded(bytes));
  }

  void keep(void* block, size_t bytes) {
    used_bytes -= bytes;
#if defined(PA_POOL_OFF)
    std::free(block);
#else
    kept[bytes].push_back(block);
    kept_bytes += bytes;
    while (kept_bytes > limit) {  // the largest first: the fewest calls until the rest fits
      const auto last = std::prev(kept.end());
      if (last->second.empty()) {
        kept.erase(last);
        continue;
      }
      kept_bytes -= last->first;
      std::free(last->second.back());
      last->second.pop_back();
    }
#endif
  }

  void free_kept() {
    for (const auto& entry : kept)
      for (void* block : entry.second) std::free(block);
    kept.clear();
    kept_bytes = 0;
  }
};

// Never destroyed: tensors may outlive every static object.
Pool& the_pool() {
  static Pool* p = [] {
    auto* made = new Pool;
#if defined(__unix__) || defined(__APPLE__)
    // A fork while another thread holds the lock must not leave it held in the child.
    pthread_atfork([] { the_pool().mutex.lock(); }, [] { the_pool().mutex.unlock(); },
                   [] { the_pool().mutex.unlock(); });
#endif
    return made;
  }();
  return *p;
}

}  // namespace

void* take(size_t bytes) { return the_pool().take(bytes, true); }
void* lend(size_t bytes) { return the_pool().take(bytes, false); }
void give(void* block, size_t bytes) { the_pool().give(block, bytes); }
void give(void* block) { the_pool().give(block); }
void trim() {
  Pool& p = the_pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  p.free_kept();
}
void set_limit(size_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(the_pool().mutex);
    the_pool().limit = bytes;
  }
  if (bytes < kept_bytes()) trim();
}
size_t limit() { return the_pool().limit; }
size_t kept_bytes() { return the_pool().kept_bytes; }
size_t used_bytes() { return the_pool().used_bytes; }

}  // namespace pool
