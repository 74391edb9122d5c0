// A libcuda that launches nothing: it checks what it is handed and writes it down.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int version = 13000, failing = 0;
#define SAY(...) (printf(__VA_ARGS__), fflush(stdout))

void stub_set(int driver_version, int code) {
  version = driver_version;
  failing = code;
}
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* to) {
  *to = version;
  return 0;
}
int cuGetErrorName(int code, const char** to) {
  *to = "CUDA_ERROR_STUB";
  return 0;
}
static void* context = NULL;
int cuCtxGetCurrent(void** to) {
  *to = context;
  return 0;
}
int cuDeviceGet(int* to, int index) {
  *to = index;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** to, int device) {
  *to = (void*)(0x40 + (long)device);
  return 0;
}
int cuCtxSetCurrent(void* to) {
  SAY("context %p\n", to);
  context = to;
  return 0;
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  static int now = 0;  // global
  int before = now;
  SAY("capture mode %d\n", *mode);
  now = *mode;
  *mode = before;
  return 0;
}
void stub_forget_context() { context = NULL; }
int cuLibraryLoadData(void** library, const void* code, void* o, void** v, unsigned n, void* lo, void** lv,
                      unsigned ln) {
  SAY("load %02x%.3s %u %u\n", *(const unsigned char*)code, (const char*)code + 1, n, ln);
  *library = (void*)0x10;
  return failing;
}
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  SAY("kernel %p %s\n", library, name);
  *kernel = (void*)0x20;
  return 0;
}
int cuKernelGetFunction(void** function, void* kernel) {
  *function = kernel == (void*)0x20 ? (void*)0x30 : NULL;
  return 0;
}
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
  int64_t first[3];
  if (!context) return 201;
  memcpy(first, arguments[0], sizeof first);
  SAY("launch %p %u %u %u %u %u %u %u %p %lld %lld %g %p\n", f, gx, gy, gz, bx, by, bz, shared, stream,
      (long long)first[0], (long long)first[1], *(double*)&first[2], (void*)extra);
  return failing;
}
int cuGetProcAddress_v2(const char* name, void** to, int v, uint64_t flags, int* status) {
  *to = dlsym(RTLD_DEFAULT, name);
  if (!*to) {
    void* self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *to = self ? dlsym(self, name) : NULL;
  }
  if (status) *status = *to ? 0 : 1;
  return *to ? 0 : 500;
}
// what the driver gives for this name to whom is built for CUDA 12 and later
int cuGetProcAddress(const char* name, void** to, int v, uint64_t flags, int* status) {
  return cuGetProcAddress_v2(name, to, v, flags, status);
}
