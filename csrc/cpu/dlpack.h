// The C structures of DLPack (dmlc/dlpack, stable ABI), as far as tensors on the CPU need them.
#pragma once
#include <cstdint>

struct DlTensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};

struct DlVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void* context;
  void (*deleter)(DlVersioned*);
  uint64_t flags;
  DlTensor tensor;
};

// Of DLPack 1.3, in the capsule `__dlpack_c_exchange_api__` of a class of tensors. Zero: done, else Python's exception.
struct DlExchange {
  struct {
    uint32_t major, minor;
  } version;
  const void* older;
  void* allocate;
  int (*managed)(void* object, DlVersioned** made);
  int (*to_object)(DlVersioned* tensor, void** made);
  int (*from_object)(void* object, DlTensor* seen);  // may be null; what is seen lives as long as the object
  void* stream;
};
