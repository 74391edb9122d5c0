// A single time step that is run again and again; see step.cpp.
#pragma once
#include <pybind11/pybind11.h>

void bind_step(pybind11::module_& m);
void bind_guard(pybind11::module_& m);  // guard.cpp
