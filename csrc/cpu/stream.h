// Copies that bypass the caches: a line that will not be read soon need not be fetched before it is overwritten.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>

inline void stream_copy(void* to, const void* from, size_t bytes) {
  char* d = static_cast<char*>(to);
  const char* s = static_cast<const char*>(from);
  const size_t head = (16 - reinterpret_cast<uintptr_t>(d) % 16) % 16;
  if (head >= bytes) {
    std::memcpy(d, s, bytes);
    return;
  }
  std::memcpy(d, s, head);
  size_t i = head;
  for (; i + 16 <= bytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(d + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(s + i)));
  std::memcpy(d + i, s + i, bytes - i);
}

// Makes streamed writes visible to other threads.
inline void stream_fence() { _mm_sfence(); }
#else
inline void stream_copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline void stream_fence() {}
#endif
