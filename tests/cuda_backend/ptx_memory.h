// What a launch may touch, and who touched it: the checks of compute-sanitizer (memcheck, initcheck, racecheck).
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ptx {

struct Fault {
  std::string what;
};

// One word for each byte of memory:
//   0..35   the thread that touched it last, 36..59 in which launch (of shared memory: between which barriers),
//   60..61  how, 62 it has been written, 63 it belongs to a tensor (asked of windows with gaps only)
using Mark = uint64_t;
constexpr Mark kThread = (Mark(1) << 36) - 1, kTime = ((Mark(1) << 24) - 1) << 36, kHow = Mark(3) << 60;
constexpr Mark kRead = Mark(1) << 60, kReadByMany = Mark(2) << 60, kWrote = Mark(3) << 60;
constexpr Mark kWritten = Mark(1) << 62, kTensor = Mark(1) << 63;

// Memory for marks: zeros that cost nothing until they are touched, for tensors that do not fit into memory as well.
inline Mark* make_marks(uint64_t bytes) {
  void* at =
      mmap(nullptr, bytes * sizeof(Mark), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<Mark*>(at);
}

// A tensor that a launch was given.
struct Window {
  uint64_t begin, end;
  Mark* marks;           // of `begin`
  uint64_t gaps, fresh;  // not every byte is an element; not written before the first launch
};

inline void mark(Mark& m, uint64_t thread, uint64_t time, bool write, bool fresh, bool gaps) {
  const Mark how = (m & kTime) >> 36 == time ? m & kHow : 0, now = time << 36 | thread;
  const bool mine = (m & kThread) == thread;
  if (gaps && !(m & kTensor)) throw Fault{"outside of the tensor's elements"};
  if (write) {
    if (how && (how == kReadByMany || !mine))
      throw Fault{how == kWrote ? "a second thread writes the same address" : "it writes what another thread reads"};
    m = (m & kTensor) | kWritten | kWrote | now;
    return;
  }
  if (fresh && !(m & kWritten)) throw Fault{"it reads memory that nobody has written"};
  if (how == kWrote) {
    if (!mine) throw Fault{"it reads what another thread writes"};
    return;
  }
  m = (m & (kTensor | kWritten)) | (how && !mine ? kReadByMany : how == kReadByMany ? kReadByMany : kRead) | now;
}

inline void aligned(uint64_t address, uint64_t size) {
  if (address % size)
    throw Fault{"the address " + std::to_string(address) + " is misaligned for " + std::to_string(size) + " bytes"};
}

struct Memory {
  std::vector<Window> windows;
  uint64_t time = 0;
  std::vector<uint32_t> last;  // by instruction: the window it used

  char* global(uint64_t address, uint64_t size, bool write, uint64_t thread, size_t instruction) {
    aligned(address, size);
    uint32_t& w = last[instruction];
    for (uint32_t tries = 0; tries < windows.size(); ++tries, w = (w + 1) % windows.size()) {
      const Window& window = windows[w];
      if (address < window.begin || address + size > window.end) continue;
      Mark* m = window.marks + (address - window.begin);
      for (uint64_t k = 0; k < size; ++k) mark(m[k], thread, time, write, window.fresh, window.gaps);
      return reinterpret_cast<char*>(address);
    }
    throw Fault{"the address " + std::to_string(address) + " is outside of every tensor of the launch"};
  }
};

struct Shared {
  std::vector<char> bytes;
  std::vector<Mark> marks;
  uint64_t base, time = 0;  // barriers passed

  char* at(uint64_t address, uint64_t size, bool write, uint64_t thread) {
    aligned(address, size);
    if (address < base || address + size > base + bytes.size()) throw Fault{"outside of shared memory"};
    for (uint64_t k = 0; k < size; ++k) mark(marks[address - base + k], thread, time & 0xffffff, write, true, false);
    return bytes.data() + (address - base);
  }
};

}  // namespace ptx
