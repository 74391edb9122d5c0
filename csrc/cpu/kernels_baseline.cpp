#define PA_ISA baseline
#include "instantiate.h"

const Kernels* find_baseline(const Variant& v) { return baseline::find(v); }
