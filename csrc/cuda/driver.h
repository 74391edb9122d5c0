// Everything that a kernel's source includes, after device.h.
#pragma once
// clang-format off: each needs those before it
#include "steps.h"
#include "io.h"
#include "call.h"
#include "forward.h"
#include "backward.h"
#include "backward_columns.h"
#include "reduce.h"
// clang-format on
