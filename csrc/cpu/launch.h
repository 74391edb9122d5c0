// The host's side of a CUDA launch: the argument is made ready once, and each call writes addresses into a copy of it.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tensors.h"

namespace launch {

namespace py = pybind11;

namespace {

// The driver's cuLaunchKernel, whose address Python has from the driver: nothing here is built or linked against CUDA.
using Entry = int (*)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments,
                      void** extra);

// A kernel, its grid and its packed argument, all but the addresses in it.
class Launch {
 public:
  Launch(uintptr_t entry, uintptr_t function, unsigned grid_x, unsigned grid_y, unsigned block, py::bytes call,
         std::vector<uint32_t> words)
      : entry_(reinterpret_cast<Entry>(entry)),
        function_(reinterpret_cast<void*>(function)),
        grid_x_(grid_x),
        grid_y_(grid_y),
        block_(block),
        words_(std::move(words)) {
    const std::string bytes = call;
    if (bytes.size() % 8 || bytes.size() > sizeof(Call))
      throw py::value_error("launch: expected whole words, at most 4096 bytes, got " + std::to_string(bytes.size()));
    call_.resize(bytes.size() / 8);
    if (!bytes.empty()) memcpy(call_.data(), bytes.data(), bytes.size());
    tensors::load();
    for (const uint32_t word : words_)
      if (word >= call_.size()) throw py::value_error("launch: expected words of the call, got one beyond it");
  }

  // The driver's answer; it has copied the argument when it returns.
  int run(uintptr_t stream, const py::tuple& addresses) const {
    Call call = blank(addresses.size());
    for (size_t i = 0; i < words_.size(); ++i) {
      const uint64_t address = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(addresses.ptr(), static_cast<Py_ssize_t>(i)));
      if (address == ~uint64_t(0) && PyErr_Occurred()) throw py::error_already_set();
      call.word[words_[i]] = address;
    }
    return launch(stream, call);
  }

  // The same with addresses as they are.
  int run(uintptr_t stream, const uint64_t* addresses, size_t count) const {
    Call call = blank(count);
    for (size_t i = 0; i < count; ++i) call.word[words_[i]] = addresses[i];
    return launch(stream, call);
  }

  size_t addresses() const { return words_.size(); }

 private:
  struct Call {
    alignas(16) uint64_t word[512];  // kernels take at most 4 KiB
  };

  // All of the argument but the addresses, of which there are so many.
  Call blank(size_t addresses) const {
    if (addresses != words_.size())
      throw py::value_error("launch: expected " + std::to_string(words_.size()) + " addresses, got " +
                            std::to_string(addresses));
    Call call;
    memcpy(call.word, call_.data(), call_.size() * 8);
    return call;
  }

  int launch(uintptr_t stream, Call& call) const {
    const py::gil_scoped_release release;  // a full queue lets the call wait
    void* arguments[] = {call.word};
    return entry_(function_, grid_x_, grid_y_, 1, block_, 1, 1, 0, reinterpret_cast<void*>(stream), arguments, nullptr);
  }

  Entry entry_;
  void* function_;
  unsigned grid_x_, grid_y_, block_;
  std::vector<uint64_t> call_;
  std::vector<uint32_t> words_;
};

}  // namespace

}  // namespace launch
