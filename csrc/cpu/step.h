// A single time step that is run again and again; see step.cpp.
#pragma once
#include <pybind11/pybind11.h>

void bind_step(pybind11::module_& m);
void trim_steps();  // frees what they keep for later steps; under the interpreter's lock
