// Recycled memory for what the kernels write. A fresh allocation of some megabytes costs more in page faults than
// the kernel that fills it; blocks are therefore kept, and large ones asked for in huge pages.
#pragma once
#include <cstddef>

namespace pool {

void* take(size_t bytes);  // 64-byte aligned (huge-page aligned when large); throws std::bad_alloc
void give(void* block);    // back to the pool; any thread
void* lend(size_t bytes);  // as take, for who remembers the size: quicker
void give(void* block, size_t bytes);
void trim();                   // frees what is kept
void set_limit(size_t bytes);  // most that is kept; 0 keeps nothing
size_t limit();
size_t kept_bytes();
size_t used_bytes();

// Memory of the pool that lives as long as this object.
class Block {
 public:
  explicit Block(size_t bytes) : data_(bytes ? take(bytes) : nullptr) {}
  ~Block() {
    if (data_) give(data_);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_;
};

}  // namespace pool
