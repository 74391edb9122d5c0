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
  std::multimap<size_t, void*> kept;  // by size
  std::unordered_map<void*, size_t> used;
  size_t kept_bytes = 0, used_bytes = 0, limit = default_limit();

  void* take(size_t bytes) {
    bytes = rounded(bytes);
    const std::lock_guard<std::mutex> lock(mutex);
    void* block = nullptr;
    const auto after = kept.upper_bound(bytes);
    if (after != kept.begin() && std::prev(after)->first == bytes) {  // the last one given back: the warmest
      block = std::prev(after)->second;
      kept.erase(std::prev(after));
      kept_bytes -= bytes;
    } else {
      block = fresh(bytes);
      if (!block) {
        free_kept();
        block = fresh(bytes);
      }
      if (!block) throw std::bad_alloc();
    }
    used.emplace(block, bytes);
    used_bytes += bytes;
    return block;
  }

  void give(void* block) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = used.find(block);
    const size_t bytes = found->second;
    used.erase(found);
    used_bytes -= bytes;
#if defined(PA_POOL_OFF)
    std::free(block);
#else
    kept.emplace(bytes, block);
    kept_bytes += bytes;
    while (kept_bytes > limit) {  // the largest first: the fewest calls until the rest fits
      const auto last = std::prev(kept.end());
      kept_bytes -= last->first;
      std::free(last->second);
      kept.erase(last);
    }
#endif
  }

  void free_kept() {
    for (const auto& entry : kept) std::free(entry.second);
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

void* take(size_t bytes) { return the_pool().take(bytes); }
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
