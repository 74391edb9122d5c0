#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "stream.h"

#define PA_ISA baseline
#include "../conv/tile.h"

const conv::Kernels* conv::find_baseline() { return baseline::kernels(); }
